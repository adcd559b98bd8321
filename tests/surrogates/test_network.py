import pytest
import torch

from whorl.errors import InputError
from whorl.generators import fit
from whorl.surrogates import NetworkSurrogate


@pytest.fixture(scope="module")
def plane():
    rng = torch.Generator().manual_seed(0)
    features = 100 + 5 * torch.randn(200, 3, generator=rng, dtype=torch.float64)
    energy = -40 + 0.2 * features[:, 0] - 0.1 * features[:, 1]
    model = NetworkSurrogate(shape=(3,), layers=2, hidden=32, learning_rate=3e-3)
    record = fit(
        model, features, energy, validation=torch.arange(0, 200, 5), seed=0, epochs=100, batch_size=32
    )
    return model, features, energy, record


def test_it_learns_a_plane_and_reports_its_error_in_data_units(plane):
    model, features, energy, record = plane
    validation = torch.arange(0, 200, 5)
    error = (model.predict(features[validation]).mean - energy[validation]).abs().mean()
    assert error < 0.1
    assert model.validation_mae == pytest.approx(float(error), rel=1e-4)
    assert record["validation"]["mae"] == model.validation_mae


def test_it_is_a_differentiable_function_of_the_features(plane):
    model, features, _, _ = plane
    rows = features[:20].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(rows).sum(), rows)
    torch.testing.assert_close(
        gradient.mean(0), torch.tensor([0.2, -0.1, 0.0], dtype=torch.float64), atol=0.05, rtol=0
    )


def test_predictions_do_not_depend_on_the_batch_and_come_in_the_callers_type(plane):
    model, features, _, _ = plane
    together = model.predict(features).mean
    torch.testing.assert_close(together, model.predict(features, batch_size=7).mean, rtol=1e-6, atol=1e-6)
    assert together.dtype == torch.float64 and not together.requires_grad
    assert model.predict(features.float()).mean.dtype == torch.float32
    assert model.predict(features[:0]).mean.shape == (0,)


def test_other_features_and_untrained_models_are_refused(plane):
    with pytest.raises(InputError, match="expected \\(3,\\)"):
        plane[0].predict(torch.zeros(4, 5))
    with pytest.raises(InputError, match="not been trained"):
        NetworkSurrogate(shape=(3,)).predict(torch.zeros(4, 3))
    assert NetworkSurrogate(shape=(3,)).validation_mae is None


def test_the_defaults_are_the_papers():
    config = NetworkSurrogate(shape=(380,)).config()
    assert config == {**config, "layers": 5, "hidden": 256, "learning_rate": 5e-4}
