"""Batches of structures as flat tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.errors import InputError

STRUCTURE_TENSORS = ("positions", "cells", "pbc", "atomic_numbers", "structure_index")
_TYPES = {"pbc": torch.bool, "atomic_numbers": torch.int64, "structure_index": torch.int64}
_HEAVIEST = 118
_SHOWN, _SHOWN_OF = (
    4,
    100,
)  # formulas in a representation of a batch, and structures that are looked at for it


@dataclass(frozen=True, kw_only=True)
class StructureBatch:
    """B structures with A atoms in all.

    The tensors are flat over atoms; ``structure_index`` says which structure an atom belongs to.
    Conventions are ASE's: Å, lattice vectors as rows, atoms may lie outside the cell.

    Attributes:
        positions: Cartesian coordinates in Å, shape (A, 3).
        cells: Lattice vectors as rows in Å, shape (B, 3, 3); all zeros where there is no cell.
        pbc: Periodicity along each lattice vector, shape (B, 3).
        atomic_numbers: Shape (A,).
        structure_index: Sorted, 0 … B-1, shape (A,).
        info: One mapping per structure with other data (labels, origin); or empty.

    Raises:
        InputError: Shapes or types that do not fit together. Values are looked at by :meth:`check` alone.
    """

    positions: Float[Tensor, "A 3"]
    cells: Float[Tensor, "B 3 3"]
    pbc: Bool[Tensor, "B 3"]
    atomic_numbers: Int[Tensor, "A"]
    structure_index: Int[Tensor, "A"]
    info: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        n_atoms, n_structures = self.positions.shape[0], self.cells.shape[0]
        expected = {
            "positions": (n_atoms, 3),
            "cells": (n_structures, 3, 3),
            "pbc": (n_structures, 3),
            "atomic_numbers": (n_atoms,),
            "structure_index": (n_atoms,),
        }
        for name, shape in expected.items():
            values = getattr(self, name)
            if tuple(values.shape) != shape:
                raise InputError(
                    f"StructureBatch.{name}: got shape {tuple(values.shape)}, expected {shape} "
                    f"for {n_atoms} atoms in {n_structures} structures."
                )
            if name in _TYPES and values.dtype != _TYPES[name]:
                raise InputError(f"StructureBatch.{name}: got {values.dtype}, expected {_TYPES[name]}.")
        if not self.positions.dtype.is_floating_point or self.cells.dtype != self.positions.dtype:
            raise InputError(
                f"StructureBatch: got positions of {self.positions.dtype} and cells of {self.cells.dtype}, "
                "expected one floating-point type, such as torch.float64."
            )
        if self.info and len(self.info) != n_structures:
            raise InputError(
                f"StructureBatch.info: got {len(self.info)} mappings for {n_structures} structures."
            )

    def check(self) -> None:
        """Look at the values, which costs more than looking at shapes and types.

        Raises:
            InputError: ``structure_index`` is not sorted or names structures that are not there, an atomic
                number is none (0 stands for a dummy), or a cell is not finite.
        """
        index, numbers = self.structure_index, self.atomic_numbers
        if len(index) and (
            int(index[0]) < 0 or int(index[-1]) >= len(self) or bool((index[1:] < index[:-1]).any())
        ):
            raise InputError(
                f"StructureBatch.structure_index: expected it sorted, from 0 to {len(self) - 1} for "
                f"{len(self)} structures."
            )
        wrong = (numbers < 0) | (numbers > _HEAVIEST)
        if bool(wrong.any()):
            raise InputError(
                f"StructureBatch.atomic_numbers: got {int(numbers[wrong][0])}, expected 0 to {_HEAVIEST}."
            )
        endless = ~self.cells.isfinite().flatten(1).all(1)
        if bool(endless.any()):
            raise InputError(
                f"StructureBatch.cells: that of structure {int(torch.nonzero(endless)[0])} is not finite."
            )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The five tensors by name: all but ``info``."""
        return {name: getattr(self, name) for name in STRUCTURE_TENSORS}

    def __len__(self) -> int:
        """Return the number of structures B."""
        return self.cells.shape[0]

    def __repr__(self) -> str:
        """Return in one line how many structures these are, of which formulas, and how they are held."""
        first = int(torch.searchsorted(self.structure_index, min(len(self), _SHOWN_OF)))
        numbers = self.atomic_numbers[:first].clamp(0, _HEAVIEST).cpu().numpy()
        index = self.structure_index[:first].cpu().numpy()
        formulas: dict[str, None] = {}  # in the order of their first occurrence
        for structure in range(min(len(self), _SHOWN_OF)):
            formulas[_formula(numbers[index == structure])] = None
        shown = ", ".join(list(formulas)[:_SHOWN]) + (", …" if len(formulas) > _SHOWN else "")
        periodic = int(self.pbc.any(1).sum())
        where = {0: "not periodic", len(self): "periodic"}.get(
            periodic, f"{periodic} of {len(self)} periodic"
        )
        held = str(self.dtype).removeprefix("torch.") + (
            "" if self.device.type == "cpu" else f" on {self.device}"
        )
        return f"StructureBatch({len(self)}: {shown}; {where}; {held})" if len(self) else "StructureBatch(0)"

    @property
    def n_atoms(self) -> Int[Tensor, "B"]:
        """Number of atoms in each structure."""
        return torch.bincount(self.structure_index, minlength=len(self))

    @property
    def first_atom(self) -> Int[Tensor, "B"]:
        """Index of the first atom of each structure in the flat tensors."""
        counts = self.n_atoms
        return torch.cumsum(counts, 0) - counts

    @property
    def position_in_structure(self) -> Int[Tensor, "A"]:
        """Index of each atom within its own structure."""
        return (
            torch.arange(self.positions.shape[0], device=self.device) - self.first_atom[self.structure_index]
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of positions and cells."""
        return self.positions.dtype

    @property
    def device(self) -> torch.device:
        """Device that holds the tensors."""
        return self.positions.device

    def replace(self, **changes: Any) -> StructureBatch:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StructureBatch:
        """Return the batch on another device or in another floating-point type."""
        return self.replace(
            positions=self.positions.to(device=device, dtype=dtype),
            cells=self.cells.to(device=device, dtype=dtype),
            pbc=self.pbc.to(device=device),
            atomic_numbers=self.atomic_numbers.to(device=device),
            structure_index=self.structure_index.to(device=device),
        )

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> StructureBatch:
        """Return the chosen structures, in the order asked for; repeats are allowed.

        ``index`` is an integer, a slice, a sequence of integers, or a tensor of integers or booleans.
        """
        every = torch.arange(len(self), device=self.device)
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"structure {index} of a batch of {len(self)}")
            chosen = every[index].reshape(1)
        elif isinstance(index, slice):
            chosen = every[index]
        else:
            wanted = torch.as_tensor(index, device=self.device)
            chosen = every[wanted if wanted.dtype == torch.bool else wanted.long()]  # [] would be float
        atoms, new_index = self._atoms_of(chosen)
        return StructureBatch(
            positions=self.positions[atoms],
            cells=self.cells[chosen],
            pbc=self.pbc[chosen],
            atomic_numbers=self.atomic_numbers[atoms],
            structure_index=new_index,
            info=tuple(self.info[i] for i in chosen.tolist()) if self.info else (),
        )

    def atoms_of(self, rows: Int[Tensor, "b"]) -> Int[Tensor, "a"]:
        """Return where in the flat tensors the atoms of the chosen structures are, in the order asked for."""
        return self._atoms_of(rows)[0]

    def _atoms_of(self, rows: Int[Tensor, "b"]) -> tuple[Int[Tensor, "a"], Int[Tensor, "a"]]:
        counts = self.n_atoms[rows]
        new_index = torch.repeat_interleave(torch.arange(len(rows), device=self.device), counts)
        within = (
            torch.arange(new_index.shape[0], device=self.device)
            - (torch.cumsum(counts, 0) - counts)[new_index]
        )
        return self.first_atom[rows][new_index] + within, new_index

    def __iter__(self) -> Iterator[StructureBatch]:
        """Iterate over batches of one structure each."""
        return (self[i] for i in range(len(self)))

    def chunks(self, size: int) -> Iterator[StructureBatch]:
        """Iterate over batches of at most ``size`` structures, in order."""
        return (self[start : start + size] for start in range(0, len(self), size))

    @classmethod
    def concatenate(cls, batches: Sequence[StructureBatch]) -> StructureBatch:
        """Join batches into one, in order. ``info`` is kept where any of them has it."""
        if not batches:
            raise InputError("StructureBatch.concatenate: got no batches, expected at least one.")
        offsets = [0]
        for batch in batches:
            offsets.append(offsets[-1] + len(batch))
        info: tuple[Mapping[str, Any], ...] = ()
        if any(batch.info for batch in batches):
            info = tuple(item for batch in batches for item in (batch.info or ({},) * len(batch)))
        return cls(
            positions=torch.cat([batch.positions for batch in batches]),
            cells=torch.cat([batch.cells for batch in batches]),
            pbc=torch.cat([batch.pbc for batch in batches]),
            atomic_numbers=torch.cat([batch.atomic_numbers for batch in batches]),
            structure_index=torch.cat(
                [batch.structure_index + offset for batch, offset in zip(batches, offsets, strict=False)]
            ),
            info=info,
        )


def _formula(numbers: Any) -> str:
    from ase.symbols import Symbols

    return str(Symbols(numbers).formula.convert("metal")) or "no atoms"
