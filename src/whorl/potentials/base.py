"""What every energy method is: structures in, energies, forces and stresses out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from whorl.structures.convert import Structures


@dataclass(frozen=True, kw_only=True)
class PotentialOutput:
    """Energies of B structures with A atoms in all; a structure that failed has NaN and a reason.

    Attributes:
        energy: Total energy in eV, shape (B,).
        forces: In eV/Å, shape (A, 3).
        stress: In eV/Å³, shape (B, 3, 3), positive for a cell that wants to shrink (ASE's sign), NaN
            for structures without a full cell; or None.
        failures: Index of each structure that could not be computed, and why.
        properties: Further properties asked for, by name, each of shape (B,).
    """

    energy: Float[Tensor, "B"]
    forces: Float[Tensor, "A 3"]
    stress: Float[Tensor, "B 3 3"] | None = None
    failures: Mapping[int, str] = field(default_factory=dict)
    properties: Mapping[str, Float[Tensor, "B"]] = field(default_factory=dict)


@runtime_checkable
class Potential(Protocol):
    """An energy method. One failing structure never stops the others.

    Attributes:
        name: The method with those of its options that change its numbers: under one name, the same numbers.
    """

    name: str

    def __call__(self, structures: Structures) -> PotentialOutput:
        """Return energies (eV), forces (eV/Å) and, where it has them, stresses (eV/Å³)."""
        ...
