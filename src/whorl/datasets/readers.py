"""Labelled structures from the files the field uses. A bad entry is skipped and says why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.datasets.cif import CifEntry, read_cif
from whorl.datasets.entries import DAMAGED, WARNINGS, Entry, Source, bare_name, in_words, open_text
from whorl.datasets.extxyz import read_extxyz
from whorl.datasets.store import Dataset, Skipped
from whorl.datasets.tables import ANY_PROPERTY, folder_table, read_cif_table
from whorl.errors import InputError, did_you_mean, unknown_option
from whorl.files import provenance
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.structures.convert import from_ase

Progress = Callable[[int, int], object]

_SUFFIXES = {
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".db": "ase-db",
    ".json": "ase-db",
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SQLITE = b"SQLite format 3"  # how such a file begins
FORMATS = ("ase-db", "cif", "csv", "extxyz", "parquet", "poscar")


def read_dataset(
    path: Path | str, *, property: str | None, format: str | None = None, progress: Progress | None = None
) -> Dataset:
    """Read structures and one property from a file or a folder.

    ============  ==========================================================================================
    ``extxyz``    ``.extxyz``, ``.xyz``; the property is a key of the comment line
    ``ase-db``    ``.db``, ``.json``; a key-value pair or a stored result such as ``energy``
    ``csv``       ``.csv`` with a ``cif`` column; any other column
    ``parquet``   the same, needs ``whorl[parquet]``
    ``cif``       a file, or a folder (and its subfolders) with a table ``properties.csv`` or ``id_prop.csv``
    ``poscar``    ``POSCAR*``, ``CONTCAR*``, ``.vasp``, or a folder of them, the same
    ============  ==========================================================================================

    Text may be compressed (.gz, .bz2, .xz). Entries that cannot be read, have no finite property, or are
    impossible (see :func:`whorl.structures.find_problems`) become :class:`Skipped` rows. Frames and rows are
    counted from 0. What else an entry brings (other columns, results, a parser's warnings) is in its
    ``info``.

    Args:
        path: The file or folder.
        property: Name of the column; None for structures alone.
        format: One of ``FORMATS``; None to tell by name and contents.
        progress: Called with (entries done, entries in all).

    Raises:
        InputError: No such file, a format that is not known, or no entry has the property.

    Returns:
        The entries that can be used, in the order of the source; there may be none.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise unknown_option("format", format, FORMATS)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder (looked for it from {Path.cwd()}).")
    source = _open(path, format, property)
    if property is not None and source.columns is not None:
        _require(path, property, source.columns, source.columns_from)
    kept: list[Entry] = []
    values: list[float] = []
    skipped: list[Skipped] = []
    columns: dict[str, None] = {}  # a set that keeps the order
    readable = False
    for done, entry in enumerate(source.entries, start=1):
        columns |= dict.fromkeys(entry.columns)
        readable |= entry.reason is None
        reason, value = entry.reason, math.nan
        if reason is None and property is not None:
            value, reason = _number(entry.columns, property)
        if reason is None:
            kept.append(entry)
            values.append(value)
        else:
            skipped.append(Skipped(entry.source, reason))
        if progress:
            progress(done, max(done, source.total))
    if property is not None and readable:
        _require(path, property, columns, source.columns_from)
    structures = StructureBatch.concatenate(
        [from_ase([]), *(entry.structure for entry in kept if entry.structure is not None)]
    )
    problems = find_problems(structures)
    skipped += [Skipped(kept[index].source, reason) for index, reason in problems.items()]
    good = [index for index in range(len(kept)) if index not in problems]
    doubts = Counter(doubt for info in structures.info for doubt in info.get(WARNINGS, ()))
    return Dataset(
        structures=structures,
        properties={} if property is None else {property: torch.tensor(values, dtype=torch.float64)},
        ids=tuple(entry.id for entry in kept),
        provenance={
            **provenance(),
            "source": str(path),
            "property": property,
            "read": len(good),
            "skipped": len(skipped),
            "warnings": dict(doubts.most_common()),
        },
        skipped=tuple(skipped),
    ).select(torch.tensor(good, dtype=torch.int64))


def _require(path: Path, property: str, columns: Iterable[str], columns_from: str) -> None:
    names = [name for name in columns if name != WARNINGS]
    if property not in names and ANY_PROPERTY not in names:
        there = did_you_mean(property, names) if names else " There is none at all."
        raise InputError(f"{path}: no property '{property}' among {columns_from}.{there}")


def _number(columns: Any, name: str) -> tuple[float, str | None]:
    """Return the property as a finite number, or why it is none."""
    value = columns.get(name, columns.get(ANY_PROPERTY))
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan, f"has no '{name}'"
    try:
        number = float(value)
    except (TypeError, ValueError):
        shown = " ".join(str(value).split())[:40]
        return math.nan, f"its '{name}' is {shown!r}, expected a number"
    if not math.isfinite(number):
        return math.nan, f"its '{name}' is {number}, expected a finite number"
    return number, None


def _open(path: Path, format: str | None, property: str | None) -> Source:
    if path.is_dir():
        return _folder(path, format, property)
    kind = format or _format_of(path) or _sniff(path)
    if kind == "extxyz":
        return read_extxyz(path)
    if kind == "ase-db":
        return _read_database(path)
    if kind in ("csv", "parquet"):
        return read_cif_table(path, parquet=kind == "parquet")
    if property is not None:
        raise InputError(
            f"{path}: a single {'CIF' if kind == 'cif' else 'POSCAR'} file carries no property '{property}'. "
            "Give the folder, with a table properties.csv of file names and properties in it."
        )
    return Source(total=1, entries=_file_entries(path, path.name, kind, {}), columns_from="")


def _format_of(path: Path) -> str | None:
    name = bare_name(path)
    if name.startswith(("poscar", "contcar")):
        return "poscar"
    return _SUFFIXES.get(Path(name).suffix)


def _sniff(path: Path) -> str:
    """Tell the format by the first bytes.

    Raises:
        InputError: They say nothing.
    """
    known = f"Give format: one of {', '.join(FORMATS)}."
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        raise InputError(f"{path}: holds arrays, not structures; read features with read_features.")
    if suffix == ".safetensors":
        raise InputError(f"{path}: is a store, not a source; read it with load_dataset or load_features.")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(_SQLITE):
        return "ase-db"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.lstrip().startswith((b"data_", b"# generated using pymatgen")):
        return "cif"
    if head.split(b"\n")[0].strip().isdigit():
        return "extxyz"
    raise InputError(f"{path}: the format cannot be told by its name or contents. {known}")


def _folder(folder: Path, format: str | None, property: str | None) -> Source:
    if format not in (None, "cif", "poscar"):
        raise InputError(
            f"{folder}: is a folder; a folder can hold cif or poscar files, got format {format}."
        )
    wanted = ("cif", "poscar") if format is None else (format,)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _format_of(path) in wanted]
    if not files:
        raise InputError(f"{folder}: holds no {' or '.join(wanted)} file.")
    table = folder_table(folder)
    if property is not None and table is None:
        raise InputError(
            f"{folder}: has no table with the property '{property}'. Put properties.csv into it: a line of "
            f"names (file,{property}), then a line for each file."
        )
    name, rows = table or ("", {})
    columns = tuple(dict.fromkeys(column for row in rows.values() for column in row)) if table else None

    def entries() -> Iterator[Entry]:
        for path in files:
            relative = path.relative_to(folder).as_posix()
            keys = (relative, path.name, Path(relative).with_suffix("").as_posix(), path.stem)
            row = next((rows[key] for key in keys if key in rows), None)
            if row is None and property is not None:
                yield Entry(id=relative, source=str(path), reason=f"has no row in {name}")
            else:
                yield from _file_entries(path, relative, _format_of(path) or "", row or {})

    return Source(total=len(files), entries=entries(), columns_from=f"the columns of {name}", columns=columns)


def _file_entries(path: Path, name: str, kind: str, columns: Any) -> Iterator[Entry]:
    """Yield the structures of one CIF or POSCAR file."""
    from ase.io import read

    try:
        if kind == "cif":
            with open_text(path) as file:
                blocks = read_cif(file.read())
        else:
            blocks = [CifEntry(block="", structure=from_ase(read(path, format="vasp")))]
    except Exception as error:  # whatever a parser makes of a broken file, the next one shall be read
        yield Entry(id=name, source=str(path), columns=columns, reason=in_words(error))
        return
    for number, block in enumerate(blocks):
        suffix = f"@{number}" if len(blocks) > 1 else ""
        source = f"{path}{suffix} (data_{block.block})" if suffix else str(path)
        if block.structure is None:
            yield Entry(id=f"{name}{suffix}", source=source, columns=columns, reason=block.reason)
            continue
        info = {key: value for key, value in columns.items() if value == value and key != ANY_PROPERTY}
        yield Entry(
            id=f"{name}{suffix}",
            source=source,
            structure=block.structure.replace(info=({**block.structure.info[0], **info},)),
            columns=columns,
        )


def _read_database(path: Path) -> Source:
    from ase.db import connect

    try:
        with path.open("rb") as file:
            kind = "db" if file.read(15) == _SQLITE else "json"
        database = connect(path, type=kind)
        total = database.count()
    except Exception as error:  # sqlite3, JSON and ASE each have their own
        raise InputError(f"{path}: cannot be read as an ASE database ({in_words(error)}).") from None

    def entries() -> Iterator[Entry]:
        last = 0
        try:
            for row in database.select():
                last = row.id
                name, source = f"{path.name}@{row.id}", f"{path} row {row.id}"
                try:
                    atoms = row.toatoms()
                    atoms.info = {**row.key_value_pairs, "unique_id": row.unique_id}
                    if row.data:
                        atoms.info["data"] = dict(row.data)
                    results = atoms.calc.results if atoms.calc else {}
                    yield Entry(
                        id=name,
                        source=source,
                        structure=from_ase(atoms),
                        columns={**results, **row.key_value_pairs},
                    )
                except Exception as error:  # a broken row shall not hide the next
                    yield Entry(id=name, source=source, reason=in_words(error))
        except Exception as error:  # the database itself is broken from here on
            yield Entry(id="", source=f"{path} after row {last}", reason=in_words(error))

    return Source(total=total, entries=entries(), columns_from="its keys and results")


def read_features(
    path: Path | str, *, property: str, features: str = "features"
) -> tuple[Float[Tensor, "n *shape"], Float[Tensor, "n"]]:
    """Read finished features and one property from a ``.npz`` file, as float64.

    Args:
        path: The file.
        property: Name of the array with one number a row.
        features: Name of the array with the features, shape (n, *shape).

    Raises:
        InputError: No such file or array, arrays that are no numbers or differ in length, or rows that are
            not finite.
    """
    import zipfile

    import numpy as np

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file (looked for it from {Path.cwd()}).")
    found = {}
    try:
        # Opened here, since NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for name in (features, property):
                if name not in archive.files:
                    raise InputError(f"{path}: has no array '{name}'.{did_you_mean(name, archive.files)}")
                found[name] = torch.from_numpy(np.asarray(archive[name], dtype=np.float64))
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile, *DAMAGED) as error:
        raise InputError(f"{path}: cannot be read as .npz with plain numbers ({in_words(error)}).") from None
    rows, target = found[features], found[property]
    if target.ndim != 1 or rows.ndim < 2 or len(rows) != len(target):
        raise InputError(
            f"{path}: '{features}' has shape {tuple(rows.shape)} and '{property}' {tuple(target.shape)}, "
            "expected (rows, features) and (rows,)."
        )
    bad = torch.nonzero(~(rows.flatten(1).isfinite().all(1) & target.isfinite())).flatten().tolist()
    if bad:
        raise InputError(
            f"{path}: {len(bad)} rows are not finite numbers throughout (first: row {bad[0]}, counted from "
            "0). Remove them."
        )
    return rows, target
