r"""Wyckoff positions of a group, and their occupation by atoms.

A *site* is a point, line, plane or all of space that some operations leave as it is, as

.. math:: x = x_0 + \sum_k c_k b_k .

Its *multiplicity* is the number of images that a point of it has in the cell. Sites are found on a grid of
24ths of the lattice vectors: each passes through points of halves, quarters, eighths, thirds or sixths. Two
sites are of one kind where they pass through images of the same points of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Float, Int, Num

GRID = 24  # parts of a lattice vector: halves, thirds, quarters, sixths and eighths
_COORDINATES = sorted({*range(0, GRID, 3), *range(0, GRID, 4)})  # eighths and sixths
_POINTS = np.indices((GRID, GRID, GRID)).reshape(3, -1).T
_SPECIAL = np.array(list(product(_COORDINATES, repeat=3)))
_STEPS = {d: np.indices((GRID,) * d).reshape(d, -1).T for d in (1, 2)}  # along lines, in planes
OFTEN = (0.07, 0.25, 1.2, 1.2)
"""How much likelier an arrangement is for every orbit more on points, lines, planes, and elsewhere: fitted to
the species of 400 inorganic crystals of 13–52 atoms."""


@dataclass(frozen=True)
class Site:
    """A kind of site; see the module.

    Attributes:
        origin: x₀ in fractional coordinates, shape (3,).
        basis: b, shape (d, 3); integers in a crystal, orthonormal in a cluster.
        multiplicity: Atoms of one orbit.
    """

    origin: Float[np.ndarray, "3"]
    basis: Num[np.ndarray, "d 3"]
    multiplicity: int

    @property
    def is_point(self) -> bool:
        """Whether it has no freedom, so that only one orbit can be there."""
        return len(self.basis) == 0

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
        """Return a point of it at random."""
        return (self.origin + rng.random(len(self.basis)) @ self.basis) % 1.0


def find_sites(rotations: Int[np.ndarray, "g 3 3"], translations: Int[np.ndarray, "g 3"]) -> tuple[Site, ...]:
    """Return one site of each kind, those of the lowest multiplicity first, the general one last.

    Args:
        rotations: W of all operations x → W x + w of a group.
        translations: w in 24ths.
    """
    return _sites(rotations.astype(np.int64).tobytes(), translations.astype(np.int64).tobytes())


@lru_cache(maxsize=1024)
def _sites(rotations: bytes, translations: bytes) -> tuple[Site, ...]:
    turns = np.frombuffer(rotations, dtype=np.int64).reshape(-1, 3, 3)
    shifts = np.frombuffer(translations, dtype=np.int64).reshape(-1, 3)
    order = len(turns)
    first, n_fixing = _grid(turns, shifts)
    directions = _directions(turns)
    found: dict[tuple[int, ...], Site] = {}
    special = _SPECIAL[np.unique(first[_codes(_SPECIAL)], return_index=True)[1]]
    for point in special:
        fixing = np.flatnonzero((((turns @ point + shifts - point) % GRID) == 0).all(1))
        if np.trace(turns[fixing].sum(0)) == 0:
            size = order // len(fixing)
            found[(int(first[_codes(point)]),)] = Site(point / GRID, np.zeros((0, 3), dtype=np.int64), size)
        for basis in {directions[k].tobytes(): directions[k] for k in fixing if len(directions[k])}.values():
            on_it = _codes(point + _STEPS[len(basis)] @ basis)
            key = (len(basis), *np.unique(first[on_it]).tolist())
            if key not in found:
                found[key] = Site(point / GRID, basis, order // int(n_fixing[on_it].min()))
    sites = [*found.values(), Site(np.zeros(3), np.eye(3, dtype=np.int64), order)]
    return tuple(sorted(sites, key=lambda site: (site.multiplicity, len(site.basis))))


def _codes(points: Int[np.ndarray, "*p 3"]) -> Int[np.ndarray, "*p"]:
    """Number the points of the grid."""
    return np.asarray((points % GRID) @ np.array([GRID * GRID, GRID, 1]))


def _grid(
    turns: Int[np.ndarray, "g 3 3"], shifts: Int[np.ndarray, "g 3"]
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    """Return the lowest number among the images of each point of the grid, and how many operations fix it."""
    first = np.arange(GRID**3)
    n_fixing = np.zeros(GRID**3, dtype=np.int64)
    for turn, shift in zip(turns, shifts, strict=True):
        codes = _codes(_POINTS @ turn.T + shift)
        n_fixing += codes == np.arange(GRID**3)
        np.minimum(first, codes, out=first)
    return first, n_fixing


def _directions(turns: Int[np.ndarray, "g 3 3"]) -> list[Int[np.ndarray, "d 3"]]:
    """Return integer vectors along the axis of each rotation or the plane of each mirror; else none."""
    candidates = np.array([v for v in product((-2, -1, 0, 1, 2), repeat=3) if any(v)])
    candidates = candidates[np.argsort(np.abs(candidates).sum(1), kind="stable")]
    found = []
    for turn in turns:
        determinant, trace = round(float(np.linalg.det(turn))), int(np.trace(turn))
        wanted = 1 if determinant == 1 and trace != 3 else 2 if determinant == -1 and trace == 1 else 0
        fixed = candidates[(candidates @ turn.T == candidates).all(1)]
        basis = fixed[:wanted]
        if wanted == 2:
            across = np.abs(np.cross(fixed[0], fixed)).sum(1) > 0
            basis = np.stack([fixed[0], fixed[across][0]])
        found.append(basis)
    return found


def random_filling(
    counts: Int[np.ndarray, "s"],
    sites: Sequence[Site],
    rng: np.random.Generator,
    *,
    alike: Sequence[bool | None] | None = None,
    often: tuple[float, ...] = OFTEN,
    attempts: int = 8,
) -> list[list[Site]] | None:
    """Return the sites that so many atoms of each species fill with whole orbits, or ``None``.

    Sites without freedom are taken once.

    Args:
        counts: Atoms of each species.
        sites: Of the group, one of each kind.
        rng: The random numbers.
        alike: Of each species, whether its atoms are one orbit, or more than one; ``None``: either.
        often: Each way to fill the sites is as likely as the product over its orbits of the entry for the
            freedom of its site, from 0 to 3 dimensions.
        attempts: After so many in which no way is found there is none.
    """
    alike = [None] * len(counts) if alike is None else alike
    weights = tuple(often[len(site.basis)] for site in sites)
    ways = _ways(
        tuple(site.multiplicity for site in sites),
        tuple(site.is_point for site in sites),
        weights,
        int(max(counts)),
    )
    of_one = [[k for k, site in enumerate(sites) if site.multiplicity == count] for count in counts]
    if any(not some if one else ways[0, n] == 0 for n, one, some in zip(counts, alike, of_one, strict=True)):
        return None
    for _ in range(attempts):
        filling: list[list[Site]] = [[] for _ in counts]
        taken: set[int] = set()
        for s in sorted(rng.permutation(len(counts)), key=lambda s: not alike[s]):
            if alike[s]:
                free = [k for k in of_one[s] if k not in taken]
                if not free:
                    break
                chances = np.array([weights[k] for k in free])
                chosen = [free[int(rng.choice(len(free), p=chances / chances.sum()))]]
            else:
                chosen = _random_sites(int(counts[s]), sites, weights, ways, taken, rng)
                if not chosen or (alike[s] is False and len(chosen) == 1):
                    break
            filling[s] = [sites[k] for k in chosen]
            taken.update(k for k in chosen if sites[k].is_point)
        else:
            return filling
    return None


def _random_sites(
    count: int,
    sites: Sequence[Site],
    weights: Sequence[float],
    ways: Float[np.ndarray, "k n"],
    taken: set[int],
    rng: np.random.Generator,
) -> list[int]:
    """Return sites, by number, that so many atoms fill; none where points that are taken would be needed."""
    chosen: list[int] = []
    left = count
    for k, site in enumerate(sites):
        most = left // site.multiplicity
        most = min(most, 0 if k in taken else 1) if site.is_point else most
        times = np.arange(most + 1)
        chances = weights[k] ** times * ways[k + 1, left - times * site.multiplicity]
        if not chances.any():
            return []
        many = int(rng.choice(times, p=chances / chances.sum())) if most else 0
        chosen += [k] * many
        left -= many * site.multiplicity
    return [] if left else chosen


@lru_cache(maxsize=4096)
def _ways(
    sizes: tuple[int, ...], points: tuple[bool, ...], weights: tuple[float, ...], most: int
) -> Float[np.ndarray, "k n"]:
    """Return the weight of all ways in which the sites from the k-th on hold n atoms."""
    ways = np.zeros((len(sizes) + 1, most + 1))
    ways[-1, 0] = 1.0
    for k in range(len(sizes) - 1, -1, -1):
        for n in range(most + 1):
            times = np.arange(min(n // sizes[k], 1 if points[k] else n) + 1)
            ways[k, n] = (weights[k] ** times * ways[k + 1, n - times * sizes[k]]).sum()
    return ways
