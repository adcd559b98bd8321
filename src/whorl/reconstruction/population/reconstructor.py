"""Population search: structures by Levenberg–Marquardt steps from many starts, whose best are combined."""

from __future__ import annotations

import math
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from whorl.reconstruction.base import ReconstructionContext, SearchReconstructor
from whorl.reconstruction.population.search import solve
from whorl.reconstruction.result import InversionResult
from whorl.reconstruction.settings import SearchSettings
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.settings import Count
from whorl.symmetry.space_groups import space_group_number

DECODED = "decoded"
_CONTRARY = (
    ("free_cell", "cell"),
    ("free_cell", "frozen atoms"),
    ("space_group", "frozen atoms"),
    ("space_group", "starts"),
)


class PopulationSearch(SearchReconstructor):
    """The search of :func:`solve`."""

    kind = "population"
    search = staticmethod(solve)
    frees_cells = stops_by_the_clock = True

    class Settings(SearchSettings):
        """Settings of the population search."""

        budget_evaluations: Count = 2000
        """Evaluations of features and their derivatives for each generated sample. These mostly have no exact
        structure, and more gains little."""
        reference_evaluations: Count = 10_000
        """The same for each held-out real one. These do have an exact structure, where the search ends."""
        free_cell: bool = False
        """Seek the cells too, instead of taking those of the most similar structures."""
        min_distance: Annotated[float, Field(ge=0, lt=1)] = 0.55
        """Minimum distance of two atoms as a fraction of the sum of their covalent radii; 0 for none."""
        space_group: Annotated[int, Field(ge=1, le=230)] | None = None
        """Space group that crystals must have, by number or symbol: starts have it and moves keep it."""
        starts: str | None = None
        """Structures that the search begins with, besides random ones: a file of them, each for the sample
        whose id it has, else for all samples; or decoded, those of the closed form."""
        batch_size: Count | None = None
        """Structures that are worked on at once, which bounds the memory; 64 by default."""
        solver: SolverSettings | None = Field(None, json_schema_extra={"option": "descent"})
        """Solver of the descents, by name or as a section with its settings; levenberg_marquardt by default.
        The others hold cells fixed and keep no symmetry."""

        @property
        def begins_with(self) -> str | None:
            """Structures that the search begins with: a file, or ``decoded``; None for random ones alone."""
            return self.starts

        @property
        def inputs(self) -> tuple[str, ...]:
            """Files that the method reads: results depend on their contents."""
            given = () if self.starts in (None, DECODED) else (str(self.starts),)
            return (*super().inputs, *given)

        @field_validator("starts", mode="before")
        @classmethod
        def _no_number(cls, value: Any) -> Any:
            if isinstance(value, int):
                raise ValueError(
                    f"got {value}, expected a file of structures, or decoded; a number of starts belongs to "
                    "kind algorithm1"
                )
            return value

        @field_validator("space_group", mode="before")
        @classmethod
        def _number(cls, value: Any) -> Any:
            return space_group_number(value) if isinstance(value, str) else value

        @model_validator(mode="after")
        def _agree(self) -> PopulationSearch.Settings:
            asked = {
                "free_cell": self.free_cell,
                "cell": self.cell is not None,
                "frozen atoms": self.freezes,
                "space_group": self.space_group is not None,
                "starts": self.starts is not None,
            }
            for one, other in _CONTRARY:
                if asked[one] and asked[other]:
                    raise ValueError(f"got {one} and {other}, expected one of the two")
            return self

        def summary(self) -> str:
            """Return the search in a line of a report."""
            steps = "Levenberg–Marquardt" if self.solver is None else self.solver.kind.replace("_", "-")
            cells = ", cells free" if self.free_cell else ""
            if self.space_group is not None:
                cells += f", space group {self.space_group} kept"
            if self.starts is not None:
                begins = "decoded structures" if self.starts == DECODED else "structures that are given"
                cells += f", beginning with {begins}"
            return (
                f"population search with {steps} steps, from coarse to fine (sharp features count "
                f"little at first), {self.budget_evaluations:,} evaluations for each representation{cells}"
            )

    def found(self, features: Float[Tensor, "B *shape"], context: ReconstructionContext) -> InversionResult:
        """Search for structures with these features; see the base class."""
        own: Any = self.settings
        options = {} if own.batch_size is None else {"batch_size": own.batch_size}
        return solve(
            context.problem(
                features,
                min_distance=own.min_distance,
                space_group=None if context.real else own.space_group,
            ),
            budget_evaluations=own.reference_evaluations if context.real else own.budget_evaluations,
            seed=context.seed,
            invalid_above=math.inf if context.invalid_above is None else context.invalid_above,
            solver=own.solver,
            starts=context.starts,
            checkpoint=context.directory,
            progress=context.progress,
            **options,
        )
