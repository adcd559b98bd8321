from .by_potential import hull_by_potential
from .diagrams import phase_diagrams
from .reading import read_hull
from .reference import HullDistance, HullEntry, HullReference

__all__ = [
    "HullDistance",
    "HullEntry",
    "HullReference",
    "hull_by_potential",
    "phase_diagrams",
    "read_hull",
]
