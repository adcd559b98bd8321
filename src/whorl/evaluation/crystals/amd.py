"""Distances between crystals by average minimum distances (AMD) and pointwise distributions of them (PDD).

The invariants of Widdowson et al. (MATCH 87, 529, 2022; NeurIPS 2022): the PDD of a crystal has a row for
each atom of a cell with its distances to the first, second … k-th neighbour, the AMD is the average of the
rows. Both are continuous in the positions and in the cell, and do not depend on the choice of the cell, so
that they rank what tolerances only divide. Neither sees elements.

The authors' package ``average-minimum-distance`` gives the same numbers, with a non-commercial licence.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whorl.evaluation.crystals.reduction import sound_crystals
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch

Array = NDArray[np.float64]

_SAME_ROW = 1e-8  # Å; rows of a PDD that differ by less are one


def amd_distances(
    structures: Structures, others: Structures, *, k: int = 100, kind: Literal["amd", "pdd"] = "amd"
) -> Float[Tensor, "n m"]:
    """Return the distances in Å between crystals and others, continuous in the atoms' positions.

    Args:
        structures: n crystals.
        others: m crystals.
        k: Neighbours of each atom that count.
        kind: ``amd``: largest difference of the average distances to the first, second … k-th neighbour;
            ``pdd``: earth mover's distance between the atoms' rows of such distances, with the largest
            difference as the distance of two rows. It is at least that of ``amd``, and slower.

    Returns:
        float64; NaN for what is not a crystal.

    >>> from ase.build import bulk
    >>> copper = bulk("Cu", a=3.6)
    >>> distances = amd_distances([copper], [copper * (2, 1, 1), bulk("Ag", a=3.7)], k=12)
    >>> [round(distance, 4) for distance in distances[0].tolist()]
    [0.0, 0.0707]
    """
    first, second = (_neighbour_distances(as_batch(each), k) for each in (structures, others))
    answer = np.full((len(first), len(second)), np.nan)
    if kind == "amd":
        means, other_means = (
            np.array([np.full(k, np.nan) if rows is None else rows.mean(0) for rows in each]).reshape(-1, k)
            for each in (first, second)
        )
        for row, mean in enumerate(means):
            answer[row] = np.abs(other_means - mean).max(1, initial=0.0)
        return torch.tensor(answer)
    distributions, other_distributions = ([_weighted(rows) for rows in each] for each in (first, second))
    for i, one in enumerate(distributions):
        for j, other in enumerate(other_distributions):
            if one is not None and other is not None:
                answer[i, j] = _earth_movers_distance(*one, *other)
    return torch.tensor(answer)


def _neighbour_distances(structures: StructureBatch, k: int) -> list[Array | None]:
    """Return an array (N, k) of ascending distances for each crystal; None for what is none."""
    structures = structures.to(device="cpu", dtype=torch.float64)
    counts = structures.n_atoms.tolist()
    return [
        _distances(cell.detach().numpy(), positions.detach().numpy(), k) if sound else None
        for cell, positions, sound in zip(
            structures.cells,
            structures.positions.split(counts),
            sound_crystals(structures).tolist(),
            strict=True,
        )
    ]


def _distances(cell: Array, positions: Array, k: int) -> Array:
    from scipy.spatial import cKDTree

    inverse = np.linalg.inv(cell)
    fractional = positions @ inverse % 1
    positions = fractional @ cell
    volume = abs(np.linalg.det(cell))
    radius = 1.1 * (3 / (4 * np.pi) * volume / len(positions) * (k + 1)) ** (1 / 3)
    while True:
        # Images of a cell whose atoms may lie within the radius of an atom of the first cell.
        reach = np.floor(radius * np.sqrt((inverse**2).sum(0))).astype(int) + 1
        axes = [np.arange(-n, n + 1) for n in reach]
        images = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3) @ cell
        points = (images[:, None] + positions).reshape(-1, 3)
        if len(points) > k:
            distances = cKDTree(points).query(positions, k + 1)[0][:, 1:]  # the nearest is the atom itself
            if distances.max() <= radius:
                return np.asarray(distances)
        radius *= 1.3


def _weighted(rows: Array | None) -> tuple[Array, Array] | None:
    """Return the different rows and their weights."""
    if rows is None:
        return None
    order = np.lexsort(rows.T[::-1])
    kept: list[Array] = []
    weights: list[float] = []
    for row in rows[order]:
        if kept and np.abs(kept[-1] - row).max() < _SAME_ROW:
            weights[-1] += 1 / len(rows)
        else:
            kept.append(row)
            weights.append(1 / len(rows))
    return np.array(kept), np.array(weights)


def _earth_movers_distance(rows: Array, weights: Array, others: Array, other_weights: Array) -> float:
    """Return the least work of carrying the weights of rows to others."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    cost = np.abs(rows[:, None] - others[None]).max(-1)
    n, m = cost.shape
    if min(n, m) == 1:
        return float(weights @ cost @ other_weights)
    leaving = kron(eye_array(n), np.ones((1, m)))
    arriving = kron(np.ones((1, n)), eye_array(m))
    solution = linprog(
        cost.ravel(),
        A_eq=vstack([leaving, arriving]).tocsr()[:-1],  # the last follows from the others
        b_eq=np.concatenate([weights, other_weights])[:-1],
        method="highs",
    )
    return float(solution.fun)
