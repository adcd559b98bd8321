"""Requests of formulas, and settings of the methods that propose them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from ase.data import chemical_symbols
from pydantic import Field, field_validator, model_serializer, model_validator

from whorl.axes import PROPOSERS
from whorl.errors import did_you_mean
from whorl.settings import Range, Section, SectionOfKind

_YOUNGER = ("formula", "model")  # keys


class FormulaRequest(Section):
    """What each formula must be."""

    elements: Annotated[list[str], Field(json_schema_extra={"option": "element"})] = []
    """Elements that each formula has; it may have others too."""
    exclude: list[str] = []
    """Elements that no formula has."""
    n_atoms: Range | None = None
    """Least and greatest number of atoms, such as 4..10."""
    n_elements: Range | None = None
    """Least and greatest number of elements, such as 2..3."""
    balanced: bool = False
    """Whether known oxidation states have to add up to zero (by smact; alloys of metals count as neutral)."""
    new: bool = False
    """Whether formulas of the data are left out."""
    formula: str | None = None
    """This formula alone, all atoms of the cell, such as Sr2Ti2O6: likely structures of it."""

    @property
    def every_element(self) -> list[str]:
        """Elements that are requested, those of the formula too."""
        return [*self.elements, *(self.counts or ())]

    @property
    def counts(self) -> dict[str, int] | None:
        """Elements and numbers of atoms of the formula, if one is requested."""
        from whorl.structures.composition import composition

        return None if self.formula is None else composition(self.formula)

    @field_validator("formula")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        from whorl.structures.composition import composition

        if value is not None:
            composition(value)
        return value

    @model_validator(mode="after")
    def _agreeing(self) -> FormulaRequest:
        for symbol in (*self.elements, *self.exclude):
            if symbol not in chemical_symbols[1:]:
                raise ValueError(f"unknown element '{symbol}'.{did_you_mean(symbol, chemical_symbols[1:])}")
        if both := [symbol for symbol in self.elements if symbol in self.exclude]:
            raise ValueError(f"{', '.join(both)} cannot be both requested and excluded")
        counts = self.counts
        if counts is not None:
            lacking = [symbol for symbol in self.elements if symbol not in counts]
            excluded = [symbol for symbol in self.exclude if symbol in counts]
            if lacking or excluded:
                raise ValueError(
                    f"formula {self.formula}: has no {lacking[0]}, which is requested too"
                    if lacking
                    else f"formula {self.formula}: has {excluded[0]}, which is excluded"
                )
        for name, number in (
            ("n_atoms", None if counts is None else sum(counts.values())),
            ("n_elements", None if counts is None else len(counts)),
        ):
            span = getattr(self, name)
            if number is not None and span is not None and not span[0] <= number <= span[1]:
                raise ValueError(f"{name}: {self.formula} has {number}, expected {span[0]} to {span[1]}")
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{name}: got {span[0]} to {span[1]}, expected the least number first")
        most = min(span[1] for span in (self.n_atoms, self.n_elements, (0, math.inf)) if span is not None)
        if len(set(self.elements)) > most:
            raise ValueError(f"{len(set(self.elements))} elements are requested, and at most {most} allowed")
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        # Runs begun before there were these keys go on.
        return {
            key: value for key, value in handler(self).items() if value is not None or key not in _YOUNGER
        }


class ProposerSettings(SectionOfKind):
    """Settings of a method that proposes formulas; further keys depend on its kind."""

    registry = PROPOSERS
    default = "substitution"


class ProposalSettings(FormulaRequest):
    """What each formula must be, and the method that proposes them."""

    model: ProposerSettings | None = None
    """Method that proposes the formulas, by name or as a section with its settings; substitution by
    default."""

    @property
    def proposer(self) -> ProposerSettings:
        """Settings of the method."""
        return self.model or PROPOSERS.get(ProposerSettings.default).Settings()
