"""Energy schemes: which energies may be compared with which.

Two energy methods may each be right and still not share a zero or a correction: an energy of one on a convex
hull of the other gives a plausible number that means nothing. So every energy method states its scheme, and
energies meet only within one scheme, or where a documented correction leads from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from whorl.errors import unknown_option

UNKNOWN = "unknown"

SCHEMES: Mapping[str, str] = {
    "mp2020": "PBE(+U) with the corrections of the Materials Project of 2020",
    "mp-legacy": "PBE(+U) with the corrections of the Materials Project before 2021",
    "pbe+u": "PBE, with U as the Materials Project sets it, uncorrected",
    "pbe": "PBE without U",
    "pbesol": "PBEsol without U",
    "matpes-pbe": "PBE without U, by the settings of MatPES",
    "matpes-r2scan": "r2SCAN, by the settings of MatPES",
    "r2scan": "r2SCAN",
    "emt": "effective medium theory",
    "gfn1-xtb": "GFN1-xTB",
    "gfn2-xtb": "GFN2-xTB",
    UNKNOWN: "not stated",
}
"""Schemes by name, and what they are."""

DFT = frozenset({"mp2020", "mp-legacy", "pbe+u", "pbe", "pbesol", "matpes-pbe", "matpes-r2scan", "r2scan"})
"""Those of density functional theory."""

_ERRORS = {
    "chgnet": "CHGNet's formation energies of 64 measured crystals, relaxed by it, are a median of 26 "
    "meV/atom apart from the Materials Project's"
}
"""Measured by ``benchmarks/hull.py``."""


def error_against_dft(potential: str) -> str:
    """Return what was measured of an energy method's error, in words; empty where nothing was.

    >>> error_against_dft("emt")
    ''
    """
    return _ERRORS.get(potential, "")


def checked_scheme(name: str) -> str:
    """Return the name of a scheme.

    Raises:
        InputError: There is no such scheme.

    >>> checked_scheme("mp2020")
    'mp2020'
    """
    if name not in SCHEMES:
        raise unknown_option("energy scheme", name, SCHEMES)
    return name


def scheme_of(potential: object) -> str:
    """Return the scheme that an energy method states; ``"unknown"`` where it states none."""
    return str(getattr(potential, "scheme", UNKNOWN))
