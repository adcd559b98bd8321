"""Population search: structures by Levenberg–Marquardt steps from many starts, whose best are combined."""

from __future__ import annotations

import math
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from whorl.reconstruction.base import Reconstruction, ReconstructionContext, SearchReconstructor
from whorl.reconstruction.population.search import solve
from whorl.reconstruction.settings import SearchSettings
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.settings import Count


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
        batch_size: Count | None = None
        """Structures that are worked on at once, which bounds the memory; 64 by default."""
        solver: SolverSettings | None = Field(None, json_schema_extra={"option": "descent"})
        """Solver of the descents, by name or as a section with its settings; levenberg_marquardt by default.
        The others hold cells fixed and keep no symmetry."""

        def summary(self) -> str:
            """Return the search in a line of a report."""
            steps = "Levenberg–Marquardt" if self.solver is None else self.solver.kind.replace("_", "-")
            cells = ", cells free" if self.free_cell else ""
            return (
                f"population search with {steps} steps, from coarse to fine (sharp features count "
                f"little at first), {self.budget_evaluations:,} evaluations for each representation{cells}"
            )

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Search for structures with these features; see the base class."""
        own: Any = self.settings
        options = {} if own.batch_size is None else {"batch_size": own.batch_size}
        result = solve(
            context.problem(features, min_distance=own.min_distance),
            budget_evaluations=own.reference_evaluations if context.real else own.budget_evaluations,
            seed=context.seed,
            invalid_above=math.inf if context.invalid_above is None else context.invalid_above,
            solver=own.solver,
            checkpoint=context.directory,
            progress=context.progress,
            **options,
        )
        return Reconstruction.of(result)
