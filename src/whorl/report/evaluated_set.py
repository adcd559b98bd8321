"""A folder of ``whorl evaluate STRUCTURES``, as its files say it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from whorl.errors import InputError
from whorl.files import read_json
from whorl.structures.batch import StructureBatch

_MOST_KEPT = 3000  # structures
_DENSITY = 1.66053907  # g/cm³ of 1 u/Å³
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no")
_MADE_BY = "'whorl evaluate STRUCTURES --output FOLDER' makes such folders."


@dataclass(frozen=True, kw_only=True)
class EvaluatedSet:
    """Structures with what was found out about each.

    Attributes:
        folder: Where its files are.
        columns: Of the table, in its order.
        rows: One for each structure that came in, in order; texts, empty where unknown.
        metrics: Contents of ``metrics.json``.
        diagrams: Contents of ``phase_diagrams.json``; empty where there is none.
        problems: Files that could not be read, and why.
    """

    folder: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    metrics: Mapping[str, Any]
    diagrams: tuple[Mapping[str, Any], ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path | str) -> EvaluatedSet:
        """Read the tables of a folder.

        Raises:
            InputError: It has no readable ``metrics.json`` or ``structures.csv``.
        """
        folder = Path(folder)
        for name in ("metrics.json", "structures.csv"):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: there is no {name}. {_MADE_BY}")
        metrics = read_json(folder / "metrics.json")
        if not isinstance(metrics, dict):
            raise InputError(f"{folder / 'metrics.json'}: expected an object, got {type(metrics).__name__}.")
        columns, rows = _table(folder / "structures.csv")
        diagrams, problems = [], []
        if (path := folder / "phase_diagrams.json").is_file():
            try:
                content = read_json(path)
                diagrams = [item for item in content if isinstance(item, dict)]
            except (InputError, TypeError) as error:
                problems.append(f"{path.name}: {error}")
        return cls(
            folder=folder,
            columns=columns,
            rows=rows,
            metrics=metrics,
            diagrams=tuple(diagrams),
            problems=tuple(problems),
        )

    def part(self, name: str) -> Mapping[str, Any]:
        """Return an object of ``metrics.json``; empty where there is none."""
        value = self.metrics.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def protocols(self) -> Mapping[str, Mapping[str, Any]]:
        """What ``metrics.json`` says of each protocol."""
        return {name: of for name, of in self.part("protocols").items() if isinstance(of, dict)}

    def texts(self, column: str) -> list[str]:
        """Return a column; empty texts where there is none."""
        if column not in self.columns:
            return [""] * len(self.rows)
        place = self.columns.index(column)
        return [row[place] for row in self.rows]

    def cell(self, row: int, column: str) -> str:
        """Return a cell; an empty text where there is no such column."""
        return self.rows[row][self.columns.index(column)] if column in self.columns else ""

    def numbers(self, column: str) -> Float[np.ndarray, "B"]:
        """Return a column of numbers; NaN where there is none."""
        return np.array([_number(text) for text in self.texts(column)], dtype=np.float64)

    def flags(self, column: str) -> list[bool | None]:
        """Return a column of yes and no; None where unknown."""
        return [flag(text) for text in self.texts(column)]

    @cached_property
    def by_stability(self) -> list[int]:
        """Rows by energy above hull, the lowest first; those without one last, in order."""
        energies = self.numbers("energy_above_hull")
        return sorted(range(len(self.rows)), key=lambda row: (math.isnan(energies[row]), energies[row], row))

    @cached_property
    def is_numeric(self) -> Mapping[str, bool]:
        """Whether each column has numbers alone, and at least one."""
        return {
            name: any(texts) and not any(text and math.isnan(_number(text)) for text in texts)
            for name in self.columns
            for texts in [[text for text in self.texts(name) if text.lower() != "nan"]]
        }

    @property
    def structures(self) -> Mapping[int, StructureBatch]:
        """Structures by row: relaxed, and as they came in where there is no relaxed one.

        Only the first thousands by energy above hull are kept in memory.
        """
        return self._scan[0]

    @property
    def geometry(self) -> Mapping[str, Float[np.ndarray, "B"]]:
        """Volume per atom in Å³ and density in g/cm³ of all crystals among the structures."""
        return self._scan[1]

    @property
    def count(self) -> int:
        """Number of rows with a structure."""
        return self._scan[2]

    @cached_property
    def _scan(self) -> tuple[dict[int, StructureBatch], dict[str, Float[np.ndarray, "B"]], int]:
        kept = {row for row in self.by_stability if self.cell(row, "n_atoms")}
        if len(kept) > _MOST_KEPT or not kept:
            kept = set(self.by_stability[:_MOST_KEPT])
        volume = np.full(len(self.rows), np.nan)
        density = volume.copy()
        structures: dict[int, StructureBatch] = {}
        rows: set[int] = set()
        for name in ("generated.extxyz", "relaxed.extxyz"):
            for row, structure in self._frames(name):
                rows.add(row)
                volume[row], density[row] = _size(structure)
                if row in kept:
                    structures[row] = structure
        return structures, {"volume_per_atom": volume, "density": density}, len(rows)

    def _frames(self, name: str) -> Iterator[tuple[int, StructureBatch]]:
        from whorl.datasets.extxyz import read_extxyz

        path = self.folder / name
        if not path.is_file() or not path.stat().st_size:
            return
        try:
            source = read_extxyz(path)
        except InputError:
            return
        places = self._places(source.total)
        for number, entry in enumerate(source.entries):
            row = _whole(entry.columns.get("row"))
            if row is None and number < len(places):
                row = places[number]
            if entry.structure is not None and row is not None and 0 <= row < len(self.rows):
                yield row, entry.structure

    def _places(self, count: int) -> Sequence[int]:
        """Return the rows of frames that do not say theirs: all rows, or those that were read."""
        read = [row for row, text in enumerate(self.texts("n_atoms")) if text]
        return range(len(self.rows)) if count == len(self.rows) else read if count == len(read) else ()


def _size(structure: StructureBatch) -> tuple[float, float]:
    """Return volume per atom and density of a crystal; NaN for what is none."""
    from ase.data import atomic_masses

    numbers = structure.atomic_numbers.numpy()
    if not is_finite(structure):
        return math.nan, math.nan
    size = abs(float(np.linalg.det(structure.cells[0].double().numpy())))
    if not bool(structure.pbc.all()) or not size > 1e-6 or not len(numbers):
        return math.nan, math.nan
    return size / len(numbers), _DENSITY * float(atomic_masses[numbers].sum()) / size


def is_finite(structure: StructureBatch) -> bool:
    """Whether all coordinates and cells are numbers, without which nothing can be drawn."""
    return bool(structure.positions.isfinite().all() and structure.cells.isfinite().all())


def flag(text: str) -> bool | None:
    """Return yes, no or unknown.

    >>> flag("True"), flag("0"), flag("")
    (True, False, None)
    """
    word = text.strip().lower()
    return True if word in _YES else False if word in _NO else None


def _number(text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def _whole(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        return None


def _table(path: Path) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\0", "")
    limit = csv.field_size_limit(2**31 - 1)
    try:
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({error}).") from None
    finally:
        csv.field_size_limit(limit)
    if not lines:
        return (), ()
    columns = tuple(lines[0])
    # Rows that are cut off, such as by a full disk, keep what they have.
    width = len(columns)
    return columns, tuple((*line[:width], *[""] * (width - len(line))) for line in lines[1:] if line)
