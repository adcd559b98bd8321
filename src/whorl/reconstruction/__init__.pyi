from .algorithm1 import Algorithm1
from .auto import Auto
from .base import Reconstruction, ReconstructionContext, Reconstructor
from .closed_form import ClosedForm
from .population import PopulationSearch
from .settings import ReconstructorSettings

__all__ = [
    "Algorithm1",
    "Auto",
    "ClosedForm",
    "PopulationSearch",
    "Reconstruction",
    "ReconstructionContext",
    "Reconstructor",
    "ReconstructorSettings",
]
