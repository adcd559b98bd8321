"""Effective medium theory (Jacobsen, Stoltze and Nørskov, Surf. Sci. 366, 394, 1996), by ASE."""

from __future__ import annotations

from typing import Any

from whorl.potentials.ase_calculators import ASECalculator
from whorl.potentials.base import EnergyMethod
from whorl.potentials.settings import PotentialSettings


class EMT(ASECalculator, EnergyMethod):
    """Effective medium theory of Al, Ni, Cu, Pd, Ag, Pt and Au."""

    kind = "emt"
    scheme = "emt"

    class Settings(PotentialSettings):
        """Options of ASE's calculator."""

        asap_cutoff: bool = False
        """Use the cutoff of the program Asap instead of ASE's."""

    def __init__(self, **options: Any) -> None:
        EnergyMethod.__init__(self, **options)
        ASECalculator.__init__(self, "ase.calculators.emt:EMT", self.changed, name=self.name)
