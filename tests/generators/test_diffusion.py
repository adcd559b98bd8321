"""The noising against a Gaussian whose answer is known, the parts of sampling, and learning."""

import sys

import pytest
import torch
from known import IMAGE_CONTRAST, image_error, images, sheet, sheet_samples
from torch import nn

from whorl.errors import InputError, MissingExtraError
from whorl.generators import Diffusion, fit, load_model, save_model
from whorl.generators.diffusion import SAMPLERS
from whorl.surrogates import NetworkSurrogate
from whorl.testing import check_generator


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (9, 8, 2), "channels": 4, "steps": 3, "properties": 2, "sampler": "ddim", "guidance": 2.0},
        {"shape": (8, 8, 1), "channels": 4, "steps": 3, "cascade": True, "sampler": "ddpm", "depth": 2},
        {"shape": (3, 2), "channels": 8, "steps": 4, "prediction": "noise", "schedule": "linear"},
    ],
)
def test_contract(options):
    check_generator(lambda: Diffusion(**options))


@pytest.mark.parametrize("side", [5, 17, 24])
@pytest.mark.parametrize("cascade", [True, False])
def test_networks_fit_any_size(side, cascade):
    model = Diffusion(shape=(side, side + 1, 3), channels=4, steps=2, cascade=cascade)
    rows = torch.rand(10, side, side + 1, 3)
    model.fit_scaling(rows, torch.rand(10, 1))
    assert torch.isfinite(model.training_step((rows, torch.rand(10, 1)), 0))
    assert model.sample(torch.rand(2, 1), rng=torch.Generator()).shape == (2, side, side + 1, 3)


class _Exact(nn.Module):
    """What a perfect network says of x_0 ~ N(mean, deviation²), whatever the condition."""

    def __init__(self, model, mean=0.0, deviation=1.0):
        super().__init__()
        self.levels, self.velocity = model._levels, model.prediction == "velocity"
        self.mean, self.variance = mean, deviation**2

    def forward(self, noisy, time, condition):
        level = self.levels[(1000 * time).round().long()][:, None]
        signal, noise = level.sqrt(), (1 - level).sqrt()
        gain = signal * self.variance / (level * self.variance + 1 - level)
        clean = self.mean + gain * (noisy - signal * self.mean)
        noise_in_it = (noisy - signal * clean) / noise
        return signal * noise_in_it - noise * clean if self.velocity else noise_in_it


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["velocity", "noise"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_every_sampler_draws_from_a_known_gaussian(sampler, prediction, schedule):
    model = Diffusion(shape=(1,), channels=4, sampler=sampler, prediction=prediction, schedule=schedule)
    rng = torch.Generator().manual_seed(0)
    model.fit_scaling(torch.randn(5000, 1, generator=rng), torch.randn(5000, 1, generator=rng))
    model.denoiser = _Exact(model, mean=0.5, deviation=0.3)
    inside = model.to_network(model.sample(torch.zeros(4000, 1), rng=rng, steps=500))
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(inside.std()) == pytest.approx(0.3, abs=0.04)


def test_the_error_of_the_known_answer_is_the_least():
    """With x_0 ~ N(0, 1) and velocities, the best prediction is 0 and the error left over is 1."""
    model = Diffusion(shape=(1,), channels=4)
    rows = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    model.fit_scaling(rows, rows)
    model.denoiser = _Exact(model)
    batch = (rows, rows)
    assert float(model.training_step(batch, 0)) == pytest.approx(1.0, abs=0.03)
    assert float(model.validation_step(batch, 0)["loss"]) == pytest.approx(1.0, abs=0.03)


class _Conditions(nn.Module):
    """Answers with the condition, or -1 where it is hidden."""

    def forward(self, noisy, time, condition):
        given = condition[:, 1:]
        self.seen = given
        return (condition[:, :1] * given - (1 - given)).expand_as(noisy)


def test_conditions_are_hidden_in_their_share_of_rows():
    model = Diffusion(shape=(1,), channels=4, dropout=0.25)
    rows = torch.randn(4000, 1)
    model.fit_scaling(rows, rows)
    model.denoiser = _Conditions()
    model.training_step((rows, rows), 0)
    assert float(model.denoiser.seen.mean()) == pytest.approx(0.75, abs=0.04)
    model.validation_step((rows, rows), 0)
    assert (model.denoiser.seen == 1).all()


def test_guidance_goes_beyond_the_difference_that_the_condition_makes():
    model = Diffusion(shape=(1,), channels=4, steps=1, sampler="ddim")
    rows = torch.tensor([[-1.0], [1.0]])
    model.fit_scaling(rows, rows)
    model.denoiser = _Conditions()

    def drawn(guidance):  # at full noise, x_0 = -v
        return float(
            model.sample(torch.tensor([[0.5]]), rng=torch.Generator().manual_seed(0), guidance=guidance)
        )

    free, asked = drawn(0.0), drawn(1.0)
    assert (free, asked) == pytest.approx((1.0, -0.5), abs=0.01)
    assert drawn(3.0) == pytest.approx(free + 3 * (asked - free), abs=0.01)


@pytest.fixture(scope="module")
def learned():
    features, y = sheet()
    model = Diffusion(shape=(3,), channels=128, learning_rate=3e-3, average=0.99, steps=20, dropout=0.3)
    fit(model, features, y, validation=torch.arange(100), seed=0, epochs=70)
    return model


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_learns_a_sheet_of_two_halves(learned, sampler):
    first, upper, lower, constant = sheet_samples(learned, sampler=sampler)
    assert abs(first.mean() - 11) < 0.05 and first.std() < 0.2
    assert min(len(upper), len(lower)) > 220
    assert abs(upper.mean() - 130) < 10 and abs(lower.mean() + 130) < 10
    assert (constant == 0.1).all()


def test_a_guide_leads_where_no_condition_does(learned):
    features, y = sheet()
    guide = NetworkSurrogate(shape=(3,), hidden=32, layers=2, learning_rate=5e-3)
    fit(guide, features, y, validation=torch.arange(100), seed=0, epochs=30)
    free = sheet_samples(learned, guidance=0.0)[0]
    led = sheet_samples(learned, guidance=0.0, guide=guide)[0]
    assert free.std() > 0.4  # all of 10 to 12
    assert abs(led.mean() - 11) < 0.1 and led.std() < 0.25
    with pytest.raises(InputError, match=r"features of shape \(2,\)"):
        sheet_samples(learned, guide=NetworkSurrogate(shape=(2,), hidden=4, layers=1))


def test_sampling_options_are_checked(learned, tmp_path):
    with pytest.raises(InputError, match="Did you mean 'ddpm'"):
        sheet_samples(learned, sampler="ddmp")
    with pytest.raises(InputError, match="at most 1000"):
        sheet_samples(learned, steps=1001)
    save_model(learned, tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors").config() == learned.config()


@pytest.mark.parametrize("cascade", [False, True])
def test_learns_images(cascade):
    features, y = images()
    model = Diffusion(
        shape=(8, 8, 2), channels=8, learning_rate=4e-3, average=0.95, steps=10, cascade=cascade
    )
    fit(model, features, y, validation=torch.arange(100), seed=0, epochs=5, batch_size=32)
    error, constant = image_error(model)
    assert error < IMAGE_CONTRAST / 2 and (constant == 0.3).all()


def test_the_papers_settings():
    config = Diffusion.paper(shape=(4, 4, 4)).config()
    assert config["cascade"] and (config["channels"], config["steps"]) == (256, 1000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cascade": True}, r"cascade: got features of shape \(4,\), expected images"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"dropout": 0.0, "guidance": 2.0}, "expected 1, since dropout is 0"),
        ({"steps": 0}, "steps: got 0"),
    ],
)
def test_senseless_hyperparameters_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Diffusion(shape=(4,), **options)


def test_without_diffusers_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'whorl\[diffusion\]'"):
        Diffusion(shape=(4,))


class _Astray(nn.Module):
    """Is wrong about ε by a tenth: at full noise, that is an x_0 thousands of times too large."""

    def forward(self, noisy, time, condition):
        return 0.9 * noisy


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("scaling", "limit"), [("minmax", 1.0), ("standard", 1.5)])
def test_a_wrong_noise_does_not_throw_samples_off(sampler, scaling, limit):
    model = Diffusion(shape=(2,), channels=4, prediction="noise", scaling=scaling, sampler=sampler, steps=20)
    rows = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    model.fit_scaling(rows, rows[:, :1])
    model.denoiser = _Astray()
    inside = model.to_network(model.sample(torch.zeros(50, 1), rng=torch.Generator().manual_seed(0)))
    assert inside.abs().max() <= 1.001 * limit * model.to_network(rows).abs().max()
