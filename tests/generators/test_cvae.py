"""The formulas against torch.distributions, and learning on a problem whose answer is known."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from whorl.errors import InputError
from whorl.generators import CVAE, condition_range, fit, range_warning


@pytest.fixture(scope="module")
def scaled():
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = CVAE(shape=(5,), properties=2, hidden=16, latent=4, layers=2)
    features, condition = torch.randn(7, 5, generator=rng), torch.randn(7, 2, generator=rng)
    model.fit_scaling(features, condition)
    return model, features, condition


def test_kl_is_that_of_torch_distributions(scaled):
    model, features, condition = scaled
    _, kl = model.loss_terms(features, condition, torch.zeros(7, 4))
    mean, log_variance = model.encode(features, condition)
    posterior, prior = Normal(mean, torch.exp(log_variance / 2)), Normal(0.0, 1.0)
    torch.testing.assert_close(kl, kl_divergence(posterior, prior).sum(1))


def test_minus_the_loss_is_the_evidence_lower_bound_up_to_a_constant(scaled):
    model, features, condition = scaled
    noise = torch.randn(7, 4)
    reconstruction, kl = model.loss_terms(features, condition, noise)
    mean, log_variance = model.encode(features, condition)
    posterior = Normal(mean, torch.exp(log_variance / 2))
    latent = mean + torch.exp(log_variance / 2) * noise
    decoded = model.decoder(torch.cat([latent, condition], 1))
    bound = Normal(decoded, 0.5**0.5).log_prob(features).sum(1) - kl_divergence(
        posterior, Normal(0.0, 1.0)
    ).sum(1)
    constant = Normal(0.0, 0.5**0.5).log_prob(torch.tensor(0.0)) * 5
    torch.testing.assert_close(-(reconstruction + kl), bound - constant)


def test_the_step_weighs_kl_with_beta(scaled):
    model, features, condition = scaled
    terms = model.validation_step((features, condition), 0)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 0.75 * terms["kl"])


def test_decode_is_the_inverse_scaling_of_the_decoder_and_differentiable(scaled):
    model, _, condition = scaled
    latent = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    features = model.decode(latent, condition.double())
    assert features.dtype == torch.float64
    inside = torch.cat([latent.float(), model.scale_properties(condition)], 1)
    torch.testing.assert_close(
        features, model.feature_scaler.inverse(model.decoder(inside).double()), rtol=1e-6, atol=1e-6
    )
    (gradient,) = torch.autograd.grad(features.sum(), latent)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_no_posterior_is_too_wide_or_too_narrow_for_float32(scaled):
    model, _, condition = scaled
    reconstruction, kl = model.loss_terms(torch.full((7, 5), 1e6), condition, torch.ones(7, 4))
    assert torch.isfinite(reconstruction).all() and torch.isfinite(kl).all()


@pytest.fixture(scope="module")
def sheet():
    """R = (1000 y, f, f y, 0.1): the condition y fixes the first feature and leaves f free."""
    rng = torch.Generator().manual_seed(1)
    y = 1 + torch.rand(400, generator=rng, dtype=torch.float64)
    free = torch.randn(400, generator=rng, dtype=torch.float64)
    features = torch.stack([1000 * y, free, free * y, torch.full_like(y, 0.1)], 1)
    # Beside 380 features the prior weighs little; beside four it must be told to.
    model = CVAE(shape=(4,), hidden=32, latent=2, beta=0.01, learning_rate=5e-3)
    fit(model, features, y, validation=torch.arange(80), seed=0, epochs=120)
    return model


@pytest.mark.parametrize("target", [1.2, 1.5, 1.8])
def test_samples_follow_the_condition_and_keep_their_freedom(sheet, target):
    condition = torch.full((500, 1), target, dtype=torch.float64)
    samples = sheet.sample(condition, rng=torch.Generator().manual_seed(0))
    assert (samples[:, 0] / 1000 - target).abs().mean() < 0.03
    free = samples[:, 1]
    assert abs(free.mean()) < 0.2
    assert 0.7 < free.std() < 1.2
    slope = (free * samples[:, 2]).sum() / free.square().sum()
    assert abs(slope - target) < 0.1
    assert (samples[:, 3] == 0.1).all()


def test_the_training_range_is_kept_and_warned_of(sheet):
    ((low, high),) = condition_range(sheet).tolist()
    assert 1 <= low < 1.05 and 1.95 < high <= 2
    assert range_warning(sheet, torch.tensor([[1.5]])) is None
    words = range_warning(sheet, torch.tensor([[1.5], [3.7], [0.2], [3.7]]))
    assert "0.2, 3.7" in words and f"{low:.4g} to {high:.4g}" in words


class _FirstFeature:
    """A guide whose property is the first feature."""

    shape = (2,)
    validation_mae = 0.5

    def __call__(self, features):
        return features[:, 0]

    def to(self, device):
        return self


class _Identity(CVAE):
    """Decodes z to itself."""

    def decode(self, latent, condition):
        return latent.to(condition.dtype)


def _identity():
    model = _Identity(shape=(2,), latent=2, layers=1, hidden=4)
    model.fit_scaling(torch.rand(10, 2), torch.rand(10, 1))
    return model


@pytest.mark.parametrize(("temperature", "tolerance"), [(1.0, None), (2.0, None), (1.0, 0.05)])
def test_a_guide_shifts_the_latent_variables_to_a_known_distribution(temperature, tolerance):
    condition = torch.full((3000, 1), 2.0, dtype=torch.float64)
    samples = _identity().sample(
        condition,
        rng=torch.Generator().manual_seed(0),
        temperature=temperature,
        guide=_FirstFeature(),
        tolerance=tolerance,
    )
    prior, error = temperature**2, (tolerance or 0.5) ** 2
    mean, variance = 2 * prior / (prior + error), prior * error / (prior + error)
    for column, expected, deviation in ((0, mean, variance**0.5), (1, 0.0, temperature)):
        assert float(samples[:, column].mean()) == pytest.approx(expected, abs=0.08 * deviation)
        assert float(samples[:, column].std()) == pytest.approx(deviation, rel=0.08)


class _Thousandth(_FirstFeature):
    """A guide whose property is a thousandth of the first feature."""

    shape = (4,)

    def __call__(self, features):
        return features[:, 0] / 1000


def test_a_guide_improves_what_the_condition_alone_reaches(sheet):
    condition, rng = torch.full((300, 1), 1.5, dtype=torch.float64), torch.Generator().manual_seed(1)
    free = sheet.sample(condition, rng=rng)
    led = sheet.sample(condition, rng=rng, guide=_Thousandth(), tolerance=0.002)
    errors = [float((samples[:, 0] / 1000 - 1.5).abs().mean()) for samples in (free, led)]
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.004
    assert 0.7 < led[:, 1].std() < 1.2  # and keeps its freedom


def test_guided_samples_are_reproducible_and_their_guide_is_checked():
    model, condition = _identity(), torch.zeros(5, 1)
    first, again = (
        model.sample(condition, rng=torch.Generator().manual_seed(3), guide=_FirstFeature()) for _ in range(2)
    )
    assert torch.equal(first, again)
    plain = model.sample(
        condition, rng=torch.Generator().manual_seed(3), guide=lambda rows: rows[:, 0], tolerance=0.5
    )
    assert torch.equal(first, plain)
    with pytest.raises(InputError, match=r"got \(5, 1\) from 5 rows"):
        model.sample(condition, rng=torch.Generator(), guide=lambda rows: rows[:, :1], tolerance=0.5)
    with pytest.raises(InputError, match="give a tolerance"):
        model.sample(condition, rng=torch.Generator(), guide=lambda rows: rows[:, 0])
    unknown = _FirstFeature()
    unknown.validation_mae = None
    with pytest.raises(InputError, match="give a tolerance"):
        model.sample(condition, rng=torch.Generator(), guide=unknown)
    with pytest.raises(InputError, match="tolerance"):
        model.sample(condition, rng=torch.Generator(), guide=unknown, tolerance=0.0)
    with pytest.raises(InputError, match=r"features of shape \(2,\)"):
        CVAE(shape=(3,), latent=2)._guided_energy(unknown, 1.0, 0.1)
