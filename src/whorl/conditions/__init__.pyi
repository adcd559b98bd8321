from .base import Condition
from .composition import Composition
from .crystal_system import SYMPREC, CrystalSystem
from .elements import Elements, element_fractions, require_elements
from .property import Property
from .requests import (
    checked_requests,
    conditions_by_request,
    describe_requests,
    kinds_answering,
    require_answerable,
    satisfied,
)
from .sampling import Conditions
from .space_group import SpaceGroup
from .volume import Volume

__all__ = [
    "SYMPREC",
    "Composition",
    "Condition",
    "Conditions",
    "CrystalSystem",
    "Elements",
    "Property",
    "SpaceGroup",
    "Volume",
    "checked_requests",
    "conditions_by_request",
    "describe_requests",
    "element_fractions",
    "kinds_answering",
    "require_answerable",
    "require_elements",
    "satisfied",
]
