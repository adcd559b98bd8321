"""Primitive Niggli cells of crystals, as StructureMatcher makes them, on arrays.

The rules are those of pymatgen's ``Structure.get_reduced_structure`` and ``get_primitive_structure``; without
its site objects, and with the candidate supercells made once, they take a fraction of the time. The cells
equal pymatgen's but for rounding, the order of atoms included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.tensor_files import tensors_hash

if TYPE_CHECKING:
    from pymatgen.core import Lattice

Array = NDArray[Any]

PRIMITIVE_TOLERANCE = 0.25
"""Å, along each lattice vector: atoms this close are images of each other in a smaller cell."""

_AT_ONCE = 200_000  # numbers in an array


@dataclass(frozen=True)
class ReducedCrystals:
    """Crystals in primitive Niggli cells.

    Attributes:
        cells: Lattice vectors as rows, Å.
        fractional: Fractional coordinates of all atoms.
        numbers: Atomic numbers of all atoms.
        n_atoms: Number of atoms of each crystal.
        reduced: Whether the cell is a Niggli cell; others could not be reduced and are as they were.
        sound: Whether it is a crystal at all; others are compared with nothing.
    """

    cells: Float[Tensor, "B 3 3"]
    fractional: Float[Tensor, "A 3"]
    numbers: Int[Tensor, "A"]
    n_atoms: Int[Tensor, "B"]
    reduced: Bool[Tensor, "B"]
    sound: Bool[Tensor, "B"]

    def __len__(self) -> int:
        """Return the number of crystals."""
        return len(self.n_atoms)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def contents(self) -> str:
        """A hash of all tensors."""
        return tensors_hash(self.tensors)

    @cached_property
    def _ends(self) -> Int[Tensor, "B"]:
        return self.n_atoms.cumsum(0)

    def __getitem__(self, rows: Int[Tensor, "b"]) -> ReducedCrystals:
        """Return some of the crystals."""
        counts, ends = self.n_atoms[rows], self._ends[rows]
        shifts = (ends - counts) - torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])[: len(rows)]
        atoms = torch.arange(int(counts.sum())) + shifts.repeat_interleave(counts)
        return replace(
            self,
            cells=self.cells[rows],
            fractional=self.fractional[atoms],
            numbers=self.numbers[atoms],
            n_atoms=counts,
            reduced=self.reduced[rows],
            sound=self.sound[rows],
        )

    def __iter__(self) -> Iterator[tuple[Array, Array, Array]]:
        """Yield cell, fractional coordinates and atomic numbers of each crystal."""
        counts = self.n_atoms.tolist()
        yield from zip(
            self.cells.numpy(),
            (part.numpy() for part in self.fractional.split(counts)),
            (part.numpy() for part in self.numbers.split(counts)),
            strict=True,
        )

    @classmethod
    def concatenate(cls, parts: list[ReducedCrystals]) -> ReducedCrystals:
        """Return the crystals of all parts, one after the other."""
        return cls(**{name: torch.cat([part.tensors[name] for part in parts]) for name in _NAMES})


_NAMES = tuple(field.name for field in fields(ReducedCrystals))


def sound_crystals(structures: StructureBatch) -> Bool[Tensor, "B"]:
    """Return which structures are crystals: periodic in three directions and physically possible."""
    sound = structures.pbc.all(1).cpu()
    sound[list(find_problems(structures))] = False
    return sound


def reduce_crystals(structures: StructureBatch) -> ReducedCrystals:
    """Return crystals in their primitive Niggli cells; what is no crystal is kept and marked as not sound."""
    from pymatgen.core import Lattice

    structures = structures.to(device="cpu", dtype=torch.float64)
    sound = sound_crystals(structures)
    counts = structures.n_atoms.tolist()
    rows = zip(
        structures.cells.detach().numpy(),
        structures.positions.detach().split(counts),
        structures.atomic_numbers.split(counts),
        sound.tolist(),
        strict=True,
    )
    cells, fractional, numbers, reduced = [], [], [], []
    for cell, positions, elements, is_sound in rows:
        crystal = _Crystal(Lattice(np.eye(3)), np.zeros((len(positions), 3)), elements.numpy())
        done = False
        if is_sound:
            lattice = Lattice(cell)
            crystal = _Crystal(
                lattice, lattice.get_fractional_coords(positions.numpy()) % 1, elements.numpy()
            )
            with suppress(ValueError, RuntimeError, ArithmeticError, IndexError):  # kept in the cell it has
                crystal, done = _primitive(_niggli(crystal)), True
        cells.append(crystal.lattice.matrix)
        fractional.append(crystal.fractional)
        numbers.append(crystal.numbers)
        reduced.append(done)
    return ReducedCrystals(
        cells=torch.tensor(np.array(cells).reshape(-1, 3, 3)),
        fractional=torch.tensor(np.concatenate([np.zeros((0, 3)), *fractional])),
        numbers=torch.tensor(np.concatenate([np.zeros(0, dtype=np.int64), *numbers]), dtype=torch.int64),
        n_atoms=torch.tensor([len(part) for part in numbers], dtype=torch.int64),
        reduced=torch.tensor(reduced, dtype=torch.bool),
        sound=sound,
    )


@dataclass(frozen=True)
class _Crystal:
    lattice: Lattice
    fractional: Array
    numbers: Array


def _niggli(crystal: _Crystal) -> _Crystal:
    lattice = crystal.lattice.get_niggli_reduced_lattice()
    if lattice == crystal.lattice:
        return crystal
    positions = crystal.lattice.get_cartesian_coords(crystal.fractional)
    return _Crystal(lattice, lattice.get_fractional_coords(positions) % 1, crystal.numbers)


def _primitive(crystal: _Crystal) -> _Crystal:
    """Return the crystal in a smaller cell, if there is one; atoms that fall together are averaged."""
    symbols = np.array([chemical_symbols[number] for number in crystal.numbers])
    groups = [np.flatnonzero(symbols == symbol) for symbol in sorted(set(symbols.tolist()))]
    common = math.gcd(*map(len, groups))
    if common == 1:
        return crystal
    places = [crystal.fractional[group] for group in groups]
    by_size = sorted(places, key=len)
    tolerance = PRIMITIVE_TOLERANCE / np.array(crystal.lattice.abc)
    vectors = _periodicities(by_size, 2 * tolerance)
    apart = []
    for place in places:
        between = place[None] - place[:, None]
        distant = (np.abs(between - np.round(between)) > 2 * tolerance).any(-1)
        np.fill_diagonal(distant, True)
        apart.append(distant)
    for diagonal in _diagonals(common):
        # Each lattice vector of the smaller cell is one of the periodicities, and so is each coordinate.
        offset = 1 / np.array(diagonal) - vectors
        if not (np.abs(offset - np.round(offset)) < tolerance).any(0).all():
            continue
        size = math.prod(diagonal)
        for matrix, inverse in _of_periodicities(*_supercells(*diagonal), vectors, tolerance):
            if (smaller := _folded(crystal, groups, places, apart, matrix, inverse, size)) is not None:
                return _niggli(_primitive(smaller))
    return crystal


def _periodicities(groups: list[Array], tolerance: Array) -> Array:
    """Return vectors between atoms of the rarest element that bring every atom near one of its element."""
    vectors = groups[0] - groups[0][0]
    for group in groups:
        for place in group:
            if len(vectors) == 1:  # no displacement, which every atom allows
                return vectors
            between = vectors[:, None] - (group - place)[None]
            vectors = vectors[(np.abs(between - np.round(between)) < tolerance).all(-1).any(1)]
    return vectors


@lru_cache(maxsize=256)
def _diagonals(common: int) -> list[tuple[int, int, int]]:
    """Return the diagonals of Hermite normal forms whose determinant divides ``common``, by determinant."""
    return [
        (a, e, size // (a * e))
        for size in range(2, common + 1)
        if common % size == 0
        for a in range(1, size + 1)
        for e in range(1, size // a + 1)
        if size % (a * e) == 0
    ]


@lru_cache(maxsize=64)
def _supercells(a: int, e: int, g: int) -> tuple[Array, Array]:
    """Return all supercells of a diagonal, in Hermite normal form, and their inverses."""
    off_diagonal = np.stack(np.meshgrid(range(a), range(a), range(e), indexing="ij"), -1)
    matrices = np.zeros((a * a * e, 3, 3))
    matrices[:] = np.diag([a, e, g])
    matrices[:, [0, 0, 1], [1, 2, 2]] = off_diagonal.reshape(-1, 3)
    return matrices, np.linalg.inv(matrices)


def _of_periodicities(
    matrices: Array, inverses: Array, vectors: Array, tolerance: Array
) -> Iterator[tuple[Array, Array]]:
    """Yield the supercells whose every lattice vector is near one of the vectors."""
    step = max(1, _AT_ONCE // (9 * len(vectors)))
    for first in range(0, len(matrices), step):
        part = inverses[first : first + step]
        between = part[:, :, None] - vectors
        between -= np.round(between)
        near = (np.abs(between) < tolerance).all(-1).any(-1).all(-1)
        yield from zip(matrices[first : first + step][near], part[near], strict=True)


def _folded(
    crystal: _Crystal,
    groups: list[Array],
    places: list[Array],
    apart: list[Array],
    matrix: Array,
    inverse: Array,
    size: int,
) -> _Crystal | None:
    """Return the crystal in the cell that ``matrix`` makes the present one of; None if it has another one."""
    from pymatgen.core import Lattice

    cell = inverse @ crystal.lattice.matrix
    tolerance = PRIMITIVE_TOLERANCE / np.sqrt((cell**2).sum(1))
    fractional, numbers = [], []
    for group, place, distant in zip(groups, places, apart, strict=True):
        folded = place @ matrix
        between = folded[None] - folded[:, None]
        images = (np.abs(between - np.round(between)) < tolerance).all(-1) & distant
        if not (images.sum(0) == size).all():
            return None
        if not all(images[row][:, row].all() for row in images):
            return None
        folded %= 1
        added = np.zeros(len(place), dtype=bool)
        for index, row in enumerate(images):
            if added[index]:
                continue
            members = np.flatnonzero(row)
            added[members] = True
            mean = folded[members[0]].copy()
            for count, member in enumerate(members[1:], 2):
                step = folded[member] - mean
                mean += (step - np.round(step)) / count
            fractional.append(mean)
            numbers.append(crystal.numbers[group[index]])
    return _Crystal(Lattice(cell), np.array(fractional), np.array(numbers))
