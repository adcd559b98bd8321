"""Contract of surrogates: a property predicted from features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.axes import SURROGATES
from whorl.errors import InputError
from whorl.settings import Method
from whorl.surrogates.errors import PredictionErrors
from whorl.surrogates.settings import SurrogateSettings
from whorl.tensor_files import read_safetensors

Progress = Callable[..., object]
"""Called with (done, in all), and perhaps a few words."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Property predicted from features, in its own units.

    Attributes:
        mean: The value.
        uncertainty: Standard deviation, above zero; None of a surrogate that has none.
    """

    mean: Float[Tensor, "n"]
    uncertainty: Float[Tensor, "n"] | None = None


class Surrogate(Method, ABC):
    """A map from features R to one property y, fitted to labelled rows.

    Attributes:
        shape: Shape of one structure's features.
    """

    Settings: ClassVar[type[Any]] = SurrogateSettings
    shape: tuple[int, ...]

    @classmethod
    @abstractmethod
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
    ) -> Surrogate:
        """Return a surrogate fitted to labelled rows.

        Args:
            features: In data units.
            properties: One value a row.
            seed: All randomness follows from it.
            validation: Rows by which its error is measured.
            directory: Where checkpoints of a long fit are kept.
            progress: Called as it goes on.
            options: Hyperparameters other than the defaults of ``Settings``.

        Raises:
            InputError: Too few rows, values that are not finite, or hyperparameters that make no sense.
        """

    @abstractmethod
    def predict(self, features: Float[Tensor, "n *shape"]) -> Prediction:
        """Return the property of each row, without gradients.

        Raises:
            InputError: The features have another shape than its own.
        """

    @property
    @abstractmethod
    def validation_errors(self) -> PredictionErrors | None:
        """Errors on the validation rows; None if not measured."""

    @property
    def validation_mae(self) -> float | None:
        """Mean absolute error on the validation rows, in the property's units; None if not measured."""
        return None if self.validation_errors is None else self.validation_errors.mean_absolute_error

    @abstractmethod
    def save(self, path: Path | str) -> None:
        """Write the surrogate to one ``.safetensors`` file, atomically."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path | str) -> Surrogate:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: No such file, another kind of file, or a damaged one.
        """

    def check_features(self, features: Tensor) -> None:
        """Refuse features of another shape than the surrogate's own.

        Raises:
            InputError: They have.
        """
        if tuple(features.shape[1:]) != self.shape:
            raise InputError(
                f"surrogate: got features of shape {tuple(features.shape[1:])} per structure, expected "
                f"{self.shape}. Use the representation it was fitted with."
            )


_OF_ENTRY = {"whorl_model": "network", "whorl_ensemble": "ensemble", "whorl_committee": "ensemble"}


def load_surrogate(path: Path | str, *, shape: tuple[int, ...] | None = None) -> Surrogate:
    """Read a surrogate that whorl wrote, or the weights of a network of another program.

    Args:
        path: A ``.safetensors`` file. For what is read of other programs see
            :class:`whorl.surrogates.ExternalSurrogate`.
        shape: Shape of one structure's features, where it is known.

    Raises:
        InputError: No such file, another kind of file, a damaged one, or a surrogate for features of another
            shape.
    """
    _, metadata = read_safetensors(path, expected="a surrogate")
    kind = metadata.get("whorl_surrogate") or next(
        (kind for entry, kind in _OF_ENTRY.items() if entry in metadata), "external"
    )
    surrogate = SURROGATES.get(kind, imports=False).load(path)
    if (
        shape is not None
        and surrogate.shape not in ((), shape)
        and surrogate.shape != (torch.Size(shape).numel(),)
    ):
        raise InputError(
            f"{path}: was fitted to features of shape {surrogate.shape}, but these have {shape}. Use the "
            "surrogate of the same representation."
        )
    return surrogate
