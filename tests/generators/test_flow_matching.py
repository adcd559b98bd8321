"""The paths against a Gaussian whose velocities are known, guidance, resuming and learning."""

import math
from itertools import pairwise

import pytest
import torch
from known import IMAGE_CONTRAST, image_error, images, sheet, sheet_samples
from torch import nn

from whorl.errors import InputError
from whorl.generators import FlowMatching, fit


class _Exact(nn.Module):
    """Velocities that carry N(0, 1) to N(mean, deviation²), where mean is the condition if it is given."""

    def __init__(self, deviation):
        super().__init__()
        self.deviation = deviation

    def forward(self, noisy, time, condition):
        mean, time = condition[:, :1], time[:, None]
        variance = (1 - time) ** 2 + (time * self.deviation) ** 2
        slope = time * self.deviation**2 - (1 - time)
        return mean + slope / variance * (noisy - time * mean)


def _exact(**options):
    model = FlowMatching(shape=(1,), channels=4, **options)
    rows = torch.tensor([[-1.0], [1.0]])
    model.fit_scaling(rows, rows)  # data units are network units
    model.velocity = _Exact(0.5)
    return model


def test_a_known_gaussian_is_reached_at_any_temperature():
    condition = torch.full((4000, 1), 2.0, dtype=torch.float64)
    for temperature in (1.0, 0.5):
        samples = _exact().sample(
            condition, rng=torch.Generator().manual_seed(0), temperature=temperature, steps=20
        )
        noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(samples, 2 + 0.5 * temperature * noise.double(), rtol=0, atol=5e-3)


def test_the_midpoint_rule_is_of_second_order():
    condition = torch.zeros(100, 1, dtype=torch.float64)
    exact = 0.5 * torch.randn(100, 1, generator=torch.Generator().manual_seed(0)).double()
    errors = [
        float((_exact().sample(condition, rng=torch.Generator().manual_seed(0), steps=n) - exact).abs().max())
        for n in (8, 16, 32)
    ]
    assert errors[-1] < 1e-4 and all(first / second > 3.5 for first, second in pairwise(errors))


@pytest.mark.parametrize(("guidance", "mean"), [(0.0, 0.0), (1.0, 2.0), (2.0, 4.0)])
def test_guidance_extrapolates_from_no_condition_to_the_condition(guidance, mean):
    condition = torch.full((500, 1), 2.0)
    samples = _exact(guidance=guidance).sample(condition, rng=torch.Generator().manual_seed(0))
    assert float(samples.mean()) == pytest.approx(mean, abs=0.1)
    again = _exact().sample(condition, rng=torch.Generator().manual_seed(0), guidance=guidance)
    torch.testing.assert_close(samples, again)


@pytest.fixture(scope="module")
def learned():
    model = FlowMatching(shape=(3,), channels=64, learning_rate=2e-3, average=0.99)
    fit(model, *sheet(), validation=torch.arange(100), seed=0, epochs=70)
    return model


def test_learns_a_sheet_of_two_halves(learned):
    first, upper, lower, constant = sheet_samples(learned)
    assert abs(first.mean() - 11) < 0.05 and first.std() < 0.2
    assert min(len(upper), len(lower)) > 220
    assert abs(upper.mean() - 130) < 10 and abs(lower.mean() + 130) < 10
    assert (constant == 0.1).all()


def test_learns_images_that_stay_within_the_data():
    features, y = images()
    model = FlowMatching(shape=(8, 8, 2), channels=8, learning_rate=4e-3, average=0.95)
    fit(model, features, y, validation=torch.arange(100), seed=0, epochs=5, batch_size=32)
    error, constant = image_error(model)
    assert error < IMAGE_CONTRAST / 2 and (constant == 0.3).all()
    samples = model.sample(y[:50], rng=torch.Generator().manual_seed(0), temperature=3.0)
    assert samples.min() >= features.min() - 1e-6 and samples.max() <= features.max() + 1e-6


def test_samples_do_not_depend_on_how_many_are_drawn_at_once(learned, monkeypatch):
    condition = torch.linspace(0, 2, 7, dtype=torch.float64)[:, None]
    samples = learned.sample(condition, rng=torch.Generator().manual_seed(0))
    monkeypatch.setattr("whorl.generators.flow_matching.AT_ONCE", 1)
    again = learned.sample(condition, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples, again, rtol=1e-4, atol=1e-4)


class _StopError(Exception):
    pass


def test_training_that_was_interrupted_ends_with_the_same_weights(tmp_path, monkeypatch):
    ticks = iter(range(10**9))
    monkeypatch.setattr("whorl.generators.training.time.monotonic", lambda: float(next(ticks)))
    features, y = sheet(60)
    settings = {"validation": torch.arange(10), "seed": 0, "epochs": 12, "validate_every": 3}

    def stop(done, total, message):
        if done >= 6:
            raise _StopError

    whole, resumed = (FlowMatching(shape=(3,), channels=8) for _ in range(2))
    fit(whole, features, y, **settings)
    with pytest.raises(_StopError):
        fit(resumed, features, y, **settings, directory=tmp_path, checkpoint_seconds=0.0, progress=stop)
    fit(resumed, features, y, **settings, directory=tmp_path, checkpoint_seconds=0.0)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_the_loss_is_least_for_the_velocities_of_the_paths():
    torch.manual_seed(0)
    model, rows = _exact(), 20_000
    batch = 0.5 * torch.randn(rows, 1), torch.zeros(rows, 1)
    times, hidden = torch.full((rows,), 0.5), torch.zeros(rows, dtype=torch.bool)
    # x_1 - x_0 given x_t is normal: its variance is that of the difference less what x_t tells.
    told = (0.5 * 0.25 - 0.5) ** 2 / (0.25 + 0.25 * 0.25)
    assert float(model.loss(batch, times, hidden)) == pytest.approx(1.25 - told, rel=0.03)


def test_senseless_settings_are_refused(learned):
    with pytest.raises(InputError, match="expected 1, since dropout is 0"):
        FlowMatching(shape=(2,), dropout=0.0, guidance=2.0)
    with pytest.raises(InputError, match="steps: got 0"):
        sheet_samples(learned, steps=0)
    with pytest.raises(InputError, match="guidance: got nan"):
        sheet_samples(learned, guidance=math.nan)
