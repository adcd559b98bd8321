"""Volume per atom as a condition, in Å³."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.conditions.base import Condition
from whorl.errors import InputError
from whorl.settings import Positive, Section
from whorl.structures import StructureBatch
from whorl.structures.cells import volume_per_atom

_TOLERANCE = 0.05  # of the logarithm, within which a volume is the one requested
_FARTHEST = 14  # such steps, a factor of two, between a requested volume and the nearest of the data


@dataclass(frozen=True)
class Volume(Condition):
    """The volume of a crystal's cell per atom in Å³; with the composition, its density."""

    kind = "volume"

    class Request(Section):
        """A volume that is requested."""

        volume: Positive | None = None
        """Volume per atom in Å³ that each structure must have, within 5 %."""

    @classmethod
    def of_data(cls, structures: StructureBatch) -> Volume:
        """Return the condition; it has one column for any data."""
        return cls()

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the column."""
        return ("volume per atom",)

    def columns(self, structures: StructureBatch) -> Float[Tensor, "N 1"]:
        """Return the volumes per atom.

        Raises:
            InputError: A structure that is not periodic in all directions, or whose cell has no volume.
        """
        without = ~_has_volume(structures)
        if bool(without.any()):
            raise InputError(
                f"conditions: structure {int(without.nonzero()[0])} is not periodic in all three directions, "
                "or its cell has no volume. Leave volume out of the conditions."
            )
        return volume_per_atom(structures)[:, None]

    @classmethod
    def check(cls, value: float) -> None:
        """Check that it is a volume.

        Raises:
            InputError: It is not.
        """
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"volume: got {value:g}, expected Å³ per atom above 0.")

    @classmethod
    def satisfied(cls, structures: StructureBatch, value: float) -> Bool[Tensor, "N"]:
        """Return which structures have the volume, within 5 %."""
        return _has_volume(structures) & (_steps(volume_per_atom(structures), value) == 0)

    @classmethod
    def describe(cls, value: float) -> str:
        """Return the volume in words."""
        return f"{value:.4g} Å³ per atom"

    def encode(self, value: float) -> Float[Tensor, "1"]:
        """Return the volume."""
        return torch.tensor([value], dtype=torch.float64)

    def distance(self, columns: Float[Tensor, "N 1"], value: float) -> Float[Tensor, "N"]:
        """Return how far the volumes are apart, in steps of 5 %, as a number below 1."""
        steps = _steps(columns[:, 0].double(), value)
        return steps / (steps + _FARTHEST)

    def require_seen(self, columns: Float[Tensor, "N 1"], value: float) -> None:
        """Check that the volume is not beyond twice or half of those of these rows.

        Raises:
            InputError: It is.
        """
        if float(_steps(columns[:, 0].double(), value).min()) > _FARTHEST:
            low, high = columns.aminmax()
            raise InputError(
                f"volume: got {self.describe(value)}, far from those that the generator was trained on "
                f"({low:.4g} to {high:.4g})."
            )


def _has_volume(structures: StructureBatch) -> Bool[Tensor, "B"]:
    return structures.pbc.all(1) & (volume_per_atom(structures) > 0)


def _steps(volume: Float[Tensor, "N"], value: float) -> Float[Tensor, "N"]:
    """Return by how many steps volumes differ from the one requested; 0 within the tolerance."""
    return (((volume / value).log().abs() / _TOLERANCE).ceil() - 1.0).clamp(min=0.0)
