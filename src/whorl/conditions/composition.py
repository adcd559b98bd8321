"""Composition as a condition: the fraction of atoms of each element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ase.data import atomic_numbers
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.conditions.base import Condition
from whorl.conditions.elements import (
    Elements,
    element_fractions,
    fractions_of,
    require_elements,
    substituted,
)
from whorl.errors import InputError
from whorl.settings import Section
from whorl.structures import StructureBatch
from whorl.structures.composition import composition, species_of

_SAME = 1e-9  # difference of fractions that are equal


@dataclass(frozen=True)
class Composition(Condition):
    """The fraction of the atoms that each element has. The elements follow from it.

    Attributes:
        elements: Chemical symbols that there are columns for.
    """

    kind = "composition"
    coarser = Elements

    class Request(Section):
        """A formula that is requested."""

        formula: str | None = None
        """Formula that each structure must have, as fractions: BaTiO3 is Ba2Ti2O6."""

    elements: tuple[str, ...]

    @classmethod
    def of_data(cls, structures: StructureBatch) -> Composition:
        """Return the condition for the elements of these structures."""
        return cls(tuple(species_of(structures)))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column, such as ``fraction of O``."""
        return tuple(f"fraction of {symbol}" for symbol in self.elements)

    def columns(self, structures: StructureBatch) -> Float[Tensor, "N p"]:
        """Return the fraction of the atoms that each element has.

        Raises:
            InputError: A structure with another element.
        """
        return fractions_of(structures, self.elements)

    def config(self) -> dict[str, Any]:
        """Return the elements."""
        return {"elements": list(self.elements)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Composition:
        """Rebuild from :meth:`config`."""
        return cls(tuple(str(symbol) for symbol in config["elements"]))

    @classmethod
    def check(cls, value: str) -> None:
        """Make sure that it is a formula.

        Raises:
            InputError: It is none, or has unknown elements.
        """
        cls.fractions(value)

    @staticmethod
    def fractions(value: str) -> dict[str, float]:
        """Return the fraction of each element in a formula.

        >>> Composition.fractions("Ba2Ti2O6")
        {'Ba': 0.2, 'Ti': 0.2, 'O': 0.6}

        Raises:
            InputError: No formula, or unknown elements.
        """
        counts = composition(value)
        require_elements(counts)
        atoms = sum(counts.values())
        return {symbol: count / atoms for symbol, count in counts.items()}

    @classmethod
    def satisfied(cls, structures: StructureBatch, value: str) -> Bool[Tensor, "N"]:
        """Return which structures have the fractions of the formula."""
        expected = torch.zeros(119, dtype=torch.float64)
        for symbol, fraction in cls.fractions(value).items():
            expected[atomic_numbers[symbol]] = fraction
        return ((element_fractions(structures) - expected).abs() < _SAME).all(1)

    @classmethod
    def describe(cls, value: str) -> str:
        """Return the formula."""
        return value

    def encode(self, value: str) -> Float[Tensor, "p"]:
        """Return the fractions of the formula."""
        fractions = self.fractions(value)
        return torch.tensor([fractions.get(symbol, 0.0) for symbol in self.elements], dtype=torch.float64)

    def distance(self, columns: Float[Tensor, "N p"], value: str) -> Float[Tensor, "N"]:
        """Return by how many elements each row differs, and below 1 how far their fractions are apart."""
        expected = self.encode(value)
        apart = (columns.double() - expected).abs().sum(1) / 2.0
        # In steps of a tenth: rows that are nearly alike are all drawn from.
        steps = (10.0 * apart - 1e-6).clamp(min=0.0).ceil() / 11.0
        return ((expected > 0) != (columns > 0)).sum(1) + steps

    def require_seen(self, columns: Float[Tensor, "N p"], value: str) -> None:
        """Make sure that some row has each of the elements.

        Raises:
            InputError: None has one of them.
        """
        self.as_coarser().require_seen(self.coarse_columns(columns), self.fractions(value))

    @classmethod
    def require_agreement(cls, value: str, coarse: Sequence[str]) -> None:
        """Make sure that the formula has the elements that are requested too.

        Raises:
            InputError: It lacks some.
        """
        fractions = cls.fractions(value)
        if strange := [symbol for symbol in coarse if symbol not in fractions]:
            raise InputError(
                f"elements: got {', '.join(strange)}, which {value} does not have. Ask for one of the two."
            )

    def as_coarser(self) -> Elements:
        """Return the condition of the elements."""
        return Elements(self.elements)

    def coarse_columns(self, columns: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """Return which elements are there."""
        return (columns > 0).double()

    def write_coarser(self, rows: Float[Tensor, "n p"], value: Sequence[str], rng: torch.Generator) -> None:
        """Put elements that are missing in the place of others, with their fractions."""
        rows[:] = substituted(rows, self.as_coarser().wanted(value), rng)
