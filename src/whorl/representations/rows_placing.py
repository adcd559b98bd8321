"""Placement of atoms one by one, where many distances of a structure are equal.

In symmetric structures a distance occurs in the lists of many atoms, and which two atoms it belongs to cannot
be told from the lists. Three atoms are placed first, the base; each other atom has a candidate position for
each three distances that it may have to these. The atom with the fewest candidates is placed next. Candidates
of the others are dropped whose distance to it is not in both lists, or is used up there; if an atom has none
left, or there are fewer places than atoms, the last choice is taken back. As soon as there are as many places
as atoms left, these are assigned by their lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[Any]

_CHOICES = 2  # atoms placed in all with one base, for each atom
_AT_ONCE = 4_000_000  # numbers held at a time
_SAME = 0.1  # Å; candidates of one atom nearer to each other are one


def placed(
    lists: Array, errors: Array, blocks: list[slice], *, tolerance: float, choices: int
) -> Iterator[Array]:
    """Yield positions of all atoms that have their distances in the lists.

    Args:
        lists: Distances of each atom to those of each species, sorted, shape (N, N); infinite if unknown.
        errors: Of the distances in Å, shape (N, N).
        blocks: Columns of each species, and rows of its atoms.
        tolerance: Error of all distances, in addition, in Å.
        choices: Atoms that may be placed, with those that are taken back.
    """
    atoms = _Atoms(lists, errors, blocks, tolerance)
    for positions, candidates in atoms.bases():
        order = list(positions)
        left = [min(choices, _CHOICES * len(lists))]
        choices -= left[0]
        yield from atoms.extended(order, np.array([positions[i] for i in order]), candidates, left)
        choices += left[0]
        if choices <= 0:
            return


@dataclass(frozen=True)
class _Candidates:
    """Positions that atoms may have.

    Attributes:
        atom: Which atom each is of, shape (M,).
        position: In Å, shape (M, 3).
        error: Of its distances in Å, shape (M,).
    """

    atom: NDArray[np.int64]
    position: Array
    error: Array

    def __getitem__(self, index: Array) -> _Candidates:
        return _Candidates(self.atom[index], self.position[index], self.error[index])


class _Atoms:
    def __init__(self, lists: Array, errors: Array, blocks: list[slice], tolerance: float) -> None:
        n = len(lists)
        self.n, self.tolerance = n, tolerance
        self.kind = np.zeros(n, dtype=np.int64)
        longest = max(block.stop - block.start for block in blocks)
        # The distances of each atom to each species, without the one to itself.
        self.values = np.full((n, len(blocks), longest), np.inf)
        self.errors = np.zeros(self.values.shape)
        for number, block in enumerate(blocks):
            self.kind[block] = number
            self.values[:, number, : block.stop - block.start] = lists[:, block]
            self.errors[:, number, : block.stop - block.start] = errors[:, block]
        self.values[self.values == 0.0] = np.inf
        finite = lists[np.isfinite(lists)]
        self.sees_all = len(finite) == lists.size
        self.reach = np.inf if self.sees_all else finite.max(initial=0.0) - 2.0 * tolerance

    def common(self, i: int, j: int) -> Array:
        """Return the distances that two atoms may have, each once, and their errors, shape (2, m)."""
        first = self._known(i, int(self.kind[j]))
        second = self._known(j, int(self.kind[i]))
        if not first.size or not second.size:
            return np.zeros((2, 0))
        gap = np.abs(first[0][:, None] - second[0])
        allowed = self.tolerance + first[1][:, None] + second[1]
        nearest = (gap / allowed).argmin(1)
        near = np.nonzero((gap < allowed)[np.arange(len(gap)), nearest])[0]
        second = second[:, nearest[near]]
        weights = 1.0 / (np.stack([first[1][near], second[1]]) + 1e-9)
        values = (weights * np.stack([first[0][near], second[0]])).sum(0) / weights.sum(0)
        order = np.argsort(values)
        values, errors = values[order], np.minimum(first[1][near], second[1])[order]
        groups = np.split(np.arange(len(values)), np.nonzero(np.diff(values) > self.tolerance)[0] + 1)
        return np.array([[values[g].mean(), errors[g].max()] for g in groups if len(g)]).reshape(-1, 2).T

    def _known(self, atom: int, kind: int) -> Array:
        some = np.isfinite(self.values[atom, kind])
        return np.stack([self.values[atom, kind, some], self.errors[atom, kind, some]])

    def bases(self) -> Iterator[tuple[dict[int, Array], _Candidates]]:
        """Yield positions of three atoms, and the candidates of all others."""
        n = self.n
        common = {(i, j): self.common(i, j) for i in range(n) for j in range(n) if i != j}
        count = np.array(
            [[common[i, j].shape[1] if i != j else 0 for j in range(n)] for i in range(n)], dtype=float
        )
        count[count == 0] = np.inf
        np.fill_diagonal(count, 0.0)
        first = int(count.sum(1).argmin())
        second = min(
            (j for j in range(n) if j != first), key=lambda j: count[first, j] + 1e-3 * count[j].sum()
        )
        others = [j for j in range(n) if j not in (first, second)]
        triangles: list[tuple[float, float, float]] = []
        for third in sorted(others, key=lambda j: count[first, j] * count[second, j] + 1e-3 * count[j].sum()):
            triangles = [
                (a, b, c)
                for a in common[first, second][0]
                for b in common[first, third][0]
                for c in common[second, third][0]
                if min(a + b - c, a + c - b, b + c - a) > 0.05
                and self._twice(first, second, third, a, b)
                and self._twice(second, first, third, a, c)
                and self._twice(third, first, second, b, c)
            ]
            if triangles:
                break

        def likelihood(sides: tuple[float, float, float]) -> float:
            a, b, c = (self._often(*of, side) for of, side in zip(pairs, sides, strict=True))
            return min(_area(*sides), 4.0) * a * b * c

        kinds = self.kind.tolist()
        pairs = [(first, kinds[second]), (first, kinds[third]), (second, kinds[third])]
        for a, b, c in sorted(triangles, key=likelihood, reverse=True):
            x = (a * a + b * b - c * c) / (2.0 * a)
            y = np.sqrt(b * b - x * x)
            base = {first: np.zeros(3), second: np.array([a, 0.0, 0.0]), third: np.array([x, y, 0.0])}
            parts = [
                self._trilaterated(j, common[first, j], common[second, j], common[third, j], a, x, y)
                for j in others
                if j != third
            ]
            if all(len(part.atom) for part in parts):
                yield base, _joined(parts)

    def _twice(self, atom: int, one: int, other: int, a: float, b: float) -> bool:
        """Tell whether an atom may have these distances to two others."""
        if self.kind[one] != self.kind[other] or abs(a - b) > self.tolerance:
            return True
        return self._often(atom, int(self.kind[one]), a) > 1

    def _often(self, atom: int, kind: int, distance: float) -> int:
        """Return how often an atom may have a distance to atoms of a species."""
        values, errors = self._known(atom, kind)
        return int((np.abs(values - distance) < 4.0 * self.tolerance + errors).sum())

    def _trilaterated(
        self, atom: int, to_first: Array, to_second: Array, to_third: Array, a: float, x: float, y: float
    ) -> _Candidates:
        shape = np.indices((to_first.shape[1], to_second.shape[1], to_third.shape[1])).reshape(3, -1)
        one, two, three = to_first[0][shape[0]], to_second[0][shape[1]], to_third[0][shape[2]]
        error = np.stack([to_first[1][shape[0]], to_second[1][shape[1]], to_third[1][shape[2]]]).max(0)
        error = error + self.tolerance
        along = (one**2 - two**2 + a * a) / (2.0 * a)
        across = (one**2 - three**2 + x * x + y * y - 2.0 * x * along) / (2.0 * y)
        square = one**2 - along**2 - across**2
        fits = square > -4.0 * error * one
        one, along, across, error = one[fits], along[fits], across[fits], error[fits]
        up = np.sqrt(np.maximum(square[fits], 0.0))
        # Near the plane, the height is known badly.
        error = error + np.minimum(0.2, error * one / np.maximum(up, np.sqrt(error * one)))
        twice = up > 2.0 * error
        position = np.stack([along, across, up], 1)
        mirrored = position[twice] * [1.0, 1.0, -1.0]
        position = np.concatenate([position, mirrored])
        return _Candidates(np.full(len(position), atom), position, np.concatenate([error, error[twice]]))

    def extended(
        self, order: list[int], positions: Array, candidates: _Candidates, left: list[int]
    ) -> Iterator[Array]:
        """Yield positions of all atoms, with those of some given."""
        if len(order) == self.n:
            result = np.empty((self.n, 3))
            result[order] = positions
            yield result
            return
        counts = np.bincount(candidates.atom, minlength=self.n).astype(float)
        counts[order] = np.inf
        atom = int(counts.argmin())
        own = candidates[candidates.atom == atom]
        if len(order) == 3:
            own = own[own.position[:, 2] >= 0.0]  # of mirror images, one
        for position in own.position:
            if left[0] <= 0:
                return
            left[0] -= 1
            now = np.concatenate([positions, position[None]])
            rest = self._compatible(candidates[candidates.atom != atom], [*order, atom], now)
            possible = np.bincount(rest.atom, minlength=self.n) > 0
            possible[[*order, atom]] = True
            if not possible.all():
                continue
            places = _distinct(rest.position)
            if len(places) < self.n - len(order) - 1:
                continue
            if len(places) == self.n - len(order) - 1 > 0:
                yield self._seated([*order, atom], now, rest, places)
            yield from self.extended([*order, atom], now, rest, left)

    def _seated(self, order: list[int], positions: Array, candidates: _Candidates, places: Array) -> Array:
        """Return positions where there are as many places as atoms left, each for the best list."""
        others = [i for i in range(self.n) if i not in set(order)]
        every = np.concatenate([positions, places])
        lists = np.sort(self.values.reshape(self.n, -1), 1)[others, : self.n - 1]
        apart = np.sort(np.sqrt(((places[:, None] - every) ** 2).sum(2)), 1)[:, 1:]
        cost = np.where(np.isfinite(lists), lists - apart[:, None], 0.0) ** 2
        allowed = np.sqrt(((candidates.position[:, None] - places) ** 2).sum(2)) < _SAME
        possible = np.zeros((self.n, len(places)), dtype=bool)
        np.logical_or.at(possible, candidates.atom, allowed)
        place, atom = linear_sum_assignment(cost.sum(2) + 1e6 * ~possible[others].T)
        result = np.empty((self.n, 3))
        result[order] = positions
        result[np.array(others)[atom]] = places[place]
        return result

    def _compatible(self, candidates: _Candidates, order: list[int], positions: Array) -> _Candidates:
        """Return the candidates that have a distance to the last atom placed; refined where they are few."""
        last = order[-1]
        parts = []
        step = max(1, _AT_ONCE // self.values.shape[2])
        for start in range(0, len(candidates.atom), step):
            some = candidates[np.arange(start, min(start + step, len(candidates.atom)))]
            distance = np.sqrt(((some.position - positions[-1]) ** 2).sum(1))
            own = np.abs(self.values[some.atom, self.kind[last]] - distance[:, None])
            other = np.abs(self.values[last, self.kind[some.atom]] - distance[:, None])
            own -= self.errors[some.atom, self.kind[last]]
            other -= self.errors[last, self.kind[some.atom]]
            gap = np.maximum(own.min(1), other.min(1))
            parts.append(some[(gap < some.error + self.tolerance) | (distance > self.reach)])
        candidates = _joined(parts)
        size = len(candidates.atom) * len(order)
        if size == 0 or size * self.values.shape[2] > _AT_ONCE:
            return candidates
        return self._distinct(self._refined(candidates, order, positions))

    def _refined(self, candidates: _Candidates, order: list[int], positions: Array) -> _Candidates:
        """Fit candidates to their distances from all atoms placed, and drop those that do not have them."""
        kinds = self.kind[order]
        atom, position = candidates.atom, candidates.position
        values, errors = self.values[atom][:, kinds], self.errors[atom][:, kinds]
        of_placed = self.values[order][:, self.kind[atom]].transpose(1, 0, 2)
        errors_of_placed = self.errors[order][:, self.kind[atom]].transpose(1, 0, 2)
        for _ in range(3):
            vectors = position[:, None] - positions
            distance = np.sqrt((vectors**2).sum(2))
            seen = distance <= self.reach
            own, own_error = _nearest(values, errors, distance)
            other, other_error = _nearest(of_placed, errors_of_placed, distance)
            better = own_error < other_error
            wanted = np.where(seen, np.where(better, own, other), distance)
            weight = 1.0 / (np.where(better, own_error, other_error) + self.tolerance) ** 2
            unit = vectors / np.maximum(distance, 1e-9)[..., None]
            normal = np.einsum("mp,mpi,mpj->mij", weight, unit, unit)
            normal += 1e-4 * np.einsum("mii->m", normal)[:, None, None] * np.eye(3)
            step = np.linalg.solve(
                normal, ((weight * (wanted - distance))[:, None] @ unit).transpose(0, 2, 1)
            )
            position = position + np.clip(step[..., 0], -0.3, 0.3)
        distance = np.sqrt(((position[:, None] - positions) ** 2).sum(2))
        gap = np.maximum(np.abs(distance - own) - own_error, np.abs(distance - other) - other_error)
        # A value may not occur more often than in the list: of the candidate, or of an atom placed.
        near = np.abs(distance[:, :, None] - distance[:, None]) < self.tolerance
        alike = (near & (kinds[:, None] == kinds)).sum(2)
        enough = (np.abs(values - distance[..., None]) < 4.0 * self.tolerance + errors).sum(2) >= alike
        between = np.sqrt(((positions[:, None] - positions) ** 2).sum(2))
        np.fill_diagonal(between, np.inf)
        near = np.abs(between - distance[:, :, None]) < self.tolerance
        alike = 1 + (near & (self.kind[atom][:, None, None] == kinds)).sum(2)
        known = np.abs(of_placed - distance[..., None]) < 4.0 * self.tolerance + errors_of_placed
        enough &= known.sum(2) >= alike
        allowed = 3.0 * self.tolerance + (candidates.error[:, None] if len(order) < 5 else 0.0)
        fits = ((gap < allowed) & enough) | ~seen
        return _Candidates(atom, position, candidates.error)[fits.all(1)]

    @staticmethod
    def _distinct(candidates: _Candidates) -> _Candidates:
        """Drop candidates that are those of the same atom at the same place."""
        if len(candidates.atom) > 2000:
            return candidates
        apart = np.sqrt(((candidates.position[:, None] - candidates.position) ** 2).sum(2))
        same = (apart < _SAME) & (candidates.atom[:, None] == candidates.atom)
        return candidates[~np.tril(same, -1).any(1)]


def _distinct(positions: Array) -> Array:
    """Return positions of which no two are at one place."""
    if len(positions) > 1500:
        return positions
    same = np.sqrt(((positions[:, None] - positions) ** 2).sum(2)) < _SAME
    return positions[~np.tril(same, -1).any(1)]


def _nearest(values: Array, errors: Array, distance: Array) -> tuple[Array, Array]:
    """Return the value nearest to each distance, and its error."""
    place = (np.abs(values - distance[..., None]) - errors).argmin(2)[..., None]
    return np.take_along_axis(values, place, 2)[..., 0], np.take_along_axis(errors, place, 2)[..., 0]


def _joined(parts: list[_Candidates]) -> _Candidates:
    if not parts:
        return _Candidates(np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros(0))
    return _Candidates(
        np.concatenate([part.atom for part in parts]),
        np.concatenate([part.position for part in parts]),
        np.concatenate([part.error for part in parts]),
    )


def _area(a: float, b: float, c: float) -> float:
    s = 0.5 * (a + b + c)
    return float(np.sqrt(max(s * (s - a) * (s - b) * (s - c), 0.0)))
