from .coordinates import SymmetryCoordinates
from .detection import refine, space_group_numbers, standardized
from .groups import Group
from .point_groups import PointGroup

__all__ = [
    "Group",
    "PointGroup",
    "SymmetryCoordinates",
    "refine",
    "space_group_numbers",
    "standardized",
]
