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
    """Chooses by the representation. A recipe names what was chosen, with its settings."""

    kind = "auto"

    class Settings(ReconstructorSettings):
        """Settings that every reconstructor has; those of the chosen one are its defaults."""

    @staticmethod
    def choice(representation: type[Representation]) -> type[Reconstructor]:
        """Return the reconstructor for a class of representations."""
        return PopulationSearch if ClosedForm.why_not(representation) else ClosedForm

    def reconstruct(
        self, features: Float[Tensor, "B *shape"], context: ReconstructionContext
    ) -> Reconstruction:
        """Reconstruct by the reconstructor that suits the representation; see the base class."""
        chosen = self.choice(type(context.representation))
        return chosen(chosen.Settings(samples=self.settings.samples)).reconstruct(features, context)
