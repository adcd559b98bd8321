"""Potentials by name."""

from __future__ import annotations

import inspect
from typing import Any

from whorl.axes import POTENTIALS
from whorl.errors import InputError
from whorl.potentials.base import EnergyMethod, Potential


def make_potential(name: str, **options: Any) -> Potential:
    """Return a potential by its name.

    Args:
        name: ``"emt"`` (effective medium theory; Al, Ni, Cu, Pd, Ag, Pt, Au), ``"chgnet"``, ``"sevennet"``,
            ``"matgl"``, ``"gfn1-xtb"``, ``"gfn2-xtb"``, the name of another package's potential, or
            ``"package.module:Class"`` of one, or of any ASE calculator.
        options: The potential's own options. Of an ASE calculator, ``scheme`` is not passed on: it states
            which energies its own may be compared with (:data:`whorl.potentials.schemes.SCHEMES`).

    Raises:
        InputError: Unknown name, an import path that leads to no calculator, or options that do not exist.
        MissingExtraError: The package behind it is not installed.

    >>> make_potential("emt").name
    'emt'
    """
    if ":" in name:
        from whorl.potentials.ase_calculators import ASECalculator, find_calculator

        method = find_calculator(name)
        if inspect.isclass(method) and issubclass(method, EnergyMethod):
            return method(**options)
        scheme = options.pop("scheme", None)
        return ASECalculator(name, options, scheme=scheme)
    module, dot, attribute = name.rpartition(".")
    if dot:
        hint = f" Did you mean '{module}:{attribute}'?" if module and attribute else ""
        raise InputError(f"unknown potential '{name}'.{hint} A path is package.module:Class, with a colon.")
    return POTENTIALS.get(name)(**options)
