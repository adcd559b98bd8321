"""Candidates as files: ``candidates.csv``, and each structure as CIF or extended XYZ."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.datasets.crystal_files import cif_text
from whorl.datasets.extxyz import write_extxyz
from whorl.errors import InputError
from whorl.evaluation.candidates import COLUMNS, Candidate
from whorl.evaluation.results import Evaluated
from whorl.evaluation.samples import Samples
from whorl.files import write_text

TABLE = "candidates.csv"


def write_candidates(
    candidates: Sequence[Candidate],
    evaluated: Mapping[str, Evaluated],
    folder: Path,
    *,
    provenance: Mapping[str, Any],
) -> list[Candidate]:
    """Write the table of candidates, and a file for each of them, into a folder, and return them as written.

    Crystals are written as CIF, with the symmetry that they have within 0.01 Å; all others, and crystals that
    CIF cannot hold, as extended XYZ. Each file says what the table says of it. Files of an earlier table that
    are not written again are removed.

    Args:
        candidates: From :func:`~whorl.evaluation.candidates.rank_candidates`.
        evaluated: What they were made of.
        folder: Made when absent.
        provenance: Version, seed and recipe hash, written into each file.
    """
    table = folder / TABLE
    earlier = {candidate["file"] for candidate in read_candidates(table)} if table.is_file() else set()
    written = [
        dataclasses.replace(
            candidate, file=_write(candidate, evaluated[candidate.generator].samples, folder, provenance)
        )
        for candidate in candidates
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(candidate.row() for candidate in written)
    write_text(table, text.getvalue())
    for name in earlier - {candidate.file for candidate in written}:
        if (path := folder / name).resolve().is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)
    return written


def read_candidates(table: Path) -> list[dict[str, str]]:
    """Read a table of candidates, each line as text by column.

    Raises:
        InputError: It cannot be read, or is no table of candidates.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}). Evaluate again.") from error
    if tuple(reader.fieldnames or ()) != COLUMNS or any(None in row.values() for row in rows):
        raise InputError(f"{table}: not a table of candidates as whorl writes it. Evaluate again.")
    return rows


def _write(candidate: Candidate, samples: Samples, folder: Path, provenance: Mapping[str, Any]) -> str:
    """Write one structure, and return the path of its file within the folder."""
    assert samples.structures is not None
    structure, file = samples.structures[candidate.index], Path(candidate.file)
    notes = {name: value for name, value in candidate.row().items() if name != "file" and value != ""}
    common = {name: value for name, value in provenance.items() if isinstance(value, str | int | float)}
    if file.suffix == ".cif":
        try:
            write_text(folder / file, cif_text(structure, notes={**notes, **common}))
            return file.as_posix()
        except InputError:  # no volume, or no element
            file = file.with_suffix(".xyz")
    own = structure.info[0] if structure.info else {}
    write_extxyz(structure.replace(info=({**own, **notes},)), folder / file, provenance=common)
    return file.as_posix()
