"""The elements of a structure: for each element of the data, 1 where the structure has it, else 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from whorl.conditions.base import Condition, no_column
from whorl.errors import InputError
from whorl.settings import Section
from whorl.structures import StructureBatch
from whorl.structures.composition import element_counts, species_of


@dataclass(frozen=True)
class Elements(Condition):
    """The elements that a structure has.

    Attributes:
        elements: Chemical symbols that there are columns for.
    """

    kind = "elements"

    class Request(Section):
        """Elements that are requested."""

        elements: Annotated[
            Annotated[list[str], Field(min_length=1)] | None, Field(json_schema_extra={"option": "element"})
        ] = None
        """Chemical symbols that each structure must have; it may have others too."""

    elements: tuple[str, ...]

    @classmethod
    def of_data(cls, structures: StructureBatch) -> Elements:
        """Return the condition for the elements of these structures."""
        return cls(tuple(species_of(structures)))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column, such as ``element O``."""
        return tuple(f"element {symbol}" for symbol in self.elements)

    def columns(self, structures: StructureBatch) -> Float[Tensor, "N p"]:
        """Return 1 where a structure has the element, else 0.

        Raises:
            InputError: A structure with another element.
        """
        return (fractions_of(structures, self.elements) > 0).double()

    def config(self) -> dict[str, Any]:
        """Return the elements."""
        return {"elements": list(self.elements)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Elements:
        """Rebuild from :meth:`config`."""
        return cls(tuple(str(symbol) for symbol in config["elements"]))

    @classmethod
    def check(cls, value: Sequence[str]) -> None:
        """Make sure that there are such elements.

        Raises:
            InputError: Some are none; all of them are named.
        """
        require_elements(value)

    @classmethod
    def satisfied(cls, structures: StructureBatch, value: Sequence[str]) -> Bool[Tensor, "N"]:
        """Return which structures have all of the elements; they may have others."""
        wanted = [atomic_numbers[symbol] for symbol in value]
        return (element_fractions(structures)[:, wanted] > 0).all(1)

    @classmethod
    def describe(cls, value: Sequence[str]) -> str:
        """Return ``with Ba, O``."""
        return f"with {', '.join(value)}"

    def distance(self, columns: Float[Tensor, "N p"], value: Sequence[str]) -> Float[Tensor, "N"]:
        """Return how many of the elements each row lacks."""
        return (self.wanted(value) & (columns == 0)).sum(1).double()

    def write(self, rows: Float[Tensor, "n p"], value: Sequence[str], rng: torch.Generator) -> None:
        """Put elements that are missing in the place of others; see :func:`substituted`."""
        rows[:] = (substituted(rows, self.wanted(value), rng) > 0).double()

    def require_seen(self, columns: Float[Tensor, "N p"], value: Iterable[str]) -> None:
        """Make sure that some row has each of the elements.

        Raises:
            InputError: None has one of them.
        """
        there = (columns > 0).any(0).tolist()
        seen = [symbol for symbol, present in zip(self.elements, there, strict=True) if present]
        if unseen := [symbol for symbol in dict.fromkeys(value) if symbol not in seen]:
            raise InputError(
                f"{', '.join(unseen)}: no structure that the generator was trained on has it. Choose from: "
                f"{', '.join(seen)}."
            )

    def wanted(self, value: Iterable[str]) -> Bool[Tensor, "p"]:
        """Return which of the columns are of these elements."""
        symbols = set(value)
        return torch.tensor([symbol in symbols for symbol in self.elements], dtype=torch.bool)


def require_elements(symbols: Iterable[str]) -> None:
    """Make sure that there are such elements.

    Raises:
        InputError: Some are none; all of them are named.
    """
    known = chemical_symbols[1:]
    unknown = [symbol for symbol in dict.fromkeys(symbols) if symbol not in known]
    if unknown:
        near = [symbol.capitalize() for symbol in unknown if symbol.capitalize() in known]
        hint = f" Did you mean '{', '.join(near)}'?" if near else ""
        named = "', '".join(unknown)
        raise InputError(
            f"unknown element{'s' if len(unknown) > 1 else ''} '{named}'.{hint} "
            "Write chemical symbols such as O or Ti."
        )


def element_fractions(structures: StructureBatch) -> Float[Tensor, "B 119"]:
    """Return the fraction of the atoms that each element has, by atomic number; zeros without atoms."""
    counts = element_counts(structures)
    return counts / counts.sum(1, keepdim=True).clamp(min=1.0)


def fractions_of(structures: StructureBatch, elements: Sequence[str]) -> Float[Tensor, "N e"]:
    """Return the fractions of these elements alone.

    Raises:
        InputError: A structure with another element.
    """
    fractions = element_fractions(structures)
    own = [atomic_numbers[symbol] for symbol in elements]
    others = fractions.clone()
    others[:, own] = 0.0
    if strange := others.nonzero().tolist():
        row, number = strange[0]
        raise no_column(row, f"has {chemical_symbols[number]}", elements)
    return fractions[:, own]


def substituted(
    fractions: Float[Tensor, "n e"], wanted: Bool[Tensor, "e"], rng: torch.Generator
) -> Float[Tensor, "n e"]:
    """Put elements that are wanted but missing in the place of others; add those for which none is left.

    Args:
        fractions: Of the elements in each row.
        wanted: Elements that each row must have.
        rng: Chooses which of the other elements gives up its place.
    """
    fractions = fractions.clone()
    for element in wanted.nonzero()[:, 0].tolist():
        lacks = (fractions[:, element] == 0).nonzero()[:, 0]
        others = ((fractions[lacks] > 0) & ~wanted).double()
        some, full = lacks[others.any(1)], lacks[~others.any(1)]
        if len(some):
            place = torch.multinomial(others[others.any(1)], 1, generator=rng)[:, 0]
            fractions[some, element], fractions[some, place] = fractions[some, place], 0.0
        # Added with the mean fraction of those that are there.
        mean = fractions[full].sum(1) / (fractions[full] > 0).sum(1)
        fractions[full, element] = mean
        fractions[full] = fractions[full] / fractions[full].sum(1, keepdim=True)
    return fractions
