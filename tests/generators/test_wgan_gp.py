"""The gradient penalty against known slopes, the rhythm of the steps, and learning."""

import pytest
import torch
from known import IMAGE_CONTRAST, image_error, images, sheet, sheet_samples
from torch import nn

from whorl.generators import WGANGP, fit
from whorl.testing import check_generator


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (9, 8, 2), "channels": 4, "latent": 3, "properties": 2, "average": 0.0},
        {"shape": (4, 5, 1), "channels": 4, "scaling": "minmax", "critic_steps": 2},
    ],
)
def test_contract(options):
    check_generator(lambda: WGANGP(**options))


class _Plane(nn.Module):
    """3 x + 4 y: its slope is 5 everywhere."""

    def forward(self, vector, condition):
        return (vector @ torch.tensor([3.0, 4.0]))[:, None]


def test_the_loss_of_a_plane():
    model = WGANGP(shape=(2,), channels=4)
    model.fit_scaling(torch.randn(10, 2), torch.randn(10, 1))
    model.critic = _Plane()
    real, fake = torch.ones(6, 2), torch.zeros(6, 2)
    loss = model.critic_loss(real, fake, torch.zeros(6, 1), torch.rand(6))
    assert float(loss) == pytest.approx(10 * (5 - 1) ** 2 - 7, rel=1e-5)


def test_features_that_do_not_vary_have_no_part_in_the_penalty():
    model = WGANGP(shape=(2,), channels=4)
    rows = torch.randn(10, 2)
    rows[:, 1] = 2.0
    model.fit_scaling(rows, torch.randn(10, 1))
    model.critic = _Plane()
    loss = model.critic_loss(torch.zeros(6, 2), torch.zeros(6, 2), torch.zeros(6, 1), torch.rand(6))
    assert float(loss) == pytest.approx(10 * (3 - 1) ** 2, rel=1e-5)


class _Counting(WGANGP):
    """Notes which optimiser takes a step."""

    def _descend(self, which, loss):
        self.steps_taken = [*getattr(self, "steps_taken", []), which]
        super()._descend(which, loss)


def test_five_steps_of_the_critic_for_each_of_the_generator():
    features, y = sheet(60)
    model = _Counting(shape=(3,), channels=4)
    fit(model, features, y, validation=torch.arange(10), seed=0, epochs=3, batch_size=13)
    assert model.steps_taken == [1, 1, 1, 1, 1, 0] * 2 + [1, 1]  # twelve batches


def test_the_critic_judges_each_row_for_itself():
    torch.manual_seed(0)
    model = WGANGP(shape=(16, 16, 2), channels=4)
    rows, condition = torch.randn(5, 2, 16, 16), torch.randn(5, 1)
    torch.testing.assert_close(model.critic(rows, condition)[:2], model.critic(rows[:2], condition[:2]))


def test_learns_a_sheet_of_two_halves():
    features, y = sheet()
    model = WGANGP(shape=(3,), channels=64, latent=4, learning_rate=1e-3, penalty=1.0, critic_steps=3)
    fit(model, features, y, validation=torch.arange(100), seed=0, epochs=110)
    first, upper, lower, constant = sheet_samples(model)
    assert abs(first.mean() - 11) < 0.1 and first.std() < 0.2
    assert min(len(upper), len(lower)) > 180
    assert abs(upper.mean() - 130) < 30 and abs(lower.mean() + 130) < 30
    assert (constant == 0.1).all()


def test_learns_images():
    features, y = images()
    model = WGANGP(shape=(8, 8, 2), channels=8, latent=8, learning_rate=1e-3)
    fit(model, features, y, validation=torch.arange(100), seed=0, epochs=40, batch_size=32)
    error, constant = image_error(model)
    assert error < IMAGE_CONTRAST / 3 and (constant == 0.3).all()


def test_the_papers_settings():
    config = WGANGP.paper(shape=(64, 64, 4)).config()
    assert (config["learning_rate"], config["penalty"], config["critic_steps"]) == (1e-4, 10, 5)
