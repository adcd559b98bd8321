"""Validity of structures: flags for distances, volume and chemistry; nothing is filtered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ase.data import covalent_radii
from ase.symbols import Symbols
from jaxtyping import Bool, Float

from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import is_charge_neutral
from whorl.structures.convert import Structures, as_batch
from whorl.structures.neighbors import neighbor_list

STRICT = 0.6
"""Least distance of two atoms over the sum of their covalent radii, of the stricter rule: of 2,533 real
crystals (every eighth of those of CrysTens), one has less."""

_REACH = 3.0  # Å; how far neighbours are looked for
_TINY = 1e-3  # Å³; cells below that have more neighbours than can be counted


@dataclass(frozen=True, kw_only=True)
class Validity:
    """Validity flags of B structures.

    Attributes:
        shortest_distance: Between two atoms, periodic images included, in Å; infinite if above 3 Å, and 0
            where cell or positions are not sound.
        volume: Of the cell in Å³; 0 for none.
        closest: Least distance of two atoms over the sum of their covalent radii (ASE's table, Cordero et al.
            2008); infinite where none is near, and 0 where cell or positions are not sound.
        distances_ok: The shortest distance is at least the limit.
        radii_ok: ``closest`` is at least the limit.
        volume_ok: The volume is at least the limit, or the structure is not periodic in three directions.
        charge_neutral: The elements' known oxidation states can add up to zero, with anions more
            electronegative than cations (smact's test, which lets metals alone pass); None if not asked.
    """

    shortest_distance: Float[torch.Tensor, "B"]
    closest: Float[torch.Tensor, "B"]
    volume: Float[torch.Tensor, "B"]
    distances_ok: Bool[torch.Tensor, "B"]
    radii_ok: Bool[torch.Tensor, "B"]
    volume_ok: Bool[torch.Tensor, "B"]
    charge_neutral: Bool[torch.Tensor, "B"] | None

    @property
    def structurally_valid(self) -> Bool[torch.Tensor, "B"]:
        """Distances and volume are above the field's limits."""
        return self.distances_ok & self.volume_ok

    @property
    def strictly_valid(self) -> Bool[torch.Tensor, "B"]:
        """Also, no two atoms are closer than in real crystals, relative to their covalent radii."""
        return self.structurally_valid & self.radii_ok

    def reasons(self) -> list[str]:
        """Return the reasons why each structure is invalid."""
        neutral = [True] * len(self.volume) if self.charge_neutral is None else self.charge_neutral.tolist()
        answers = []
        for i, charges in enumerate(neutral):
            parts = []
            if not self.volume_ok[i]:
                parts.append(f"its cell has {float(self.volume[i]):.3g} Å³")
            if not self.distances_ok[i]:
                parts.append(f"two atoms are {float(self.shortest_distance[i]):.2f} Å apart")
            elif not self.radii_ok[i]:
                parts.append(
                    f"two atoms are at {float(self.closest[i]):.2f} of the sum of their covalent radii"
                )
            if not charges:
                parts.append("its elements have no oxidation states that would make it neutral")
            answers.append("; ".join(parts))
        return answers


def check_validity(
    structures: Structures,
    *,
    shortest: float = 0.5,
    closest: float = STRICT,
    smallest_volume: float = 0.1,
    chemistry: bool = True,
) -> Validity:
    """Return flags for each structure.

    The limits of distance and volume are those of the field's benchmarks (Xie et al., ICLR 2022). They let
    unphysical structures pass, so a stricter one is given in addition.

    Args:
        structures: Crystals, clusters or others.
        shortest: Minimum distance of two atoms in Å.
        closest: The same relative to the sum of their covalent radii.
        smallest_volume: Minimum volume of a cell in Å³.
        chemistry: Also test for charge neutrality, which needs the package smact.

    Raises:
        MissingExtraError: ``chemistry`` without smact: pip install 'whorl[crystens]'.
    """
    structures = as_batch(structures)
    volume = volumes(structures.cells.detach())
    finite = structures.cells.isfinite().flatten(1).all(1)
    finite[structures.structure_index[~structures.positions.isfinite().all(1)]] = False
    periodic = structures.pbc.all(1)
    sound = finite & ((volume > _TINY) | ~periodic)
    distance, ratio = torch.zeros_like(volume), torch.zeros_like(volume)
    if bool(sound.any()):
        distance[sound], ratio[sound] = _shortest_distances(structures[sound], closest)
    neutral = None
    if chemistry and len(structures) == 0:
        neutral = torch.ones(0, dtype=torch.bool)
    elif chemistry:
        ends = torch.cumsum(structures.n_atoms, 0)[:-1].tolist()
        parts = structures.atomic_numbers.cpu().tensor_split(ends)
        formulas = [Symbols(numbers.numpy()).get_chemical_formula("hill") for numbers in parts]
        neutral = torch.tensor([is_charge_neutral(formula) for formula in formulas], dtype=torch.bool)
    return Validity(
        shortest_distance=distance,
        closest=ratio,
        volume=torch.where(finite, volume, 0.0),
        distances_ok=distance >= shortest,
        radii_ok=ratio >= closest,
        volume_ok=finite & ((volume >= smallest_volume) | ~periodic),
        charge_neutral=neutral,
    )


def _shortest_distances(structures: StructureBatch, closest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least distances in Å, and the least ones over the sum of the radii."""
    radii = torch.from_numpy(covalent_radii).to(structures.cells)[structures.atomic_numbers]
    pairs = neighbor_list(structures, cutoff=max(_REACH, 2 * closest * float(radii.max())))
    lengths = pairs.vectors(structures).norm(dim=-1).detach()
    nowhere = torch.full_like(structures.cells[:, 0, 0], torch.inf).detach()
    index = structures.structure_index[pairs.first]
    shortest = nowhere.scatter_reduce(0, index, lengths, "amin")
    ratios = nowhere.scatter_reduce(0, index, lengths / (radii[pairs.first] + radii[pairs.second]), "amin")
    return torch.where(shortest <= _REACH, shortest, torch.inf), ratios
