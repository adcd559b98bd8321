"""Settings common to all reconstructors."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from whorl.axes import RECONSTRUCTORS
from whorl.settings import Count, Positive, SectionOfKind, shown

FREE = "free"
"""Composition that is not known, and searched together with the structure."""


class ReconstructorSettings(SectionOfKind):
    """Settings of a reconstructor; further keys depend on its kind."""

    registry = RECONSTRUCTORS
    default = "auto"
    most_samples: ClassVar[int | None] = None
    """Default number of samples of each target that are reconstructed; None for all."""

    samples: Count | None = None
    """Generated samples of each target that are reconstructed; by default 100 by a search, all in closed
    form."""

    @property
    def wanted(self) -> int | None:
        """Samples of each target that are reconstructed; None for all."""
        return self.samples or self.most_samples

    @property
    def freezes(self) -> bool:
        """Whether some atoms are frozen."""
        return False


class SearchSettings(ReconstructorSettings):
    """Settings common to all searches."""

    most_samples = 100
    frees_composition: ClassVar[bool] = False
    """Whether the composition can be free."""

    weights: Literal["none", "whitening"] = "none"
    """Weights of the features in the loss: none (the paper), or whitening by the spread in the data."""
    reference: Annotated[int, Field(ge=0)] = 50
    """Held-out real features that are reconstructed too, to measure the success rate; 0 for none."""
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Quantile of the nearest-neighbour distances of real structures, for the threshold of invalid losses."""
    margin: Positive = 1.0
    """Factor of this distance: a sample is invalid if its loss is larger, as then no
    structure is as near to it as real ones are to one another."""
    composition: str | None = None
    """Composition, such as BaTiO3; by default that requested in generate, or of the most similar
    structure. Or free (population search): it is found from the features, too."""
    template: str | None = None
    """File with one structure that gives composition, cell, periodicity and the positions of frozen atoms."""
    cell: str | tuple[float, float, float, float, float, float] | None = None
    """Cell: a file with a structure that has it, or a, b, c in Å and α, β, γ in
    degrees; right angles may be left out, and b and c of a cube."""
    frozen: list[Annotated[int, Field(ge=0)]] = []
    """Indices of frozen atoms, from 0: of the template, the start, or the most similar structure."""
    frozen_tag: int | None = None
    """ASE tag of frozen atoms."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files that the method reads: results depend on their contents."""
        return tuple(value for value in (self.template, self.cell) if isinstance(value, str))

    @property
    def begins_with(self) -> str | None:
        """Initial structures of the search: a file, or ``decoded``; None for random ones only."""
        return None

    @property
    def freezes(self) -> bool:
        """Whether some atoms are frozen."""
        return bool(self.frozen) or self.frozen_tag is not None

    @field_validator("cell", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        given = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
        try:
            numbers = tuple(float(part) for part in given)
        except (TypeError, ValueError):
            return value  # a file
        if len(numbers) not in (1, 3, 6) or not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"got {shown(value)}, expected finite numbers: a, b, c in Å and α, β, γ in degrees, or "
                "a, b, c, or a of a cube"
            )
        lengths = numbers * 3 if len(numbers) == 1 else numbers
        return (*lengths, 90.0, 90.0, 90.0) if len(lengths) == 3 else numbers

    @model_validator(mode="after")
    def _places(self) -> SearchSettings:
        if self.template is not None:
            for name in ("cell", "composition"):
                if getattr(self, name) is not None:
                    raise ValueError(f"template gives the {name} too; give one of the two")
        return self

    @field_validator("composition")
    @classmethod
    def _known_formula(cls, value: str | None) -> str | None:
        from whorl.conditions import Composition
        from whorl.errors import InputError

        if value == FREE and not cls.frees_composition:
            raise ValueError("free: only the population search finds compositions, kind population")
        try:
            if value not in (None, FREE):
                Composition.check(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value
