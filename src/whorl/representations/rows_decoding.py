r"""Inverse of rows: the positions of N atoms from one radial fingerprint each, without a search.

1. **Distances of each atom.** The fingerprint of an atom is a sum of narrow gaussians at its distances: these
   are found by non-negative least squares on a grid and refined by Levenberg–Marquardt.
2. **Pairs.** The distance of atoms i and j is in the lists of both. Values of two lists are paired by their
   difference, the smallest first, each value and each pair of atoms once.
3. **Completion.** Distances that found no partner are completed along shortest paths; multidimensional
   scaling gives positions, and stress majorisation (SMACOF) fits them to the known distances.
4. **Repair.** From positions that are nearly right, each list is matched with the distances of its atom in
   order of size, and the positions are fitted to these, in turn.
5. **Polish.** Levenberg–Marquardt of all positions on the fingerprints themselves, which also tells whether
   the structure has them exactly; nearly equal atoms that were exchanged change places.
6. **Placement.** Where that fails, since many distances are equal, atoms are placed on a line if all
   distances are those of one, else one by one (:mod:`whorl.representations.rows_placing`).

Rows that are no sums of gaussians, such as generated ones, skip steps 3 to 6: positions are those whose
distances are nearest to the lists (:mod:`whorl.representations.rows_fitting`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, nnls
from scipy.sparse.csgraph import shortest_path

from whorl.representations.rows_fitting import nearest
from whorl.representations.rows_placing import placed

Array = NDArray[Any]

EXACT = 1e-6
"""Root mean square difference of a value up to which a structure has a fingerprint: rounding to float32."""

_REACH = 7.0  # widths beyond which a gaussian is zero (2e-11)
_GRID = 0.4  # step of the grid of distances, in widths
_EMPTY = 1e-7  # values between two groups of distances that are solved apart
_EXACT = 1e-20  # sum of squares of a fingerprint that is reproduced
_PAIRED = 1e-4  # Å; difference of values that are paired first
_NOISE = 1.2  # of the root mean square that the lists alone leave: that of the right positions
_WORST = 0.05  # above it, rows are no sums of gaussians, and lists of distances do not agree
_TOLERANCES = (1e-5, 3e-4, 3e-3, 0.02)  # Å; of distances by which atoms are placed
_CHOICES = 40  # atoms that are placed in all, for each atom of the structure
_MORE_CHOICES = 400  # of them, where rows have no noise
_STRAIGHT = 0.05  # Å; difference of distances from those of atoms on a line
_LONGEST_STEP = 0.3  # Å


@dataclass(frozen=True)
class Gaussians:
    """Equally spaced gaussians of one width.

    Attributes:
        first: Centre of the first in Å.
        width: Standard deviation, and distance of the centres, in Å.
        count: Number n.
    """

    first: float
    width: float
    count: int

    @property
    def centres(self) -> Array:
        """Centres in Å, shape (n,)."""
        return self.first + self.width * np.arange(self.count)

    def _windows(self, d: Array) -> tuple[NDArray[np.int64], Array, Array]:
        """Return the functions around each distance: their numbers, values, and derivatives."""
        half = int(np.ceil(_REACH))
        place = np.clip((d - self.first) / self.width, -2.0 * half, self.count + 2.0 * half)
        number = np.rint(place).astype(np.int64)[..., None] + np.arange(-half, half + 1)
        u = place[..., None] - number
        value = np.exp(-0.5 * u * u) * ((number >= 0) & (number < self.count))
        return np.clip(number, 0, self.count - 1), value, -u * value / self.width

    def sums(self, d: Array) -> Array:
        """Return the sum over the m distances of B atoms, shape (B, n); infinite ones are left out."""
        number, value, _ = self._windows(d)
        return self._added(number, value, len(d))

    def jacobian(self, d: Array) -> tuple[Array, Array]:
        """Return the sums, and their derivatives in the distances, shape (B, m, n)."""
        number, value, slope = self._windows(d)
        each = self._added(
            number.reshape(-1, 1, number.shape[-1]), slope.reshape(-1, 1, slope.shape[-1]), d.size
        )
        return self._added(number, value, len(d)), each.reshape(*d.shape, self.count)

    def _added(self, number: NDArray[np.int64], value: Array, rows: int) -> Array:
        flat = np.arange(rows)[:, None, None] * self.count + number
        return np.bincount(flat.ravel(), value.ravel(), minlength=rows * self.count).reshape(rows, self.count)


# Distances of each atom.


@dataclass(frozen=True)
class Lists:
    """Distances of atoms to others, in rows of equal or different lengths, and their errors in Å."""

    values: list[Array]
    errors: list[Array]
    cost: Array

    def improved(self, rows: NDArray[np.int64], others: Lists) -> None:
        """Take rows of others where these are better."""
        for k, row in enumerate(rows):
            if others.cost[k] < self.cost[row]:
                self.values[row], self.errors[row] = others.values[k], others.errors[k]
                self.cost[row] = others.cost[k]


def distances(target: Array, counts: NDArray[np.int64], gaussians: Gaussians) -> Lists:
    """Return the sorted distances of which fingerprints are sums.

    Args:
        target: Fingerprints, shape (B, n).
        counts: Largest number of distances of each.
        gaussians: The functions.
    """
    starts = [_start(row, most, gaussians, _GRID) for row, most in zip(target, counts.tolist(), strict=True)]
    found = _refined(target, starts, gaussians)
    # Where two distances are exchanged with a third, another start is nearer.
    for step in (0.25, 0.6):
        again = np.nonzero(found.cost > max(_EXACT, 4.0 * float(np.median(found.cost))))[0]
        starts = [_start(target[row], int(counts[row]), gaussians, step) for row in again]
        found.improved(again, _refined(target[again], starts, gaussians))
    return found


def _start(row: Array, most: int, gaussians: Gaussians, step: float) -> Array:
    """Return distances by non-negative least squares: where the sum of the weights passes k + 1/2."""
    centres, width = gaussians.centres, gaussians.width
    if most == 0:
        return np.zeros(0)
    found, weights = [], []
    used = np.nonzero(row > _EMPTY)[0]
    # Groups with nothing between them do not know of each other.
    groups = np.split(used, np.nonzero(np.diff(used) > 1)[0] + 1) if len(used) else []
    for group in groups:
        some = slice(max(group[0] - 1, 0), group[-1] + 2)
        grid = np.arange(centres[group[0]] - width, centres[group[-1]] + 1.5 * width, step * width)
        matrix = np.exp(-0.5 * ((centres[some, None] - grid) / width) ** 2)
        found.append(grid)
        weights.append(nnls(matrix, row[some], maxiter=20 * len(grid))[0])
    if not found:
        return np.zeros(0)
    totals = np.array([w.sum() for w in weights])
    whole = int(np.rint(totals).sum())
    count = min(most, int(np.rint(totals.sum())))
    if abs(totals.sum() - most) < 0.5:
        count = most
    if whole == count:  # of each group
        return np.concatenate(
            [_quantiles(g, w, int(np.rint(w.sum()))) for g, w in zip(found, weights, strict=True)]
        )
    return _quantiles(np.concatenate(found), np.concatenate(weights), count)


def _quantiles(grid: Array, weights: Array, count: int) -> Array:
    passed = np.cumsum(weights)
    if count == 0 or passed[-1] <= 0:
        return np.zeros(0)
    return np.interp(np.arange(count) + 0.5, passed * (count / passed[-1]), grid)


def _refined(target: Array, starts: list[Array], gaussians: Gaussians) -> Lists:
    """Return distances by Levenberg–Marquardt, and the remaining sums of squares."""
    found = Lists(list(starts), [np.zeros(len(start)) for start in starts], (target**2).sum(1))
    sizes = np.array([len(start) for start in starts], dtype=np.int64)
    at_once = max(1, 20_000_000 // max(1, int(sizes.max(initial=1)) * gaussians.count))
    for size in np.unique(sizes[sizes > 0]):
        rows = np.nonzero(sizes == size)[0]
        for some in np.split(rows, range(at_once, len(rows), at_once)):
            d, found.cost[some] = _levenberg_marquardt(
                target[some], np.array([starts[row] for row in some]), gaussians
            )
            d = np.sort(d, 1)
            errors = _errors(d, found.cost[some], gaussians)
            for row, value, error in zip(some, d, errors, strict=True):
                found.values[row], found.errors[row] = value, error
    return found


def _errors(d: Array, cost: Array, gaussians: Gaussians) -> Array:
    """Return the error that the remaining sum of squares allows each distance; at most half a width."""
    _, jacobian = gaussians.jacobian(d)
    normal = jacobian @ jacobian.transpose(0, 2, 1) + 1e-11 * np.eye(d.shape[1])
    variance = np.linalg.inv(normal)[:, np.arange(d.shape[1]), np.arange(d.shape[1])]
    return np.minimum(np.sqrt(np.maximum(variance, 0.0) * cost[:, None]), 0.5 * gaussians.width)


def _levenberg_marquardt(target: Array, d: Array, gaussians: Gaussians) -> tuple[Array, Array]:
    d, live = d.copy(), np.arange(len(d))
    diagonal = np.arange(d.shape[1])
    damping, stalled = np.full(len(d), 1e-6), np.zeros(len(d), dtype=int)
    cost = ((gaussians.sums(d) - target) ** 2).sum(1)
    for _ in range(150):
        live = live[(cost[live] > 1e-26) & (damping[live] < 1e8) & (stalled[live] < 12)]
        if not len(live):
            break
        value, jacobian = gaussians.jacobian(d[live])
        gradient = jacobian @ (value - target[live])[:, :, None]
        normal = jacobian @ jacobian.transpose(0, 2, 1)
        normal[:, diagonal, diagonal] *= 1.0 + damping[live, None]
        normal[:, diagonal, diagonal] += 1e-12 * gaussians.width**-2
        step = -np.linalg.solve(normal, gradient)[:, :, 0]
        moved = d[live] + np.clip(step, -2.0 * gaussians.width, 2.0 * gaussians.width)
        after = ((gaussians.sums(moved) - target[live]) ** 2).sum(1)
        better = after < cost[live]
        stalled[live] = np.where(after < 0.9 * cost[live], 0, stalled[live] + 1)
        d[live[better]] = moved[better]
        cost[live[better]] = after[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 6.0, 1e-15), 6.0 * damping[live] + 1e-14)
    return d, cost


# Positions.


def decode(target: Array, kinds: NDArray[np.int64], gaussians: Gaussians) -> tuple[Array, float]:
    """Return positions of atoms with these fingerprints, and the remaining root mean square of a value.

    Args:
        target: Fingerprints of N atoms, one for each of the S species of their neighbours, shape (N, S, n).
        kinds: Species of each atom, in ascending order, shape (N,).
        gaussians: The functions.
    """
    n = len(kinds)
    rows = _Rows(target, kinds, gaussians)
    if n == 1:
        return np.zeros((1, 3)), rows.misfit(np.zeros((1, 3)))
    best = np.zeros((n, 3)), np.inf
    lists, errors = rows.lists()
    if rows.least > _WORST:
        positions = nearest(lists, rows.blocks, [_completed(_paired(lists, errors, rows.blocks))])
        return positions, rows.misfit(positions)
    choices = _MORE_CHOICES if rows.least < EXACT else _CHOICES
    if n <= 3:
        choices = 0
    for guess in _guesses(lists, errors, rows.blocks, choices=choices):
        positions = rows.fitted(guess)
        misfit = rows.misfit(positions)
        if misfit < best[1]:
            best = positions, misfit
        if rows.reached(misfit):
            break
    return best


def _guesses(lists: Array, errors: Array, blocks: list[slice], *, choices: int) -> Iterator[Array]:
    """Yield positions, from the most likely to the least."""
    positions = _completed(_paired(lists, errors, blocks))
    yield positions
    yield _repaired(lists, blocks, positions)
    yield from _on_a_line(lists, blocks)
    tolerances = _TOLERANCES if choices > _CHOICES else _TOLERANCES[-2:]
    for tolerance in tolerances if choices else ():
        yield from placed(lists, errors, blocks, tolerance=tolerance, choices=choices * len(lists))


class _Rows:
    """Fingerprints of N atoms of S species, and how far those of positions are from them."""

    def __init__(self, target: Array, kinds: NDArray[np.int64], gaussians: Gaussians) -> None:
        self.target, self.kinds, self.gaussians = target, kinds, gaussians
        self.least = 0.0  # root mean square that lists of distances leave, whatever the positions
        starts = np.searchsorted(kinds, np.arange(target.shape[1] + 1))
        self.blocks = [slice(a, b) for a, b in pairwise(starts)]

    def lists(self) -> tuple[Array, Array]:
        """Return the sorted distances of each atom to those of each species, and errors, shapes (N, N).

        The first of an atom's own species is itself, at 0; distances that are not seen are infinite.
        """
        n = len(self.kinds)
        lists, errors = np.full((n, n), np.inf), np.zeros((n, n))
        for kind, block in enumerate(self.blocks):
            own = (self.kinds == kind).astype(np.int64)
            if block.stop == block.start:
                continue
            some = distances(self.target[:, kind], block.stop - block.start - own, self.gaussians)
            self.least = float(np.hypot(self.least, np.sqrt(some.cost.sum() / self.target.size)))
            for row, one in enumerate(some.values):
                first = block.start + own[row]
                lists[row, first : first + len(one)] = one
                errors[row, first : first + len(one)] = some.errors[row]
                lists[row, block.start : first] = 0.0
        return lists, errors

    def reached(self, misfit: float) -> bool:
        """Tell whether a root mean square is that of rounding errors or of noise."""
        return misfit < max(EXACT, _NOISE * self.least)

    def misfit(self, positions: Array) -> float:
        """Return the root mean square difference of a value."""
        return float(np.sqrt((self._difference(positions) ** 2).mean()))

    def _difference(self, positions: Array) -> Array:
        between = _distances(positions)
        np.fill_diagonal(between, np.inf)
        return np.stack([self.gaussians.sums(between[:, block]) for block in self.blocks], 1) - self.target

    def fitted(self, positions: Array) -> Array:
        """Return positions polished on the fingerprints; atoms that were exchanged change places."""
        before = np.inf
        while True:
            positions = self.polished(positions)
            misfit = self.misfit(positions)
            if not misfit < 0.7 * before:
                return positions
            before = misfit
            if self.reached(misfit):
                continue
            values = (self._difference(positions) + self.target).reshape(len(positions), -1)
            wanted = self.target.reshape(len(positions), -1)
            apart = ((wanted[:, None] - values) ** 2).sum(2)
            apart[self.kinds[:, None] != self.kinds] = apart.sum() + 1.0
            positions = positions[linear_sum_assignment(apart)[1]]

    def polished(self, positions: Array, steps: int = 12) -> Array:
        """Return positions by Levenberg–Marquardt on the fingerprints."""
        n, damping, diagonal = len(positions), 1e-6, np.arange(3 * len(positions))
        difference = self._difference(positions)
        cost = float((difference**2).sum())
        for _ in range(steps):
            gradient, normal = self._normal_equations(positions, difference)
            scale = normal[diagonal, diagonal].copy()
            while damping < 1e6:
                normal[diagonal, diagonal] = scale * (1.0 + damping) + 1e-13 * scale.max() + 1e-12
                step = -np.linalg.solve(normal, gradient).reshape(n, 3)
                longest = np.abs(step).max()
                moved = positions + step * min(1.0, _LONGEST_STEP / longest if longest > 0 else 1.0)
                difference = self._difference(moved)
                after = float((difference**2).sum())
                if after < cost:
                    break
                damping = 10.0 * damping + 1e-12
            else:
                break
            stopped = longest < 1e-11 or cost - after < 1e-6 * after
            positions, cost, damping = moved, after, max(damping / 10.0, 1e-15)
            if stopped:
                break
        return positions - positions.mean(0)

    def _normal_equations(self, positions: Array, difference: Array) -> tuple[Array, Array]:
        """Return the gradient, shape (3N,), and the normal matrix, shape (3N, 3N)."""
        n = len(positions)
        vectors = positions[None] - positions[:, None]
        length = np.sqrt((vectors**2).sum(-1))
        np.fill_diagonal(length, np.inf)
        unit = vectors / length[..., None]
        slope = np.zeros((n, n))
        products = np.zeros((n, n, n))
        for kind, block in enumerate(self.blocks):
            _, jacobian = self.gaussians.jacobian(length[:, block])
            slope[:, block] = (jacobian @ difference[:, kind, :, None])[:, :, 0]
            products[:, block, block] = jacobian @ jacobian.transpose(0, 2, 1)
        force = slope[..., None] * unit
        gradient = force.sum(0) - force.sum(1)
        normal = np.zeros((n, 3, n, 3))
        for i in range(n):  # an atom moves against all its neighbours
            each = products[i][:, None, :, None] * unit[i][:, :, None, None] * unit[i]
            recoil = each.sum(0)
            normal += each
            normal[i] -= recoil
            normal[:, :, i] -= recoil.transpose(1, 2, 0)
            normal[i, :, i] += recoil.sum(1)
        return gradient.ravel(), normal.reshape(3 * n, 3 * n)


def _distances(positions: Array) -> Array:
    return np.sqrt(((positions[:, None] - positions[None]) ** 2).sum(-1))


def _paired(lists: Array, errors: Array, blocks: list[slice]) -> Array:
    """Return the distances of pairs of atoms that are in the lists of both, NaN for others, shape (N, N)."""
    n = len(lists)
    kind = np.concatenate([np.full(block.stop - block.start, k) for k, block in enumerate(blocks)])
    owner, other = np.broadcast_arrays(np.arange(n)[:, None], kind[None])
    seen = np.isfinite(lists) & (lists > 0.0)
    value, error, owner, other = lists[seen], errors[seen], owner[seen], other[seen]
    order = np.argsort(value, kind="stable")
    value, error, owner, other = value[order], error[order], owner[order], other[order]
    widest = _PAIRED + 2.0 * error.max(initial=0.0)
    gaps, firsts, seconds = [], [], []
    for step in range(1, len(value)):
        gap = value[step:] - value[:-step]
        if not (gap < widest).any():
            break
        near = gap < _PAIRED + error[step:] + error[:-step]
        first, second = owner[:-step], owner[step:]
        fits = near & (first != second) & (kind[first] == other[step:]) & (kind[second] == other[:-step])
        chosen = np.nonzero(fits)[0]
        gaps.append(gap[chosen])
        firsts.append(chosen)
        seconds.append(chosen + step)
    known, used = np.full((n, n), np.nan), np.zeros(len(value), dtype=bool)
    if gaps:
        order = np.argsort(np.concatenate(gaps), kind="stable")
        closest = zip(np.concatenate(firsts)[order], np.concatenate(seconds)[order], strict=True)
        for first, second in closest:
            i, j = owner[first], owner[second]
            if not (used[first] or used[second]) and np.isnan(known[i, j]):
                used[first] = used[second] = True
                known[i, j] = known[j, i] = 0.5 * (value[first] + value[second])
    np.fill_diagonal(known, np.nan)
    return known


def _completed(known: Array) -> Array:
    """Return positions with the known distances: shortest paths, multidimensional scaling, SMACOF."""
    sure = np.isfinite(known)
    paths = shortest_path(np.where(sure, known, 0.0), directed=False)
    longest = paths[np.isfinite(paths)].max()
    paths[~np.isfinite(paths)] = longest if longest > 0 else 1.0
    centring = np.eye(len(known)) - 1.0 / len(known)
    value, vector = np.linalg.eigh(-0.5 * centring @ paths**2 @ centring)
    positions = np.zeros((len(known), 3))
    few = min(3, len(known))
    positions[:, :few] = vector[:, -few:] * np.sqrt(np.maximum(value[-few:], 0.0))
    for _ in range(200):
        positions, moved = _majorised(positions, known)
        if moved < 1e-9:
            break
    return positions


def _on_a_line(lists: Array, blocks: list[slice]) -> Iterator[Array]:
    """Yield positions on a line if all distances are those of one, given by the list of the end."""
    if not np.isfinite(lists).all():
        return
    along = lists[lists.max(1).argmax()]
    between = np.abs(along[:, None] - along)
    expected = np.concatenate([np.sort(between[:, block], 1) for block in blocks], 1)
    place = np.arange(len(lists))
    for block in blocks:
        gap = np.abs(lists[block, None] - expected[block]).max(2)
        place[block] = block.start + linear_sum_assignment(gap)[1]
    if np.abs(lists - expected[place]).max() < _STRAIGHT:
        yield np.column_stack([along[place], np.zeros((len(lists), 2))])


def _majorised(positions: Array, wanted: Array) -> tuple[Array, float]:
    """Return positions that are nearer to the wanted distances, where these are not NaN (SMACOF)."""
    now = _distances(positions)
    ratio = -np.where(np.isnan(wanted), now, wanted) / np.maximum(now, 1e-9)
    np.fill_diagonal(ratio, 0.0)
    np.fill_diagonal(ratio, -ratio.sum(1))
    moved = ratio @ positions / len(positions)
    return moved, float(np.abs(moved - positions).max())


def _repaired(lists: Array, blocks: list[slice], positions: Array) -> Array:
    """Return positions fitted to the lists, each matched with the distances of its atom in order of size."""
    for _ in range(300):
        now = _distances(positions)
        wanted = np.empty_like(now)
        for block in blocks:
            order = np.argsort(now[:, block], 1, kind="stable")
            block_wanted = np.empty_like(order, dtype=float)
            np.put_along_axis(block_wanted, order, lists[:, block], 1)
            wanted[:, block] = block_wanted
        wanted[~np.isfinite(wanted)] = np.nan
        both = np.where(np.isnan(wanted), wanted.T, wanted)
        both = 0.5 * (both + np.where(np.isnan(wanted.T), both, wanted.T))
        positions, moved = _majorised(positions, both)
        if moved < 1e-6:
            break
    return positions
