"""Placement of atoms one by one, where many distances of a structure are equal.

In symmetric structures a distance occurs in the lists of many atoms, and which two atoms it belongs to cannot
be told from the lists. Three atoms are placed first, the base; each other atom has a candidate position for
each three distances that it may have to these. Atoms with the same lists are one class, and have their
candidates in common: which of them is where makes no difference, so that a place that was tried in vain for
one is none for the others. An atom of the class with the fewest candidates to spare is placed next.
Candidates are dropped whose distance to it is not in both lists, or is used up there, and those whose own
list cannot be completed from the atoms and candidates that are left. If a class has fewer left than atoms, or
there are fewer places than atoms, the last choice is taken back. As soon as there are as many places as atoms
left, these are assigned by their lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

Array = NDArray[Any]

_CHOICES = 2  # atoms placed in all with one base, for each atom, before the next base is tried
_MORE = 4  # times as many, when all bases have been tried
_AT_ONCE = 4_000_000  # numbers held at a time
_MOST = 20_000_000  # pairs of candidates that are compared
_MOST_VAGUE = 200_000  # of vague distances, which nearly all candidates may have
_VAGUE = 1e-4  # Å; error from which distances are vague
_SURE = 5  # atoms placed, from which on candidates are as exact as lists
_FAR = 1e3  # Å
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
        choices: Atoms that may be placed, with those that are taken back; a base counts as all atoms.
    """
    atoms = _Atoms(lists, errors, blocks, tolerance)
    most, exhausted = _CHOICES * len(lists), False
    while not exhausted:
        exhausted = True
        for positions, candidates in atoms.bases():
            choices -= len(lists)  # of the time
            if choices <= 0:
                return
            if candidates is None:
                continue
            order = list(positions)
            left = [min(choices, most)]
            choices -= left[0]
            yield from atoms.extended(order, np.array([positions[i] for i in order]), candidates, left)
            choices += left[0]
            exhausted &= left[0] > 0
        most *= _MORE


@dataclass(frozen=True)
class _Candidates:
    """Positions that atoms may have.

    Attributes:
        atom: Which atom each is of, the first of its class, shape (M,).
        position: In Å, shape (M, 3).
        error: Of its distances in Å, shape (M,).
    """

    atom: NDArray[np.int64]
    position: Array
    error: Array

    def __getitem__(self, index: Array) -> _Candidates:
        return _Candidates(self.atom[index], self.position[index], self.error[index])


_Base = tuple[dict[int, Array], _Candidates | None]
"""Positions of three atoms, and the candidates of all others; None if these are the base of no structure."""


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
        self.most = _MOST if np.median(errors) < _VAGUE else _MOST_VAGUE
        self.class_of = self._classes()
        self.members = np.bincount(self.class_of, minlength=n)
        # How often each value is in its list, at least.
        flat = self.values.reshape(n * len(blocks), -1)
        self.often = _within(flat, flat, np.full(flat.shape, 0.5 * tolerance)).reshape(self.values.shape)

    def _classes(self) -> NDArray[np.int64]:
        """Return the first atom with the lists of each."""
        flat, error = self.values.reshape(self.n, -1), self.errors.reshape(self.n, -1)
        with np.errstate(invalid="ignore"):
            gap = np.nan_to_num(np.abs(flat[:, None] - flat), nan=0.0)  # both infinite
        alike = (gap <= 0.5 * self.tolerance + np.maximum(error[:, None], error)).all(2)
        alike &= self.kind[:, None] == self.kind
        first = np.arange(self.n)
        for i in range(self.n):
            if first[i] == i:
                first[(first >= i) & alike[i] & (first == np.arange(self.n))] = i
        return first

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

    @cached_property
    def shared(self) -> dict[tuple[int, int], Array]:
        """Distances that atoms of two classes may have."""
        classes = np.unique(self.class_of).tolist()
        return {(i, j): self.common(i, j) for i in classes for j in classes}

    def bases(self) -> Iterator[_Base]:
        """Yield positions of three atoms, and the candidates of all others."""
        n, of = self.n, self.class_of.tolist()
        count = np.array([[self.shared[i, j].shape[1] for j in of] for i in of], dtype=float)
        count[count == 0] = np.inf
        np.fill_diagonal(count, 0.0)
        first = int(count.sum(1).argmin())
        second = min(
            (j for j in range(n) if j != first), key=lambda j: count[first, j] + 1e-3 * count[j].sum()
        )
        others = {of[j]: j for j in range(n) if j not in (first, second)}.values()
        for third in sorted(others, key=lambda j: count[first, j] * count[second, j] + 1e-3 * count[j].sum()):
            yield from self._bases(first, second, third)

    def _bases(self, first: int, second: int, third: int) -> Iterator[_Base]:
        """Yield the bases of three atoms, the likely ones first."""
        of, kinds = self.class_of.tolist(), self.kind.tolist()
        triangles = [
            (a, b, c)
            for a in self.shared[of[first], of[second]][0]
            for b in self.shared[of[first], of[third]][0]
            for c in self.shared[of[second], of[third]][0]
            if min(a + b - c, a + c - b, b + c - a) > 0.05
            # Two atoms of one class may change places.
            and not ((of[second] == of[third] and a > b) or (of[first] == of[second] and b > c))
            and self._twice(first, second, third, a, b)
            and self._twice(second, first, third, a, c)
            and self._twice(third, first, second, b, c)
        ]
        pairs = [(first, kinds[second]), (first, kinds[third]), (second, kinds[third])]

        def likelihood(sides: tuple[float, float, float]) -> float:
            a, b, c = (self._often(*pair, side) for pair, side in zip(pairs, sides, strict=True))
            return min(_area(*sides), 4.0) * a * b * c

        left = self._left([first, second, third])
        for a, b, c in sorted(triangles, key=likelihood, reverse=True):
            x = (a * a + b * b - c * c) / (2.0 * a)
            y = np.sqrt(b * b - x * x)
            base = {first: np.zeros(3), second: np.array([a, 0.0, 0.0]), third: np.array([x, y, 0.0])}
            candidates = _joined(
                [
                    self._trilaterated(j, [self.shared[of[i], j] for i in base], a, x, y)
                    for j in np.nonzero(left)[0].tolist()
                ]
            )
            yield base, self._supported(list(base), np.array(list(base.values())), candidates)

    def _left(self, placed: list[int]) -> NDArray[np.int64]:
        """Return how many atoms of each class are not placed."""
        return self.members - np.bincount(self.class_of[placed], minlength=self.n)

    def _twice(self, atom: int, one: int, other: int, a: float, b: float) -> bool:
        """Tell whether an atom may have these distances to two others."""
        if self.kind[one] != self.kind[other] or abs(a - b) > self.tolerance:
            return True
        return self._often(atom, int(self.kind[one]), a) > 1

    def _often(self, atom: int, kind: int, distance: float) -> int:
        """Return how often an atom may have a distance to atoms of a species."""
        values, errors = self._known(atom, kind)
        return int((np.abs(values - distance) < 4.0 * self.tolerance + errors).sum())

    def _trilaterated(self, atom: int, to_base: list[Array], a: float, x: float, y: float) -> _Candidates:
        to_first, to_second, to_third = to_base
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
        members = self._left(order)
        spare = np.bincount(candidates.atom, minlength=self.n) - members.astype(float)
        spare[members == 0] = np.inf
        kind = int(spare.argmin())
        atom = next(i for i in np.nonzero(self.class_of == kind)[0].tolist() if i not in order)
        placed = [*order, atom]
        own = np.nonzero(candidates.atom == kind)[0]
        if len(order) == 3:  # of mirror images, one
            own = own[candidates.position[own, 2] >= 0.0]
        untried = np.ones(len(candidates.atom), dtype=bool)
        for number in own:
            if left[0] <= 0 or (untried & (candidates.atom == kind)).sum() < members[kind]:
                return
            left[0] -= 1
            untried[number] = False  # tried in vain, it is no place of any atom of the class
            now = np.concatenate([positions, candidates.position[number][None]])
            rest = self._supported(placed, now, self._compatible(candidates[untried], placed, now))
            if rest is None:
                continue
            places = _distinct(rest.position)
            if len(places) < self.n - len(placed):
                continue
            if len(places) == self.n - len(placed) > 0:
                yield self._seated(placed, now, rest, places)
            yield from self.extended(placed, now, rest, left)

    def _supported(self, order: list[int], positions: Array, candidates: _Candidates) -> _Candidates | None:
        """Drop candidates whose lists cannot be completed from the others; None if no structure is left."""
        left = self._left(order)
        error = candidates.error.max(initial=0.0) if len(order) < _SURE else 0.0
        while (np.bincount(candidates.atom, minlength=self.n) >= left).all():
            if (len(candidates.atom) + len(order)) ** 2 > self.most:
                return candidates
            atom = np.concatenate([self.class_of[order], candidates.atom])
            position = np.concatenate([positions, candidates.position])
            complete = np.ones(len(atom), dtype=bool)
            for kind in range(self.values.shape[1]):
                places = _distinct(position[self.kind[atom] == kind], self.tolerance)
                apart = cdist(position, places)
                apart[apart < _SAME] = np.inf
                values = self.values[atom, kind]
                allowed = 5.0 * self.tolerance + self.errors[atom, kind] + error
                allowed[len(order) :] += error
                enough = _within(apart, values, allowed) >= self.often[atom, kind]
                complete &= (enough | ~np.isfinite(values)).all(1)
            if not complete[: len(order)].all():
                return None
            complete = complete[len(order) :]
            if complete.all():
                return candidates
            candidates = candidates[complete]
        return None

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
        possible = possible[self.class_of[others]]
        place, atom = linear_sum_assignment(cost.sum(2) + 1e6 * ~possible.T)
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
        allowed = 3.0 * self.tolerance + (candidates.error[:, None] if len(order) < _SURE else 0.0)
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


def _within(numbers: Array, values: Array, allowed: Array) -> NDArray[np.int64]:
    """Return how many numbers of its row are as near to each value as is allowed, shape (m, v)."""
    row = 4.0 * _FAR * np.arange(len(numbers))[:, None]
    ordered = (np.sort(np.minimum(numbers, 2.0 * _FAR), 1) + row).ravel()
    values = np.minimum(values, _FAR) + row
    return ordered.searchsorted(values + allowed, "right") - ordered.searchsorted(values - allowed, "left")


def _distinct(positions: Array, within: float = _SAME) -> Array:
    """Return positions of which no two are at one place."""
    distinct = np.ones(len(positions), dtype=bool)
    if len(positions):
        distinct[cKDTree(positions).query_pairs(within, output_type="ndarray")[:, 1]] = False
    return positions[distinct]


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
