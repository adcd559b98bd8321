"""The crystal system of a crystal: for each of the seven, 1 where the crystal is of it, else 0."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whorl.conditions.base import Condition
from whorl.errors import InputError, unknown_option
from whorl.settings import Section
from whorl.structures import StructureBatch
from whorl.structures.cells import volumes
from whorl.symmetry.detection import CRYSTAL_SYSTEMS, known_space_groups, space_group_numbers

SYMPREC = 0.1
"""Tolerance in Å with which space groups are found."""

_TINY = 1e-3  # Å³; spglib is not asked about cells below that


@dataclass(frozen=True)
class CrystalSystem(Condition):
    """The crystal system: triclinic, monoclinic, orthorhombic, tetragonal, trigonal, hexagonal or cubic."""

    kind = "crystal_system"

    class Request(Section):
        """A crystal system that is requested."""

        crystal_system: str | None = None
        """Crystal system that each structure must have, such as cubic."""

    @classmethod
    def of_data(cls, structures: StructureBatch) -> CrystalSystem:
        """Return the condition; its columns are always the seven."""
        return cls()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the systems."""
        return tuple(CRYSTAL_SYSTEMS)

    def columns(self, structures: StructureBatch) -> Float[Tensor, "N 7"]:
        """Return the system as one-hot rows; see :func:`space_groups_of_data`."""
        return systems_of(space_groups_of_data(structures))

    @classmethod
    def check(cls, value: str) -> None:
        """Make sure that there is such a system.

        Raises:
            InputError: There is none.
        """
        if value not in CRYSTAL_SYSTEMS:
            raise unknown_option("crystal system", value, CRYSTAL_SYSTEMS)

    @classmethod
    def satisfied(cls, structures: StructureBatch, value: str) -> Bool[Tensor, "N"]:
        """Return which structures are of the system; see :func:`space_groups_found`."""
        numbers, groups = CRYSTAL_SYSTEMS[value], space_groups_found(structures)
        return (groups >= numbers.start) & (groups < numbers.stop)

    @classmethod
    def describe(cls, value: str) -> str:
        """Return the name of the system."""
        return value

    def encode(self, value: str) -> Float[Tensor, "7"]:
        """Return a one-hot row."""
        return torch.tensor([name == value for name in CRYSTAL_SYSTEMS], dtype=torch.float64)

    def seen(self, columns: Float[Tensor, "N 7"]) -> Sequence[str]:
        """Return the systems of these rows."""
        there = (columns > 0).any(0).tolist()
        return [name for name, present in zip(CRYSTAL_SYSTEMS, there, strict=True) if present]


def systems_of(groups: Int[Tensor, "N"]) -> Float[Tensor, "N 7"]:
    """Return the crystal systems of space groups as one-hot rows; zeros for numbers that are none."""
    of = [(groups >= numbers.start) & (groups < numbers.stop) for numbers in CRYSTAL_SYSTEMS.values()]
    return torch.stack(of, 1).double()


def _keeping_the_last(
    find: Callable[[StructureBatch], Tensor],
) -> Callable[[StructureBatch], Tensor]:
    """Keep the result for the last structures: several conditions need it, and it costs milliseconds each."""
    last: list[tuple[weakref.ref[StructureBatch], Tensor]] = []

    def found(structures: StructureBatch) -> Tensor:
        for batch, groups in last:
            if batch() is structures:
                return groups
        last[:] = [(weakref.ref(structures), find(structures))]
        return last[0][1]

    found.__doc__ = find.__doc__
    return found


@_keeping_the_last
def space_groups_of_data(structures: StructureBatch) -> Int[Tensor, "N"]:
    """Return the space groups that ``info`` states, or else those that spglib finds within 0.1 Å.

    Raises:
        InputError: A structure that is not periodic.
    """
    not_periodic = (~structures.pbc.all(1)).nonzero()[:, 0].tolist()
    if not_periodic:
        raise InputError(
            f"conditions: structure {not_periodic[0]} is not periodic in all three directions, and so is of "
            "no crystal system or space group. Leave these two out of the conditions."
        )
    return known_space_groups(structures, symprec=SYMPREC)


@_keeping_the_last
def space_groups_found(structures: StructureBatch) -> Int[Tensor, "N"]:
    """Return the space groups that spglib finds within 0.1 Å; 0 for structures that have none.

    What ``info`` states does not count: of a decoded structure it may be no more than what its tensor said.
    """
    sound = structures.pbc.all(1) & structures.cells.isfinite().flatten(1).all(1) & (structures.n_atoms > 0)
    sound &= volumes(structures.cells) > _TINY
    sound[structures.structure_index[~structures.positions.isfinite().all(1)]] = False
    groups = torch.zeros(len(structures), dtype=torch.int64)
    if bool(sound.any()):
        groups[sound.cpu()] = space_group_numbers(structures[sound], symprec=SYMPREC)
    return groups
