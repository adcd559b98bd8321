"""Duplicates among crystals, and crystals that are known, as pymatgen's StructureMatcher finds them.

Two crystals are the same if ``StructureMatcher`` says so. With its own defaults: lengths of the primitive
cells within 20 % (``ltol=0.2``) once both have one volume, angles within 5° (``angle_tol=5``), and no atom
farther from its counterpart than 0.3 (V/N)^⅓ (``stol=0.3``). So two lattice constants of one structure type
and one composition are the same crystal, and neither supercells, nor settings, nor the order of atoms matter.

The answers are those of ``group_structures`` and ``fit``. Pairs that cannot match are found by exact screens
(:mod:`whorl.evaluation.crystals.matcher`), cells are reduced once, and the work is done in chunks of crystals
of one composition, which executors spread over workers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Bool, Int
from torch import Tensor

from whorl.evaluation.crystals.comparison import Comparison
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.executors.base import Executor
from whorl.structures.convert import Structures, as_batch

Progress = Callable[[int, int], object]


def distinct(
    structures: Structures,
    *,
    settings: MatcherSettings | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> list[list[int]]:
    """Return groups of equal crystals, as indices.

    A crystal joins the first group whose first member it matches, as in ``group_structures``; tolerances are
    not transitive, so members of one group need not all match each other.

    Args:
        structures: Crystals. Unphysical ones (no atoms, no volume, not finite, coinciding atoms, not
            periodic) are in no group.
        settings: Tolerances and order of arguments; the first member of a group is the known crystal.
        progress: Called with (crystals done, crystals in all); a crystal is half done once its cell is
            reduced.
        executor: Does the work.
        folder: Where finished chunks are kept.

    Returns:
        Groups in the order of their first members, members ascending.

    >>> from ase.build import bulk
    >>> from whorl.structures import from_ase
    >>> salt = bulk("NaCl", "rocksalt", a=5.6)
    >>> distinct(from_ase([salt, bulk("Cu"), salt * (2, 1, 1)]))
    [[0, 2], [1]]
    """
    comparison = Comparison(settings or MatcherSettings(), False, progress, executor, folder)
    groups: dict[int, list[int]] = {}
    for row, first in enumerate(comparison.group(as_batch(structures)).tolist()):
        if first >= 0:
            groups.setdefault(first, []).append(row)
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
    """Return which crystals are among known ones; arguments as of :func:`first_known`."""
    return (
        first_known(structures, known, settings=settings, progress=progress, executor=executor, folder=folder)
        >= 0
    )


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
        progress: Called with (crystals done, crystals in all).
        executor: Does the work.
        folder: Where finished chunks are kept.
    """
    comparison = Comparison(settings or MatcherSettings(), False, progress, executor, folder)
    return comparison.first_known(as_batch(structures), as_batch(known))
