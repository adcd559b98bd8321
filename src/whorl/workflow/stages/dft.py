"""Input files and results of programs of density functional theory, from files to files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whorl.axes import DFT_CODES
from whorl.datasets import load_dataset, read_dataset
from whorl.dft.base import CONVERGED
from whorl.dft.folder import read_calculations, write_calculations, write_results
from whorl.dft.settings import DFTSettings
from whorl.errors import InputError, unknown_option
from whorl.settings import settings_from
from whorl.symmetry.detection import CELLS
from whorl.workflow.monitor import Monitor


def write_inputs(
    structures: Path,
    output: Path,
    *,
    options: Mapping[str, Any],
    cell: str,
    refined: bool,
    symprec: float,
    monitor: Monitor,
    count: int | None = None,
) -> None:
    """Write input files of the crystals of a file.

    Args:
        structures: A data set or any file or folder of structures.
        output: Folder to write.
        options: Program and its settings.
        cell: Which cell of each crystal.
        refined: Make the symmetry exact first.
        symprec: Tolerance in Å for the cell.
        monitor: Receives progress and the structures that are skipped.
        count: How many of them, from the first one; None for all.
    """
    if cell not in CELLS:
        raise unknown_option("cell", cell, CELLS)
    settings = settings_from(DFTSettings, dict(options), source="whorl dft write")
    code = DFT_CODES.get(settings.kind)(settings)
    if structures.suffix == ".safetensors":
        data = load_dataset(structures)
    else:
        data = read_dataset(structures, property=None, progress=monitor.progress("reading"))
    for entry in data.skipped:
        monitor.skip(entry.source, entry.reason)
    if data.structures is None or not len(data):
        raise InputError(f"{structures}: no structure in it can be used.")
    if count is not None:
        data = data.select(slice(count))
    skipped = write_calculations(
        data,
        output,
        code,
        cell=cell,
        refined=refined,
        symprec=symprec,
        source=str(structures),
        progress=monitor.progress("structures"),
    )
    for entry in skipped:
        monitor.skip(entry.source, entry.reason)
    monitor.note(f"{len(data) - len(skipped)} calculations of {len(code.stages)} stages; start with run.sh")


def read_results(folder: Path, output: Path, *, monitor: Monitor) -> list[Path]:
    """Read calculations, write their table and structures, and say which of them are not converged."""
    calculations = read_calculations(folder, progress=monitor.progress("calculations"))
    for calculation in calculations:
        if not any(result.frames for result in calculation.results.values()):
            monitor.skip(calculation.id, f"{calculation.status}: {calculation.reason}")
        elif calculation.status != CONVERGED:
            monitor.doubt(calculation.id, f"{calculation.status}: {calculation.reason}")
    written = write_results(calculations, output)
    counts = Counter(calculation.status for calculation in calculations)
    monitor.note(", ".join(f"{count} {status}" for status, count in counts.most_common()))
    return written
