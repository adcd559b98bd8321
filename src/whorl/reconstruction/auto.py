"""Choice of the reconstructor: closed form where there is one, else the population search."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from whorl.reconstruction.base import Reconstruction, ReconstructionContext, Reconstructor
from whorl.reconstruction.closed_form import ClosedForm
from whorl.reconstruction.population import PopulationSearch
from whorl.reconstruction.settings import ReconstructorSettings
from whorl.representations.base import Representation


class Auto(Reconstructor):
    """Choice by the representation. Recipes are written with the chosen method and its settings."""

    kind = "auto"

    class Settings(ReconstructorSettings):
        """Settings common to all reconstructors; others are the defaults of the chosen one."""

    @staticmethod
    def choice(representation: type[Representation]) -> type[Reconstructor]:
        """Return the reconstructor for a class of representations."""
        return PopulationSearch if ClosedForm.why_not(representation) else ClosedForm

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Reconstruct by the method chosen for the representation; see the base class."""
        chosen = self.choice(type(context.representation))
        return chosen(chosen.Settings(samples=self.settings.samples)).reconstruct(features, context)
