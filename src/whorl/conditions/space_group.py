"""Space group as a condition, one-hot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from whorl.conditions.base import Condition, no_column
from whorl.conditions.crystal_system import (
    CrystalSystem,
    space_groups_found,
    space_groups_of_data,
    systems_of,
)
from whorl.errors import InputError
from whorl.settings import Section
from whorl.structures import StructureBatch
from whorl.symmetry.detection import crystal_system


@dataclass(frozen=True)
class SpaceGroup(Condition):
    """The space group. The crystal system follows from it.

    Attributes:
        space_groups: Numbers that there are columns for.
    """

    kind = "space_group"
    coarser = CrystalSystem

    class Request(Section):
        """A requested space group."""

        space_group: Annotated[int, Field(ge=1, le=230)] | None = None
        """Number of the space group that each structure must have."""

    space_groups: tuple[int, ...]

    @classmethod
    def of_data(cls, structures: StructureBatch) -> SpaceGroup:
        """Return the condition for the space groups of these structures."""
        return cls(tuple(torch.unique(space_groups_of_data(structures)).tolist()))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column, such as ``space group 221``."""
        return tuple(f"space group {number}" for number in self.space_groups)

    def columns(self, structures: StructureBatch) -> Float[Tensor, "N p"]:
        """Return the space group as one-hot rows.

        Raises:
            InputError: A structure of another space group, or one that is not periodic.
        """
        groups = space_groups_of_data(structures)
        columns = (groups[:, None] == torch.tensor(self.space_groups, dtype=torch.int64)).double()
        if strange := (columns.sum(1) == 0).nonzero()[:, 0].tolist():
            what = f"is of space group {int(groups[strange[0]])}"
            raise no_column(strange[0], what, self.space_groups)
        return columns

    def config(self) -> dict[str, Any]:
        """Return the numbers of the space groups."""
        return {"space_groups": list(self.space_groups)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SpaceGroup:
        """Rebuild from :meth:`config`."""
        return cls(tuple(int(number) for number in config["space_groups"]))

    @classmethod
    def check(cls, value: int) -> None:
        """Check that there is such a space group.

        Raises:
            InputError: There is none.
        """
        crystal_system(value)

    @classmethod
    def satisfied(cls, structures: StructureBatch, value: int) -> Bool[Tensor, "N"]:
        """Return which structures are of the group; see :func:`crystal_system.space_groups_found`."""
        return space_groups_found(structures) == value

    def encode(self, value: int) -> Float[Tensor, "p"]:
        """Return a one-hot row."""
        return torch.tensor([number == value for number in self.space_groups], dtype=torch.float64)

    def seen(self, columns: Float[Tensor, "N p"]) -> Sequence[str]:
        """Return the numbers of the groups of these rows."""
        there = (columns > 0).any(0).tolist()
        return [str(number) for number, present in zip(self.space_groups, there, strict=True) if present]

    @classmethod
    def require_agreement(cls, value: int, coarse: str) -> None:
        """Check that the group belongs to the requested crystal system.

        Raises:
            InputError: It is of another.
        """
        if coarse != crystal_system(value):
            raise InputError(
                f"space group {value} is {crystal_system(value)}, not {coarse}. Request one of the two."
            )

    def as_coarser(self) -> CrystalSystem:
        """Return the condition of the crystal system."""
        return CrystalSystem()

    def coarse_columns(self, columns: Float[Tensor, "n p"]) -> Float[Tensor, "n 7"]:
        """Return the systems of the groups."""
        return columns @ systems_of(torch.tensor(self.space_groups, dtype=torch.int64)).to(columns.dtype)
