"""The network that reads a property from features: a quick judge of what a generator makes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.generators.base import TensorModel, positive
from whorl.generators.networks import perceptron


class Surrogate(TensorModel):
    r"""Feed-forward network :math:`\hat y = s_y\, f\bigl((R - a) / s\bigr) + a_y` for one property.

    Trained on the mean squared error of the standardised property; its validation reports ``mae``, the mean
    absolute error in the property's own units. The default activation is smooth, so that
    :math:`\partial \hat y / \partial R` is continuous.

    Defaults are the settings of Fung et al. 2022 (doi:10.1088/2632-2153/aca1f7, section 2.3); with them
    belong 2000 epochs and batches of 256 in :func:`whorl.generators.fit`.

    Args:
        shape: Shape of one structure's features, (F,) for vectors.
        layers: Hidden layers.
        hidden: Units of a hidden layer.
        learning_rate: Of the Adam optimiser.
        activation: ``"silu"``, ``"elu"`` or ``"relu"``.
        scaling: Of the features, ``"standard"`` or ``"minmax"``.

    Raises:
        InputError: A hyperparameter that makes no sense.
    """

    kind = "surrogate"

    def __init__(
        self,
        *,
        shape: Sequence[int],
        layers: int = 5,
        hidden: int = 256,
        learning_rate: float = 5e-4,
        activation: str = "silu",
        scaling: str = "standard",
    ) -> None:
        options = {
            "layers": positive("layers", layers),
            "hidden": positive("hidden", hidden),
            "learning_rate": positive("learning_rate", learning_rate),
            "activation": activation,
            "scaling": scaling,
        }
        super().__init__(shape=shape, properties=1, scaling=scaling, options=options)
        self.learning_rate = learning_rate
        self.network = perceptron(
            inputs=math.prod(self.shape), outputs=1, layers=layers, hidden=hidden, activation=activation
        )

    def forward(self, features: Float[Tensor, "n *shape"]) -> Float[Tensor, "n"]:
        """Return the property in its own units, differentiable in ``features``, in their type."""
        scaled = self.network(self.scale_features(features))
        return self.property_scaler.inverse(scaled.double()).squeeze(1).to(features.dtype)

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n *shape"], *, batch_size: int = 8192) -> Float[Tensor, "n"]:
        """Return the property of each row without gradients, ``batch_size`` rows at a time.

        Raises:
            InputError: The model is not trained, or the features have another shape than its own.
        """
        self._require_training()
        if tuple(features.shape[1:]) != self.shape:
            raise InputError(
                f"surrogate: got features of shape {tuple(features.shape[1:])} per structure, expected "
                f"{self.shape}. Use the representation it was trained with."
            )
        rows = [self(chunk.to(self.device)) for chunk in features.split(batch_size)]
        return torch.cat(rows) if rows else features.new_zeros(0)

    @property
    def validation_mae(self) -> float | None:
        """Mean absolute error on the validation rows in the property's units; ``None`` before training."""
        return None if self.training_record is None else self.training_record["validation"]["mae"]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean squared error of a batch (features, properties), standardised."""
        scaled = self.network(self.scale_features(batch[0]))
        return (scaled - self.scale_properties(batch[1])).square().mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the standardised mean squared error, and ``mae`` in the property's units."""
        error = self.network(self.scale_features(batch[0])) - self.scale_properties(batch[1])
        mae = error.abs().double().mean() * self.property_scaler.scale[0]
        return {"loss": error.square().mean(), "mae": mae}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)
