"""Potentials by name."""

from __future__ import annotations

from typing import Any

from whorl.errors import InputError, unknown_option
from whorl.potentials.base import Potential

POTENTIALS = ("emt", "chgnet", "gfn1-xtb", "gfn2-xtb")


def make_potential(name: str, **options: Any) -> Potential:
    """Return a potential by its name.

    Args:
        name: ``"emt"`` (effective medium theory; Al, Ni, Cu, Pd, Ag, Pt, Au), ``"chgnet"``, ``"gfn1-xtb"``,
            ``"gfn2-xtb"``, or ``"package.module:Class"`` of any ASE calculator.
        options: The potential's own options.

    Raises:
        InputError: Unknown name, an import path that leads to no calculator, or options that do not exist.
        MissingExtraError: The package behind it is not installed.

    >>> make_potential("emt").name
    'emt'
    """
    from whorl.potentials.ase_calculators import ASECalculator, tblite

    if ":" in name:
        return ASECalculator(name, options)
    module, dot, attribute = name.rpartition(".")
    if dot:
        hint = f" Did you mean '{module}:{attribute}'?" if module and attribute else ""
        raise InputError(f"unknown calculator '{name}'.{hint} A path is package.module:Class, with a colon.")
    if name not in POTENTIALS:
        raise unknown_option("calculator", name, (*POTENTIALS, "package.module:Class"))
    try:
        if name == "chgnet":
            from whorl.potentials.chgnet import CHGNet

            return CHGNet(**options)
        if name == "emt":
            return ASECalculator("ase.calculators.emt:EMT", options, name=_named("emt", options))
        return tblite({"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB"}[name], **options)
    except TypeError as error:
        raise InputError(f"calculator '{name}' does not accept its options: {error}.") from error


def _named(name: str, options: dict[str, Any]) -> str:
    settings = ", ".join(f"{key}={value!r}" for key, value in sorted(options.items()))
    return f"{name}({settings})" if settings else name
