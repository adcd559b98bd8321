"""CSV and Parquet tables of structures, and tables of properties of a folder of files."""

from __future__ import annotations

import csv
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.datasets.cif import read_cif
from whorl.datasets.entries import (
    DAMAGED,
    LONGEST_LINE,
    Entry,
    Source,
    bare_name,
    in_words,
    open_text,
    own_info,
    read_lines,
    refuse_bomb,
    without_suffixes,
)
from whorl.errors import InputError, did_you_mean, import_extra, shortened

_PREFERRED = ("properties.csv", "id_prop.csv")
_TABLES = (".csv", ".parquet", ".pq")
ANY_PROPERTY = "*"  # name of a column that answers to every name

Row = dict[str, Any] | str  # values by column, or why there are none


@dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        columns: Their names.
        rows: In the order of the file; of a row that cannot be read, the reason.
    """

    columns: tuple[str, ...]
    rows: Sequence[Row]


# CSV


def _csv(path: Path, *, text: Callable[[str], bool], names_of: Callable[[str], bool] | None = None) -> Table:
    """Read a CSV file, compressed or not.

    Columns of numbers and of truth values become such; empty values and, in these columns, ``NA``, ``nan``,
    ``null`` and ``none`` become None. All else stays as written.

    Args:
        path: The file.
        text: Whether the column of this name stays text, whatever it holds.
        names_of: Where the first column is one of names, whether a text is one of them. Then a first line
            that already holds a name or numbers is taken for a row, as in CGCNN's ``id_prop.csv``.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        lines = list(_csv_lines(path))
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({in_words(error)}).") from None
    head = next((words for words in lines if not isinstance(words, str)), None)
    if head is None:
        why = lines[0] if lines else "it is empty"
        raise InputError(f"{path}: cannot be read as CSV ({why}).")
    if names_of and (names_of(head[0]) or (len(head) > 1 and all(map(_is_number, head[1:])))):
        others = [ANY_PROPERTY] if len(head) == 2 else [f"column {i + 1}" for i in range(1, len(head))]
        columns = ["", *others]
    else:
        columns = _distinct(head)
        lines.remove(head)
    width = len(columns)
    rows: list[list[str] | str] = []
    for words in lines:
        if isinstance(words, str) or not any(words[width:]):
            rows.append(words if isinstance(words, str) else [*words, *[""] * (width - len(words))][:width])
        else:
            rows.append(f"has {len(words)} values, expected {width}")
    good = [words for words in rows if not isinstance(words, str)]
    typed = [
        list(values) if (names_of and not place) or text(name) else _typed(values)
        for place, (name, values) in enumerate(zip(columns, zip(*good, strict=True), strict=False))
    ]
    values = iter(zip(*typed, strict=True))
    return Table(
        tuple(columns),
        [row if isinstance(row, str) else dict(zip(columns, next(values), strict=True)) for row in rows],
    )


def _csv_lines(path: Path) -> Iterator[list[str] | str]:
    """Yield the words of each line that is not empty, or why it has none."""
    before = csv.field_size_limit(LONGEST_LINE)
    start = 0
    try:
        for _ in range(_RESTARTS):
            with open_text(path) as file:
                for _ in range(start):
                    next(read_lines(file), None)
                cut: list[int] = []
                numbered = enumerate(read_lines(file), start=1)
                lines = csv.reader(_noting_cuts(numbered, cut), strict=True)
                end = 0
                while True:
                    try:
                        words = next(lines)
                    except StopIteration:
                        return
                    except csv.Error as error:
                        if "unexpected end" in str(error):
                            yield f"line {start + end + 1} opens a quote that is never closed"
                            break
                        yield f"line {start + lines.line_num}: {in_words(error)}"
                    except DAMAGED as error:
                        yield f"the file is damaged from line {start + end + 1} on: {in_words(error)}"
                        return
                    else:
                        if cut and cut[-1] > end:
                            yield f"line {start + cut[-1]} has more than {LONGEST_LINE} characters"
                        elif words:
                            yield words
                    end = lines.line_num
                start += end + 1  # the rest may be good
        yield f"too many quotes are never closed; what follows line {start} cannot be read"
    finally:
        csv.field_size_limit(before)


_RESTARTS = 10


def _noting_cuts(lines: Iterator[tuple[int, tuple[str, bool]]], cut: list[int]) -> Iterator[str]:
    for number, (line, is_cut) in lines:
        if is_cut:
            cut.append(number)
        yield line


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names of columns, each once: a second ``y`` is ``y.1``."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in map(str.strip, names):
        distinct.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return distinct


_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none"))


def _typed(words: Sequence[str]) -> list[Any]:
    """Return whole numbers, numbers or truth values where all words are; otherwise the words."""
    present = {word for word in words if word.strip().lower() not in _MISSING}
    for convert in (_integer, _real, _truth):
        try:
            value_of = {word: convert(word.strip()) for word in present}
        except ValueError:
            continue
        return [value_of.get(word) for word in words]
    return [word or None for word in words]


def _integer(word: str) -> int:
    digits = word.lstrip("+-")
    if not (
        digits.isascii() and digits.isdigit() and len(digits) < 19 and (digits[0] != "0" or digits == "0")
    ):
        raise ValueError  # such as 001, which is a name
    return int(word)


def _real(word: str) -> float:
    digits = word.lstrip("+-")
    if "_" in word or (digits[:1] == "0" and digits[1:2].isdigit()):
        raise ValueError
    return float(word)


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise ValueError
    return word.lower() == "true"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# Parquet


def _parquet(path: Path) -> Table:
    """Read a Parquet file; lists, dictionaries and the like stay what they are.

    Raises:
        InputError: The file cannot be read.
        MissingExtraError: There is no pyarrow.
    """
    pyarrow = import_extra("pyarrow", extra="parquet")
    parquet = import_extra("pyarrow.parquet", extra="parquet")
    try:
        with parquet.ParquetFile(path) as file:
            about = file.metadata
            groups = [about.row_group(i).total_byte_size for i in range(about.num_row_groups)]
            unpacked = max(sum(groups), 8 * about.num_rows * about.num_columns)
            refuse_bomb(path, packed=path.stat().st_size, unpacked=unpacked)
            columns = _distinct(file.schema_arrow.names)
            rows: list[Row] = []
            try:
                for batch in file.iter_batches(batch_size=1000):
                    values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                    rows += [dict(zip(columns, row, strict=True)) for row in values]
            except (pyarrow.ArrowException, ValueError, *DAMAGED) as error:
                rows.append(f"the file is damaged from here on: {in_words(error)}")
    except InputError:
        raise
    except (pyarrow.ArrowException, ValueError, *DAMAGED) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({in_words(error)}).") from None
    return Table(tuple(columns), rows)


# A structure in each row


def read_cif_table(path: Path, *, parquet: bool) -> Source:
    """Go through a table with one structure a row, in its ``cif`` column; the others are properties and info.

    Raises:
        InputError: The table cannot be read, or no column holds structures.
    """
    table = _parquet(path) if parquet else _csv(path, text=lambda name: name.lower() == "cif")
    cif = _structure_column(path, table)
    others = tuple(name for name in table.columns if name != cif and not _is_index(name))
    return Source(
        total=len(table.rows),
        entries=_entries(path, table.rows, cif, others),
        columns_from="its columns",
        columns=others,
    )


def _structure_column(path: Path, table: Table) -> str:
    """Return the column named ``cif``, else the one that holds CIF texts."""
    named = [name for name in table.columns if name.lower() == "cif"]
    if named:
        return "cif" if "cif" in named else named[0]
    some = [row for row in table.rows[:100] if not isinstance(row, str)]
    holding = [
        name
        for name in table.columns
        if any(isinstance(row[name], str) and "_cell_length_a" in row[name] for row in some)
    ]
    if len(holding) == 1:
        return holding[0]
    if holding:
        raise InputError(
            f"{path}: has {len(holding)} columns of CIF texts ({', '.join(map(shortened, holding))}). Rename "
            "the one that is meant to 'cif'."
        )
    raise InputError(f"{path}: has no column 'cif' with the structures.{did_you_mean('cif', table.columns)}")


def _is_index(name: str) -> bool:
    """Whether a column is the number of the row, as pandas writes it."""
    return not name or name.startswith(("Unnamed: ", "__index_level_"))


def _entries(path: Path, rows: Sequence[Row], cif: str, others: Sequence[str]) -> Iterator[Entry]:
    for number, row in enumerate(rows):
        name, source = f"{path.name}@{number}", f"{path} row {number}"
        if isinstance(row, str):
            yield Entry(id=name, source=source, reason=row)
            continue
        columns = {name: row[name] for name in others}
        text = row[cif]
        if not isinstance(text, str) or not text.strip():
            yield Entry(id=name, source=source, columns=columns, reason=f"its {cif} column is empty")
            continue
        try:
            structures = read_cif(text)
        except InputError as error:
            yield Entry(id=name, source=source, columns=columns, reason=str(error))
            continue
        structure, reason = structures[0].structure, structures[0].reason
        if len(structures) > 1:
            reason = f"its {cif} column holds {len(structures)} structures, expected one"
        if structure is None or reason is not None:
            yield Entry(id=name, source=source, columns=columns, reason=reason)
            continue
        info = {**structure.info[0], **info_of_row(columns)}
        yield Entry(id=name, source=source, structure=structure.replace(info=(info,)), columns=columns)


def info_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row that are there, for a structure's ``info``."""
    return own_info(
        {
            key: value
            for key, value in row.items()
            if key != ANY_PROPERTY
            and value is not None
            and not (isinstance(value, float) and math.isnan(value))
        }
    )


# Tables of properties of files


@dataclass(frozen=True)
class FolderTable:
    """Which row belongs to which file of a folder.

    Attributes:
        name: Of the table.
        columns: Of properties.
        rows: By file: its row, or why it has none that can be used.
        unmatched: Rows without a file: which row, and why.
    """

    name: str
    columns: tuple[str, ...]
    rows: Mapping[str, Row]
    unmatched: Sequence[tuple[str, str]]


def folder_table(folder: Path, files: Sequence[str]) -> FolderTable | None:
    """Read the table in a folder of structure files, and find the file of each row.

    The first column holds the files' names, which may lack folder and suffixes; where nothing in it is one,
    another column may. A name as written goes before one without its suffixes.

    Args:
        folder: Folder of the table.
        files: Paths of the files below it.

    Returns:
        None where there is no table.

    Raises:
        InputError: The table cannot be read, or there are several, none of which is ``properties.csv`` or
            ``id_prop.csv``.
    """
    path = _table_of(folder)
    if path is None:
        return None
    lookups = _lookups(files)

    def is_file(name: Any) -> bool:
        return isinstance(name, str) and any(_normal(name) in lookup for lookup in lookups)

    if bare_name(path).endswith(".csv"):
        table = _csv(path, text=lambda name: False, names_of=is_file)
    else:
        table = _parquet(path)
    columns = [name for name in table.columns if not name.startswith("Unnamed: ")]
    good = [row for row in table.rows if not isinstance(row, str)]
    named = next((name for name in columns if any(is_file(row[name]) for row in good)), columns[0])
    others = tuple(name for name in columns if name != named and name)
    of_file: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    unmatched = []
    for number, row in enumerate(table.rows):
        if isinstance(row, str):
            unmatched.append((f"row {number}", row))
            continue
        name = str(row[named]).strip() if row[named] is not None else ""
        values = {other: row[other] for other in others}
        matches = next((lookup[_normal(name)] for lookup in lookups if _normal(name) in lookup), [])
        if not matches:
            unmatched.append((f"row {number} ('{shortened(name)}')", "there is no such file"))
        for match in matches:
            usable: Row = values
            if len(matches) > 1:
                usable = (
                    f"its row '{shortened(name)}' in {path.name} fits {len(matches)} files: {_some(matches)}"
                )
            of_file[match].append((name, usable))
    return FolderTable(
        path.name, others, {key: _one(rows, path.name) for key, rows in of_file.items()}, unmatched
    )


def _table_of(folder: Path) -> Path | None:
    tables = sorted(path for path in folder.iterdir() if bare_name(path).endswith(_TABLES) and path.is_file())
    if len(tables) <= 1:
        return tables[0] if tables else None
    preferred = [path for name in _PREFERRED for path in tables if bare_name(path) == name]
    if not preferred:
        raise InputError(
            f"{folder}: has {len(tables)} tables ({_some([path.name for path in tables])}), expected one "
            "with the properties of the files. Name it properties.csv."
        )
    return preferred[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(shortened(name, 40) for name in names[:5]) + (", …" if len(names) > 5 else "")


def _one(rows: Sequence[tuple[str, Row]], table: str) -> Row:
    """Return the row of a file that has several: those that say the same are one."""
    usable = [(name, row) for name, row in rows if not isinstance(row, str)]
    if not usable:
        return rows[0][1]
    (_, first), *more = usable
    if all(_same(row, first) for _, row in more):
        return first
    examples = "; ".join(f"'{name}' with {shortened(list(row.values()), 40)}" for name, row in usable[:3])
    return f"has {len(usable)} rows in {table} that differ: {examples}"


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return info_of_row(one) == info_of_row(other) and one.get(ANY_PROPERTY) == other.get(ANY_PROPERTY)


def _lookups(files: Sequence[str]) -> list[dict[str, list[str]]]:
    """Return, from exact to loose, the files by names that they may have in a table."""

    def names(path: str) -> list[str]:
        whole = _normal(path)
        forms = [whole, *without_suffixes(whole)]
        return [*forms, *(form.rsplit("/", 1)[-1] for form in forms)]

    lookups: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(6)]
    for path in files:
        for lookup, name in zip(lookups, names(path), strict=True):
            lookup[name].append(path)
    return lookups


def _normal(name: str) -> str:
    """Return a file's name as tables of different systems would all have it."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/").removeprefix("./")
    bare = without_suffixes(name)[-1]
    return bare + name[len(bare) :].lower()
