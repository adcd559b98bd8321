"""Requests of formulas."""

from __future__ import annotations

import math
from typing import Annotated

from ase.data import chemical_symbols
from pydantic import Field, model_validator

from whorl.errors import did_you_mean
from whorl.settings import Range, Section


class FormulaRequest(Section):
    """What each formula must be."""

    elements: Annotated[list[str], Field(json_schema_extra={"option": "element"})] = []
    """Elements that each formula has; it may have others too."""
    exclude: list[str] = []
    """Elements that no formula has."""
    n_atoms: Range | None = None
    """Least and greatest number of atoms."""
    n_elements: Range | None = None
    """Least and greatest number of elements."""
    balanced: bool = False
    """Whether known oxidation states have to add up to zero (by smact; alloys of metals count as neutral)."""
    new: bool = False
    """Whether formulas of the data are left out."""

    @model_validator(mode="after")
    def _agreeing(self) -> FormulaRequest:
        for symbol in (*self.elements, *self.exclude):
            if symbol not in chemical_symbols[1:]:
                raise ValueError(f"unknown element '{symbol}'.{did_you_mean(symbol, chemical_symbols[1:])}")
        if both := [symbol for symbol in self.elements if symbol in self.exclude]:
            raise ValueError(f"{', '.join(both)} cannot be both requested and excluded")
        for name in ("n_atoms", "n_elements"):
            span = getattr(self, name)
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{name}: got {span[0]} to {span[1]}, expected the least number first")
        most = min(span[1] for span in (self.n_atoms, self.n_elements, (0, math.inf)) if span is not None)
        if len(set(self.elements)) > most:
            raise ValueError(f"{len(set(self.elements))} elements are requested, and at most {most} allowed")
        return self
