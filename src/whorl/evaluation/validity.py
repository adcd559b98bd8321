"""Can these be crystals? Flags for distances, volume and chemistry; nothing is filtered."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from ase.formula import Formula
from ase.symbols import Symbols
from jaxtyping import Bool, Float

from whorl.errors import import_extra
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.neighbors import neighbor_list

_REACH = 3.0  # Å; how far neighbours are looked for
_TINY = 1e-3  # Å³; cells below that have more neighbours than can be counted


@dataclass(frozen=True, kw_only=True)
class Validity:
    """What was found of B crystals.

    Attributes:
        shortest_distance: Between two atoms, periodic images included, in Å; infinite if above 3 Å, and 0
            where cell or positions are not sound.
        volume: Of the cell in Å³.
        distances_ok: The shortest distance is at least the limit.
        volume_ok: The volume is at least the limit.
        charge_neutral: The elements' known oxidation states can add up to zero, with anions more
            electronegative than cations (smact's test, which lets metals alone pass); None if not asked.
    """

    shortest_distance: Float[torch.Tensor, "B"]
    volume: Float[torch.Tensor, "B"]
    distances_ok: Bool[torch.Tensor, "B"]
    volume_ok: Bool[torch.Tensor, "B"]
    charge_neutral: Bool[torch.Tensor, "B"] | None

    @property
    def structurally_valid(self) -> Bool[torch.Tensor, "B"]:
        """Distances and volume are as crystals have them."""
        return self.distances_ok & self.volume_ok

    def reasons(self) -> list[str]:
        """Return for each crystal what is wrong with it, or nothing."""
        neutral = [True] * len(self.volume) if self.charge_neutral is None else self.charge_neutral.tolist()
        answers = []
        for i, charges in enumerate(neutral):
            parts = []
            if not self.volume_ok[i]:
                parts.append(f"its cell has {float(self.volume[i]):.3g} Å³")
            if not self.distances_ok[i]:
                parts.append(f"two atoms are {float(self.shortest_distance[i]):.2f} Å apart")
            if not charges:
                parts.append("its elements have no oxidation states that would make it neutral")
            answers.append("; ".join(parts))
        return answers


def check_validity(
    structures: StructureBatch,
    *,
    shortest: float = 0.5,
    smallest_volume: float = 0.1,
    chemistry: bool = True,
) -> Validity:
    """Return flags for each crystal.

    The limits are those of the field's benchmarks (Xie et al., ICLR 2022).

    Args:
        structures: Crystals.
        shortest: Least distance in Å that two atoms may have.
        smallest_volume: Least volume of a cell in Å³.
        chemistry: Also test for charge neutrality, which needs the package smact.

    Raises:
        MissingExtraError: ``chemistry`` without smact: pip install 'whorl[crystens]'.
    """
    volume = volumes(structures.cells.detach())
    finite = structures.cells.isfinite().flatten(1).all(1)
    finite[structures.structure_index[~structures.positions.isfinite().all(1)]] = False
    sound = finite & (volume > _TINY)
    distance = torch.zeros_like(volume)
    if bool(sound.any()):
        distance[sound] = _shortest_distances(structures[sound])
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
        volume=torch.where(finite, volume, 0.0),
        distances_ok=distance >= shortest,
        volume_ok=finite & (volume >= smallest_volume),
        charge_neutral=neutral,
    )


def _shortest_distances(structures: StructureBatch) -> torch.Tensor:
    pairs = neighbor_list(structures, cutoff=_REACH)
    lengths = pairs.vectors(structures).norm(dim=-1).detach()
    shortest = torch.full_like(structures.cells[:, 0, 0], torch.inf).detach()
    return shortest.scatter_reduce(0, structures.structure_index[pairs.first], lengths, "amin")


def is_charge_neutral(formula: str) -> bool:
    """Tell whether known oxidation states of a formula's elements can add up to zero.

    Single elements and alloys of metals count as neutral.

    Raises:
        MissingExtraError: The package smact is not installed: pip install 'whorl[crystens]'.

    >>> is_charge_neutral("NaCl"), is_charge_neutral("NaCl5"), is_charge_neutral("CuZn")
    (True, False, True)
    """
    return _neutral(str(Formula(formula).reduce()[0]))


@lru_cache(maxsize=100_000)
def _neutral(formula: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements without electronegativity
        smact = import_extra("smact.screening", extra="crystens")
        try:
            return bool(smact.smact_validity(formula))
        except KeyError:  # smact ends at lawrencium (103): of heavier elements no oxidation state is known
            return False
