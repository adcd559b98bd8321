"""Algorithm 1 of Fung et al. 2022: random starts, gradient descent, noise-and-descend hops."""

from __future__ import annotations

import math
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from whorl.errors import InputError
from whorl.inversion import algorithm1
from whorl.reconstruction.base import Reconstruction, ReconstructionContext, Reconstructor
from whorl.reconstruction.population import problem_of, reconstruction_of
from whorl.reconstruction.settings import SearchSettings
from whorl.settings import Count, NonNegative, Positive


class Algorithm1(Reconstructor):
    """The search of :func:`whorl.inversion.algorithm1`, in cells that are known."""

    kind = "algorithm1"

    class Settings(SearchSettings):
        """Settings of Algorithm 1: those of the paper."""

        starts: Count = 10
        """Random initialisations of each sample."""
        hops: Count = 5
        """Noise-and-descend rounds of each start."""
        iterations: Count = 140
        """Descent steps of each round."""
        polish: Annotated[int, Field(ge=0)] = 900
        """Descent steps for the best of all."""
        learning_rate: Positive = 0.4
        """Step size of the rounds, in Å."""
        polish_learning_rate: Positive = 0.1
        """Step size of the polish, in Å."""
        noise: NonNegative = 0.3
        """Displacement between rounds, in Å."""
        batch_size: Count | None = None
        """Structures that are worked on at once, which bounds the memory; 256 by default."""

        def summary(self) -> str:
            """Return the search in a line of a report."""
            polish = f", {self.polish} steps of polish" if self.polish else ""
            return f"Algorithm 1: {self.starts} starts × {self.hops} hops × {self.iterations} steps{polish}"

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Search for structures with these features; see the base class.

        Raises:
            InputError: Cells that are not known.
        """
        if context.free_cell:
            raise InputError(
                "algorithm1 holds cells fixed; a cell that is not known needs the reconstructor population."
            )
        own: Any = self.settings
        names = ("starts", "hops", "iterations", "polish", "learning_rate", "polish_learning_rate", "noise")
        options = {name: getattr(own, name) for name in names}
        if own.batch_size is not None:
            options["batch_size"] = own.batch_size
        found = algorithm1(
            problem_of(features, context),
            **options,
            seed=context.seed,
            invalid_above=math.inf if context.invalid_above is None else context.invalid_above,
            checkpoint=context.directory,
            progress=context.progress,
        )
        return reconstruction_of(found)
