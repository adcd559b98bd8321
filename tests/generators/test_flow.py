"""Densities against zuko, integrals and a distribution that is known; samples at any temperature."""

import math

import pytest
import torch
import zuko
from known import sheet, sheet_samples

from whorl.errors import InputError
from whorl.generators import Flow, fit, unlikely


def _grid(low, high, count):
    points = torch.linspace(low, high, count + 1, dtype=torch.float64)
    return (points[1:] + points[:-1]) / 2, (high - low) / count


@pytest.fixture(scope="module")
def line():
    """R = 100 + 10 (y + noise), and so log p(R | y) = log N((R - 100) / 10 - y) - log 10."""
    rng = torch.Generator().manual_seed(0)
    y = 2 * torch.rand(2000, 1, generator=rng, dtype=torch.float64)
    features = 100 + 10 * (y + torch.randn(2000, 1, generator=rng, dtype=torch.float64))
    model = Flow(shape=(1,), transforms=1, hidden=16, layers=1)
    fit(model, features, y, validation=torch.arange(400), seed=0, epochs=20)
    return model


@pytest.fixture(scope="module")
def trained():
    model = Flow(shape=(3,), transforms=4, hidden=32, learning_rate=2e-3)
    fit(model, *sheet(), validation=torch.arange(100), seed=0, epochs=100)
    return model


@pytest.mark.parametrize("y", [0.2, 1.7])
def test_the_density_of_one_feature_integrates_to_one(line, y):
    features, width = _grid(-100, 300, 20_000)
    density = line.log_prob(features[:, None], torch.full((20_000, 1), y)).exp().detach()
    assert density.dtype == torch.float64
    assert float(density.sum() * width) == pytest.approx(1, abs=2e-4)


def test_a_known_density_is_learned_in_the_units_of_the_data(line):
    features = torch.tensor([[95.0], [110.0], [125.0]], dtype=torch.float64)
    condition = torch.ones(3, 1, dtype=torch.float64)
    known = torch.distributions.Normal(110.0, 10.0).log_prob(features[:, 0])
    assert (line.log_prob(features, condition) - known).abs().max() < 0.25


def test_the_density_of_two_features_beside_a_constant_one_integrates_to_one(trained):
    first, width = _grid(9, 13, 200)
    second, height = _grid(-400, 400, 400)
    points = torch.cartesian_prod(first, second)
    features = torch.cat([points, torch.full((len(points), 1), 0.1, dtype=torch.float64)], 1)
    with torch.no_grad():
        density = trained.log_prob(features, torch.ones(len(points), 1)).exp()
    assert float(density.sum() * width * height) == pytest.approx(1, abs=0.01)


def test_the_density_is_zukos_and_the_scalers():
    torch.manual_seed(0)
    model = Flow(shape=(2, 2), properties=2, transforms=3, hidden=8, bins=5)
    features, condition = 5 + 3 * torch.randn(20, 2, 2).double(), torch.randn(20, 2).double()
    model.fit_scaling(features, condition)
    couplings = [
        zuko.flows.coupling.GeneralCouplingTransform(
            4, 2, given, zuko.transforms.MonotonicRQSTransform, [(5,), (5,), (4,)], hidden_features=[8, 8]
        )
        for given in model.given
    ]
    for coupling, network in zip(couplings, model.couplings, strict=True):
        coupling.hyper = network
    noise = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(4), torch.ones(4))
    scaler, known = model.feature_scaler, model.property_scaler.transform(condition).float()
    inside = zuko.lazy.Flow(couplings, noise)(known).log_prob(scaler.transform(features.flatten(1)).float())
    expected = inside.double() - scaler.scale.log().sum()
    torch.testing.assert_close(model.log_prob(features, condition), expected, rtol=1e-6, atol=1e-5)


def test_the_change_of_variables_is_the_determinant_of_the_jacobian():
    torch.manual_seed(0)
    model = Flow(shape=(4,), transforms=3, hidden=8)
    features, condition = 2 + 7 * torch.randn(30, 4).double(), torch.randn(30, 1).double()
    features[:, 2] = 3.0  # of no variance
    model.fit_scaling(features, condition)
    given = model.scale_properties(condition[:1])

    def noise(row):
        return model.transform(given)(model.scale_features(row[None]))[0].double()

    jacobian = torch.autograd.functional.jacobian(noise, features[0])
    kept = torch.tensor([0, 1, 3])
    assert float(noise(features[0])[2].detach()) == pytest.approx(0, abs=1e-6)
    determinant = jacobian[kept][:, kept].logdet()
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise(features[0])[kept]).sum() + determinant
    torch.testing.assert_close(model.log_prob(features[:1], condition[:1])[0], expected, rtol=1e-4, atol=1e-4)


def test_densities_are_differentiable_in_features_and_condition(trained):
    features = torch.tensor([[11.0, 130.0, 0.1]], dtype=torch.float64, requires_grad=True)
    condition = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(trained.log_prob(features, condition).sum(), (features, condition))
    assert all(torch.isfinite(slope).all() and slope.abs().sum() > 0 for slope in slopes)


def test_samples_follow_a_known_distribution(trained):
    first, above, below, third = sheet_samples(trained)
    assert abs(first.mean() - 11) < 0.05 and first.std() < 0.15
    assert 0.35 < len(above) / 600 < 0.65
    assert abs(above.median() - 130) < 5 and abs(below.median() + 130) < 5
    assert (third == 0.1).all()


def test_the_mean_log_density_of_samples_is_minus_their_entropy(line):
    condition = torch.ones(4000, 1, dtype=torch.float64)
    samples = line.sample(condition, rng=torch.Generator().manual_seed(0))
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(10)
    assert float(line.log_prob(samples, condition).mean().detach()) == pytest.approx(-entropy, abs=0.1)


def test_temperature_is_the_deviation_of_the_noise(line):
    condition = torch.ones(2000, 1, dtype=torch.float64)
    for temperature in (0.5, 2.0):
        samples = line.sample(condition, rng=torch.Generator().manual_seed(0), temperature=temperature)
        noise = line.transform(line.scale_properties(condition))(line.scale_features(samples))
        assert float(noise.detach().std()) == pytest.approx(temperature, rel=0.05)
        assert float(samples.std()) == pytest.approx(10 * temperature, rel=0.15)


def test_samples_do_not_depend_on_how_many_are_drawn_at_once(trained, monkeypatch):
    condition = torch.linspace(0, 2, 7, dtype=torch.float64)[:, None]
    samples = trained.sample(condition, rng=torch.Generator().manual_seed(0))
    monkeypatch.setattr("whorl.generators.flow._AT_ONCE", 1)
    again = trained.sample(condition, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples, again, rtol=1e-4, atol=1e-4)


def test_features_that_do_not_fit_are_refused(trained):
    condition = torch.ones(2, 1)
    with pytest.raises(InputError, match=r"expected \(2, 3\)"):
        trained.log_prob(torch.zeros(2, 4), condition)
    with pytest.raises(InputError, match=r"expected \(2, 3\)"):
        trained.log_prob(torch.zeros(3, 3), condition)
    with pytest.raises(InputError, match="one row per sample"):
        trained.log_prob(torch.zeros(2, 3), torch.ones(2, 2))
    with pytest.raises(InputError, match="has not been trained"):
        Flow(shape=(2,)).log_prob(torch.zeros(2, 2), condition)


def _uncoupled(features, **options):
    """Return a flow that is the identity: x is normal noise."""
    model = Flow(shape=(features.shape[1],), hidden=4, transforms=2, **options)
    model.fit_scaling(features, torch.rand(len(features), 1))
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


def _correlated(rows=200):
    rng = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 6, generator=rng, dtype=torch.float64)
    noise = 0.1 * torch.randn(rows, 6, generator=rng, dtype=torch.float64)
    features = 10 + 3 * (torch.randn(rows, 2, generator=rng, dtype=torch.float64) @ mixing + noise)
    features[:, 5] = 7.0  # of no variance
    return features


def test_the_density_beside_principal_components_is_that_of_probabilistic_pca():
    features = _correlated()
    model = _uncoupled(features, components=2)
    scale, axes = model.feature_scaler.scale[:5], model.principal_axes
    left, deviation = axes.rest.tolist()
    assert left == 3
    white = axes.axes[:5]
    covariance = white @ torch.diag(axes.deviations**2) @ white.T
    covariance += deviation**2 * (torch.eye(5).double() - white @ white.T)
    assert float(covariance.trace()) == pytest.approx(5)  # all variance of five standardised features
    whole = torch.diag(scale) @ covariance @ torch.diag(scale)
    known = torch.distributions.MultivariateNormal(features.mean(0)[:5], whole)
    others = features + torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).double()
    others[:, 5] = 7.0
    for rows in (features, others):
        found = model.log_prob(rows, torch.zeros(len(rows), 1)).detach()
        torch.testing.assert_close(found, known.log_prob(rows[:, :5]), rtol=1e-5, atol=1e-4)


def test_samples_of_principal_components_lie_on_their_axes():
    model = _uncoupled(_correlated(), components=2)
    samples = model.sample(torch.zeros(500, 1).double(), rng=torch.Generator().manual_seed(0))
    scaled = model.feature_scaler.transform(samples)
    axes = model.principal_axes
    torch.testing.assert_close(axes.inverse(axes.transform(scaled)), scaled)
    assert axes.transform(scaled).std(0) == pytest.approx([1, 1], abs=0.1)
    assert (samples[:, 5] == 7).all()


def test_few_features_are_not_turned_to_principal_components():
    assert Flow(shape=(32,)).principal_axes is None
    assert Flow(shape=(33,)).principal_axes is not None


def test_what_lies_off_the_distribution_of_real_rows_is_unlikely(trained):
    features, y = sheet()
    real = {"real": features[100:], "real_condition": y[100:]}
    held_out = unlikely(trained, features[:100], y[:100], **real)
    wrong = unlikely(trained, features[:100], 2 - y[:100], **real)
    between = features[:100].clone()
    between[:, 1] = 0.0  # between the halves of the sheet
    assert held_out.double().mean() < 0.05
    assert unlikely(trained, between, y[:100], **real).all() and wrong.double().mean() > 0.7
    assert unlikely(trained, between * torch.nan, y[:100], **real).all()
    with pytest.raises(InputError, match="no real rows"):
        unlikely(trained, features[:1], y[:1], real=features[:0], real_condition=y[:0])
