"""Crystal files: CIF with space group, POSCAR, extended XYZ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import torch
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from whorl.datasets.extxyz import write_extxyz
from whorl.errors import InputError, unknown_option
from whorl.files import provenance as own_provenance
from whorl.files import write_text
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cell_parameters, fractional_coordinates, volumes
from whorl.structures.convert import Structures, as_batch
from whorl.symmetry.detection import Symmetric, exactly_symmetric, standardized

CRYSTAL_FORMATS = ("cif", "poscar", "extxyz")

_DIGITS = 12  # of fractional coordinates: a third is a third to every reader
_READ_BACK = 1e-4  # Å within which a CIF must give its atoms again

Array = NDArray[np.float64]


def write_crystals(
    structures: Structures,
    folder: Path | str,
    *,
    formats: Sequence[str] = CRYSTAL_FORMATS,
    ids: Sequence[str] | None = None,
    valid: Sequence[bool] | None = None,
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
        valid: Whether each is one; the files of those that are not go into ``invalid/cif`` and
            ``invalid/poscar``, since programs refuse some, and ``crystals.extxyz`` says it of each.
        provenance: The same for all; by default whorl's version.
        symprec: Tolerance in Å for the space group in CIF.

    Raises:
        InputError: Unknown formats, structures that are not periodic, have no volume or hold what is no
            element, or names or flags that are not one for each.
    """
    for name in formats:
        if name not in CRYSTAL_FORMATS:
            raise unknown_option("format of crystals", name, CRYSTAL_FORMATS)
    structures = as_batch(structures)
    if not bool(structures.pbc.all()):
        index = int((~structures.pbc.all(1)).nonzero()[0])
        raise InputError(f"write_crystals: structure {index} is not periodic in all three directions.")
    for what, values in (("ids", ids), ("flags of validity", valid)):
        if values is not None and len(values) != len(structures):
            raise InputError(f"write_crystals: got {len(values)} {what} for {len(structures)} structures.")
    folder = Path(folder)
    common = {**own_provenance(), **(provenance or {})}
    written = []
    digits = max(5, len(str(len(structures))))
    for i, crystal in enumerate(structures if {"cif", "poscar"} & set(formats) else ()):
        own = {**({"id": ids[i]} if ids else {}), **(structures.info[i] if structures.info else {}), **common}
        notes = {
            key: value
            for key, value in own.items()
            if isinstance(value, str | int | float) and not isinstance(value, bool)
        }
        name = f"{i + 1:0{digits}d}_{_formula(crystal)[0]:metal}"
        place = folder if valid is None or valid[i] else folder / "invalid"
        if "cif" in formats:
            path = place / "cif" / f"{name}.cif"
            conventional = standardized(crystal, cell="conventional", symprec=symprec)
            write_text(path, cif_text(conventional, symprec=symprec, notes=notes))
            written.append(path)
        if "poscar" in formats:
            path = place / "poscar" / f"{name}.vasp"
            write_text(path, poscar_text(crystal, notes=notes))
            written.append(path)
    if "extxyz" in formats:
        path = folder / "crystals.extxyz"
        flags = {} if valid is None else {"valid": torch.tensor(valid, dtype=torch.bool)}
        write_extxyz(structures, path, properties=flags, provenance=common, ids=ids)
        written.append(path)
    return written


def cif_text(
    structure: StructureBatch, *, symprec: float = 0.01, notes: Mapping[str, Any] | None = None
) -> str:
    """Return a crystal as CIF, in its own cell, with the operations that it has within a tolerance.

    The atoms are moved to obey the operations exactly (:func:`~whorl.symmetry.detection.exactly_symmetric`),
    and the text is read back: where another structure came out, as of atoms nearer than readers tell apart,
    it is written in P1. CIF knows lengths and angles alone, so a left-handed cell is written with its vectors
    reversed, which is the same crystal and not its mirror image.

    Args:
        structure: A batch of one, periodic in all directions.
        symprec: Tolerance in Å.
        notes: Comments at the top.

    Raises:
        InputError: The cell has no volume, or an atomic number is no element's.
    """
    _formula(structure)
    structure = _right_handed(structure)
    symmetric = exactly_symmetric(structure, symprec=symprec)
    if symmetric is not None:
        text = _cif(symmetric.crystal, symmetric, notes or {})
        if text is not None and _is_read_back(text, symmetric.crystal):
            return text
    text = _cif(structure, None, notes or {})
    assert text is not None  # P1 needs no operation but the identity
    return text


def poscar_text(structure: StructureBatch, *, notes: Mapping[str, Any] | None = None) -> str:
    """Return a crystal as POSCAR, atoms of one element together, with vectors reversed if left-handed.

    Args:
        structure: A batch of one, periodic in all directions.
        notes: Data for the JSON of the first line.

    Raises:
        InputError: The cell has no volume, or an atomic number is no element's.
    """
    formula, units = _formula(structure)
    structure = _right_handed(structure)
    numbers, fractional = structure.atomic_numbers.tolist(), _fractional(structure)
    kinds = list(dict.fromkeys(numbers))
    lines = [
        _one_line(
            " ".join(
                [
                    f"{formula * units:metal}",
                    *([json.dumps(dict(notes), ensure_ascii=False)] if notes else []),
                ]
            )
        ),
        "1.0",
        *("  ".join(f"{x:20.14f}" for x in row) for row in structure.cells[0].double().tolist()),
        " ".join(chemical_symbols[z] for z in kinds),
        " ".join(str(numbers.count(z)) for z in kinds),
        "Direct",
    ]
    for kind in kinds:
        lines += [
            "  ".join(_decimal(x) for x in place)
            for z, place in zip(numbers, fractional, strict=True)
            if z == kind
        ]
    return "\n".join(lines) + "\n"


def _right_handed(structure: StructureBatch) -> StructureBatch:
    sign = torch.where(torch.linalg.det(structure.cells) < 0, -1.0, 1.0).to(structure.cells)
    return structure.replace(
        positions=structure.positions.detach(), cells=structure.cells.detach() * sign[:, None, None]
    )


def _formula(structure: StructureBatch) -> tuple[Formula, int]:
    """Return the reduced formula and how many of it the cell has."""
    numbers = structure.atomic_numbers.tolist()
    for z in numbers:
        if not 1 <= z < len(chemical_symbols):
            raise InputError(f"atomic number {z} is no element's, expected 1 to {len(chemical_symbols) - 1}.")
    return Formula.from_list([chemical_symbols[z] for z in numbers]).reduce()


def _fractional(structure: StructureBatch) -> Array:
    """Return fractional coordinates in [0, 1) to the digits that are written."""
    fractional = fractional_coordinates(structure.to(device="cpu", dtype=torch.float64)).numpy()
    return np.asarray(np.round(fractional, _DIGITS) % 1.0 % 1.0)  # once more: -1e-17 % 1 is 1


def _decimal(value: float) -> str:
    return f"{value:.{_DIGITS}f}"


def _cif(structure: StructureBatch, symmetric: Symmetric | None, notes: Mapping[str, Any]) -> str | None:
    """Return the text, or None where the operations cannot be written so that all programs read them."""
    fractional, numbers = _fractional(structure), structure.atomic_numbers.tolist()
    head = {key: _one_line(value) for key, value in notes.items()}
    if symmetric is None:
        operations, number = [gemmi.Op("x,y,z")], 1
        group: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_number(1)
        orbits = dict.fromkeys(range(len(numbers)), 1)
    else:
        if np.abs(symmetric.rotations).max() > 1:  # some programs do not read 2x
            return None
        operations, group, number = symmetric.operations, symmetric.setting, symmetric.number
        orbits = _orbits(structure, symmetric)
        name = gemmi.find_spacegroup_by_number(number).short_name()
        head["symmetry"] = f"{name} ({number})"
        if symmetric.displacement > _READ_BACK:
            head["symmetry"] += f"; atoms were moved by up to {symmetric.displacement:.1g} Å to obey it"
    formula, units = _formula(structure)
    items: dict[str, Any] = {
        "_chemical_formula_sum": f"'{' '.join(f'{k}{v}' for k, v in formula.count().items())}'",
        "_cell_formula_units_Z": units,
    }
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    cells = structure.cells.double()
    for name, value in zip(names, cell_parameters(cells)[0].tolist(), strict=True):
        items[f"_cell_{name}"] = f"{value:.10f}"
    items["_cell_volume"] = f"{float(volumes(cells)):.6f}"
    if group is not None:  # one of the settings in the tables; of others there is no name
        items["_symmetry_space_group_name_H-M"] = f"'{group.hm}'"
        items["_symmetry_space_group_name_Hall"] = f"'{group.hall}'"
    items["_symmetry_Int_Tables_number"] = number
    lines = [
        *(f"# {key}: {value}" for key, value in head.items()),
        f"data_{formula:metal}",
        *(f"{key}   {value}" for key, value in items.items()),
        "loop_",
        " _symmetry_equiv_pos_site_id",
        " _symmetry_equiv_pos_as_xyz",
        *(f"  {i}  '{operation.triplet()}'" for i, operation in enumerate(operations, 1)),
        "loop_",
        *(f" _atom_site_{name}" for name in ("type_symbol", "label", "symmetry_multiplicity")),
        *(f" _atom_site_{name}" for name in ("fract_x", "fract_y", "fract_z", "occupancy")),
    ]
    labels = {symbol: count(1) for symbol in formula.count()}
    for atom, size in orbits.items():
        symbol = chemical_symbols[numbers[atom]]
        place = "  ".join(_decimal(x) for x in fractional[atom])
        lines.append(f"  {symbol}  {symbol}{next(labels[symbol])}  {size}  {place}  1.0")
    return "\n".join(lines) + "\n"


def _orbits(structure: StructureBatch, symmetric: Symmetric) -> dict[int, int]:
    """Return the first atom of each orbit, and how many atoms it has."""
    fractional = fractional_coordinates(structure.to(device="cpu", dtype=torch.float64)).numpy()
    numbers = structure.atomic_numbers.numpy()
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    for atom in range(len(numbers)):
        if atom in seen:
            continue
        images = symmetric.rotations @ fractional[atom] + symmetric.translations
        apart = images[:, None] - fractional
        apart -= np.round(apart)
        square = ((apart @ structure.cells[0].double().numpy()) ** 2).sum(2)
        square[:, numbers != numbers[atom]] = np.inf
        orbit = set(square.argmin(1).tolist())
        sizes[atom] = len(orbit)
        seen |= orbit
    return sizes


def _is_read_back(text: str, structure: StructureBatch) -> bool:
    """Tell whether the text, read by a program that knows nothing of this, has these atoms and no others."""
    block = gemmi.cif.read_string(text).sole_block()
    sites = gemmi.make_small_structure_from_block(block).get_all_unit_cell_sites()
    if len(sites) != len(structure.atomic_numbers):
        return False
    found = np.array([[site.fract.x, site.fract.y, site.fract.z] for site in sites])
    numbers = np.array([site.element.atomic_number for site in sites])
    apart = found[:, None] - _fractional(structure)
    apart -= np.round(apart)
    near = np.linalg.norm(apart @ structure.cells[0].double().numpy(), axis=2) < _READ_BACK
    near &= numbers[:, None] == structure.atomic_numbers.numpy()
    return bool((near.sum(0) == 1).all() and (near.sum(1) == 1).all())


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
