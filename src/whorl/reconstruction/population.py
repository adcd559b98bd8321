"""Population search: structures by Levenberg–Marquardt steps from many starts, whose best are combined."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from whorl.inversion import InversionProblem, InversionResult, solve
from whorl.reconstruction.base import Reconstruction, ReconstructionContext, Reconstructor
from whorl.reconstruction.settings import SearchSettings
from whorl.settings import Count


class PopulationSearch(Reconstructor):
    """The search of :func:`whorl.inversion.solve`."""

    kind = "population"

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

        def summary(self) -> str:
            """Return the search in a line of a report."""
            cells = ", cells free" if self.free_cell else ""
            return (
                "population search with Levenberg–Marquardt steps, from coarse to fine (sharp features count "
                f"little at first), {self.budget_evaluations:,} evaluations for each representation{cells}"
            )

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Search for structures with these features; see the base class."""
        own: Any = self.settings
        options = {} if own.batch_size is None else {"batch_size": own.batch_size}
        found = solve(
            problem_of(features, context, min_distance=own.min_distance),
            budget_evaluations=own.reference_evaluations if context.real else own.budget_evaluations,
            seed=context.seed,
            invalid_above=math.inf if context.invalid_above is None else context.invalid_above,
            checkpoint=context.directory,
            progress=context.progress,
            **options,
        )
        return reconstruction_of(found)


def problem_of(
    features: Tensor, context: ReconstructionContext, *, min_distance: float | None = None
) -> InversionProblem:
    """Return the problem whose solutions are structures with these features."""
    assert context.templates is not None
    flat = features.flatten(1).double()
    return InversionProblem(
        representation=context.representation,
        target=flat,
        names=context.names or None,
        template=context.templates,
        free_cell=context.free_cell,
        min_distance=min_distance,
        # With weights of its own the search would look for what is nearest by another measure.
        weights=torch.ones(flat.shape[1], dtype=torch.float64)
        if context.weights is None
        else context.weights,
    )


def reconstruction_of(found: InversionResult) -> Reconstruction:
    """Return the result of a search in the common form."""
    return Reconstruction(
        structures=found.structures,
        rows=torch.arange(len(found)),
        loss=found.loss,
        status=tuple(status.value for status in found.status),
    )
