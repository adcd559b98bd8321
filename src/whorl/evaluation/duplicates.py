"""Duplicates among crystals by pymatgen's StructureMatcher, accelerated.

Two crystals are the same if ``StructureMatcher`` says so with its own defaults: lengths of the primitive
cells within 20 % (``ltol=0.2``) once both have one volume, angles within 5° (``angle_tol=5``), and no atom
farther from its counterpart than 0.3 (V/N)^⅓ (``stol=0.3``). So two lattice constants of one structure type
and one composition are the same crystal, and neither supercells, nor settings, nor the order of atoms matter.

Only crystals of one reduced composition are compared, those of like volume first, and of these only cells
that have equally many atoms once they are primitive: others cannot match. A crystal is reduced when it is
first needed, and once. Still, thousands of one composition (all carbon, say) are millions of pairs, of some
milliseconds each.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.executors.base import Executor
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.checks import find_problems
from whorl.structures.convert import Structures, as_batch

LENGTHS, PLACES, ANGLES = 0.2, 0.3, 5.0
"""``ltol``, ``stol`` and ``angle_tol`` (degrees) of StructureMatcher."""

Progress = Callable[[int, int], object]

_HEAVIEST = 118


def distinct(
    structures: Structures,
    *,
    settings: MatcherSettings | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> list[list[int]]:
    """Return groups of equal crystals, as indices.

    A crystal joins a group if it matches the group's first member; tolerances are not transitive, so members
    of one group need not all match each other.

    Args:
        structures: Crystals. Unphysical ones (no atoms, no volume, not finite, coinciding atoms, not
            periodic) are in no group.
        progress: Called with (crystals done, crystals in all).

    Returns:
        Groups in the order of their first members, members ascending.

    >>> from ase.build import bulk
    >>> from whorl.structures import from_ase
    >>> salt = bulk("NaCl", "rocksalt", a=5.6)
    >>> distinct(from_ase([salt, bulk("Cu"), salt * (2, 1, 1)]))
    [[0, 2], [1]]
    """
    structures = as_batch(structures)
    crystals, matches = _Crystals(structures), _matcher()
    groups: dict[int, list[int]] = {}
    firsts: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in range(len(structures)):
        if crystals.sound[row]:
            alike = firsts[crystals.compositions[row]]
            near = sorted(alike, key=lambda k: abs(crystals.volume[k] - crystals.volume[row]))
            first = next((k for k in near if matches(crystals.reduced(k), crystals.reduced(row))), None)
            if first is None:
                alike.append(row)
                groups[row] = [row]
            else:
                groups[first].append(row)
        if progress is not None:
            progress(row + 1, len(structures))
    return list(groups.values())


def is_known(
    structures: Structures,
    known: Structures,
    *,
    settings: MatcherSettings | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> Bool[Tensor, "B"]:
    """Return which crystals are among known ones.

    Args:
        structures: Crystals; unphysical ones (see :func:`distinct`) are not known.
        known: Known crystals. Only those whose composition occurs in ``structures`` take time.
        progress: Called with (crystals done, crystals in all).
    """
    structures, known = as_batch(structures), as_batch(known)
    crystals, matches = _Crystals(structures), _matcher()
    wanted = set(crystals.compositions)
    others = _Crystals(known[[row for row, name in enumerate(_compositions(known)) if name in wanted]])
    table: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, name in enumerate(others.compositions):
        if others.sound[row]:
            table[name].append(row)
    found = torch.zeros(len(structures), dtype=torch.bool)
    for row in range(len(structures)):
        if crystals.sound[row]:
            alike = table[crystals.compositions[row]]
            near = sorted(alike, key=lambda k: abs(others.volume[k] - crystals.volume[row]))
            found[row] = any(matches(others.reduced(k), crystals.reduced(row)) for k in near)
        if progress is not None:
            progress(row + 1, len(structures))
    return found


def first_known(
    structures: Structures,
    known: Structures,
    *,
    settings: MatcherSettings | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> Int[Tensor, "B"]:
    """Return the index of the first known crystal that each crystal matches; -1 where it matches none.

    Args:
        structures: Crystals; unphysical ones (see :func:`distinct`) match none.
        known: Known crystals. Only those whose composition occurs in ``structures`` take time.
        settings: Tolerances and order of arguments.
        progress: Called with (done, in all).
        executor: Does the work.
        folder: Where finished parts are kept.
    """
    raise NotImplementedError


class _Crystals:
    """Crystals with cheap descriptors, and primitive cells on demand."""

    def __init__(self, structures: StructureBatch) -> None:
        self._structures = structures.to(device="cpu", dtype=torch.float64)
        self._reduced: dict[int, Any] = {}
        sound = structures.pbc.all(1).cpu()
        sound[list(find_problems(structures))] = False
        self.sound = sound.tolist()
        self.compositions = _compositions(structures)
        self.volume = (volumes(structures.cells) / structures.n_atoms).tolist()  # Å³ for each atom

    def reduced(self, row: int) -> Any:
        """Return a crystal as pymatgen's ``Structure`` in its primitive cell."""
        if row not in self._reduced:
            self._reduced[row] = _primitive(self._structures[row])
        return self._reduced[row]


def _compositions(structures: StructureBatch) -> list[bytes]:
    """Return a name of each crystal's reduced composition: the same for NaCl and Na4Cl4."""
    counts = np.zeros((len(structures), _HEAVIEST + 2), dtype=np.int32)
    numbers = structures.atomic_numbers.clamp(0, _HEAVIEST + 1).cpu().numpy()
    np.add.at(counts, (structures.structure_index.cpu().numpy(), numbers), 1)
    counts //= np.maximum(np.gcd.reduce(counts, axis=1, keepdims=True), 1)
    return [row.tobytes() for row in counts]


def _primitive(crystal: StructureBatch) -> Any:
    """Apply the reduction of StructureMatcher; a cell that cannot be reduced is kept."""
    from pymatgen.core import Lattice, Structure

    lattice = Lattice(crystal.cells[0].detach().numpy())
    fractional = lattice.get_fractional_coords(crystal.positions.detach().numpy())
    structure = Structure(lattice, crystal.atomic_numbers.tolist(), fractional, to_unit_cell=True)
    try:
        return structure.get_reduced_structure("niggli").get_primitive_structure()
    except (ValueError, RuntimeError, ArithmeticError, IndexError):
        return structure


def _matcher() -> Callable[[Any, Any], bool]:
    """Return the comparison of two crystals in their primitive cells."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(ltol=LENGTHS, stol=PLACES, angle_tol=ANGLES)

    def matches(first: Any, second: Any) -> bool:
        if len(first) != len(second):
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of divisions in cells that are almost flat
                return bool(matcher.fit(first, second, skip_structure_reduction=True))
        except (ValueError, ArithmeticError, IndexError):  # lattices that pymatgen cannot map
            return False

    return matches
