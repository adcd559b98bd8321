from .base import RefinementContext, Refiner, displacement, refine_in_chunks
from .relax import Relax
from .settings import RefinerSettings

__all__ = [
    "RefinementContext",
    "Refiner",
    "RefinerSettings",
    "Relax",
    "displacement",
    "refine_in_chunks",
]
