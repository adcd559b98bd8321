"""Folders of calculations: input files of many structures, and the table of what came out.

``dft.json`` holds the program, its settings and the structures. Folders of calculations that whorl did not
write are read too: every folder with output is a calculation, its ``relax_1``, ``relax_2`` … are stages.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whorl.axes import DFT_CODES
from whorl.datasets.extxyz import write_extxyz
from whorl.datasets.store import Dataset, Skipped
from whorl.dft.base import (
    CONVERGED,
    MISSING,
    NOT_CONVERGED,
    STAGE,
    DFTCode,
    StageResult,
    free_energy,
    pressure,
)
from whorl.dft.settings import DFTSettings
from whorl.errors import InputError
from whorl.files import check_folder, provenance, read_json, write_json, write_text
from whorl.settings import settings_from
from whorl.structures.composition import formula
from whorl.structures.convert import from_ase
from whorl.symmetry.detection import refine, standardized

INDEX = "dft.json"
FORMAT = "whorl dft 1"

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True)
class Calculation:
    """One structure that was computed, or is to be.

    Attributes:
        id: Of the structure in the file that it came from.
        folder: Its folder.
        formula: Its composition; empty where nothing can be read.
        results: The stages, in order.
    """

    id: str
    folder: Path
    formula: str
    results: Mapping[str, StageResult]

    @property
    def status(self) -> str:
        """State of the last stage; or of the one where the calculation stopped, or that is missing next."""
        return self._last[1].status

    @property
    def reason(self) -> str:
        """Stage and reason, where it is not converged."""
        stage, result = self._last
        return f"{stage}: {result.reason}" if result.reason and len(self.results) > 1 else result.reason

    @property
    def _last(self) -> tuple[str, StageResult]:
        stages = list(self.results.items())
        started = [i for i, (_, result) in enumerate(stages) if result.status != MISSING]
        last = started[-1] if started else -1
        # After one that has ended, the next one is what is missing.
        ended = last < 0 or stages[last][1].status in (CONVERGED, NOT_CONVERGED)
        return stages[min(last + 1, len(stages) - 1) if ended else last]

    def row(self) -> dict[str, Any]:
        """Return a row of the table: energies in eV, pressures in kbar, volumes in Å³; None where unknown.

        ``E0`` is the free energy of the first ionic step, ``E1`` … and ``P1`` … are those after the stages
        that have ended.
        """
        stages = list(self.results.values())
        first = next((result.frames[0] for result in stages[:1] if result.frames), None)
        ends = [
            result.frames[-1] if result.frames and result.status in (CONVERGED, NOT_CONVERGED) else None
            for result in stages
        ]
        last = ends[-1] if ends else None
        row: dict[str, Any] = {
            "id": self.id,
            "folder": self.folder.name,
            "formula": self.formula,
            "n_atoms": None if first is None else len(first),
            "status": self.status,
            "reason": self.reason,
            "E0": None if first is None else free_energy(first),
        }
        row |= {f"E{i}": None if end is None else free_energy(end) for i, end in enumerate(ends, 1)}
        row |= {f"P{i}": None if end is None else pressure(end) for i, end in enumerate(ends, 1)}
        row["V0"] = None if first is None else first.get_volume()
        row[f"V{len(ends)}"] = None if last is None else last.get_volume()
        row["max_force"] = None
        if last is not None and "forces" in last.calc.results:
            row["max_force"] = float(np.linalg.norm(last.calc.results["forces"], axis=1).max())
        row["steps"] = sum(len(result.frames) for result in stages)
        return {name: None if value != value else value for name, value in row.items()}


def write_calculations(
    data: Dataset,
    folder: Path,
    code: DFTCode,
    *,
    cell: str = "primitive",
    refined: bool = False,
    symprec: float = 0.01,
    source: str = "",
    progress: Progress | None = None,
) -> list[Skipped]:
    """Write the input files of crystals, scripts to compute them, and ``dft.json``.

    Args:
        data: The crystals.
        folder: Where to write: a new or an empty folder.
        code: The program.
        cell: ``"primitive"``, ``"conventional"``, ``"niggli"`` (see :func:`whorl.symmetry.standardized`), or
            ``"as_is"``: structures whose results are to be labels of an active round must be as they are.
        refined: Make each crystal's symmetry exact first (see :func:`whorl.symmetry.refine`), which puts
            atoms near special positions onto them.
        symprec: Tolerance in Å for the cell.
        source: Where the structures come from, for the record.
        progress: Called with (structures done, structures in all).

    Raises:
        InputError: The folder holds calculations, or none of the structures can be computed.

    Returns:
        The structures that the program cannot compute, with reasons.
    """
    check_folder(folder)
    if (folder / INDEX).exists():
        raise InputError(f"{folder}: holds calculations already ({INDEX}). Choose another folder.")
    structures = data.structures
    assert structures is not None
    skipped: list[Skipped] = []
    entries: list[dict[str, Any]] = []
    digits = max(5, len(str(len(structures))))
    for index, (structure, name) in enumerate(zip(structures, names(data), strict=True)):
        try:
            if not bool(structure.pbc.all()):
                raise InputError("it is not periodic in all three directions")
            symmetric = None
            if refined:
                symmetric = refine(structure)
                structure = symmetric.structures
            structure = standardized(structure, cell=cell, symprec=symprec)
            place = folder / f"{index + 1:0{digits}d}_{formula(structure)}"
            code.write(structure, place)
        except InputError as error:
            skipped.append(Skipped(name, str(error).rstrip(".")))
            continue
        entry = {
            "id": name,
            "folder": place.name,
            "formula": formula(structure),
            "n_atoms": len(structure.positions),
        }
        if symmetric is not None:
            entry |= {
                "space_group": int(symmetric.space_group[0]),
                "displacement": float(symmetric.displacement[0]),
            }
        entries.append(entry)
        if progress:
            progress(index + 1, len(structures))
    if not entries:
        reason = f" (first: {skipped[0].source}: {skipped[0].reason})" if skipped else ""
        raise InputError(f"{source or folder}: none of {len(skipped)} structures can be computed{reason}.")
    for script, text in code.scripts().items():
        write_text(folder / script, text)
    write_json(
        folder / INDEX,
        {
            "format": FORMAT,
            "code": {"kind": code.kind, **code.settings.options()},
            "cell": cell,
            "refined": refined,
            "source": source,
            "structures": entries,
            "skipped": [[entry.source, entry.reason] for entry in skipped],
            **provenance(settings={"code": code.settings.model_dump(mode="json"), "cell": cell}),
        },
    )
    return skipped


def names(data: Dataset) -> list[str]:
    """Return the ids, or names of files, that structures have in their own files, or else in the data set."""
    assert data.structures is not None
    for key in ("id", "file"):  # the latter of whorl evaluate
        own = [str(info.get(key, "")) for info in data.structures.info]
        if own and all(own) and len(set(own)) == len(own):
            return own
    return list(data.ids)


def read_calculations(
    folder: Path, *, code: DFTCode | None = None, progress: Progress | None = None
) -> list[Calculation]:
    """Read all calculations of a folder, in whatever state they are.

    Args:
        folder: Written by :func:`write_calculations`, or any folder that has output somewhere below it.
        code: The program, where there is no ``dft.json`` to say it; by default the one that has output there.
        progress: Called with (calculations done, calculations in all).

    Raises:
        InputError: No such folder, a damaged ``dft.json``, or no output anywhere.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (looked for it from {Path.cwd()}).")
    index = folder / INDEX
    if index.exists():
        code, places = _indexed(index)
    else:
        code, places = _found(folder, code)
    found = []
    for done, (name, place, composition, stages) in enumerate(places, 1):
        results = {stage: code.read(place / stage) for stage in stages}
        read = next((result.frames[0] for result in results.values() if result.frames), None)
        if not composition and read is not None:
            composition = read.get_chemical_formula()
        found.append(Calculation(id=name, folder=place, formula=composition, results=results))
        if progress:
            progress(done, len(places))
    return found


_Places = list[tuple[str, Path, str, tuple[str, ...]]]  # id, folder, formula, stages


def _indexed(index: Path) -> tuple[DFTCode, _Places]:
    about = read_json(index)
    try:
        if about["format"] != FORMAT:
            raise InputError(f"{index}: its format is '{about['format']}', expected '{FORMAT}'.")
        code = _code(about["code"], source=str(index))
        return code, [
            (str(entry["id"]), index.parent / str(entry["folder"]), str(entry["formula"]), code.stages)
            for entry in about["structures"]
        ]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{index}: damaged ({type(error).__name__}: {error}). Write the folder anew."
        ) from None


def _code(options: Any, *, source: str) -> DFTCode:
    settings = settings_from(DFTSettings, options, source=source, lines={})
    return DFT_CODES.get(settings.kind)(settings)


def _found(folder: Path, code: DFTCode | None) -> tuple[DFTCode, _Places]:
    """Find the folders with output of the program, or of the first program that has any."""
    below = sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())})
    for candidate in [code] if code is not None else [DFT_CODES.get(name)() for name in DFT_CODES]:
        stages: dict[Path, list[tuple[int, str]]] = {}
        for place in below:
            if not candidate.has_output(place):
                continue
            number = STAGE.fullmatch(place.name)
            if number is not None and place != folder:
                stages.setdefault(place.parent, []).append((int(number[1]), place.name))
            else:
                stages.setdefault(place, []).append((0, "."))
        if stages:
            return candidate, [
                (
                    place.relative_to(folder).as_posix() if place != folder else folder.resolve().name,
                    place,
                    "",
                    tuple(name for _, name in sorted(found)),
                )
                for place, found in sorted(stages.items())
            ]
    raise InputError(f"{folder}: has no {INDEX}, and no output of {' or '.join(DFT_CODES)} below it.")


def write_results(calculations: Sequence[Calculation], folder: Path) -> list[Path]:
    """Write what calculations came to, and return the files.

    ``table.csv``: the rows of :meth:`Calculation.row`. ``relaxed.extxyz``: the structure at the end of each,
    as far as it came. ``labels.extxyz``: each structure as it was written, with energy, forces and stress of
    the first ionic step, which may go into the ``results`` of an active round. ``steps.extxyz``: all ionic
    steps, for training. Frames have the ``id`` of the structure and its ``status``; ``energy`` is that
    without the entropy of the smearing (σ → 0) where the program gives it, ``free_energy`` the one that
    forces belong to.
    """
    rows = [calculation.row() for calculation in calculations]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=_order)  # which keeps the order within a group
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(folder / "table.csv", text.getvalue())
    written = [folder / "table.csv"]
    last, first, every = [], [], []
    for calculation in calculations:
        frames = [(stage, atoms) for stage, result in calculation.results.items() for atoms in result.frames]
        for number, (stage, atoms) in enumerate(frames):
            atoms.info = {"status": calculation.status}
            if calculation.results.keys() != {"."}:
                atoms.info["stage"] = stage
            atoms.info["energy_per_atom"] = atoms.calc.results["energy"] / len(atoms)
            every.append((calculation.id, atoms))
            if number == 0 and stage == next(iter(calculation.results)):
                first.append((calculation.id, atoms))
        last += [(calculation.id, frames[-1][1])] if frames else []
    for name, chosen in (("relaxed", last), ("labels", first), ("steps", every)):
        path = folder / f"{name}.extxyz"
        write_extxyz(
            from_ase([atoms for _, atoms in chosen]),
            path,
            ids=[name for name, _ in chosen],
            provenance=provenance(),
        )
        written.append(path)
    return written


def _order(column: str) -> int:
    """Return the place of a group of columns: of other numbers of stages too, energies come together."""
    return {"E": 1, "P": 2, "V": 3}.get(column[0], 0) if column[1:].isdigit() else 4 * (column in _AFTER)


_AFTER = ("max_force", "steps")
