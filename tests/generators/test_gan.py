"""The losses against torch's own, and learning on problems whose answers are known."""

import pytest
import torch
from known import IMAGE_CONTRAST, image_error, images, sheet, sheet_samples
from torch.nn import functional

from whorl.errors import InputError
from whorl.generators import GAN, energy_distance, fit
from whorl.generators.images import is_image
from whorl.testing import check_generator


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (2, 3), "channels": 8, "depth": 1, "scaling": "minmax", "properties": 2, "average": 0.0},
        {"shape": (9, 8, 2), "channels": 4, "latent": 3, "properties": 2},
        {"shape": (4, 5, 1), "channels": 4, "latent": 3, "scaling": "standard"},
    ],
)
def test_contract(options):
    check_generator(lambda: GAN(**options))


@pytest.mark.parametrize(("shape", "image"), [((24, 24, 4), True), ((3, 9, 2), False), ((64, 64), False)])
def test_what_is_an_image(shape, image):
    assert is_image(shape) == image


@pytest.mark.parametrize("side", [5, 17, 24, 32, 64])
def test_networks_fit_any_size(side):
    model = GAN(shape=(side, side + 1, 3), channels=2)
    latent, condition = torch.zeros(2, 128), torch.zeros(2, 1)
    made = model.generator(latent, condition)
    assert made.shape == (2, 3, side, side + 1) and made.abs().max() <= 1
    assert model.critic(made, condition).shape == (2, 1)


def test_losses_are_binary_cross_entropies():
    torch.manual_seed(0)
    model = GAN(shape=(4,), channels=8)
    real, fake, condition = torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 1)
    is_real, is_fake = model.critic(real, condition), model.critic(fake, condition)
    ones, zeros = torch.ones(5, 1), torch.zeros(5, 1)
    entropy = functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(
        model.critic_loss(real, fake, condition), entropy(is_real, ones) + entropy(is_fake, zeros)
    )
    torch.testing.assert_close(model.generator_loss(fake, condition), entropy(is_fake, ones))


def test_energy_distance_against_a_loop():
    rng = torch.Generator().manual_seed(0)
    first, second = torch.randn(7, 3, generator=rng), torch.randn(5, 3, generator=rng) + 1

    def mean(a, b):
        return sum(float((x - y).norm()) for x in a for y in b) / (len(a) * len(b))

    expected = 2 * mean(first, second) - mean(first, first) - mean(second, second)
    assert float(energy_distance(first, second)) == pytest.approx(expected, rel=1e-5)
    assert float(energy_distance(first, first)) == pytest.approx(0.0, abs=1e-6)


def test_the_judgement_sees_samples_at_the_wrong_condition():
    """Real rows shuffled among themselves are typical, but no longer at their y."""
    features, y = sheet()
    model = GAN(shape=(3,), channels=8)
    model.fit_scaling(features, y)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    inside, condition = model.to_network(features), model.condition_inside(y)
    losses = {}
    for name, rows in (("right", torch.arange(len(y))), ("wrong", order)):
        model.make = lambda *_, rows=rows: inside[rows]
        losses[name] = float(model.validation_step((features, y), 0)["loss"])
    assert losses["right"] == pytest.approx(0, abs=1e-6) and losses["wrong"] > 0.01
    assert condition.shape == (len(y), 1)


def test_learns_a_sheet_of_two_halves():
    features, y = sheet()
    model = GAN(shape=(3,), channels=64, latent=8, learning_rate=1e-3)
    record = fit(model, features, y, validation=torch.arange(100), seed=0, epochs=70)
    first, upper, lower, constant = sheet_samples(model)
    assert abs(first - 11).max() < 0.4 and abs(first.mean() - 11) < 0.1
    assert min(len(upper), len(lower)) > 200
    assert abs(upper.mean() - 130) < 20 and abs(lower.mean() + 130) < 20
    assert (constant == 0.1).all()
    assert record["validation"]["loss"] == min(row["loss"] for row in record["history"])


def test_learns_images():
    features, y = images()
    model = GAN(shape=(8, 8, 2), channels=8, latent=8, learning_rate=1e-3)
    fit(model, features, y, validation=torch.arange(100), seed=0, epochs=20, batch_size=32)
    error, constant = image_error(model)
    assert error < IMAGE_CONTRAST / 3 and (constant == 0.3).all()


def test_the_papers_settings():
    config = GAN.paper(shape=(64, 64, 4), properties=2).config()
    assert (config["latent"], config["learning_rate"], config["properties"]) == (128, 1e-5, 2)


def test_conditions_of_0_and_1_are_not_standardised_and_others_are():
    model = GAN(shape=(4,), properties=4, channels=8)
    conditions = torch.zeros(100, 4, dtype=torch.float64)
    conditions[0, 0] = 1  # a rare element
    conditions[:, 1] = 1  # an element of all
    conditions[:, 2] = torch.linspace(0, 1, 100)
    conditions[:, 3] = torch.linspace(3, 5, 100)
    model.fit_scaling(torch.randn(100, 4, dtype=torch.float64), conditions)
    inside = model.condition_inside(conditions)
    assert inside[:3, 0].tolist() == [1, -1, -1]
    assert (inside[:, 1] == 0).all()
    torch.testing.assert_close(inside[:, 2:].std(0, correction=0), torch.ones(2))


def test_senseless_hyperparameters_are_refused():
    for options, words in (
        ({"latent": 0}, "latent: got 0"),
        ({"average": 1.0}, "average: got 1.0, expected a number below 1"),
        ({"scaling": "shard"}, "Did you mean 'shared'"),
        ({"channels": -1}, "channels"),
    ):
        with pytest.raises(InputError, match=words):
            GAN(shape=(4,), **options)
