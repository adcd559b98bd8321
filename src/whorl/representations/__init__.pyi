from .ace import ACE
from .acsf import ACSF
from .base import (
    Decoded,
    FeatureLayout,
    InvertibleRepresentation,
    Representation,
    make_representation,
)
from .crystens import CrysTens
from .crystens_decoding import DecodedCrystals, Measures
from .cutoffs import Cutoff
from .fchl19 import FCHL19
from .mbtr import MBTR
from .pdf import PDF
from .rows import Rows
from .settings import RepresentationSettings
from .soap import SOAP

__all__ = [
    "ACE",
    "ACSF",
    "FCHL19",
    "MBTR",
    "PDF",
    "SOAP",
    "CrysTens",
    "Cutoff",
    "Decoded",
    "DecodedCrystals",
    "FeatureLayout",
    "InvertibleRepresentation",
    "Measures",
    "Representation",
    "RepresentationSettings",
    "Rows",
    "make_representation",
]
