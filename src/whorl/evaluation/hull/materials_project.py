"""Convex hulls from the Materials Project of today, by its own client."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from whorl.errors import InputError, MissingExtraError
from whorl.evaluation.hull.reference import HullEntry, HullReference

_KEY = "MP_API_KEY"


def hull_of_materials_project(systems: Iterable[Collection[str]]) -> HullReference:
    """Return the phases of chemical systems with the corrections of 2020.

    Args:
        systems: Sets of elements; all phases within each are fetched.

    Raises:
        InputError: No elements, no key, or the server gives no entries.
        MissingExtraError: mp-api is not installed.
    """
    names = sorted({"-".join(sorted(set(system))) for system in systems if system})
    if not names:
        raise InputError("hull materials_project: got no elements, expected those of the structures.")
    if not os.environ.get(_KEY):
        raise InputError(
            f"hull materials_project: got no key, expected one in the environment variable {_KEY}. Remedy: "
            "make one at materialsproject.org, or use the table of `whorl data fetch hull_mp2019` "
            "(mp2019=FILE)."
        )
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise MissingExtraError(
            "hull materials_project needs the package 'mp-api', which is not installed. Remedy: "
            "pip install mp-api"
        ) from error
    entries: dict[str, HullEntry] = {}
    with MPRester(os.environ[_KEY]) as rester:
        for system in names:
            found = rester.get_entries_in_chemsys(system, additional_criteria={"thermo_types": ["GGA_GGA+U"]})
            for entry in found:
                name = str(entry.entry_id)
                entries[name] = HullEntry(
                    formula=entry.composition.formula.replace(" ", ""),
                    energy=float(entry.energy_per_atom),
                    name=name,
                )
    if not entries:
        raise InputError(
            f"hull materials_project: got no entries for {', '.join(names)}, expected at least the elements."
        )
    return HullReference(
        entries=tuple(entries[name] for name in sorted(entries)),
        scheme="mp2020",
        source="the Materials Project (mp-api, GGA/GGA+U)",
        date=datetime.now(UTC).date().isoformat(),
    )
