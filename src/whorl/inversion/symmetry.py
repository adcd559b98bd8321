r"""Symmetric arrangements: crystals mostly have few free coordinates, and a search may start there.

An operation takes fractional coordinates x to :math:`W x + w` with an integer matrix W that leaves the
lattice as it is; translations w are counted in 24ths, so that groups close exactly. Since a fingerprint does
not change under an operation, its gradient keeps the symmetry of a start, and a descent stays within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int

from whorl.inversion.wyckoff import GRID, Site, find_sites, random_filling
from whorl.structures.orbits import Orbits
from whorl.structures.symmetry import space_group_settings

_MOST = 192  # operations of a group that is made at random
_KNOWN = 0.7  # part of the groups that are space groups in a conventional setting, where there are such
# The most frequent space groups of inorganic crystals.
_COMMON = (
    2,
    12,
    14,
    15,
    62,
    63,
    64,
    123,
    129,
    139,
    148,
    166,
    167,
    186,
    187,
    191,
    193,
    194,
    216,
    221,
    225,
    227,
)
_METRIC = 1e-4  # by which an operation may change the metric of the lattice, relative to its largest element


@dataclass(frozen=True)
class Group:
    """A set of operations that is closed, up to lattice vectors.

    Attributes:
        rotations: W, shape (g, 3, 3).
        translations: w in 24ths, shape (g, 3).
    """

    rotations: Int[np.ndarray, "g 3 3"]
    translations: Int[np.ndarray, "g 3"]

    def __len__(self) -> int:
        """Return the number of operations."""
        return len(self.rotations)

    @property
    def sites(self) -> tuple[Site, ...]:
        """One site of each kind that it has."""
        return find_sites(self.rotations, self.translations)

    def orbit(self, x: Float[np.ndarray, "3"]) -> Float[np.ndarray, "m 3"]:
        """Return all different images of a point, in the cell."""
        images = (self.rotations @ x + self.translations / GRID) % 1.0
        distance = np.abs(images[:, None] - images[None])
        same = (np.minimum(distance, 1.0 - distance) < 1e-6).all(2)
        return images[same.argmax(1) == np.arange(len(images))]

    def permutation(self, fractional: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "g n"] | None:
        """Return to which atom each operation takes each, or ``None`` where they are not symmetric (0.02)."""
        images = np.einsum("gij,nj->gni", self.rotations, fractional) + self.translations[:, None] / GRID
        gaps = images[:, :, None] - fractional
        distance = np.abs(gaps - gaps.round()).max(3)
        nearest = distance.argmin(2)
        alike = np.sort(nearest, 1) == np.arange(len(fractional))
        return nearest if distance.min(2).max() < 0.02 and alike.all() else None

    def orbits(
        self, fractional: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], *, free_cell: bool = False
    ) -> Orbits | None:
        """Return which atoms are alike and how they may move, ``None`` where they are not symmetric (0.02).

        The coordinates of the atoms are an orthonormal basis of the displacements that keep the symmetry.
        Those of a free cell, of the symmetric strains that do, follow.
        """
        n = len(fractional)
        turns = np.einsum("xi,gij,jy->gxy", cell.T, self.rotations, np.linalg.inv(cell.T))
        head = np.full(n, -1)
        motions = []
        for first in range(n):
            if head[first] >= 0:
                continue
            images = self.rotations @ fractional[first] + self.translations / GRID
            gaps = np.abs((images[:, None] - fractional + 0.5) % 1.0 - 0.5).max(2)
            there = gaps.argmin(1)
            if gaps.min(1).max() > 0.02 or (head[there] >= 0).any():
                return None
            head[there] = first
            # What leaves the first atom in place leaves its displacement as it is.
            stays = turns[there == first].mean(0)
            values, axes = np.linalg.eigh((stays + stays.T) / 2)
            axes = axes[:, values > 0.5]
            atoms, operation = np.unique(there, return_index=True)
            motion = np.zeros((n, 3, axes.shape[1]))
            motion[atoms] = turns[operation] @ axes / np.sqrt(len(atoms))
            motions.append(motion)
        atoms_move = np.concatenate(motions, 2)
        strains = _invariant_strains(turns) if free_cell else np.zeros((3, 3, 0))
        width = (atoms_move.shape[2], strains.shape[2])
        return Orbits(
            head=torch.from_numpy(head)[None],
            atoms=torch.from_numpy(np.pad(atoms_move, ((0, 0), (0, 0), (0, width[1]))))[None],
            strain=torch.from_numpy(np.pad(strains, ((0, 0), (0, 0), (width[0], 0))))[None],
        )


def _invariant_strains(turns: Float[np.ndarray, "g 3 3"]) -> Float[np.ndarray, "3 3 q"]:
    """Return an orthonormal basis of the symmetric strains that rotations leave as they are."""
    mean = np.einsum("gab,gcd->acbd", turns, turns).reshape(9, 9) / len(turns)
    symmetric = 0.5 * (np.eye(9) + np.eye(9).reshape(3, 3, 3, 3).swapaxes(0, 1).reshape(9, 9))
    both = symmetric @ mean @ symmetric
    values, vectors = np.linalg.eigh((both + both.T) / 2)
    return vectors[:, values > 0.5].reshape(3, 3, -1)


@lru_cache(maxsize=1)
def _unimodular() -> Int[np.ndarray, "u 3 3"]:
    matrices = np.array(list(product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    return matrices[np.abs(np.abs(np.linalg.det(matrices)) - 1.0) < 1e-6]


def lattice_rotations(cell: Float[np.ndarray, "3 3"]) -> Int[np.ndarray, "k 3 3"]:
    """Return all W with entries -1, 0 and 1 that leave the lattice as it is, the identity first.

    Of a cell that is not reduced some may be missing.
    """
    return _rotations(np.asarray(cell, dtype=np.float64).tobytes())


@lru_cache(maxsize=256)
def _rotations(cell: bytes) -> Int[np.ndarray, "k 3 3"]:
    lattice = np.frombuffer(cell).reshape(3, 3)
    metric = lattice @ lattice.T
    candidates = _unimodular()
    # Lattice vectors are rows: W acts on fractional coordinates, so on the metric from both sides.
    turned = candidates.swapaxes(1, 2) @ metric @ candidates
    kept = np.abs(turned - metric).max((1, 2)) < _METRIC * np.abs(metric).max()
    rotations = candidates[kept]
    first = np.abs(rotations - np.eye(3)).sum((1, 2)).argmin()
    rotations[[0, first]] = rotations[[first, 0]]
    rotations.flags.writeable = False
    return rotations


def settings_of(number: int, rotations: Int[np.ndarray, "k 3 3"]) -> list[Group]:
    """Return a space group in all settings that a lattice with these rotations can have."""
    of_lattice = {w.tobytes() for w in rotations.astype(np.int64)}
    settings = [group for one, group in _all_space_groups() if one == number]
    return [group for group in settings if all(w.tobytes() in of_lattice for w in group.rotations)]


def random_group(rotations: Int[np.ndarray, "k 3 3"], rng: np.random.Generator) -> Group:
    """Return a group of operations of a lattice: most often a space group, else any group.

    Space groups are drawn in proportion to their order, common ones four times as often as others. They are
    known in the settings of conventional cells; groups of other cells are generated by one to three random
    operations, of which inversion is the likeliest first one. Where these do not close within 192, others are
    drawn; after some attempts the group is trivial.
    """
    known, chances = _space_groups(rotations.tobytes())
    if known and rng.random() < _KNOWN:
        return known[int(rng.choice(len(known), p=chances))]
    for _ in range(20):
        operations = {_key(np.eye(3, dtype=int), np.zeros(3, dtype=int))}
        for generator in range(int(rng.integers(1, 4))):
            w = rotations[int(rng.integers(len(rotations)))]
            shift = _random_translation(w, rng)
            if generator == 0 and rng.random() < 0.5:
                w, shift = -np.eye(3, dtype=int), np.zeros(3, dtype=int)
            operations.add(_key(w, shift))
        closed = _closure(operations)
        if closed is not None:
            return closed
    return Group(np.eye(3, dtype=int)[None], np.zeros((1, 3), dtype=int))


@lru_cache(maxsize=64)
def _space_groups(rotations: bytes) -> tuple[list[Group], Float[np.ndarray, "g"]]:
    """Return the space groups of all settings that a lattice with these rotations has, and their chances."""
    of_lattice = {w.tobytes() for w in np.frombuffer(rotations, dtype=np.int64).reshape(-1, 3, 3)}
    groups, weights = [], []
    for number, group in _all_space_groups():
        if all(w.tobytes() in of_lattice for w in group.rotations):
            groups.append(group)
            weights.append(len(group) * (4.0 if number in _COMMON else 1.0))
    chances = np.array(weights)
    return groups, chances / max(chances.sum(), 1.0)


@lru_cache(maxsize=1)
def _all_space_groups() -> list[tuple[int, Group]]:
    """Return the number and operations of all settings of all space groups but P1."""
    return [
        (number, Group(rotations, np.rint(shifts * GRID).astype(np.int64) % GRID))
        for number, rotations, shifts in space_group_settings()
        if number > 1
    ]


def random_subgroup(group: Group, rng: np.random.Generator) -> Group | None:
    """Return the part of a group that one or two of its operations generate, or ``None`` for no symmetry."""
    chosen = rng.integers(len(group), size=int(rng.integers(1, 3)))
    operations = {_key(np.eye(3, dtype=int), np.zeros(3, dtype=int))}
    operations |= {_key(group.rotations[k], group.translations[k]) for k in chosen}
    found = _closure(operations)
    return found if found is not None and 1 < len(found) < len(group) else None


def _random_translation(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    halves = rng.integers(0, 2, 3) * (GRID // 2)
    if rng.random() < 0.3:
        return np.zeros(3, dtype=int)
    cube = w @ w @ w
    if np.array_equal(cube, np.eye(3, dtype=int)) or np.array_equal(cube, -np.eye(3, dtype=int)):
        return np.asarray(rng.integers(0, 3, 3) * (GRID // 3))
    if rng.random() < 0.2:
        return np.asarray(rng.integers(0, 4, 3) * (GRID // 4))
    return np.asarray(halves)


def _key(w: np.ndarray, shift: np.ndarray) -> tuple[int, ...]:
    return (*(int(v) for v in w.ravel()), *(int(v) % GRID for v in shift))


def _closure(operations: set[tuple[int, ...]]) -> Group | None:
    generators = [_split(key) for key in operations]
    known, edge = set(operations), list(operations)
    while edge:
        fresh = []
        for key in edge:
            w, shift = _split(key)
            for v, offset in generators:
                combined = _key(v @ w, v @ shift + offset)
                if combined not in known:
                    known.add(combined)
                    fresh.append(combined)
                    if len(known) > _MOST:
                        return None
        edge = fresh
    pairs = [_split(key) for key in sorted(known)]
    return Group(np.array([w for w, _ in pairs]), np.array([shift for _, shift in pairs]))


def _split(key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(key[:9]).reshape(3, 3), np.array(key[9:])


def symmetric_arrangement(
    numbers: Int[np.ndarray, "n"],
    group: Group,
    rng: np.random.Generator,
) -> Float[np.ndarray, "n 3"] | None:
    """Return fractional coordinates in which the atoms of each species fill whole orbits, or ``None``.

    How they fill the sites of the group is drawn by :func:`whorl.inversion.wyckoff.random_filling`.
    """
    species, counts = np.unique(numbers, return_counts=True)
    filling = random_filling(counts, group.sites, rng)
    if filling is None:
        return None
    fractional = np.zeros((len(numbers), 3))
    for number, sites in zip(species, filling, strict=True):
        orbits = [group.orbit(site.draw(rng)) for site in sites]
        if [len(orbit) for orbit in orbits] != [site.multiplicity for site in sites]:
            return None
        fractional[numbers == number] = np.concatenate(orbits)
    return fractional


SYMMETRIC_MOVES = {"shake": 0.25, "relocate": 0.3, "refill": 0.2, "renew": 0.1, "swap": 0.15}


def symmetric_move(
    name: str,
    fractional: Float[np.ndarray, "n 3"],
    cell: Float[np.ndarray, "3 3"],
    numbers: Int[np.ndarray, "n"],
    group: Group,
    rng: np.random.Generator,
) -> Float[np.ndarray, "n 3"] | None:
    """Return the arrangement after a move that keeps its group, or ``None`` where there is none.

    ``shake`` moves all atoms by symmetric displacements of 0.35 Å, ``relocate`` puts one orbit elsewhere,
    ``swap`` exchanges the places of two orbits of different species, ``refill`` draws all orbits of one
    species again, and ``renew`` all there are.
    """
    if name == "renew":
        return symmetric_arrangement(numbers, group, rng)
    if name == "refill":
        drawn = symmetric_arrangement(numbers, group, rng)
        if drawn is None:
            return None
        of_one = numbers == rng.choice(np.unique(numbers))
        if any(_meets(x, fractional[~of_one]) for x in drawn[of_one]):
            return None
        return np.where(of_one[:, None], drawn, fractional)
    permutation = group.permutation(fractional)
    if permutation is None:
        return None
    if name == "shake":
        shift = 0.35 * rng.standard_normal(fractional.shape) @ np.linalg.inv(cell)
        mean = np.zeros_like(shift)
        for rotation, there in zip(group.rotations, permutation, strict=True):
            mean[there] += shift @ rotation.T
        return fractional + mean / np.sqrt(len(group))
    first = permutation.min(0)
    heads = np.flatnonzero(first == np.arange(len(first)))
    head = int(rng.choice(heads))
    size = int((first == head).sum())
    moved = fractional.copy()
    if name == "relocate":
        others = fractional[first != head]
        places = [site.draw(rng) for site in group.sites if site.multiplicity == size]
        places = [x for x in places if not _meets(x, others)]
        if not places:
            return None
        return _place(moved, head, places[int(rng.integers(len(places)))], group, permutation)
    sizes = np.array([(first == other).sum() for other in heads])
    others = heads[(numbers[heads] != numbers[head]) & (sizes == size)]
    if len(others) == 0:
        return None
    other = int(rng.choice(others))
    moved = _place(moved, head, fractional[other], group, permutation)
    return _place(moved, other, fractional[head], group, permutation)


def _place(
    fractional: np.ndarray, head: int, x: np.ndarray, group: Group, permutation: np.ndarray
) -> np.ndarray:
    """Put the orbit of an atom at ``x`` and its images; the site must be of the same kind."""
    orbit = group.orbit(x)
    atoms = np.unique(permutation[:, head])
    if len(orbit) != len(atoms):
        return fractional
    fractional[atoms] = orbit
    return fractional


def _meets(x: np.ndarray, others: np.ndarray) -> bool:
    if len(others) == 0:
        return False
    distance = np.abs(others - x) % 1.0
    return bool((np.minimum(distance, 1.0 - distance) < 1e-3).all(1).any())
