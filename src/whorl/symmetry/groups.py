r"""Random symmetric arrangements, as starts of a search.

An operation of a crystal takes fractional coordinates x to :math:`W x + w` with an integer matrix W that
leaves the lattice as it is; translations w are counted in 24ths, so that groups close exactly. Those of
clusters are in :mod:`whorl.symmetry.point_groups`. Since a fingerprint does not change under an operation,
its gradient keeps the symmetry of a start, and a descent stays within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from whorl.symmetry.coordinates import SymmetryCoordinates
from whorl.symmetry.wyckoff import GRID, OFTEN, Site, find_sites, random_filling


@dataclass(frozen=True)
class Group:
    """A set of operations that is closed, up to lattice vectors.

    Attributes:
        rotations: W, shape (g, 3, 3).
        translations: w in 24ths, shape (g, 3).
    """

    rotations: Int[np.ndarray, "g 3 3"]
    translations: Int[np.ndarray, "g 3"]
    often: ClassVar[tuple[float, ...]] = OFTEN
    """How often sites of each freedom are filled; see :func:`whorl.symmetry.wyckoff.random_filling`."""

    def __len__(self) -> int:
        """Return the number of operations."""
        return len(self.rotations)

    @property
    def sites(self) -> tuple[Site, ...]:
        """One site of each kind that it has."""
        return find_sites(self.rotations, self.translations)

    def wrapped(self, gaps: Float[np.ndarray, "*g 3"]) -> Float[np.ndarray, "*g 3"]:
        """Return gaps between points as those to the nearest image."""
        return np.asarray(gaps - gaps.round())

    def draw(self, site: Site, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
        """Return a point of a site at random."""
        return site.draw(rng)

    def orbit(self, x: Float[np.ndarray, "3"]) -> Float[np.ndarray, "m 3"]:
        """Return all different images of a point."""
        images = self.rotations @ x + self.translations / GRID
        same = (np.abs(self.wrapped(images[:, None] - images)) < 1e-5).all(2)
        return images[same.argmax(1) == np.arange(len(images))]

    def permutation(self, fractional: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "g n"] | None:
        """Return to which atom each operation takes each, or ``None`` where they are not symmetric (0.02)."""
        images = np.einsum("gij,nj->gni", self.rotations, fractional) + self.translations[:, None] / GRID
        distance = np.abs(self.wrapped(images[:, :, None] - fractional)).max(3)
        nearest = distance.argmin(2)
        alike = np.sort(nearest, 1) == np.arange(len(fractional))
        return nearest if distance.min(2).max() < 0.02 and alike.all() else None

    def orbits(
        self, fractional: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"], *, free_cell: bool = False
    ) -> SymmetryCoordinates | None:
        """Return which atoms are alike and how they may move, ``None`` where they are not symmetric (0.02).

        The coordinates of the atoms are an orthonormal basis of the displacements that keep the symmetry.
        Those of a free cell, of the symmetric strains that do, follow.
        """
        n = len(fractional)
        turns = cell.T @ self.rotations @ np.linalg.inv(cell.T)
        shifts = self.translations / GRID
        operations = np.arange(len(self))
        head = np.full(n, -1)
        operation = np.zeros(n, dtype=np.int64)  # one that takes the first atom of the orbit to each
        stays = np.zeros((n, 3, 3))
        for first in range(n):
            if head[first] >= 0:
                continue
            images = self.rotations @ fractional[first] + shifts
            gaps = np.abs(self.wrapped(images[:, None] - fractional)).max(2)
            there = gaps.argmin(1)
            if gaps[operations, there].max() > 0.02 or (head[there] >= 0).any():
                return None
            head[there] = first
            operation[there] = operations
            # What leaves the first atom in place leaves its displacement as it is.
            stays[first] = turns[there == first].mean(0)
        size = np.bincount(head, minlength=n)
        heads = np.flatnonzero(size)
        values, axes = np.linalg.eigh((stays[heads] + stays[heads].swapaxes(1, 2)) / 2)
        which, axis = np.nonzero(values > 0.5)
        directions = axes[which, :, axis] / np.sqrt(size[heads[which], None])
        moves = head[:, None] == heads[which]
        atoms_move = np.where(moves[:, None], turns[operation] @ directions.T, 0.0)
        strains = _invariant_strains(turns) if free_cell else np.zeros((3, 3, 0))
        still, unstrained = np.zeros((n, 3, strains.shape[2])), np.zeros((3, 3, atoms_move.shape[2]))
        return SymmetryCoordinates(
            head=torch.from_numpy(head)[None],
            atoms=torch.from_numpy(np.concatenate([atoms_move, still], 2))[None],
            strain=torch.from_numpy(np.concatenate([unstrained, strains], 2))[None],
        )


def _invariant_strains(turns: Float[np.ndarray, "g 3 3"]) -> Float[np.ndarray, "3 3 q"]:
    """Return an orthonormal basis of the symmetric strains that rotations leave as they are."""
    mean = np.einsum("gab,gcd->acbd", turns, turns).reshape(9, 9) / len(turns)
    symmetric = 0.5 * (np.eye(9) + np.eye(9).reshape(3, 3, 3, 3).swapaxes(0, 1).reshape(9, 9))
    both = symmetric @ mean @ symmetric
    values, vectors = np.linalg.eigh((both + both.T) / 2)
    return vectors[:, values > 0.5].reshape(3, 3, -1)


def random_subgroup(group: Group, rng: np.random.Generator) -> Group | None:
    """Return the part of a group that one or two of its operations generate, or ``None`` for no symmetry."""
    generators = np.unique(rng.integers(len(group), size=int(rng.integers(1, 3))))
    known = generators
    while True:
        turns = group.rotations[known][:, None] @ group.rotations[generators]
        shifts = (group.rotations[known] @ group.translations[generators].T).swapaxes(1, 2)
        shifts = shifts + group.translations[known][:, None]
        same = np.abs(turns.reshape(-1, 1, 9) - group.rotations.reshape(-1, 9)).max(2) < 1e-6
        same &= ((np.rint(shifts.reshape(-1, 1, 3) - group.translations) % GRID) == 0).all(2)
        larger = np.union1d(known, same.argmax(1))
        if len(larger) == len(known):
            break
        known = larger
    if not 1 < len(known) < len(group):
        return None
    return replace(group, rotations=group.rotations[known], translations=group.translations[known])


def symmetric_arrangement(
    numbers: Int[np.ndarray, "n"],
    group: Group,
    rng: np.random.Generator,
    *,
    alike: Mapping[int, bool] | None = None,
    others: Float[np.ndarray, "m 3"] | None = None,
) -> Float[np.ndarray, "n 3"] | None:
    """Return fractional coordinates in which the atoms of each species fill whole orbits, or ``None``.

    How they fill the sites of the group is drawn by :func:`whorl.symmetry.wyckoff.random_filling`.

    Args:
        numbers: Atomic numbers.
        group: The group.
        rng: The random numbers.
        alike: By atomic number, of which species all atoms are one orbit, and of which they are not.
        others: Atoms that are there already, and have the symmetry.
    """
    species, counts = np.unique(numbers, return_counts=True)
    single = [(alike or {}).get(int(z)) for z in species]
    sites = group.sites
    if others is not None and len(others):
        sites = tuple(site for site in sites if not (site.is_point and _meets(site.origin, others, group)))
    filling = random_filling(counts, sites, rng, alike=single, often=group.often)
    if filling is None:
        return None
    fractional = np.zeros((len(numbers), 3))
    for number, some in zip(species, filling, strict=True):
        orbits = [group.orbit(group.draw(site, rng)) for site in some]
        if [len(orbit) for orbit in orbits] != [site.multiplicity for site in some]:
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
    *,
    alike: Mapping[int, bool] | None = None,
) -> Float[np.ndarray, "n 3"] | None:
    """Return the arrangement after a move that keeps its group, or ``None`` where there is none.

    ``shake`` moves all atoms by symmetric displacements of 0.35 Å, ``relocate`` puts one orbit elsewhere,
    ``swap`` exchanges the places of two orbits of different species, ``refill`` draws all orbits of one
    species again, and ``renew`` all there are.
    """
    if name == "renew":
        return symmetric_arrangement(numbers, group, rng, alike=alike)
    if name == "refill":
        drawn = symmetric_arrangement(numbers, group, rng, alike=alike)
        if drawn is None:
            return None
        of_one = numbers == rng.choice(np.unique(numbers))
        if any(_meets(x, fractional[~of_one], group) for x in drawn[of_one]):
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
        places = [group.draw(site, rng) for site in group.sites if site.multiplicity == size]
        places = [x for x in places if not _meets(x, others, group)]
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


def _meets(x: np.ndarray, others: np.ndarray, group: Group) -> bool:
    return bool((np.abs(group.wrapped(others - x)) < 1e-3).all(1).any())
