"""Input of the evaluation of structures: rows for all that came in, and known crystals.

What was read is kept, bound to names, sizes and times of the files, so that an evaluation that is started
again need not read thousands of them once more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whorl.chunked import Part, load_part, save_part
from whorl.datasets import load_dataset, read_dataset
from whorl.datasets.entries import WARNINGS, Entry
from whorl.datasets.readers import read_entries
from whorl.errors import InputError
from whorl.files import stable_hash
from whorl.structures import StructureBatch, from_ase
from whorl.structures.composition import formula_of_all
from whorl.version import __version__
from whorl.workflow.monitor import Monitor


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entry of the input.

    Attributes:
        file: Its name.
        source: File and place, for messages.
        formula: Empty where it cannot be read.
        place: Index among the structures that were read; None where it cannot be read.
        reason: Why it cannot be read.
        doubts: What the reader doubts.
        target: Value of the property that it was generated for; NaN where it states none.
    """

    file: str
    source: str
    formula: str = ""
    place: int | None = None
    reason: str = ""
    doubts: tuple[str, ...] = ()
    target: float = math.nan


def signature(path: Path) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the files, which change when they are written."""
    files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
    found = []
    for file in files:
        try:
            about = file.stat()
        except OSError:
            continue
        found.append((str(file), about.st_size, about.st_mtime_ns))
    return found


def read_rows(
    path: Path, format: str | None, *, folder: Path, monitor: Monitor
) -> tuple[list[Row], StructureBatch]:
    """Return a row for each entry in order, and the structures of those that could be read.

    Args:
        path: File or folder.
        format: Of the file; by default recognised.
        folder: Where what was read is kept.
        monitor: Receives progress.

    Raises:
        InputError: It cannot be read at all, or holds no structures.
    """
    kept, before = folder / "input.safetensors", signature(path)
    key = stable_hash([__version__, str(path.absolute()), format, before])
    if (part := load_part(kept, key=key)) is not None:
        known = [Row(**{**row, "doubts": tuple(row["doubts"])}) for row in part.notes]
        return known, _structures(part)
    rows: list[Row] = []
    structures: list[StructureBatch] = []
    progress = monitor.progress("reading")
    total, entries = _entries(path, format)
    for entry in entries:
        file = entry.id or entry.source
        if entry.structure is None:
            rows.append(Row(file=file, source=entry.source, reason=entry.reason or "holds no structure"))
        else:
            (info,) = entry.structure.info or ({},)
            rows.append(
                Row(
                    file=file,
                    source=entry.source,
                    formula=formula_of_all(entry.structure),
                    place=len(structures),
                    doubts=tuple(str(doubt) for doubt in info.get(WARNINGS, ())),
                    target=_number(entry.columns.get("target", info.get("target"))),
                )
            )
            structures.append(entry.structure.to(dtype=torch.float64))
        progress(len(rows), max(total, len(rows)))
    if not rows:
        raise InputError(f"{path}: holds no structures, so there is nothing to evaluate.")
    batch = StructureBatch.concatenate([from_ase([]), *structures]).replace(info=())
    if signature(path) == before:
        save_part(kept, Part(batch.tensors, [dataclasses.asdict(row) for row in rows]), key=key)
    return rows, batch


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _entries(path: Path, format: str | None) -> tuple[int, Iterator[Entry]]:
    if path.suffix == ".safetensors" and path.is_file():
        dataset = load_dataset(path)
        if dataset.structures is None:
            raise InputError(
                f"{path}: holds no structures. Generated features are evaluated with --features."
            )
        of_store = (
            Entry(id=name, source=f"{path} {name}", structure=structure)
            for name, structure in zip(dataset.ids, dataset.structures, strict=True)
        )
        return len(dataset), of_store
    source = read_entries(path, format=format)
    return source.total, source.entries


def read_known(
    path: Path | None, *, folder: Path, monitor: Monitor
) -> tuple[StructureBatch | None, tuple[str, ...]]:
    """Return known crystals and their names; None where no file is given.

    Raises:
        InputError: It cannot be read, or holds no structure that can be used.
    """
    if path is None:
        return None, ()
    kept, before = folder / "reference.safetensors", signature(path)
    key = stable_hash([__version__, str(path.absolute()), before])
    part = load_part(kept, key=key)
    if part is None:
        progress = monitor.progress("reading the reference")
        if path.suffix == ".safetensors" and path.is_file():
            dataset = load_dataset(path)
        else:
            dataset = read_dataset(path, property=None, progress=lambda done, total: progress(done, total))
        if dataset.structures is None or not len(dataset):
            raise InputError(
                f"{path}: holds no structure that can be used, so that everything would be novel. Give known "
                "crystals, or leave out --reference."
            )
        skipped = None
        if dataset.skipped:
            first, count = dataset.skipped[0], len(dataset.skipped)
            where = f"first: {first.source}: {first.reason}"
            skipped = f"{count} of {count + len(dataset)} entries are not used ({where})"
        part = Part(dataset.structures.tensors, {"ids": list(dataset.ids), "skipped": skipped})
        if signature(path) == before:
            save_part(kept, part, key=key)
    if part.notes["skipped"]:
        monitor.warn(f"reference: {part.notes['skipped']}.")
    return _structures(part), tuple(part.notes["ids"])


def _structures(part: Part) -> StructureBatch:
    tensors: Any = part.tensors
    return StructureBatch(**tensors)
