from .base import RefinementContext, Refiner, displacement, refine_in_chunks
from .oracle import Oracle
from .project import Project, Projection, Requested, project
from .relax import Relax
from .settings import RefinerSettings

__all__ = [
    "Oracle",
    "Project",
    "Projection",
    "RefinementContext",
    "Refiner",
    "RefinerSettings",
    "Relax",
    "Requested",
    "displacement",
    "project",
    "refine_in_chunks",
]
