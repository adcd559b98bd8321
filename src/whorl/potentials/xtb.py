"""GFN1-xTB and GFN2-xTB (Grimme, Bannwarth et al.), by tblite.

Periodic structures are computed at the Γ point only, so energies of small cells are meaningless; the bulk
reference is taken from 4 × 4 × 4 primitive cells, which for Pt leaves an error of a few tenths of an eV per
atom, the same for all clusters.
"""

from __future__ import annotations

from typing import Any, ClassVar

from whorl.errors import import_extra
from whorl.potentials.ase_calculators import ASECalculator
from whorl.potentials.base import EnergyMethod
from whorl.potentials.settings import PotentialSettings
from whorl.settings import Count, Positive

_BULK_REPEAT = 4


class TightBindingSettings(PotentialSettings):
    """Options of tblite's calculator."""

    charge: float | None = None
    """Total charge in e; by default that of the structure's atoms, or 0."""
    multiplicity: Count | None = None
    """2S + 1; by default the lowest, or from the structure's magnetic moments."""
    accuracy: Positive = 1.0
    """Convergence of the self-consistent charges; smaller is tighter."""
    electronic_temperature: Positive = 300.0
    """Electronic temperature in K."""
    max_iterations: Count = 250
    """Maximum number of self-consistency iterations."""
    mixer_damping: Positive = 0.4
    """Damping of these iterations; reduce it if they do not converge."""


class GFN2(ASECalculator, EnergyMethod):
    """GFN2-xTB, a semiempirical tight-binding method for the elements up to Rn."""

    kind = "gfn2-xtb"
    scheme = "gfn2-xtb"
    of_molecules = True
    requires = ("tblite", "xtb")
    hamiltonian: ClassVar[str] = "GFN2-xTB"

    class Settings(TightBindingSettings):
        """Options of tblite's calculator."""

    @property
    def elements(self) -> range:
        """Hydrogen to radon."""
        return range(1, 87)

    def __init__(self, **options: Any) -> None:
        EnergyMethod.__init__(self, **options)
        import_extra("tblite", extra="xtb")
        ASECalculator.__init__(
            self,
            "tblite.ase:TBLite",
            # Without its cache the answer does not depend on what was computed before.
            {"method": self.hamiltonian, "verbosity": 0, "cache_api": False, **self.changed},
            name=self.name,
            bulk_repeat=_BULK_REPEAT,
        )


class GFN1(GFN2):
    """GFN1-xTB, the first of these semiempirical tight-binding methods."""

    kind = "gfn1-xtb"
    scheme = "gfn1-xtb"
    hamiltonian = "GFN1-xTB"
