"""Property values from what an energy method computes: total energies, energies per atom, and others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.potentials.base import Potential, PotentialOutput
from whorl.potentials.reference import formation_energy
from whorl.structures.batch import StructureBatch

ENERGIES = ("energy_per_atom", "energy", "formation_energy")
"""Quantities of every energy method; that which needs references comes last."""

_SAME_NAMES = {
    "formation_energy_per_atom": "formation_energy",
    "formation_energy_ev_atom": "formation_energy",
    "total_energy": "energy",
    "potential_energy": "energy",
    "energy_atom": "energy_per_atom",
    "total_energy_per_atom": "energy_per_atom",
}


def quantity_named(property: str, there: Sequence[str] = ENERGIES) -> str | None:
    """Return the quantity that bears a property's name, such as ``dipole`` for ``dipole_moment``.

    >>> quantity_named("Formation energy (eV/atom)"), quantity_named("band_gap")
    ('formation_energy', None)
    """
    name = re.sub(r"[^a-z0-9]+", "_", property.lower()).strip("_")
    name = _SAME_NAMES.get(name, name)
    if name in ENERGIES:
        return name
    words = set(name.split("_"))
    own = [one for one in there if one not in ENERGIES]
    return next((one for one in own if one.lower() == name or set(one.lower().split("_")) <= words), None)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """The quantity of an energy method that is the property.

    Attributes:
        name: One of :data:`ENERGIES`, or another property of the method, such as ``dipole``.
        subtracted: Constant that is subtracted from it.
        bulk_energy: Energy of the bulk of each element in eV/atom, for the formation energy.
    """

    name: str
    subtracted: float = 0.0
    bulk_energy: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_energy(self) -> bool:
        """Whether it follows from the total energy, and its gradient from the forces."""
        return self.name in ENERGIES

    def compute(self, potential: Potential, structures: StructureBatch) -> PotentialOutput:
        """Return what a potential says of structures, this quantity among it."""
        # Only potentials with scalars of their own take the argument.
        further: dict[str, Any] = {} if self.is_energy else {"properties": (self.name,)}
        return potential(structures, **further)

    def values(self, output: PotentialOutput, structures: StructureBatch) -> Float[Tensor, "B"]:
        """Return the property of each structure, NaN where it is not known."""
        counts = structures.n_atoms.double()
        if not self.is_energy:
            values = output.properties[self.name].double()
        elif self.name == "energy":
            values = output.energy.double()
        elif self.name == "energy_per_atom":
            values = output.energy.double() / counts
        else:
            values = formation_energies(output.energy.double(), structures, self.bulk_energy)
        return values - self.subtracted

    def gradient(self, output: PotentialOutput, structures: StructureBatch) -> Float[Tensor, "A 3"]:
        """Return the property's derivatives in the atoms' positions; NaN where forces do not give them."""
        if not self.is_energy:
            return torch.full_like(output.forces, torch.nan, dtype=torch.float64)
        per_atom = torch.ones_like(structures.n_atoms) if self.name == "energy" else structures.n_atoms
        return -output.forces.double() / per_atom[structures.structure_index, None]


def formation_energies(
    energy: Float[Tensor, "B"], structures: StructureBatch, bulk: Mapping[str, float]
) -> Float[Tensor, "B"]:
    """Return formation energies per atom by eq. 4 of Fung et al. (2022), NaN where an element is missing.

    Args:
        energy: Total energies in eV.
        structures: Any.
        bulk: Energy of the bulk of each element in eV/atom.
    """
    from ase.data import chemical_symbols

    of_atom = torch.tensor(
        [bulk.get(chemical_symbols[z], float("nan")) for z in structures.atomic_numbers.tolist()],
        dtype=torch.float64,
    )
    sums = of_atom.new_zeros(len(structures)).index_add(0, structures.structure_index, of_atom)
    # E_bulk of eq. 4 for any composition: the mean over the atoms.
    return formation_energy(energy, structures.n_atoms.double(), sums / structures.n_atoms)
