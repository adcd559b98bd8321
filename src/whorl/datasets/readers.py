"""Readers of labelled structures; entries that cannot be read are skipped with a reason."""

from __future__ import annotations

import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.datasets.cif import CifEntry, read_cif
from whorl.datasets.entries import (
    DAMAGED,
    OF_EACH_ATOM,
    SUFFIXES,
    WARNINGS,
    Entry,
    Source,
    bare_name,
    in_words,
    open_binary,
    own_info,
    read_text,
    refuse_bomb,
    with_doubts,
)
from whorl.datasets.extxyz import read_extxyz
from whorl.datasets.labels import labels_as_read
from whorl.datasets.poscar import read_poscar
from whorl.datasets.store import Dataset, Skipped
from whorl.datasets.tables import ANY_PROPERTY, folder_table, info_of_row, read_cif_table
from whorl.errors import InputError, did_you_mean, shortened, unknown_option
from whorl.files import provenance
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.structures.convert import from_ase

Progress = Callable[[int, int], object]

_POSCAR = re.compile(r"(poscar|contcar)(?![a-z])")  # POSCAR, CONTCAR_2, POSCAR-relaxed, but not poscars
_SQLITE = b"SQLite format 3"  # how such a file begins
_ZIP = b"PK\x03\x04"  # likewise
FORMATS = ("ase-db", "cif", "csv", "extxyz", "parquet", "poscar", "zip")


def read_dataset(
    path: Path | str, *, property: str | None, format: str | None = None, progress: Progress | None = None
) -> Dataset:
    """Read structures and one property from a file or a folder.

    ============  ==========================================================================================
    ``extxyz``    ``.extxyz``, ``.xyz``; the property is a key of the comment line
    ``ase-db``    ``.db``, ``.json``; a key-value pair or a stored result such as ``energy``
    ``csv``       ``.csv`` with CIF in the column ``cif``, or in one of another name; any other column
    ``parquet``   the same, needs ``whorl[parquet]``
    ``cif``       a file, or a folder (and its subfolders) with a table ``properties.csv`` or ``id_prop.csv``
    ``poscar``    ``POSCAR*``, ``CONTCAR*``, ``.vasp``, or a folder of them, the same
    ``zip``       an archive of CIF and POSCAR files, without a property, in the order of the archive
    ============  ==========================================================================================

    Text may be compressed (.gz, .bz2, .xz). Entries that cannot be read, have no finite property, or are
    impossible (see :func:`whorl.structures.find_problems`) become :class:`Skipped` rows. Frames and rows are
    counted from 0. Forces and stresses of extxyz and databases become those of the data set; those that are
    no finite numbers are left out, with a doubt. What else an entry brings (other columns, results, a
    parser's warnings) is in its ``info``.

    Args:
        path: The file or folder.
        property: Name of the column; None for structures without a property.
        format: One of ``FORMATS``; by default recognised by name and contents.
        progress: Called with (entries done, entries in all).

    Raises:
        InputError: No such file, a format that is not known, or no entry has the property.

    Returns:
        The usable entries, in the order of the source; there may be none.
    """
    path = Path(path)
    source = _opened(path, format, property)
    if property is not None and source.columns is not None:
        _require(path, property, source.columns, source.columns_from)
    kept: list[Entry] = []
    values: list[float] = []
    forces, stresses = [torch.zeros(0, 3)], list[Tensor]()
    skipped: list[Skipped] = []
    columns: dict[str, None] = {}  # a set that keeps the order
    readable = False
    for done, entry in enumerate(source.entries, start=1):
        columns |= dict.fromkeys(entry.columns)
        readable |= entry.reason is None
        reason, value = entry.reason, math.nan
        if reason is None and property is not None:
            value, reason = _number(entry.columns, property)
        if reason is None and entry.structure is not None:
            force, stress, wrong = labels_as_read(entry.structure, property)
            kept.append(replace(entry, structure=with_doubts(entry.structure, wrong)))
            values.append(value)
            forces.append(force)
            stresses.append(stress)
        else:
            skipped.append(Skipped(entry.source, reason or "holds no structure"))
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
        forces=torch.cat(forces),
        stresses=torch.stack(stresses) if stresses else None,
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


def read_entries(path: Path | str, *, format: str | None = None) -> Source:
    """Read the structures of a source one by one, in its order, with a reason for each that cannot be read.

    Args:
        path: A file or folder, as for :func:`read_dataset`.
        format: One of ``FORMATS``; by default recognised by name and contents.

    Raises:
        InputError: No such file, or a format that is not known.
    """
    return _opened(Path(path), format, None)


def _opened(path: Path, format: str | None, property: str | None) -> Source:
    if format is not None and format not in FORMATS:
        raise unknown_option("format", format, FORMATS)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder (looked for it from {Path.cwd()}).")
    return _open(path, format, property)


def _require(path: Path, property: str, columns: Iterable[str], columns_from: str) -> None:
    names = [name for name in columns if name != WARNINGS]
    if property not in names and ANY_PROPERTY not in names:
        there = did_you_mean(property, names) if names else " There is none at all."
        raise InputError(f"{path}: no property '{property}' among {columns_from}.{there}")


def _number(columns: Any, name: str) -> tuple[float, str | None]:
    """Return the property as a finite number, or the reason why not."""
    value = columns.get(name, columns.get(ANY_PROPERTY))
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan, f"has no '{name}'"
    try:
        if isinstance(value, str) and "_" in value:
            raise ValueError  # only Python accepts 1_000 as a number
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan, f"its '{name}' is {shortened(value, 40)!r}, expected a number"
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
        what = {"cif": "a single CIF file", "zip": "an archive"}.get(kind, "a single POSCAR file")
        raise InputError(
            f"{path}: {what} carries no property '{property}'. "
            "Give the folder, with a table properties.csv of file names and properties in it."
        )
    if kind == "zip":
        return _archive(path)
    return Source(total=1, entries=_file_entries(path, path.name, kind, {}), columns_from="")


def _format_of(path: Path) -> str | None:
    name = bare_name(path)
    return SUFFIXES.get(Path(name).suffix) or ("poscar" if _POSCAR.match(name) else None)


def _sniff(path: Path) -> str:
    """Recognise the format by the first bytes.

    Raises:
        InputError: It is not recognised.
    """
    known = f"Give format: one of {', '.join(FORMATS)}."
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        raise InputError(f"{path}: holds arrays, not structures; read features with read_features.")
    if suffix == ".safetensors":
        raise InputError(f"{path}: is a store, not a source; read it with load_dataset or load_features.")
    try:
        with open_binary(path) as file:
            head = file.read(64)
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be read ({in_words(error)}).") from None
    if head.startswith(_SQLITE):
        return "ase-db"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(_ZIP):
        return "zip"
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
    lost: list[Skipped] = []
    files: dict[str, Path] = {}
    for path in _files_below(folder, lost):
        kind = _format_of(path)
        if kind in wanted:
            files[path.relative_to(folder).as_posix()] = path
        elif kind == "extxyz" and format is None:
            lost.append(
                Skipped(str(path), "of a folder, CIF and POSCAR files are read; read this one by itself")
            )
    if not files:
        others = f", but {len(lost)} others ({lost[0].source} …)" if lost else ""
        raise InputError(f"{folder}: holds no {' or '.join(wanted)} file{others}.")
    table = None
    try:
        table = folder_table(folder, list(files))
    except InputError as error:
        if property is not None:
            raise
        lost.append(Skipped(str(folder), f"its table was not read: {error}"))
    if property is not None and table is None:
        raise InputError(
            f"{folder}: has no table with the property '{property}'. Put properties.csv into it: a line of "
            f"names (file,{property}), then a line for each file."
        )
    if table is not None:
        lost += [Skipped(f"{folder / table.name} {row}", why) for row, why in table.unmatched]

    def entries() -> Iterator[Entry]:
        for relative, path in files.items():
            row = {} if table is None else table.rows.get(relative)
            if row is None and property is not None:
                row = f"has no row in {table.name if table else 'a table'}"
            if isinstance(row, str):
                yield Entry(id=relative, source=str(path), reason=row)
            else:
                yield from _file_entries(path, relative, _format_of(path) or "", row or {})
        for entry in lost:
            yield Entry(id="", source=entry.source, reason=entry.reason)

    return Source(
        total=len(files) + len(lost),
        entries=entries(),
        columns_from=f"the columns of {table.name}" if table else "",
        columns=table.columns if table else None,
    )


def _files_below(folder: Path, lost: list[Skipped]) -> Iterator[Path]:
    """Yield all files below a folder, in order, each folder once: links to folders come after real ones.

    Folders that cannot be listed and dangling links are added to ``lost``.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [folder], list[Path]()
    files: list[Path] = []
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        try:
            about = here.stat()
            if (
                about.st_dev,
                about.st_ino,
            ) in seen:  # a link to a parent folder, or to one that was read already
                continue
            seen.add((about.st_dev, about.st_ino))
            for path in sorted(here.iterdir()):
                if path.is_dir():
                    (links if path.is_symlink() else waiting).append(path)
                elif path.is_file():
                    files.append(path)
                elif path.is_symlink() and _format_of(path):
                    lost.append(Skipped(str(path), "is a link to nothing"))
        except OSError as error:
            lost.append(Skipped(str(here), f"cannot be listed ({error.strerror})"))
    yield from sorted(files)


def _file_entries(path: Path, name: str, kind: str, columns: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield the structures of one CIF or POSCAR file."""
    yield from _text_entries(lambda: read_text(path), str(path), name, kind, columns)


def _text_entries(
    read: Callable[[], str], path: str, name: str, kind: str, columns: Mapping[str, Any]
) -> Iterator[Entry]:
    """Yield the structures of the text of one CIF or POSCAR file, which ``read`` returns."""
    try:
        text = read()
        blocks = read_cif(text) if kind == "cif" else [CifEntry(block="", structure=read_poscar(text))]
    except Exception as error:  # a broken file must not prevent reading the next one
        yield Entry(id=name, source=path, columns=columns, reason=in_words(error))
        return
    # A row does not say which of several structures of a file it belongs to.
    shared = f"its file holds {len(blocks)} structures, and one row" if columns and len(blocks) > 1 else None
    for number, block in enumerate(blocks):
        suffix = f"@{number}" if len(blocks) > 1 else ""
        source = f"{path}{suffix} (data_{block.block})" if suffix else path
        if block.structure is None or shared:
            reason = block.reason or shared
            yield Entry(id=f"{name}{suffix}", source=source, columns=columns, reason=reason)
            continue
        info = {**block.structure.info[0], **info_of_row(columns)}
        yield Entry(
            id=f"{name}{suffix}",
            source=source,
            structure=block.structure.replace(info=(info,)),
            columns=columns,
        )


def _archive(path: Path) -> Source:
    """Open a zip of CIF and POSCAR files.

    Raises:
        InputError: It is no such archive, or holds none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename: info
                for info in archive.infolist()
                if not info.is_dir() and not PurePosixPath(info.filename).name.startswith("._")
            }
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a zip archive ({in_words(error)}).") from None
    kinds = {name: _format_of(Path(name)) for name in members}
    files = {name: kind for name, kind in kinds.items() if kind in ("cif", "poscar", "extxyz")}
    if not files:
        raise InputError(f"{path}: holds no CIF or POSCAR file.")

    def entries() -> Iterator[Entry]:
        with zipfile.ZipFile(path) as archive:
            for name, kind in files.items():
                source = f"{path}/{name}"
                if kind == "extxyz" or bare_name(Path(name)) != PurePosixPath(name).name.lower():
                    reason = "of an archive, plain CIF and POSCAR files are read; unpack it and read this one"
                    yield Entry(id=name, source=source, reason=reason)
                    continue

                def read(info: zipfile.ZipInfo = members[name]) -> str:
                    refuse_bomb(path, packed=info.compress_size, unpacked=info.file_size)
                    return archive.read(info).decode("utf-8-sig", errors="replace")

                yield from _text_entries(read, source, name, kind or "", {})

    return Source(total=len(files), entries=entries(), columns_from="")


def _read_database(path: Path) -> Source:
    """Yield the rows of an ASE database, SQLite or JSON.

    Raises:
        InputError: It is not an ASE database.
    """
    try:
        with open_binary(path) as file:
            sqlite = file.read(15) == _SQLITE
        ids, row_of = _sqlite_rows(path) if sqlite else _json_rows(path)
    except InputError:
        raise
    except Exception as error:  # sqlite3, JSON and ASE each have their own
        raise InputError(f"{path}: cannot be read as an ASE database ({in_words(error)}).") from None

    def entries() -> Iterator[Entry]:
        for number in ids:
            name, source = f"{path.name}@{number}", f"{path} row {number}"
            try:
                structure, columns = _row(row_of(number))
            except Exception as error:  # a broken row must not prevent reading the next one
                yield Entry(id=name, source=source, reason=in_words(error))
            else:
                yield Entry(id=name, source=source, structure=structure, columns=columns)

    return Source(total=len(ids), entries=entries(), columns_from="its keys and results")


def _sqlite_rows(path: Path) -> tuple[list[int], Callable[[int], Any]]:
    from ase.db import connect

    database = connect(path, type="db")
    with database.managed_connection() as connection:
        ids = [number for (number,) in connection.execute("SELECT id FROM systems ORDER BY id")]
    return ids, lambda number: database.get(id=number)


def _json_rows(path: Path) -> tuple[list[Any], Callable[[Any], Any]]:
    from ase.db.row import AtomsRow
    from ase.io.jsonio import decode

    rows = decode(read_text(path))
    if not isinstance(rows, dict):
        raise InputError(f"{path}: cannot be read as an ASE database (it is no dictionary of rows).")
    ids = [int(number) for number in rows["ids"]] if "ids" in rows else [1]
    rows[ids[0]]  # a dictionary of something else has no such row
    return ids, lambda number: AtomsRow({**rows[number], "id": number})


def _row(row: Any) -> tuple[StructureBatch, dict[str, Any]]:
    """Return the structure of a database's row, and its results and keys.

    Dispensable parts that ASE cannot rebuild are left out, with a doubt.
    """
    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import all_properties
    from ase.calculators.singlepoint import SinglePointCalculator

    doubts: list[str] = []

    def unless_broken(what: str, part: Callable[[], Any]) -> Any:
        try:
            return part()
        except Exception as error:  # each part has errors of its own
            doubts.append(f"its {what} cannot be rebuilt and was left out ({in_words(error)})")
            return None

    atoms = Atoms(row.numbers, row.positions, cell=row.cell, pbc=row.pbc)
    for key, put in (
        ("initial_magmoms", atoms.set_initial_magnetic_moments),
        ("initial_charges", atoms.set_initial_charges),
        ("tags", atoms.set_tags),
        ("masses", atoms.set_masses),
        ("momenta", atoms.set_momenta),
    ):
        if row.get(key) is not None:
            unless_broken(f"'{key}'", partial(put, row.get(key)))
    unless_broken("constraints", lambda: atoms.set_constraint(row.constraints))

    def result(key: str) -> SinglePointCalculator:
        value = row[key]
        if key in OF_EACH_ATOM and np.shape(value)[:1] != (len(atoms),):
            raise ValueError(f"shape {np.shape(value)} for {len(atoms)} atoms")
        return SinglePointCalculator(atoms, **{key: value})

    results: dict[str, Any] = {}
    for key in all_properties:
        if key in row:
            one = unless_broken(f"'{key}'", partial(result, key))
            results |= one.results if one else {}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.calc.name = row.get("calculator", "unknown")
    data = unless_broken("data", lambda: dict(row.data))
    atoms.info = own_info(
        {**row.key_value_pairs, "unique_id": row.unique_id, **({"data": data} if data else {})}
    )
    return with_doubts(from_ase(atoms), doubts), {**results, **row.key_value_pairs}


def read_features(
    path: Path | str, *, property: str, features: str = "features"
) -> tuple[Float[Tensor, "n *shape"], Float[Tensor, "n"]]:
    """Read precomputed features and one property from a ``.npz`` file, as float64.

    Args:
        path: The file.
        property: Name of the array with one number a row.
        features: Name of the array with the features, shape (n, *shape).

    Raises:
        InputError: No such file or array, arrays that are no numbers or differ in length, or rows that are
            not finite.
    """
    import numpy as np

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file (looked for it from {Path.cwd()}).")
    found = {}
    try:
        # Opened here, since NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            sizes = sum(member.file_size for member in zipfile.ZipFile(file).infolist())
            refuse_bomb(path, packed=path.stat().st_size, unpacked=sizes)
            for name in (features, property):
                if name not in archive.files:
                    raise InputError(f"{path}: has no array '{name}'.{did_you_mean(name, archive.files)}")
                found[name] = torch.from_numpy(np.asarray(archive[name], dtype=np.float64))
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile, *DAMAGED) as error:
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
