"""The energy of normal distributions, principal components, and learning."""

import pytest
import torch
from known import IMAGE_CONTRAST, image_error, images, sheet, sheet_samples
from torch import nn

from whorl.errors import InputError
from whorl.generators import EnergyBased, fit
from whorl.generators.principal_axes import PrincipalAxes


class _Nothing(nn.Module):
    """A network f of zeros: E is that of a normal distribution."""

    def forward(self, inside, time, condition):
        return 0 * inside


def _normal(rows=4000, **options):
    """Return features with a known mean and covariance, the third a sum of others, and a model of these."""
    rng = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[3.0, 1.0, 4.0, 0.0], [0.0, 0.5, 0.5, 0.0]], dtype=torch.float64)
    features = 100 + torch.randn(rows, 2, generator=rng, dtype=torch.float64) @ mixing
    model = EnergyBased(shape=(4,), channels=4, **options)
    model.fit_scaling(features, torch.rand(rows, 1, generator=rng, dtype=torch.float64))
    model.denoiser = _Nothing()
    return model, features


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_langevin_dynamics_reaches_a_known_normal_distribution(temperature):
    model, features = _normal(components=3)
    condition = torch.full((4000, 1), 0.5, dtype=torch.float64)
    samples = model.sample(condition, rng=torch.Generator().manual_seed(1), temperature=temperature)
    assert (samples.mean(0) - features.mean(0)).abs().max() < 0.25
    covariance = features.T.cov() * temperature**2
    assert (samples.T.cov() - covariance).abs().max() < 0.1 * covariance.max()
    assert (samples[:, 0] + samples[:, 1] - samples[:, 2]).std() < 1e-3  # as of all rows


def test_the_slope_is_the_derivative_of_the_energy():
    torch.manual_seed(0)
    model = EnergyBased(shape=(3,), channels=8).double()
    at, times = torch.randn(5, 3).double(), torch.rand(5).double()
    known = model.given(torch.rand(5, 1).double(), torch.ones(5, dtype=torch.bool))
    slope = model.slope(at, times, known)
    step = 1e-6 * torch.eye(3).double()
    differences = [
        (model.energy(at + move, times, known) - model.energy(at - move, times, known)) / 2e-6
        for move in step
    ]
    torch.testing.assert_close(slope, torch.stack(differences, 1), rtol=1e-6, atol=1e-6)


def test_the_loss_of_a_normal_distribution_is_one_at_any_noise():
    model, features = _normal(rows=20_000, components=2)
    batch, hidden = (features, torch.zeros(len(features), 1)), torch.zeros(len(features), dtype=torch.bool)
    torch.manual_seed(0)
    for time in (0.0, 0.5, 1.0):
        loss = model.loss(batch, torch.full((len(features),), time), hidden)
        assert float(loss.detach()) == pytest.approx(1, abs=0.03)


@pytest.fixture(scope="module")
def learned():
    model = EnergyBased(shape=(3,), channels=64, depth=2, learning_rate=2e-3, average=0.99)
    fit(model, *sheet(), validation=torch.arange(100), seed=0, epochs=70)
    return model


def test_learns_a_sheet_of_two_halves(learned):
    first, upper, lower, constant = sheet_samples(learned)
    assert abs(first.mean() - 11) < 0.05 and first.std() < 0.2
    assert min(len(upper), len(lower)) > 220
    assert abs(upper.mean() - 130) < 10 and abs(lower.mean() + 130) < 10
    assert (constant == 0.1).all()


class _Shifted(nn.Module):
    """The network f of a normal distribution whose mean is the condition, if it is given."""

    def __init__(self, model):
        super().__init__()
        self.deviation = model.deviation

    def forward(self, inside, time, condition):
        deviation = self.deviation(time)[:, None]
        return -deviation / (1 + deviation**2).sqrt() * condition[:, :1].expand_as(inside)


@pytest.mark.parametrize(("guidance", "mean"), [(0.0, 0.0), (1.0, 2.0), (2.0, 4.0)])
def test_energies_of_guidance_are_added(guidance, mean):
    model = EnergyBased(shape=(1,), channels=4)
    rows = torch.tensor([[-1.0], [1.0]])
    model.fit_scaling(rows, rows)  # data units are network units
    model.denoiser = _Shifted(model)
    condition, rng = torch.full((2000, 1), 2.0), torch.Generator().manual_seed(0)
    samples = model.sample(condition, rng=rng, guidance=guidance)
    assert float(samples.mean().abs()) == pytest.approx(mean, abs=0.1)
    assert float(samples.std()) == pytest.approx(1, abs=0.06)


def test_learns_images_that_stay_within_the_data():
    features, y = images()
    model = EnergyBased(shape=(8, 8, 2), channels=64, components=8, learning_rate=4e-3, average=0.95)
    fit(model, features, y, validation=torch.arange(100), seed=0, epochs=20, batch_size=32)
    error, constant = image_error(model)
    assert error < IMAGE_CONTRAST / 2 and (constant == 0.3).all()
    samples = model.sample(y[:50], rng=torch.Generator().manual_seed(0), temperature=3.0)
    assert samples.min() >= features.min() - 1e-6 and samples.max() <= features.max() + 1e-6


class _StopError(Exception):
    pass


def test_training_that_was_interrupted_ends_with_the_same_weights(tmp_path, monkeypatch):
    ticks = iter(range(10**9))
    monkeypatch.setattr("whorl.generators.training.time.monotonic", lambda: float(next(ticks)))
    settings = {"validation": torch.arange(10), "seed": 0, "epochs": 12, "validate_every": 3}

    def stop(done, total, message):
        if done >= 6:
            raise _StopError

    whole, resumed = (EnergyBased(shape=(3,), channels=8) for _ in range(2))
    fit(whole, *sheet(60), **settings)
    with pytest.raises(_StopError):
        fit(resumed, *sheet(60), **settings, directory=tmp_path, checkpoint_seconds=0.0, progress=stop)
    fit(resumed, *sheet(60), **settings, directory=tmp_path, checkpoint_seconds=0.0)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_components_are_white_and_give_back_what_varies_along_the_axes():
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 5] = 2.0
    axes = PrincipalAxes(6, 6)
    axes.fit(rows)
    components = axes.transform(rows)
    torch.testing.assert_close(components[:, :5].T.cov(correction=0), torch.eye(5).double())
    assert (components[:, 5] == 0).all() and (axes.deviations[:5].diff() <= 0).all()
    torch.testing.assert_close(axes.inverse(components), rows)


def test_fewer_rows_than_components_have_fewer_axes():
    rows = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = PrincipalAxes(30, 8)
    axes.fit(rows)
    assert int((axes.deviations > 0).sum()) == 3
    torch.testing.assert_close(axes.inverse(axes.transform(rows)), rows)


def test_senseless_settings_are_refused():
    with pytest.raises(InputError, match="smallest_noise"):
        EnergyBased(shape=(3,), smallest_noise=1.5)
    with pytest.raises(InputError, match="levels"):
        EnergyBased(shape=(3,), levels=1)
    with pytest.raises(InputError, match="smallest_noise below largest_noise"):
        EnergyBased(shape=(3,), largest_noise=0.01)
