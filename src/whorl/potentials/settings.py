"""Settings of potentials, and the section of a recipe that names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from whorl.axes import POTENTIALS
from whorl.settings import Section, SectionOfKind

if TYPE_CHECKING:
    from whorl.potentials.base import Potential


class PotentialSettings(SectionOfKind):
    """Options of a potential; further keys depend on its kind."""

    registry = POTENTIALS
    default = "emt"


class CalculatorSettings(Section):
    """An energy method by name: ``chgnet``, or ``{name: chgnet, options: {…}}``.

    Attributes:
        name: emt, chgnet, sevennet, matgl, gfn1-xtb, gfn2-xtb, the name of another package's potential, or
            ``package.module:Class`` of an ASE calculator.
        options: Its own options.
        bulk_energy: Energy of each element's bulk in eV/atom; by default computed with the method itself.
    """

    name: str
    options: dict[str, Any] = {}
    bulk_energy: dict[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def potential(self) -> Potential:
        """Return the energy method.

        Raises:
            InputError: Unknown name, an import path that leads to no calculator, or options that do not
                exist.
            MissingExtraError: The package behind it is not installed.
        """
        from whorl.potentials.factory import make_potential

        return make_potential(self.name, **self.options)
