"""Duplicates among clusters and molecules.

Two are the same if their atoms can be superposed within a root mean square distance of
:data:`SAME` (:func:`whorl.evaluation.matching.rmsd`: rotations, reflections, permutations of like atoms).
Only those whose sorted interatomic distances agree can be: displacements u change the distance of i and j
by at most |u_i| + |u_j|, and sorting brings two lists nearer, so that the root mean square difference of
the sorted distances is at most 2 RMSD. Of those, the few with the nearest distances are tried.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from jaxtyping import Bool
from torch import Tensor

from whorl.evaluation.matching import rmsd
from whorl.structures.batch import StructureBatch

SAME = 0.1
"""Root mean square distance in Å within which two clusters are the same."""

_TRIED = 5  # of the others, at most


def distinct_clusters(structures: StructureBatch) -> list[list[int]]:
    """Return which clusters are the same, as groups of indices in the order of their first members.

    A cluster joins the group of the nearest first member that it matches. What is not finite is in no group.
    """
    groups: list[list[int]] = []
    for rows, distances in _by_composition(structures).values():
        firsts: dict[int, list[int]] = {}  # place among these rows → members
        for place, row in enumerate(rows):
            others = torch.tensor(list(firsts), dtype=torch.int64)
            match = _match(structures, row, distances[place], structures, rows, distances, others)
            if match is None:
                firsts[place] = [row]
            else:
                firsts[match].append(row)
        groups += firsts.values()
    return sorted(groups)


def known_clusters(structures: StructureBatch, known: StructureBatch) -> Bool[Tensor, "B"]:
    """Return which clusters are among known ones; what is not finite is not."""
    found = torch.zeros(len(structures), dtype=torch.bool)
    there = _by_composition(known)
    for composition, (rows, distances) in _by_composition(structures).items():
        if composition in there:
            others, their = there[composition]
            every = torch.arange(len(others))
            for place, row in enumerate(rows):
                match = _match(structures, row, distances[place], known, others, their, every)
                found[row] = match is not None
    return found


def _by_composition(structures: StructureBatch) -> dict[tuple[int, ...], tuple[list[int], Tensor]]:
    """Return indices and sorted interatomic distances of the finite structures of each composition."""
    rows: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    distances: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for row, structure in enumerate(structures):
        positions = structure.positions.detach().cpu().double()
        if bool(positions.isfinite().all()) and len(positions):
            composition = tuple(sorted(structure.atomic_numbers.tolist()))
            rows[composition].append(row)
            distances[composition].append(torch.pdist(positions).sort().values)
    return {composition: (rows[composition], torch.stack(distances[composition])) for composition in rows}


def _match(
    structures: StructureBatch,
    row: int,
    distances: Tensor,
    others: StructureBatch,
    rows: list[int],
    their: Tensor,
    places: Tensor,
) -> int | None:
    """Return the place of the other cluster that this one is, of those at ``places``; None for none."""
    difference = (their[places] - distances).square().sum(1) / max(len(distances), 1)
    near = places[difference.sqrt() <= 2 * SAME]
    order = difference[difference.sqrt() <= 2 * SAME].argsort()
    for place in near[order][:_TRIED].tolist():
        if float(rmsd(structures[row], others[rows[place]])) <= SAME:
            return place
    return None
