"""Contract of potentials: structures in, energies, forces and stresses out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from whorl.errors import InputError
from whorl.potentials.schemes import UNKNOWN
from whorl.potentials.settings import PotentialSettings
from whorl.settings import Method, settings_from
from whorl.structures.convert import Structures


@dataclass(frozen=True, kw_only=True)
class PotentialOutput:
    """Energies of B structures with A atoms in all; a structure that failed has NaN and a reason.

    Attributes:
        energy: Total energy in eV, shape (B,).
        forces: In eV/Å, shape (A, 3).
        stress: In eV/Å³, shape (B, 3, 3), positive if the cell tends to shrink (ASE's sign), NaN
            for structures without a full cell; or None.
        failures: Index of each structure that could not be computed, with reasons.
        properties: Further properties asked for, by name, each of shape (B,).
    """

    energy: Float[Tensor, "B"]
    forces: Float[Tensor, "A 3"]
    stress: Float[Tensor, "B 3 3"] | None = None
    failures: Mapping[int, str] = field(default_factory=dict)
    properties: Mapping[str, Float[Tensor, "B"]] = field(default_factory=dict)


@runtime_checkable
class Potential(Protocol):
    """An energy method. A failing structure does not affect the others.

    Attributes:
        name: The method with those of its options that change its numbers: under one name, the same numbers.
    """

    name: str

    def __call__(self, structures: Structures) -> PotentialOutput:
        """Return energies (eV), forces (eV/Å) and, where it has them, stresses (eV/Å³)."""
        ...


class EnergyMethod(Method, ABC):
    """A :class:`Potential` that is chosen by its name.

    Args:
        options: Settings other than the defaults of ``Settings``.

    Attributes:
        scheme: Which energies its own may be compared with: a name of
            :data:`whorl.potentials.schemes.SCHEMES`.
        of_molecules: Whether it describes molecules as well as solids, so that those of H, N, O, F and Cl are
            the references of these elements.

    Raises:
        InputError: Unknown or invalid options.
        MissingExtraError: The package behind it is not installed.
    """

    Settings: ClassVar[type[PotentialSettings]] = PotentialSettings
    scheme: str = UNKNOWN
    of_molecules: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        self.settings = settings_from(self.Settings, options, source=f"calculator {self.kind}", lines={})
        self.name = with_options(self.kind, self.changed)

    @property
    def changed(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        defaults = {name: field.default for name, field in type(self.settings).model_fields.items()}
        return {name: value for name, value in self.settings.options().items() if value != defaults.get(name)}

    @property
    def elements(self) -> Collection[int] | None:
        """Atomic numbers of the elements that it knows; None where that is not stated."""
        return None

    @abstractmethod
    def __call__(self, structures: Structures) -> PotentialOutput:
        """Return energies (eV), forces (eV/Å) and, where it has them, stresses (eV/Å³)."""


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """Return the name of a method with its options.

    >>> with_options("gfn2-xtb", {"charge": 1})
    'gfn2-xtb(charge=1)'
    """
    settings = ", ".join(f"{key}={value!r}" for key, value in sorted(options.items()))
    return f"{name}({settings})" if settings else name


def require_described(potential: Potential, elements: Iterable[str]) -> None:
    """Make sure that a potential knows these elements, as far as it states which it knows.

    Raises:
        InputError: It does not know some; all of them are named.
    """
    from ase.data import chemical_symbols

    numbers = getattr(potential, "elements", None)
    if numbers is None:
        return
    known = [chemical_symbols[z] for z in sorted(numbers)]
    unknown = [element for element in dict.fromkeys(elements) if element not in known]
    if unknown:
        there = ", ".join(known) if len(known) <= 20 else f"{known[0]} to {known[-1]}"
        raise InputError(
            f"{potential.name} does not know {', '.join(unknown)}; it knows {there}. Choose other elements "
            "or another calculator."
        )
