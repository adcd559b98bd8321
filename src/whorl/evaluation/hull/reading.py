"""Convex hulls from files, and from the Materials Project."""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import lzma
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from whorl.errors import InputError, UsageError, shortened
from whorl.evaluation.hull.corrections import CORRECTED, amounts_of, correction, elemental_energies
from whorl.evaluation.hull.reference import HullEntry, HullReference
from whorl.potentials.schemes import checked_scheme

MP2019_SHA256 = "90e895635c96447c5be4e9070d26f26e1b4d17925102a6597ae3c4d79c32555b"
"""Of the unpacked table of formation energies of the Materials Project of April 2019."""

_FORMULA = ("formula", "composition", "full_formula", "reduced_formula", "pretty_formula")
_NAME = ("name", "entry_id", "material_id", "id")
_PER_ATOM = ("energy_per_atom", "energy_per_atom_ev")
_FORMATION = ("formation_energy", "formation_energy_per_atom", "target")
_PART_OF_MP2019 = {"formula", "target"}
_FORMS = {
    "potential": ("potential",),
    "mp2019": ("mp2019=FILE",),
    "own": ("own=FILE", "own:SCHEME=FILE"),
    "materials_project": ("materials_project",),
}


def read_hull(
    spec: str, *, scheme: str | None = None, systems: Iterable[Collection[str]] = ()
) -> HullReference:
    """Read a convex hull.

    ``mp2019=FILE``
        The table of ``whorl data fetch hull_mp2019``, unpacked or as ``.gz`` or ``.xz``: 132,752 formation
        energies of the Materials Project of April 2019, one for each material, with the corrections of that
        time. Its checksum is verified. To formation energies the energies of the elements are added that
        pymatgen brings, which reproduce computed energies of 334 compounds of the table to a median of 5
        meV/atom.
    ``own=FILE`` or ``FILE``
        Entries of your own, CSV or JSON (a list, or an object of entries; also pymatgen's ``ComputedEntry``).
        Columns are ``formula``; ``energy_per_atom`` (eV), or ``energy`` (eV, of the formula as written), or
        ``formation_energy`` (eV/atom); and, unless it is given as ``own:SCHEME=FILE``, ``scheme``. Further
        ones may be ``name``. Formation energies need a scheme of the Materials Project; a table of nothing
        but ``formula`` and ``target`` is taken for a part of ``mp2019``.
    ``materials_project``
        Entries by the package mp-api, with the key in ``MP_API_KEY``. Needs ``systems``.

    Args:
        spec: One of these.
        scheme: Of the energies of ``own=FILE``, where the file does not state it; it may not state another.
        systems: Sets of elements that a hull is needed for; of files, all phases are read.

    Raises:
        UsageError: Another spec, or one whose file name is missing.
        InputError: The file is absent, damaged or another one than it should be; it has no entries, one
            without a formula or a finite energy, or an unknown scheme, none, or another than ``scheme``.
        MissingExtraError: mp-api is not installed.
    """
    origin, equals, name = spec.partition("=")
    if spec == "materials_project":
        from whorl.evaluation.hull.materials_project import hull_of_materials_project

        return hull_of_materials_project(systems)
    if not equals:
        path = Path(spec)
        if not spec or (path.name == spec and not path.suffix and not path.exists()):
            raise _unknown_spec(spec)
        return _own(path, scheme)
    kind, _, stated = origin.partition(":")
    if kind != "own" and origin != "mp2019":
        raise _unknown_spec(spec)
    if not name.strip():
        example = f"{origin}=hull.csv"
        raise UsageError(f"hull: got '{spec}', without the name of a file after =, expected e.g. {example}.")
    return _mp2019(Path(name)) if origin == "mp2019" else _own(Path(name), stated or scheme)


def _unknown_spec(spec: str) -> UsageError:
    """Build the error for what is neither a form of a hull nor a file."""
    if spec == "potential":
        return UsageError("hull: a hull by a potential is made by hull_by_potential, which takes the method.")
    word = spec.partition("=")[0].partition(":")[0]
    near = difflib.get_close_matches(word.lower(), _FORMS, n=1, cutoff=0.6)
    hint = f" Did you mean {' or '.join(_FORMS[near[0]])}?" if near else ""
    forms = ", ".join(form for of_kind in _FORMS.values() for form in of_kind)
    return UsageError(
        f"hull: got '{shortened(spec)}', expected one of {forms}, or a file such as hull.csv.{hint}"
    )


def _mp2019(path: Path) -> HullReference:
    data = _unpacked(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != MP2019_SHA256:
        raise InputError(
            f"{path}: got a table with SHA-256 {sha256} (unpacked), expected {MP2019_SHA256}: damaged, or "
            "not the table of formation energies of the Materials Project of April 2019. Remedy: fetch it by "
            "`whorl data fetch hull_mp2019`; for a table of your own, write own:SCHEME=FILE "
            "(own:mp-legacy=FILE for a part of this one)."
        )
    rows = csv.DictReader(io.StringIO(data.decode("utf-8")))
    formation = [(row["formula"], float(row["target"]), "") for row in rows]
    return HullReference(
        entries=_from_formation_energies(formation, "mp-legacy"),
        scheme="mp-legacy",
        source="the Materials Project of April 2019 (matbench v0.1 mp_e_form)",
        sha256=sha256,
        date="2019-04",
    )


def _from_formation_energies(rows: Iterable[tuple[str, float, str]], scheme: str) -> tuple[HullEntry, ...]:
    """Return total energies per atom, with each element's own where it has none among the rows."""
    elemental = elemental_energies()
    reference = {e: energy + correction(e, scheme).value for e, energy in elemental.items()}
    entries, seen = [], set()
    for formula, energy, name in rows:
        amounts = amounts_of(formula)
        seen |= set(amounts)
        if unknown := sorted(set(amounts) - set(reference)):
            raise InputError(
                f"{formula}: got a formation energy, expected a total energy (column energy_per_atom), since "
                f"the energy of {', '.join(unknown)} is not known in the scheme {scheme}."
            )
        total = sum(reference[e] * n for e, n in amounts.items()) / sum(amounts.values())
        entries.append(HullEntry(formula=formula, energy=energy + total, name=name))
    # By definition; an element whose row is missing has a formation energy of zero all the same.
    entries += [HullEntry(formula=e, energy=reference[e], name="element") for e in sorted(seen)]
    return tuple(entries)


def _own(path: Path, scheme: str | None) -> HullReference:
    if scheme is not None:
        checked_scheme(scheme)
    data = _unpacked(path)
    rows = _json_rows(path, data) if _inner_suffix(path) == ".json" else _csv_rows(path, data)
    source = path.name
    if scheme is None and rows and set(rows[0][1]) == _PART_OF_MP2019:
        scheme, source = "mp-legacy", f"{path.name} (a part of mp2019 by its columns)"
    energies: list[tuple[str, float, str]] = []
    formation: list[tuple[str, float, str]] = []
    schemes: set[str] = set()
    for place, row in rows:
        formula, energy, name, of_formation = _entry(f"{path}, {place}", row)
        stated = str(row.get("scheme") or scheme or "")
        if not stated:
            raise InputError(
                f"{path}, {place}: got no energy scheme, expected a column 'scheme' or own:SCHEME={path}, "
                "such as own:mp2020=… for energies with the corrections of the Materials Project of 2020."
            )
        schemes.add(checked_scheme(stated))
        if scheme is not None and stated != scheme:
            raise InputError(
                f"{path}, {place}: got the energy scheme {stated} (column 'scheme'), expected {scheme}, for "
                f"which the file is given. Remedy: own:{stated}={path} if the file is right, or correct it."
            )
        (formation if of_formation else energies).append((formula, energy, name))
    if len(schemes) > 1:
        raise InputError(
            f"{path}: got energies of the schemes {', '.join(sorted(schemes))}, expected one: a hull of "
            "several is meaningless. Remedy: give one file for each."
        )
    if not schemes:
        raise InputError(f"{path}: got no entries, expected one a row with {' or '.join(_FORMULA[:2])}.")
    common = schemes.pop()
    entries = tuple(HullEntry(formula=f, energy=e, name=n) for f, e, n in energies)
    if formation:
        if common not in CORRECTED:
            raise InputError(
                f"{path}: got formation energies in the scheme {common}, expected total energies (column "
                "energy_per_atom or energy): which energies of the elements they are from is not known."
            )
        entries += _from_formation_energies(formation, common)
    return HullReference(
        entries=entries, scheme=common, source=source, sha256=hashlib.sha256(data).hexdigest()
    )


def _entry(place: str, row: Mapping[str, Any]) -> tuple[str, float, str, bool]:
    """Return formula, energy per atom, name, and whether it is a formation energy."""
    given = next((row[key] for key in _FORMULA if row.get(key)), None)
    try:
        amounts = amounts_of(given if isinstance(given, str | dict) else "")
    except (ValueError, KeyError, TypeError, AttributeError):
        amounts = {}
    n = sum(amounts.values())
    if not amounts or not math.isfinite(n) or min(amounts.values()) <= 0:
        raise InputError(
            f"{place}: got {shortened(repr(given))}, expected a chemical formula in "
            f"{' or '.join(_FORMULA[:2])}."
        )
    key = next((k for k in (*_PER_ATOM, "energy", *_FORMATION) if row.get(k) not in (None, "")), None)
    try:
        value = float(row[key]) if key else math.nan
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        got = f"{key} {shortened(repr(row[key]))}" if key else "no energy"
        raise InputError(
            f"{place}: got {got} for {shortened(str(given))}, expected a number: energy_per_atom, energy or "
            "formation_energy."
        )
    if key == "energy":
        adjustments = row.get("energy_adjustments") or []
        value = (value + sum(float(a.get("value") or 0.0) for a in adjustments if isinstance(a, dict))) / n
    name = next((str(row[k]) for k in _NAME if row.get(k)), "")
    formula = "".join(f"{e}{x:g}" if x != 1 else e for e, x in amounts.items())
    return formula, value, name, key in _FORMATION


def _csv_rows(path: Path, data: bytes) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text), strict=True)
        columns = [str(c).strip() for c in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(f"line {i}", dict(row)) for i, row in enumerate(reader, start=2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV file ({error}).") from None
    if not set(columns) & set(_FORMULA):
        raise InputError(
            f"{path}: got the columns {shortened(', '.join(columns)) or 'none'}, expected 'formula' and one "
            f"of {', '.join((_PER_ATOM[0], 'energy', *_FORMATION[:1]))}."
        )
    return rows


def _json_rows(path: Path, data: bytes) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}).") from None
    if isinstance(content, dict) and isinstance(content.get("entries"), list):
        content = [
            {"scheme": content.get("scheme"), **e} if isinstance(e, dict) else e for e in content["entries"]
        ]
    if isinstance(content, dict):
        content = list(content.values())
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise InputError(
            f"{path}: expected a list of entries, such as [{{'formula': 'NaCl', 'energy': -6.8}}]."
        )
    return [(f"entry {i}", entry) for i, entry in enumerate(content, start=1)]


def _inner_suffix(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".xz")]
    return suffixes[-1] if suffixes else ""


def _unpacked(path: Path) -> bytes:
    """Return the contents of a file, unpacked if its name ends with .gz or .xz.

    Raises:
        InputError: It is absent, cannot be read, or is damaged.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        elif path.suffix.lower() == ".xz":
            data = lzma.decompress(data)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (looked for it from {Path.cwd()}).") from None
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read or unpacked ({reason}).") from None
    if not data.strip():
        raise InputError(f"{path}: is empty, expected a table of reference phases.")
    return data
