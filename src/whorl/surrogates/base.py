"""Contract of surrogates: a property predicted from features, or from the atoms themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.axes import SURROGATES
from whorl.errors import InputError
from whorl.settings import Method
from whorl.structures.checks import find_problems
from whorl.structures.convert import Structures
from whorl.surrogates.errors import PredictionErrors
from whorl.surrogates.settings import SurrogateSettings
from whorl.tensor_files import read_safetensors, read_tensors

Progress = Callable[..., object]
"""Called with (done, in all), optionally with a message."""

QUANTILE = 1.645
"""Of the normal distribution: 90 % of errors are within so many uncertainties."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Property predicted from features or structures, in its own units.

    Attributes:
        mean: The value.
        uncertainty: Standard deviation, above zero; None of a surrogate that has none.
        gradient: Derivative of the value in the positions of all A atoms, per Å; None where not asked for.
        strain_gradient: Derivative in a strain ε that takes positions and lattice vectors, as rows, to
            x (1 + ε); likewise.
        uncertainty_gradient: Those of the uncertainty.
        uncertainty_strain_gradient: Likewise.
    """

    mean: Float[Tensor, "n"]
    uncertainty: Float[Tensor, "n"] | None = None
    gradient: Float[Tensor, "A 3"] | None = None
    strain_gradient: Float[Tensor, "n 3 3"] | None = None
    uncertainty_gradient: Float[Tensor, "A 3"] | None = None
    uncertainty_strain_gradient: Float[Tensor, "n 3 3"] | None = None


class Surrogate(Method, ABC):
    """A map from features R, or from structures, to one property y, fitted to labelled rows.

    Attributes:
        takes: What ``fit`` and ``predict`` are given: ``"features"`` or ``"structures"``.
        shape: Shape of one structure's features; () where it takes structures.
    """

    Settings: ClassVar[type[Any]] = SurrogateSettings
    takes: ClassVar[Literal["features", "structures"]] = "features"
    shape: tuple[int, ...]

    @classmethod
    @abstractmethod
    def fit(
        cls,
        features: Any,
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
            features: Of shape (n, *shape), in data units; or structures (see ``takes``).
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
    def predict(self, features: Any) -> Prediction:
        """Return the property of each row.

        Args:
            features: Of shape (n, *shape), or structures (see ``takes``).

        Raises:
            InputError: The features have another shape than its own, or structures another element.
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
        """Reject features of another shape than the surrogate's.

        Raises:
            InputError: They have.
        """
        if tuple(features.shape[1:]) != self.shape:
            raise InputError(
                f"surrogate: got features of shape {tuple(features.shape[1:])} per structure, expected "
                f"{self.shape}. Use the representation it was fitted with."
            )


class StructureSurrogate(Surrogate):
    """A map from structures to one property, with derivatives in the atoms."""

    takes = "structures"
    shape = ()

    @abstractmethod
    def predict(self, features: Structures, *, gradients: bool = False) -> Prediction:
        """Return the property of each structure.

        Args:
            features: The structures.
            gradients: Also return the derivatives of value and uncertainty in positions and strain.

        Raises:
            InputError: Features instead of structures, or elements that it was not fitted to.
        """

    def update(
        self,
        structures: Structures,
        properties: Float[Tensor, "n"],
        *,
        forces: Float[Tensor, "A 3"] | None = None,
        stresses: Float[Tensor, "n 3 3"] | None = None,
    ) -> StructureSurrogate:
        """Return this surrogate with further labels.

        Raises:
            InputError: It takes no further labels.
        """
        raise InputError(f"surrogate {self.kind}: takes no further labels. Use one that does: additive.")

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hash of all that predictions depend on."""

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the index of each structure that it cannot predict, and why."""
        return find_problems(structures)


_ENTRY = "whorl_surrogate"
"""Entry of the files of other packages' surrogates, with the kind in the header."""
_OF_ENTRY = {
    "whorl_model": "network",
    "whorl_ensemble": "ensemble",
    "whorl_committee": "ensemble",
    "whorl_additive": "additive",
}


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
    if _ENTRY in metadata:
        kind = str(read_tensors(path, entry=_ENTRY)[1].get("kind"))
    else:
        kind = next((kind for entry, kind in _OF_ENTRY.items() if entry in metadata), "external")
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
