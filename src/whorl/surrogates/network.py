"""Feed-forward network from features to a property."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.generators.base import TensorModel
from whorl.generators.io import build_model, load_model, save_model
from whorl.generators.networks import perceptron
from whorl.generators.settings import TrainingSettings
from whorl.generators.training import fit
from whorl.settings import Count, Depth, Positive, Width, settings_from
from whorl.surrogates.base import Prediction, Progress, Surrogate
from whorl.surrogates.errors import PredictionErrors, prediction_errors
from whorl.surrogates.settings import SurrogateSettings


class NetworkSurrogate(TensorModel, Surrogate):
    r"""Feed-forward network :math:`\hat y = s_y\, f\bigl((R - a) / s\bigr) + a_y` for one property.

    Trained on the mean squared error of the standardised property; its validation reports ``mae``, the mean
    absolute error in the property's own units. The default activation is smooth, so that
    :math:`\partial \hat y / \partial R` is continuous.

    Defaults are the settings of Fung et al. 2022 (doi:10.1088/2632-2153/aca1f7, section 2.3); with them
    belong 2000 epochs and batches of 256 in :func:`whorl.generators.fit`.

    Args:
        shape: Shape of one structure's features, (F,) for vectors.
        options: Hyperparameters, see :class:`NetworkSurrogate.Settings`.

    Raises:
        InputError: An invalid hyperparameter.
    """

    kind = "network"

    class Settings(TrainingSettings, SurrogateSettings):
        """Settings of the surrogate: those of Fung et al. 2022."""

        layers: Depth = 5
        """Hidden layers."""
        hidden: Width = 256
        """Units of a hidden layer."""
        batch_size: Count = 256
        """Rows of a step."""
        learning_rate: Positive = 5e-4
        """Step size of the Adam optimiser."""
        activation: Literal["elu", "relu", "silu"] = "silu"
        """Activation of the hidden layers."""
        scaling: Literal["minmax", "standard"] = "standard"
        """Scaling of the features."""

    settings: Settings

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__(shape=shape, properties=properties, **options)
        own = self.settings
        self.learning_rate = own.learning_rate
        self.network = perceptron(
            inputs=math.prod(self.shape),
            outputs=1,
            layers=own.layers,
            hidden=own.hidden,
            activation=own.activation,
        )

    def forward(self, features: Float[Tensor, "n *shape"]) -> Float[Tensor, "n"]:
        """Return the property in its own units, differentiable in ``features``, in their type."""
        scaled = self.network(self.scale_features(features))
        return self.property_scaler.inverse(scaled.double()).squeeze(1).to(features.dtype)

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n *shape"], *, batch_size: int = 8192) -> Prediction:
        """Return the property of each row without gradients, ``batch_size`` rows at a time.

        Raises:
            InputError: The model is not trained, or the features have another shape.
        """
        self._require_training()
        self.check_features(features)
        rows = [self(chunk.to(self.device)) for chunk in features.split(batch_size)]
        return Prediction(mean=torch.cat(rows) if rows else features.new_zeros(0))

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n *shape"],
        properties: Float[Tensor, "n"],
        *,
        seed: int,
        validation: Int[Tensor, "v"] | None = None,
        directory: Path | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> NetworkSurrogate:
        """Train a network; see the base class. The weights that are best on the validation rows are kept.

        Without ``validation``, every fifth row validates.
        """
        settings = settings_from(cls.Settings, options, source=cls.kind)
        with torch.random.fork_rng([]):  # weights are drawn twice: here, and then from the seed
            surrogate = build_model(cls, {**settings.options(), "shape": tuple(features.shape[1:])})
        held_out = torch.arange(0, len(features), 5) if validation is None else validation
        record = fit(
            surrogate,
            features,
            properties,
            validation=held_out,
            seed=seed,
            directory=directory,
            progress=progress,
            **settings.fitting(),
        )
        predicted = surrogate.predict(features[held_out]).mean
        errors = prediction_errors(predicted, properties.reshape(-1)[held_out], held_out=True)
        record["validation_errors"] = asdict(errors)
        return surrogate

    def save(self, path: Path | str) -> None:
        """Write the network to one ``.safetensors`` file, atomically."""
        save_model(self, path)

    @classmethod
    def load(cls, path: Path | str) -> Surrogate:
        """Read a file written by :meth:`save`.

        Raises:
            InputError: No such file, another kind of file, or a damaged one.
        """
        model = load_model(path)
        if not isinstance(model, Surrogate):
            raise InputError(f"{path}: is a {model.kind}, expected a surrogate.")
        return model

    @property
    def validation_errors(self) -> PredictionErrors | None:
        """Errors on the validation rows; None before training, and of files of earlier versions."""
        errors = (self.training_record or {}).get("validation_errors")
        return None if errors is None else PredictionErrors(**errors)

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
