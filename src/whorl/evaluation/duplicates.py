"""Which crystals are the same, and which are known already: pymatgen's StructureMatcher, made quick.

Two crystals are the same if ``StructureMatcher`` says so with its own defaults: lengths of the primitive
cells within 20 % (``ltol=0.2``) once both have one volume, angles within 5° (``angle_tol=5``), and no atom
farther from its counterpart than 0.3 (V/N)^⅓ (``stol=0.3``). So two lattice constants of one structure type
and one composition are the same crystal, and neither supercells, nor settings, nor the order of atoms matter.

Every pair is compared whose match is possible at all: reduced compositions and numbers of atoms in the
primitive cell must be equal. Each crystal is reduced once.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems

LENGTHS, PLACES, ANGLES = 0.2, 0.3, 5.0
"""``ltol``, ``stol`` and ``angle_tol`` (degrees) of StructureMatcher."""

Progress = Callable[[int, int], object]

_HEAVIEST = 118


@dataclass(frozen=True)
class _Reduced:
    """A crystal in its primitive, reduced cell, and what a match must have in common with it."""

    row: int
    structure: Any
    key: tuple[bytes, int]
    volume: float  # Å³ for each atom


def distinct(structures: StructureBatch, *, progress: Progress | None = None) -> list[list[int]]:
    """Return which crystals are the same, as groups of indices.

    A crystal joins a group if it matches the group's first member; tolerances are not transitive, so members
    of one group need not all match each other.

    Args:
        structures: Crystals. What is none (no atoms, no volume, not finite, two atoms at one place, not
            periodic) is in no group.
        progress: Called with (crystals done, crystals in all).

    Returns:
        Groups in the order of their first members, members ascending.

    >>> from ase.build import bulk
    >>> from whorl.structures import from_ase
    >>> salt = bulk("NaCl", "rocksalt", a=5.6)
    >>> distinct(from_ase([salt, bulk("Cu"), salt * (2, 1, 1)]))
    [[0, 2], [1]]
    """
    matcher = _matcher()
    groups: list[list[int]] = []
    firsts: defaultdict[tuple[bytes, int], list[tuple[_Reduced, list[int]]]] = defaultdict(list)
    for row, one in zip(range(len(structures)), _reduced(structures), strict=True):
        if one is not None:
            alike = firsts[one.key]
            near = _nearest_first(one, [first for first, _ in alike])
            joined = next((alike[k][1] for k in near if _match(matcher, alike[k][0], one)), None)
            if joined is None:
                joined = []
                groups.append(joined)
                alike.append((one, joined))
            joined.append(row)
        if progress is not None:
            progress(row + 1, len(structures))
    return groups


def is_known(
    structures: StructureBatch, known: StructureBatch, *, progress: Progress | None = None
) -> Bool[Tensor, "B"]:
    """Tell which crystals are among known ones.

    Args:
        structures: Crystals; what is none (see :func:`distinct`) is not known.
        known: Crystals to look among. Only those whose composition occurs in ``structures`` cost time.
        progress: Called with (crystals done, crystals in all).
    """
    matcher = _matcher()
    wanted = set(_compositions(structures))
    rows = [row for row, name in enumerate(_compositions(known)) if name in wanted]
    table: defaultdict[tuple[bytes, int], list[_Reduced]] = defaultdict(list)
    for other in _reduced(known[rows]):
        if other is not None:
            table[other.key].append(other)
    found = torch.zeros(len(structures), dtype=torch.bool)
    for row, one in zip(range(len(structures)), _reduced(structures), strict=True):
        if one is not None:
            alike = table[one.key]
            found[row] = any(_match(matcher, alike[k], one) for k in _nearest_first(one, alike))
        if progress is not None:
            progress(row + 1, len(structures))
    return found


def _compositions(structures: StructureBatch) -> list[bytes]:
    """Return a name of each crystal's reduced composition: the same for NaCl and Na4Cl4."""
    counts = np.zeros((len(structures), _HEAVIEST + 2), dtype=np.int32)
    numbers = structures.atomic_numbers.clamp(0, _HEAVIEST + 1).cpu().numpy()
    np.add.at(counts, (structures.structure_index.cpu().numpy(), numbers), 1)
    counts //= np.maximum(np.gcd.reduce(counts, axis=1, keepdims=True), 1)
    return [row.tobytes() for row in counts]


def _reduced(structures: StructureBatch) -> Iterable[_Reduced | None]:
    """Yield each crystal in its primitive cell, or None for what is no crystal."""
    from pymatgen.core import Lattice, Structure

    structures = structures.to(device="cpu", dtype=torch.float64)
    problems = find_problems(structures)
    names = _compositions(structures)
    for row, (one, periodic) in enumerate(zip(structures, structures.pbc.all(1).tolist(), strict=True)):
        if row in problems or not periodic:
            yield None
            continue
        lattice = Lattice(one.cells[0].detach().numpy())
        whole = Structure(
            lattice,
            one.atomic_numbers.tolist(),
            lattice.get_fractional_coords(one.positions.detach().numpy()),
            to_unit_cell=True,
        )
        small = _primitive(whole)
        yield _Reduced(row, small, (names[row], len(small)), small.volume / len(small))


def _primitive(structure: Any) -> Any:
    """Do what StructureMatcher does first; a cell that cannot be reduced stays as it is."""
    try:
        return structure.get_reduced_structure("niggli").get_primitive_structure()
    except (ValueError, RuntimeError, ArithmeticError, IndexError):
        return structure


def _nearest_first(one: _Reduced, others: Sequence[_Reduced]) -> list[int]:
    """Return the order in which a match is likely to be found early."""
    return sorted(range(len(others)), key=lambda k: abs(others[k].volume - one.volume))


def _matcher() -> Any:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=LENGTHS, stol=PLACES, angle_tol=ANGLES)


def _match(matcher: Any, first: _Reduced, second: _Reduced) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of divisions in cells that are almost flat
            return bool(matcher.fit(first.structure, second.structure, skip_structure_reduction=True))
    except (ValueError, ArithmeticError, IndexError):  # lattices that pymatgen cannot map
        return False
