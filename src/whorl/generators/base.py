"""Contract of generators: conditional models over tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import lightning
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.generators.scaling import FeatureScaler, check_finite
from whorl.generators.settings import GeneratorSettings, TrainingSettings
from whorl.settings import Method, settings_from

Number = TypeVar("Number", int, float)


class TensorModel(lightning.LightningModule, Method, ABC):
    """A network between feature tensors R and properties y, in the data's own units.

    Scaling is a part of the model (:class:`whorl.generators.scaling.FeatureScaler`) and is saved with it.
    Networks compute in float32, scaling in float64; any floating-point type may come in.
    ``training_step`` and ``validation_step`` take ``(features (n, *shape), properties (n, p))`` and return
    the loss, the latter a mapping with ``"loss"`` and other quantities to report.

    A subclass names its hyperparameters, with defaults and ranges, in its ``Settings`` (a subclass of
    :class:`~whorl.generators.settings.TrainingSettings` with a field ``scaling``) and finds them in
    ``settings``.

    Args:
        shape: Shape of one structure's features: (F,) for vectors.
        properties: Number p of properties. They are standardised.
        options: Hyperparameters other than the defaults of ``Settings``.

    Raises:
        InputError: An unknown hyperparameter, or an invalid value.
    """

    Settings: ClassVar[type[TrainingSettings]]

    def __init__(self, *, shape: Sequence[int], properties: int = 1, **options: Any) -> None:
        super().__init__()
        self.shape = tuple(positive("each length of shape", length) for length in shape)
        self.properties = positive("properties", properties)
        self.settings: Any = self.resolved(self._read(options), self.shape)
        self.feature_scaler = FeatureScaler(math.prod(self.shape), self.settings.scaling)
        self.property_scaler = FeatureScaler(self.properties, "standard", negligible=0.0)
        self.training_record: dict[str, Any] | None = None
        """Record of :func:`whorl.generators.fit`; ``None`` before it."""

    @classmethod
    def _read(cls, options: dict[str, Any]) -> Any:
        """Return hyperparameters as settings."""
        known = cls.Settings.hyperparameters()
        for name in options:
            if name not in known:
                raise unknown_option(f"option of {cls.kind}", name, known)
        return settings_from(cls.Settings, options, source=cls.kind)

    @classmethod
    def resolved(cls, settings: Any, shape: Sequence[int]) -> Any:
        """Return settings in which every default that depends on the shape of the features is a value."""
        return settings

    def config(self) -> dict[str, Any]:
        """Return the hyperparameters that rebuild this model, JSON-able, with its ``kind``."""
        own = {"kind": self.kind, "shape": list(self.shape), "properties": self.properties}
        return {**own, **self.settings.options()}

    @property
    def trained(self) -> bool:
        """Whether the model has been trained; before that it has no units."""
        return bool(self.feature_scaler.fitted)

    def fit_scaling(self, features: Float[Tensor, "n *shape"], properties: Float[Tensor, "n p"]) -> None:
        """Fit the scaling of features and properties to training rows."""
        self.feature_scaler.fit(features.flatten(1))
        self.property_scaler.fit(properties)

    def scale_features(self, features: Float[Tensor, "n *shape"]) -> Float[Tensor, "n F"]:
        """Return features in network units: flat, scaled, float32."""
        return self.feature_scaler.transform(features.flatten(1).double()).to(self.dtype)

    def scale_properties(self, properties: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """Return properties in network units: standardised, float32."""
        return self.property_scaler.transform(properties.double()).to(self.dtype)

    def _require_training(self) -> None:
        if not self.trained:
            raise InputError(
                f"this {self.kind} has not been trained: call whorl.generators.fit or load_model first."
            )


class ConditionalGenerator(TensorModel):
    """A model of p(R | y): trained on feature tensors R and conditions y, sampled at any y."""

    Settings: ClassVar[type[TrainingSettings]] = GeneratorSettings

    @abstractmethod
    def sample(
        self, condition: Float[Tensor, "..."], *, rng: torch.Generator, temperature: float = 1.0
    ) -> Float[Tensor, "n *shape"]:
        """Draw one sample for each row of ``condition``.

        Args:
            condition: Target properties and other conditions, in data units, shape (n, p).
            rng: Source of all randomness; numbers are drawn on its device, so the same seed gives the same
                samples wherever the model is (to rounding).
            temperature: Standard deviation of the latent noise in units of the prior's: above 1 for samples
                that vary more than the training rows do, below 1 for more typical ones.

        Returns:
            Features in data units, in the floating-point type of ``condition``, on the model's device.

        Raises:
            InputError: The model is not trained, ``condition`` is not finite or not of shape (n, p), or
                ``temperature`` is not above zero.
        """

    def check_condition(self, condition: Float[Tensor, "..."]) -> None:
        """Reject conditions that cannot be sampled.

        Raises:
            InputError: The model is not trained, or ``condition`` is not finite or not of shape (n, p).
        """
        self._require_training()
        if condition.ndim != 2 or condition.shape[1] != self.properties:
            raise InputError(
                f"condition: got shape {tuple(condition.shape)}, expected (n, {self.properties}): "
                "one row per sample, one column per property. For n samples of one target: "
                "torch.full((n, 1), target)."
            )
        check_finite(condition, "condition")


@runtime_checkable
@runtime_checkable
class Guide(Protocol):
    """A differentiable prediction of a property, towards which samples can be guided."""

    shape: tuple[int, ...]

    @property
    def validation_mae(self) -> float | None:
        """Mean absolute error on held-out rows."""

    def __call__(self, features: Tensor) -> Tensor:
        """Return the property of each row, differentiable in the features."""

    def to(self, device: torch.device) -> Guide:
        """Return the guide on a device."""


@runtime_checkable
class Density(Protocol):
    """A generator that knows the probability density of features."""

    def log_prob(self, features: Tensor, condition: Tensor) -> Tensor:
        """Return log p(R | y) of each row."""


@torch.no_grad()
def unlikely(
    model: Density,
    features: Float[Tensor, "n *shape"],
    condition: Float[Tensor, "n p"],
    *,
    real: Float[Tensor, "m *shape"],
    real_condition: Float[Tensor, "m p"],
    share: float = 0.01,
) -> Bool[Tensor, "n"]:
    """Return which rows are off the distribution of real ones: less likely than all but a share of these.

    The rows may come from any generator, or be those of reconstructed structures.

    Args:
        model: A generator with exact densities, such as :class:`whorl.generators.Flow`.
        features: The rows, in data units.
        condition: Property and other conditions of each.
        real: Features of real structures: those that trained the model or, better, others.
        real_condition: Their conditions.
        share: The least likely share of the real rows, which sets the limit.

    Raises:
        InputError: There are no real rows.
    """
    if not len(real):
        raise InputError("unlikely: got no real rows, expected those that set the limit.")
    limit = model.log_prob(real, real_condition).quantile(share)
    return ~(model.log_prob(features, condition) >= limit)


def condition_range(model: TensorModel) -> Float[Tensor, "p 2"]:
    """Return smallest and largest value of each property in training, in data units, as float64."""
    scaler = model.property_scaler
    return torch.stack([scaler.minimum, scaler.maximum], dim=1)


def range_warning(model: TensorModel, condition: Float[Tensor, "n p"]) -> str | None:
    """Return a warning about conditions outside the training range, or ``None``.

    >>> range_warning(model, torch.tensor([[9.0]]))  # doctest: +SKIP
    'outside the training range (1.7 to 3.7): 9. The model extrapolates there.'
    """
    sentences = []
    for column, (low, high) in enumerate(condition_range(model).tolist()):
        asked = condition[:, column].double()
        outside = torch.unique(asked[(asked < low) | (asked > high)]).tolist()
        if outside:
            values = ", ".join(f"{value:.4g}" for value in outside[:10]) + (
                ", …" if len(outside) > 10 else ""
            )
            which = f" of property {column}" if model.properties > 1 else ""
            sentences.append(
                f"outside the training range{which} ({low:.4g} to {high:.4g}): {values}. "
                "The model extrapolates there."
            )
    return " ".join(sentences) or None


def positive(name: str, value: Number, *, allow_zero: bool = False) -> Number:
    """Validate a hyperparameter that must be positive (or non-negative).

    Raises:
        InputError: It is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not allow_zero):
        bound = "zero or more" if allow_zero else "a number above zero"
        raise InputError(f"{name}: got {value!r}, expected {bound}.")
    return value
