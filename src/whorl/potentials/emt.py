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

    @property
    def elements(self) -> tuple[int, ...]:
        """Those of the paper; ASE has parameters of H, C, N and O too, which describe nothing well."""
        return (13, 28, 29, 46, 47, 78, 79)

    def __init__(self, **options: Any) -> None:
        EnergyMethod.__init__(self, **options)
        ASECalculator.__init__(self, "ase.calculators.emt:EMT", self.changed, name=self.name)
