"""Energies, forces and stresses behind one protocol, the bulk they are measured against, and relaxation."""

from whorl.potentials.ase_calculators import importable
from whorl.potentials.base import Potential, PotentialOutput
from whorl.potentials.factory import make_potential
from whorl.potentials.reference import bulk_energy, formation_energy
from whorl.potentials.relaxation import Frame, relax

__all__ = [
    "Frame",
    "Potential",
    "PotentialOutput",
    "bulk_energy",
    "formation_energy",
    "importable",
    "make_potential",
    "relax",
]
