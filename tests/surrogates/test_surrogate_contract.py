"""Every surrogate keeps the contract, and the check finds those that do not."""

import pytest
import torch
from safetensors.torch import save_file

from whorl.axes import SURROGATES
from whorl.surrogates import AdditiveSurrogate, NetworkSurrogate, Prediction
from whorl.testing import check_surrogate

SMALL = {
    "network": {"layers": 1, "hidden": 8, "epochs": 3},
    "ensemble": {"networks": 2, "layers": 1, "hidden": 8, "epochs": (2, 2)},
    "external": {},
    "additive": {"cosines": 40},
}


@pytest.fixture
def weights(tmp_path):
    """Return the file of a network of another program."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in (("lin1", (8, 4)), ("lin2", (1, 8))):
        tensors[f"{name}.weight"] = torch.randn(shape, generator=rng)
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=rng)
    save_file(tensors, tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("kind", list(SURROGATES))
def test_every_kind_keeps_the_contract(kind, weights):
    options = SMALL[kind] | ({"path": weights} if kind == "external" else {})
    check_surrogate(SURROGATES.get(kind), options=options)
    if kind not in ("external", "additive"):
        check_surrogate(SURROGATES.get(kind), options=options, shape=(2, 3))


class _Batchwise(NetworkSurrogate):
    """Predicts deviations from the mean of the batch."""

    kind = "batchwise"

    def predict(self, features):
        mean = super().predict(features).mean
        return Prediction(mean=mean - mean.mean() if len(mean) else mean)


class _Certain(NetworkSurrogate):
    """Has an uncertainty of zero."""

    kind = "certain"

    def predict(self, features):
        mean = super().predict(features).mean
        return Prediction(mean=mean, uncertainty=torch.zeros_like(mean))


class _Unseeded(NetworkSurrogate):
    """Draws from the global random state."""

    kind = "unseeded"

    @classmethod
    def fit(cls, features, properties, **options):
        return super().fit(features, properties + torch.rand(len(properties)), **options)


class _Meddling(NetworkSurrogate):
    """Scales the caller's features in place."""

    kind = "meddling"

    @classmethod
    def fit(cls, features, properties, **options):
        return super().fit(features.mul_(0.1), properties, **options)


class _Constant(NetworkSurrogate):
    """Predicts the same for all."""

    kind = "constant"

    def predict(self, features):
        return Prediction(mean=torch.ones(len(features), dtype=torch.float64))


class _Shapeless(NetworkSurrogate):
    """Takes features of any shape."""

    kind = "shapeless"

    def predict(self, features):
        return super().predict(features.flatten(1)[:, :4])


class _Unitless(NetworkSurrogate):
    """States its error in standard deviations of the property."""

    kind = "unitless"

    @property
    def validation_mae(self):
        return super().validation_mae / float(self.property_scaler.scale)


class _Lost(NetworkSurrogate):
    """Comes back from its file as another type."""

    kind = "lost"

    def save(self, path):
        plain = NetworkSurrogate(shape=self.shape, **self.settings.options())
        plain.load_state_dict(self.state_dict())
        plain.save(path)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (_Batchwise, "how many rows there are"),
        (_Certain, "above zero"),
        (_Unseeded, "global random state"),
        (_Meddling, "fit changed its data"),
        (_Constant, "other features must give other predictions"),
        (_Shapeless, "another shape"),
        (_Unitless, "in the property's units"),
        (_Lost, "another type"),
    ],
)
def test_the_check_finds_a_broken_surrogate(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_surrogate(broken, options=SMALL["network"])


class _Flat(AdditiveSurrogate):
    """States a gradient of half the size."""

    kind = "flat"

    def predict(self, features, *, gradients=False):
        predicted = super().predict(features, gradients=gradients)
        if not gradients:
            return predicted
        return Prediction(mean=predicted.mean, gradient=0.5 * predicted.gradient)


def test_the_check_finds_a_wrong_gradient():
    with pytest.raises(AssertionError, match="not the derivative"):
        check_surrogate(_Flat, options=SMALL["additive"])
