"""Pairs of reduced crystals: exact screens, then the comparison by StructureMatcher itself.

``StructureMatcher.fit`` brings both primitive cells to one volume, looks for lattice vectors of the first
crystal that resemble the cell of the second and span no less and no more than its primitive cell, and
compares atoms in each such cell. Where there is none, it answers no. So no pair is lost by leaving out

- other compositions and other numbers of atoms in the primitive cell (``comparison.py``);
- pairs with a successive minimum λᵢ of the first lattice not below (1 + ltol) λᵢ of the second, as the
  vectors looked for are independent and no longer than that;
- pairs of lattices with no mapping, found here without the overhead of pymatgen's objects.

Densities, space groups and average distances decide nothing of that kind: crystals that differ in them match.
What passes is compared by pymatgen's own code, on bare arrays.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whorl.evaluation.crystals.disorder import sharing_elements
from whorl.evaluation.crystals.reduction import ReducedCrystals
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.structures.batch import StructureBatch

Array = NDArray[Any]

_SLACK = 1e-6  # relative, of lengths and angles: screens err on the side of comparing
_SLACK_OF_MINIMA = 1e-3  # pymatgen's Niggli cells may miss the successive minima by its tolerance of 1e-5
_MOST_POINTS = 100_000  # of a lattice in a sphere; a screen that would need more passes the pair


class Cell:
    """A crystal in its primitive Niggli cell, with what the screens need.

    It has those properties of a pymatgen ``Structure`` that StructureMatcher reads.

    Args:
        matrix: Lattice vectors as rows.
        frac_coords: Fractional coordinates.
        numbers: Atomic numbers.
        reduced: Whether it is a Niggli cell.
        mixed: Elements on the sites that bear an atomic number, where these are several.
    """

    def __init__(
        self,
        matrix: Array,
        frac_coords: Array,
        numbers: Array,
        reduced: bool = True,
        mixed: Mapping[int, frozenset[int]] | None = None,
    ) -> None:
        self.mixed = mixed or {}
        self.matrix, self.frac_coords, self.numbers = matrix, frac_coords, numbers
        self.volume = float(abs(np.linalg.det(matrix)))
        self.unit = matrix / self.volume ** (1 / 3)
        """Lattice vectors of the cell of volume 1."""
        self.lengths = np.sqrt((self.unit**2).sum(1))
        self.minima = np.sort(self.lengths) if reduced else np.zeros(3)
        """Successive minima of the lattice of volume 1; 0 where they are not known."""
        self.disordered: Cell | None = None
        """The crystal with elements that may share a site mixed, if it has such."""
        self._points: tuple[float, tuple[Array, Array, Array, Array] | None] = (0.0, None)

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.numbers)

    @cached_property
    def species_and_occu(self) -> list[int | frozenset[int]]:
        """Atomic numbers, which StructureMatcher compares as species; sets of those that share a site."""
        return [self.mixed.get(number, number) for number in self.numbers.tolist()]

    @cached_property
    def angles(self) -> Array:
        """Angles of the cell in degrees."""
        unit = self.unit / self.lengths[:, None]
        cosines = unit @ unit.T
        return np.degrees(np.arccos(np.clip(cosines[[1, 0, 0], [2, 2, 1]], -1, 1)))

    def points(self, radius: float) -> tuple[Array, Array, Array, Array] | None:
        """Return the lattice points of the cell of volume 1 within at least a radius, but for the origin.

        Returns:
            Integer coordinates, directions, distances, and which of ±v stands for both; None if there are too
            many.
        """
        if self._points[0] < radius:
            reach = np.floor(radius * np.sqrt((np.linalg.inv(self.unit) ** 2).sum(0)) + _SLACK)
            found = None
            if np.prod(2 * reach + 1) < _MOST_POINTS:
                axes = [np.arange(-n, n + 1) for n in reach]
                integers = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
                vectors = integers @ self.unit
                distances = np.sqrt((vectors**2).sum(1))
                half = np.arange(len(integers)) > len(integers) // 2
                near = (distances < radius) & (distances > 0)
                found = (
                    integers[near],
                    vectors[near] / distances[near, None],
                    distances[near],
                    half[near],
                )
            self._points = (radius, found)
        return self._points[1]

    def with_numbers(self, numbers: Array) -> Cell:
        """Return the crystal with other elements."""
        other = object.__new__(Cell)
        other.__dict__.update({**self.__dict__, "numbers": numbers})
        other.__dict__.pop("species_and_occu", None)
        return other


class _Scaled:
    """The interface of a pymatgen ``Structure`` that StructureMatcher reads."""

    def __init__(self, cell: Cell, factor: float) -> None:
        from pymatgen.core import Lattice

        self.lattice = Lattice(cell.matrix * factor)
        self.frac_coords = cell.frac_coords
        self.species_and_occu = cell.species_and_occu

    def __len__(self) -> int:
        return len(self.frac_coords)

    @property
    def cart_coords(self) -> Array:
        return self.lattice.get_cartesian_coords(self.frac_coords)


class _SharedSites:
    """Comparison of sites, of which one may have several elements."""

    def are_equal(self, first: int | frozenset[int], second: int | frozenset[int]) -> bool:
        """Whether the elements of one site are among those of the other."""
        one, other = ({site} if isinstance(site, int) else site for site in (first, second))
        return one <= other or other <= one


def _scaled(cell: Cell, factor: float) -> Any:
    return _Scaled(cell, factor)  # not a Structure by its type


class Cells:
    """Crystals, with what screens many of them at once.

    Args:
        crystals: Of whatever compositions.
        disordered: The same crystals with elements that may share a site mixed (:func:`mixed`).
    """

    def __init__(self, crystals: ReducedCrystals, disordered: ReducedCrystals | None = None) -> None:
        self.cells = [
            Cell(*arrays, reduced=reduced)
            for arrays, reduced in zip(crystals, crystals.reduced.tolist(), strict=True)
        ]
        for cell, other in zip(self.cells, [] if disordered is None else disordered, strict=False):
            if mixed := _mixed(cell.numbers):
                cell.disordered = Cell(*other, mixed={group[0]: frozenset(group) for group in mixed})
        self.minima = np.array([cell.minima for cell in self.cells]).reshape(-1, 3)
        self.lengths = np.sort(np.array([cell.lengths for cell in self.cells]).reshape(-1, 3))


class Matcher:
    """StructureMatcher for reduced crystals of one reduced composition.

    Args:
        settings: Tolerances and order of arguments.
        anonymous: Whether elements may be exchanged: ``fit_anonymous`` in place of ``fit``. The crystals may
            then differ in their elements, if not in how many atoms there are of each.

    Attributes:
        counts: How many pairs there were, passed the minima, have a mapping of lattices, match.
    """

    def __init__(self, settings: MatcherSettings, *, anonymous: bool = False) -> None:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        self.settings, self.anonymous = settings, anonymous
        self._matcher = StructureMatcher(
            ltol=settings.ltol, stol=settings.stol, angle_tol=settings.angle_tol, primitive_cell=False
        )
        self._mixing = StructureMatcher(
            ltol=settings.ltol,
            stol=settings.stol,
            angle_tol=settings.angle_tol,
            primitive_cell=False,
            attempt_supercell=True,
            allow_subset=True,
            comparator=_SharedSites(),  # type: ignore[arg-type]  # of which pymatgen asks no more
        )
        self._longest = (1 + settings.ltol) * (1 + _SLACK_OF_MINIMA)
        self.counts = {"pairs": 0, "minima": 0, "mapping": 0, "match": 0}

    def first_match(self, candidate: Cell, known: Cells, rows: list[int]) -> int | None:
        """Return the first of the known crystals in ``rows`` that the candidate matches, if any."""
        for row, first, second, possible in self._pairs(candidate, known, rows):
            if (possible and self._compare(first, second)) or self._fits_mixed(first, second):
                self.counts["match"] += 1
                return row
        return None

    def best_rms(self, candidate: Cell, known: Cells, rows: list[int]) -> float:
        """Return the smallest :meth:`rms` between the candidate and known crystals; NaN without a match."""
        pairs = self._pairs(candidate, known, rows)
        found = [self.rms(first, second) for _, first, second, possible in pairs if possible]
        return min((rms for rms in found if not math.isnan(rms)), default=math.nan)

    def rms(self, first: Cell, second: Cell, *, scale: bool = True, supercells: bool = False) -> float:
        """Return ``get_rms_dist(first, second)`` in units of (V/N)^⅓; NaN where they do not match.

        Args:
            first: The first crystal.
            second: The second one.
            scale: Whether both are brought to one volume.
            supercells: Whether cells of different size are compared.
        """
        size, of_first = 1, True
        if supercells:
            size, of_first = self._matcher._get_supercell_size(first, second)
        elif len(first) != len(second):
            return math.nan
        ratio = (second.volume / first.volume / (size if of_first else 1 / size)) ** (1 / 6) if scale else 1.0
        one, other = _scaled(first, ratio), _scaled(second, 1 / ratio)
        match = self._match(lambda: self._matcher._match(one, other, size, of_first, use_rms=True))
        return math.nan if match is None else float(match[0])

    def _pairs(
        self, candidate: Cell, known: Cells, rows: list[int]
    ) -> Iterator[tuple[int, Cell, Cell, bool]]:
        """Yield the known crystals, the arguments of ``fit``, and whether their lattices allow a match."""
        known_first = self.settings.order == "known first"
        if known_first:
            allowed = known.minima[rows] < self._longest * np.sort(candidate.lengths)
        else:
            allowed = candidate.minima < self._longest * known.lengths[rows]
        passing: Array = np.all(allowed, axis=1)
        for number, row in enumerate(rows):
            self.counts["pairs"] += 1
            cell = known.cells[row]
            first, second = (cell, candidate) if known_first else (candidate, cell)
            possible = bool(passing[number]) and len(first) == len(second)
            if possible:
                self.counts["minima"] += 1
                possible = mapping_exists(first, second, self.settings.ltol, self.settings.angle_tol)
                self.counts["mapping"] += possible
            yield row, first, second, possible

    def _compare(self, first: Cell, second: Cell) -> bool:
        if self.anonymous:
            return any(self._fits(renamed, second) for renamed in _renamed(first, second))
        return self._fits(first, second)

    def _fits(self, first: Cell, second: Cell) -> bool:
        """Return pymatgen's answer for crystals of as many atoms."""
        ratio = (second.volume / first.volume) ** (1 / 6)
        one, other = _scaled(first, ratio), _scaled(second, 1 / ratio)
        match = self._match(lambda: self._matcher._strict_match(one, other, 1, True, break_on_match=True))
        return match is not None and bool(match[0] <= self.settings.stol)

    def _fits_mixed(self, first: Cell, second: Cell) -> bool:
        """Return whether the second crystal is an ordering of the first with its elements mixed."""
        if first.disordered is None:
            return False
        size, of_first = self._mixing._get_supercell_size(first.disordered, second)
        smaller, larger = (first.disordered, second) if of_first else (second, first.disordered)
        if not mapping_exists(smaller, larger, self.settings.ltol, self.settings.angle_tol, size):
            return False
        times = size if of_first else 1 / size
        ratio = (second.volume / first.disordered.volume / times) ** (1 / 6)
        one, other = _scaled(first.disordered, ratio), _scaled(second, 1 / ratio)
        match = self._match(lambda: self._mixing._match(one, other, size, of_first, break_on_match=True))
        return match is not None and bool(match[0] <= self.settings.stol)

    @staticmethod
    def _match(compare: Callable[[], Any]) -> Any:
        """Return pymatgen's match; None where it has none, or cannot map the lattices."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of divisions in cells that are almost flat
                return compare()
        except (ValueError, ArithmeticError, IndexError):
            return None


def mapping_exists(first: Cell, second: Cell, ltol: float, angle_tol: float, size: int = 1) -> bool:
    """Whether vectors of the first lattice resemble the second cell and span ``size`` primitive cells."""
    longest, shortest = (1 + ltol) * (1 + _SLACK), 1 / ((1 + ltol) * (1 + _SLACK))
    edge = size ** (1 / 3)  # of the second cell, which has volume 1, in units of the first
    points = first.points(edge * longest * second.lengths.max())
    if points is None:
        return True
    integers, directions, distances, half = points
    ratio = distances[:, None] / (edge * second.lengths)
    near = (ratio < longest) & (ratio > shortest)
    a, b, c = np.flatnonzero(near[:, 0] & half), np.flatnonzero(near[:, 1]), np.flatnonzero(near[:, 2])
    if not (len(a) and len(b) and len(c)):
        return False
    alpha, beta, gamma = second.angles
    u, v, w = directions[a], directions[b], directions[c]
    allowed = angle_tol + _SLACK

    def near_angle(one: Array, other: Array, angle: float) -> Array:
        low, high = np.cos(np.radians([min(angle + allowed, 180.0), max(angle - allowed, 0.0)]))
        cosines = one @ other.T
        return (cosines >= low - 1e-9) & (cosines <= high + 1e-9)

    ab, ac, bc = near_angle(u, v, gamma), near_angle(u, w, beta), near_angle(v, w, alpha)
    i, j, k = np.nonzero(ab[:, :, None] & ac[:, None, :] & bc[None])
    if not len(i):
        return False
    x, y, z = integers[a[i]], integers[b[j]], integers[c[k]]
    determinants = (x * np.cross(y, z)).sum(1)
    return bool((np.abs(np.abs(determinants) - size) < 0.5).any())


def mixed(structures: StructureBatch) -> StructureBatch:
    """Return crystals in which elements that may share a site have one atomic number."""
    numbers = structures.atomic_numbers.cpu()
    parts = [numbers[:0]]
    for part in numbers.split(structures.n_atoms.tolist()):
        part = part.clone()
        for group in _mixed(part.numpy()):
            part[torch.isin(part, torch.tensor(group))] = group[0]
        parts.append(part)
    return structures.replace(atomic_numbers=torch.cat(parts).to(structures.device))


def _mixed(numbers: Array) -> list[tuple[int, ...]]:
    return sharing_elements(sorted(set(numbers.tolist())))


def _renamed(first: Cell, second: Cell) -> Iterator[Cell]:
    """Yield the first crystal with the elements of the second, in each way that gives its composition."""
    numbers, kinds, counts = np.unique(first.numbers, return_inverse=True, return_counts=True)
    others, theirs = np.unique(second.numbers, return_counts=True)
    if len(numbers) != len(others):
        return
    for order in permutations(range(len(others))):
        if (theirs[list(order)] == counts).all():
            yield first.with_numbers(others[list(order)][kinds])
