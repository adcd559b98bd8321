r"""Positions whose distances are nearest to lists of distances that disagree.

Generated rows are those of no cluster exactly: the distance of two atoms is not the same in both lists.
Positions are those with the least

.. math:: \sum_i \sum_k \Bigl(\frac{1}{d_{i(k)}} - \frac{1}{l_{ik}}\Bigr)^2

of the distances :math:`d_{i(k)}` of atom i in order of size and its list :math:`l_i`. Reciprocals weigh the
square of an error by the inverse fourth power of the distance, since short distances decide what a structure
is like: its bonds, and its energy. A minimum is found by stress majorisation with these weights (de Leeuw
1977), the lists matched anew with the distances in each step, and the atoms with the lists in between. From
there, the atoms that fit worst are placed anew at random, and what is better is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[Any]

_STEPS = 30  # of stress majorisation
_MATCHES = 4  # of atoms with lists
_STARTS = 8  # random ones
_HOPS = 40
_MOVED = 3  # most atoms that are placed anew
_WORTH = 0.98  # of the cost: what goes on to another match
_ENOUGH = 1e-4  # Å; a smaller step is none
_SHORTEST = 0.1  # Å


def nearest(lists: Array, blocks: list[slice], starts: Iterable[Array] = ()) -> Array:
    """Return the positions whose distances are nearest to lists.

    Args:
        lists: Distances of each atom to those of each species, sorted, the first of its own species 0
            (itself); infinite ones are not known. Shape (N, N).
        blocks: Atoms of each species.
        starts: Positions to begin from, in addition to random ones.
    """
    lists = np.where(np.isfinite(lists), np.maximum(lists, _SHORTEST), np.nan)
    n, rng = len(lists), np.random.default_rng(0)
    size = 0.4 * float(np.nanmean(lists)) if n > 1 else 1.0
    random = (size * rng.normal(size=(n, 3)) for _ in range(_STARTS))
    cost, best = min(
        (_fitted(lists, blocks, start) for group in (starts, random) for start in group),
        key=lambda fit: fit[0],
    )
    for _ in range(_HOPS if n > 3 else 0):
        misfit = np.nansum((_reciprocal(best) - _wanted(lists, blocks, best)) ** 2, 1) + 1e-12
        moved = rng.choice(n, rng.integers(1, _MOVED + 1), replace=False, p=misfit / misfit.sum())
        start = best.copy()
        start[moved] = best.mean(0) + 1.2 * best.std() * rng.normal(size=(len(moved), 3))
        after, positions = _fitted(lists, blocks, start)
        if after < cost:
            cost, best = after, positions
    return best - best.mean(0)


def _fitted(lists: Array, blocks: list[slice], positions: Array) -> tuple[float, Array]:
    """Return the cost at a minimum, and its positions."""
    cost, best = np.inf, positions
    for _ in range(_MATCHES):
        positions = _majorised(lists, blocks, _matched(lists, blocks, best))
        after = float(np.nansum((_reciprocal(positions) - _wanted(lists, blocks, positions)) ** 2))
        if not after < _WORTH * cost:
            break
        cost, best = after, positions
    return cost, best


def _reciprocal(positions: Array) -> Array:
    """Return the reciprocal distances of all pairs, 0 on the diagonal."""
    between = np.sqrt(((positions[:, None] - positions[None]) ** 2).sum(-1))
    np.fill_diagonal(between, np.inf)
    return 1.0 / np.maximum(between, _SHORTEST)


def _matched(lists: Array, blocks: list[slice], positions: Array) -> Array:
    """Return positions, those of atoms of a species exchanged so that their distances fit the lists."""
    order = np.arange(len(positions))
    reciprocal = _reciprocal(positions)
    np.fill_diagonal(reciprocal, 1.0 / _SHORTEST)
    there = np.concatenate([-np.sort(-reciprocal[:, block], 1) for block in blocks], 1)
    for block in blocks:
        apart = np.nansum((1.0 / lists[block, None] - there[block]) ** 2, 2)
        order[block] = block.start + linear_sum_assignment(apart)[1]
    return positions[order]


def _wanted(lists: Array, blocks: list[slice], positions: Array) -> Array:
    """Return for each pair the reciprocal of the distance at its place in the list, NaN if not known."""
    reciprocal = _reciprocal(positions)
    np.fill_diagonal(reciprocal, np.inf)
    wanted = np.empty_like(reciprocal)
    for block in blocks:
        order = np.argsort(-reciprocal[:, block], 1, kind="stable")
        part = np.empty_like(reciprocal[:, block])
        np.put_along_axis(part, order, 1.0 / lists[:, block], 1)
        wanted[:, block] = part
    np.fill_diagonal(wanted, np.nan)
    return wanted


def _majorised(lists: Array, blocks: list[slice], positions: Array) -> Array:
    """Return positions at a minimum of the cost, nearly."""
    for _ in range(_STEPS):
        wanted = _wanted(lists, blocks, positions)
        count = np.isfinite(wanted) + np.isfinite(wanted).T.astype(float)  # lists that know of a pair
        total = np.nan_to_num(wanted) + np.nan_to_num(wanted).T
        reciprocal = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        laplacian = -count * reciprocal**4
        ratio = -count * reciprocal**3 * _reciprocal(positions)
        for matrix in (laplacian, ratio):
            np.fill_diagonal(matrix, 0.0)
            np.fill_diagonal(matrix, -matrix.sum(1))
        moved = np.linalg.pinv(laplacian, hermitian=True) @ (ratio @ positions)
        step = float(np.abs(moved - positions).max(initial=0.0))
        positions = moved
        if step < _ENOUGH:
            break
    return positions
