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

__all__ = [
    "ACSF",
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
