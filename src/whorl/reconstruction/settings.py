"""Settings that reconstructors have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from whorl.axes import RECONSTRUCTORS
from whorl.settings import Count, Positive, SectionOfKind


class ReconstructorSettings(SectionOfKind):
    """Settings of a reconstructor. Which other keys there are depends on its kind."""

    registry = RECONSTRUCTORS
    default = "auto"
    most_samples: ClassVar[int | None] = None
    """Samples of each target that are reconstructed where nothing else is said; None for all."""

    samples: Count | None = None
    """Generated samples of each target that are reconstructed; by default 100 by a search, all in closed
    form."""

    @property
    def wanted(self) -> int | None:
        """Samples of each target that are reconstructed; None for all."""
        return self.samples or self.most_samples


class SearchSettings(ReconstructorSettings):
    """Settings that all searches for atoms have in common."""

    most_samples = 100

    weights: Literal["none", "whitening"] = "none"
    """Weights of the features in the loss: all alike (the paper), or each by its spread in the data."""
    reference: Annotated[int, Field(ge=0)] = 50
    """Held-out real features reconstructed too, which shows how many the search solves; 0 for none."""
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Fraction of the real structures whose nearest neighbour is not too far away."""
    margin: Positive = 1.0
    """A sample is invalid where its loss is more than so many times the distance of such neighbours: then no
    structure is as near to it as real ones are to one another."""
    composition: str | None = None
    """Atoms to place, such as BaTiO3; by default those requested in generate, or of the most similar
    structure."""

    @field_validator("composition")
    @classmethod
    def _known_formula(cls, value: str | None) -> str | None:
        from whorl.conditions import Composition
        from whorl.errors import InputError

        try:
            if value is not None:
                Composition.check(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value
