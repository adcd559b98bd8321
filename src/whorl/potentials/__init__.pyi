from .ase_calculators import importable
from .base import EnergyMethod, Potential, PotentialOutput
from .factory import make_potential
from .reference import bulk_energy, formation_energy
from .relaxation import Frame, Relaxation, relax, relaxed
from .relaxation_chunks import relax_chunks
from .schemes import SCHEMES, checked_scheme, scheme_of
from .settings import CalculatorSettings

__all__ = [
    "SCHEMES",
    "CalculatorSettings",
    "EnergyMethod",
    "Frame",
    "Potential",
    "PotentialOutput",
    "Relaxation",
    "bulk_energy",
    "checked_scheme",
    "formation_energy",
    "importable",
    "make_potential",
    "relax",
    "relax_chunks",
    "relaxed",
    "scheme_of",
]
