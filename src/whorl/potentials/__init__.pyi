from .ase_calculators import importable
from .base import EnergyMethod, Potential, PotentialOutput
from .factory import make_potential
from .reference import bulk_energy, formation_energy
from .relaxation import Frame, Relaxation, relax, relaxed
from .settings import CalculatorSettings

__all__ = [
    "CalculatorSettings",
    "EnergyMethod",
    "Frame",
    "Potential",
    "PotentialOutput",
    "Relaxation",
    "bulk_energy",
    "formation_energy",
    "importable",
    "make_potential",
    "relax",
    "relaxed",
]
