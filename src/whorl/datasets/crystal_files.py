"""Crystals as the files that people and programs open: CIF with its space group, POSCAR, extended XYZ."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from whorl.datasets.extxyz import write_extxyz
from whorl.errors import InputError, unknown_option
from whorl.files import provenance as own_provenance
from whorl.files import write_text
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import to_pymatgen

if TYPE_CHECKING:
    from pymatgen.core import Structure

CRYSTAL_FORMATS = ("cif", "poscar", "extxyz")


def write_crystals(
    structures: StructureBatch,
    folder: Path | str,
    *,
    formats: Sequence[str] = CRYSTAL_FORMATS,
    ids: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    symprec: float = 1e-3,
) -> list[Path]:
    """Write crystals in one order in all formats, and return the files.

    ``cif``: ``cif/00001_NaCl.cif`` and so on, conventional cells with the operations of the space group that
    they have within ``symprec``. ``poscar``: ``poscar/00001_NaCl.vasp``, the cells as they are. ``extxyz``:
    all in ``crystals.extxyz``. Each crystal's ``info`` (measures, space group, how far it was moved) and the
    provenance travel along: as comments in CIF, in the first line of a POSCAR, in ``info`` of extxyz.

    Args:
        structures: Periodic crystals.
        folder: Where to write; it is made if it is not there.
        formats: Some of ``cif``, ``poscar``, ``extxyz``.
        ids: A name for each crystal; it is written into the files, whose own names are numbers.
        provenance: The same for all; by default whorl's version.
        symprec: Tolerance in Å for the space group in CIF.

    Raises:
        InputError: Unknown formats, structures that are not periodic, or names that are not one for each.
    """
    for name in formats:
        if name not in CRYSTAL_FORMATS:
            raise unknown_option("format of crystals", name, CRYSTAL_FORMATS)
    if not bool(structures.pbc.all()):
        index = int((~structures.pbc.all(1)).nonzero()[0])
        raise InputError(f"write_crystals: structure {index} is not periodic in all three directions.")
    if ids is not None and len(ids) != len(structures):
        raise InputError(f"write_crystals: got {len(ids)} ids for {len(structures)} structures.")
    folder = Path(folder)
    common = {**own_provenance(), **(provenance or {})}
    notes = [
        {
            key: value
            for key, value in {**({"id": ids[i]} if ids else {}), **own, **common}.items()
            if isinstance(value, str | int | float) and not isinstance(value, bool)
        }
        for i, own in enumerate(structures.info or ({},) * len(structures))
    ]
    written = []
    if {"cif", "poscar"} & set(formats):
        with warnings.catch_warnings():
            # pymatgen says of each noble gas that it has no electronegativity, and more of that kind.
            warnings.simplefilter("ignore")
            written = _one_by_one(structures, folder, set(formats), notes, symprec)
    if "extxyz" in formats:
        path = folder / "crystals.extxyz"
        write_extxyz(structures, path, provenance=common, ids=ids)
        written.append(path)
    return written


def _one_by_one(
    structures: StructureBatch,
    folder: Path,
    formats: set[str],
    notes: Sequence[Mapping[str, Any]],
    symprec: float,
) -> list[Path]:
    from pymatgen.io.vasp import Poscar

    written = []
    digits = max(5, len(str(len(structures))))
    for i, one in enumerate(to_pymatgen(structures)):
        crystal = cast("Structure", one)
        name = f"{i + 1:0{digits}d}_{crystal.composition.reduced_formula}"
        if "cif" in formats:
            path = folder / "cif" / f"{name}.cif"
            head = "".join(f"# {key}: {_one_line(value)}\n" for key, value in notes[i].items())
            write_text(path, head + _cif(crystal, symprec))
            written.append(path)
        if "poscar" in formats:
            path = folder / "poscar" / f"{name}.vasp"
            comment = f"{crystal.composition.formula} {json.dumps(notes[i], ensure_ascii=False)}"
            poscar = Poscar(crystal.get_sorted_structure(), comment=_one_line(comment))
            write_text(path, poscar.get_str(significant_figures=12))
            written.append(path)
    return written


def _cif(crystal: Structure, symprec: float) -> str:
    """Return a crystal as CIF with its operations; where atoms coincide it has none, and is written in P1."""
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SymmetryUndeterminedError

    try:
        return str(CifWriter(crystal, symprec=symprec))
    except SymmetryUndeterminedError:
        return str(CifWriter(crystal))


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
