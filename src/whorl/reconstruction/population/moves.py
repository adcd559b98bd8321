r"""Moves of a population search: modifications of arrangements of atoms.

A population holds C arrangements of the same n atoms: positions (C, n, 3) and cells (C, 3, 3) in Å. Distances
are between nearest images; in a very skewed cell another image may be nearer still, which matters little
here.

=============  ==================================================================================
``shake``      every atom by a normal displacement; a free cell is strained a little too
``relocate``   one atom goes next to another, or now and then anywhere in a periodic cell
``swap``       two atoms of different species change places; a search chooses well which ones
               (:mod:`whorl.reconstruction.population.exchange`)
=============  ==================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.structures.composition import covalent_radii
from whorl.symmetry.space_groups import Lattices

MOVES = ("shake", "relocate", "swap")
_SHAKE, _STRAIN = 0.35, 0.05  # Å, and no unit
_NEAREST, _FARTHEST = 0.85, 1.15  # of a relocated atom, as parts of the sum of the covalent radii
_ANYWHERE = 0.3  # part of the relocations in a crystal that go anywhere in the cell
_PAIRS_AT_ONCE = 1_000_000  # of atoms, whose vectors are held at a time
CLOSEST = 0.75  # atoms that a move brings nearer than this part of the sum of their radii are pushed apart


@dataclass(frozen=True)
class Atoms:
    """Common properties of all arrangements of one target.

    Attributes:
        numbers: Atomic numbers, shape (n,).
        pbc: Periodicity along each lattice vector, shape (3,).
        free: Which atoms may move, shape (n,).
        free_cell: Whether the cell may change.
        space_group: Number of the space group to be kept, or ``None``.
        alike: Species, by atomic number, of which it is known whether all atoms are one orbit.
        lattices: Likely ones of a free cell, or ``None``.
    """

    numbers: Int[Tensor, "n"]
    pbc: Bool[Tensor, "3"]
    free: Bool[Tensor, "n"]
    free_cell: bool = False
    space_group: int | None = None
    alike: Mapping[int, bool] = field(default_factory=dict)
    lattices: Lattices | None = None

    @property
    def radii(self) -> Float[Tensor, "n"]:
        """Covalent radii in Å."""
        return covalent_radii(self.numbers)

    @property
    def contacts(self) -> Float[Tensor, "n n"]:
        """Sum of the covalent radii of each pair, in Å."""
        return self.radii[:, None] + self.radii[None]

    @property
    def moves(self) -> dict[str, float]:
        """The moves that make sense for these atoms, with how often each is made."""
        weights = {"shake": 0.5, "relocate": 0.5}
        if len(self.numbers[self.free].unique()) > 1:
            weights |= {"swap": 0.4}
        return weights


def nearest_vectors(
    positions: Float[Tensor, "C n 3"], cells: Float[Tensor, "C 3 3"], pbc: Bool[Tensor, "3"]
) -> Float[Tensor, "C n n 3"]:
    """Return the vector from atom j to atom i, ``[:, i, j]``, each to the nearest image."""
    return _gaps(positions, cells, pbc)[0].movedim(1, -1)


def _gaps(
    positions: Float[Tensor, "C n 3"], cells: Float[Tensor, "C 3 3"], pbc: Bool[Tensor, "3"]
) -> tuple[Float[Tensor, "C 3 n n"], Float[Tensor, "C 3 n n"]]:
    """Return vectors between atoms to the nearest image, and in lattice vectors where periodic."""

    def differences(x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        return x[:, :, :, None] - x[:, :, None]

    vectors = differences(positions)
    if not bool(pbc.any()):
        return vectors, vectors
    fractional = differences(positions @ torch.linalg.pinv(cells))
    away = fractional.round().mul_(pbc[:, None, None])
    vectors -= (cells.transpose(1, 2) @ away.flatten(2)).view_as(vectors)
    return vectors, fractional.sub_(away)


def push_apart(
    positions: Float[Tensor, "C n 3"],
    cells: Float[Tensor, "C 3 3"],
    atoms: Atoms,
    *,
    closest: float = CLOSEST,
    steps: int = 8,
) -> Float[Tensor, "C n 3"]:
    """Push atoms apart that are nearer than ``closest`` × the sum of their radii, a little at a time.

    Images that are equally near push to both sides, so that a symmetry is kept. Of many or large arrangements
    a few are worked on at a time, so that memory is bounded.
    """
    least = closest * atoms.contacts.to(positions.dtype)
    least.fill_diagonal_(0.0)
    parts = _chunks(positions, cells)
    return torch.cat([_pushed_apart(some, of_them, atoms, least, steps) for some, of_them in parts])


def _chunks(positions: Tensor, cells: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut arrangements into parts whose vectors between all pairs of atoms need little memory."""
    at_once = max(1, _PAIRS_AT_ONCE // max(1, positions.shape[1] ** 2))
    return zip(positions.split(at_once), cells.split(at_once), strict=True)


def _pushed_apart(
    positions: Float[Tensor, "C n 3"],
    cells: Float[Tensor, "C 3 3"],
    atoms: Atoms,
    least: Float[Tensor, "n n"],
    steps: int,
) -> Float[Tensor, "C n 3"]:
    positions = positions.clone()
    near = torch.arange(len(positions), device=positions.device)  # those in which atoms are still too near
    for _ in range(steps):
        vectors, fractional = _gaps(positions[near], cells[near], atoms.pbc)
        squared = vectors[:, 0].square()
        for axis in (1, 2):
            squared.addcmul_(vectors[:, axis], vectors[:, axis])
        which, first, second = (squared < (least - 1e-3).clamp(min=0.0) ** 2).nonzero().unbind(1)
        if len(which) == 0:
            break
        away, parts = vectors[which, :, first, second], fractional[which, :, first, second]
        distance = away.norm(dim=1)
        tied = ((parts.abs() - 0.5).abs() < 1e-6) & atoms.pbc
        if bool(tied.any()):
            away = away - torch.einsum("pk,pkx->px", parts * tied, cells[near][which])
        push = 0.5 * (least[first, second] - distance) / distance.clamp(min=1e-3) * atoms.free[first]
        positions.index_put_((near[which], first), push[:, None] * away, accumulate=True)
        near = near[which.unique()]
    return positions


def move(
    name: str,
    positions: Float[Tensor, "C n 3"],
    cells: Float[Tensor, "C 3 3"],
    atoms: Atoms,
    rng: torch.Generator,
) -> tuple[Float[Tensor, "C n 3"], Float[Tensor, "C 3 3"]]:
    """Return the arrangements after a move of this name, and their cells."""
    if name == "shake":
        return _shake(positions, cells, atoms, rng)
    moved = {"relocate": _relocate, "swap": _swap}[name](positions, cells, atoms, rng)
    return push_apart(moved, cells, atoms), cells


def _random(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=rng)


def _normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def _shake(positions: Tensor, cells: Tensor, atoms: Atoms, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    if atoms.free_cell:
        strain = _STRAIN * _normal(rng, len(cells), 3, 3)
        deformation = torch.eye(3) + 0.5 * (strain + strain.transpose(1, 2))
        positions, cells = positions @ deformation.to(positions), cells @ deformation.to(cells)
    shift = _SHAKE * _normal(rng, *positions.shape)
    return positions + shift.to(positions) * atoms.free[:, None], cells


def _relocate(positions: Tensor, cells: Tensor, atoms: Atoms, rng: torch.Generator) -> Tensor:
    count, n, _ = positions.shape
    every = torch.arange(count)
    which = torch.nonzero(atoms.free).squeeze(1).cpu()
    moved = which[(_random(rng, count) * len(which)).long()]
    host = (moved + 1 + (_random(rng, count) * (n - 1)).long()) % n
    direction = _normal(rng, count, 3)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-9)
    stretch = _NEAREST + (_FARTHEST - _NEAREST) * _random(rng, count)
    anywhere = _random(rng, count, 3)
    far = _random(rng, count) < (_ANYWHERE if bool(atoms.pbc.all()) or n == 1 else 0.0)
    if not bool(atoms.pbc.all()):
        far[:] = False
    device = positions.device
    length = (stretch * atoms.contacts.cpu()[moved, host])[:, None]
    beside = positions[every, host] + (direction * length).to(positions)
    inside = torch.einsum("ck,ckx->cx", anywhere.to(positions), cells)
    result = positions.clone()
    result[every, moved] = torch.where(far.to(device)[:, None], inside, beside)
    return result


def _swap(positions: Tensor, cells: Tensor, atoms: Atoms, rng: torch.Generator) -> Tensor:
    count = len(positions)
    numbers = atoms.numbers.cpu()
    unlike = (numbers[:, None] != numbers[None]) & atoms.free.cpu()[:, None] & atoms.free.cpu()[None]
    first, second = torch.nonzero(unlike).unbind(1)
    chosen = (_random(rng, count) * len(first)).long()
    every, i, j = torch.arange(count), first[chosen], second[chosen]
    result = positions.clone()
    result[every, i], result[every, j] = positions[every, j], positions[every, i]
    return result


def signature(
    positions: Float[Tensor, "C n 3"], cells: Float[Tensor, "C 3 3"], atoms: Atoms
) -> Float[Tensor, "C p"]:
    """Return the sorted distances of each pair of species, in Å: equal for equal arrangements.

    Rotations, reflections and the order of atoms leave it as it is. Of a crystal, these are the distances
    between nearest images, and the lattice parameters follow.
    """
    i, j = torch.triu_indices(len(atoms.numbers), len(atoms.numbers), 1, device=positions.device)
    pairs = torch.cat(
        [nearest_vectors(*chunk, atoms.pbc).norm(dim=-1)[:, i, j] for chunk in _chunks(positions, cells)]
    )
    low, high = (
        torch.minimum(atoms.numbers[i], atoms.numbers[j]),
        torch.maximum(atoms.numbers[i], atoms.numbers[j]),
    )
    kind = low * 200 + high
    parts = [pairs[:, kind == one].sort(1).values for one in kind.unique()]
    if atoms.free_cell:
        parts.append((cells @ cells.transpose(1, 2)).diagonal(dim1=1, dim2=2).sqrt().sort(1).values)
        parts.append(torch.linalg.det(cells).abs()[:, None] ** (1 / 3) * math.sqrt(3))
    return torch.cat(parts, 1) if parts else positions.new_zeros(len(positions), 1)
