from .acsf import ACSF
from .base import (
    FeatureLayout,
    InvertibleRepresentation,
    Representation,
    make_representation,
)
from .crystens import CrysTens
from .crystens_decoding import DecodedCrystals, Measures
from .cutoffs import Cutoff
from .settings import RepresentationSettings
from .soap import SOAP

__all__ = [
    "ACSF",
    "SOAP",
    "CrysTens",
    "Cutoff",
    "DecodedCrystals",
    "FeatureLayout",
    "InvertibleRepresentation",
    "Measures",
    "Representation",
    "RepresentationSettings",
    "make_representation",
]
