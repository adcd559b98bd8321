"""CSV and Parquet tables: rows with a ``cif`` column, and properties beside a folder of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.datasets.cif import read_cif
from whorl.datasets.entries import DAMAGED, Entry, Source, bare_name, in_words
from whorl.errors import InputError, did_you_mean, import_extra

if TYPE_CHECKING:
    from pandas import DataFrame
else:  # pandas is slow to import
    DataFrame = Any

_PREFERRED = ("properties.csv", "id_prop.csv")


def read_table(path: Path, *, parquet: bool, names_first: bool = False) -> DataFrame:
    """Read a CSV (compressed or not) or Parquet file.

    Args:
        path: The file.
        parquet: Whether it is a Parquet file.
        names_first: Whether the first column holds names, which stay as written (``001`` is no number).

    Raises:
        InputError: The file cannot be read.
        MissingExtraError: Parquet without pyarrow.
    """
    import pandas as pd

    if parquet:
        import_extra("pyarrow", extra="parquet")
    try:
        if parquet:
            table = pd.read_parquet(path)
        else:
            as_written = {name: str for name in pd.read_csv(path, nrows=0).columns[:1] if names_first}
            table = pd.read_csv(path, low_memory=False, dtype=as_written)
    except (ValueError, *DAMAGED) as error:  # pandas' parser errors are ValueErrors
        raise InputError(
            f"{path}: cannot be read as {'Parquet' if parquet else 'CSV'} ({in_words(error)})."
        ) from None
    return table.rename(columns=str).drop(columns=[c for c in map(str, table) if c.startswith("Unnamed: ")])


def read_cif_table(path: Path, *, parquet: bool) -> Source:
    """Go through a table with one structure a row, in its ``cif`` column; the others are properties and info.

    Raises:
        InputError: There is no ``cif`` column.
    """
    table = read_table(path, parquet=parquet)
    cif = next((name for name in table.columns if name.lower() == "cif"), None)
    if cif is None:
        raise InputError(
            f"{path}: has no column 'cif' with the structures.{did_you_mean('cif', table.columns)}"
        )
    return Source(
        total=len(table),
        entries=_entries(path, table, cif),
        columns_from="its columns",
        columns=tuple(name for name in table.columns if name != cif),
    )


def _entries(path: Path, table: DataFrame, cif: str) -> Iterator[Entry]:
    others = table.drop(columns=cif)
    columns = [str(name) for name in others.columns]
    for number, (text, *values) in enumerate(
        zip(table[cif], *(others[name] for name in columns), strict=True)
    ):
        row = dict(zip(columns, values, strict=True))
        name, source = f"{path.name}@{number}", f"{path} row {number}"
        if not isinstance(text, str) or not text.strip():
            yield Entry(id=name, source=source, columns=row, reason="its cif column is empty")
            continue
        try:
            structures = read_cif(text)
        except InputError as error:
            yield Entry(id=name, source=source, columns=row, reason=str(error))
            continue
        reason = structures[0].reason
        if len(structures) > 1:
            reason = f"its cif column holds {len(structures)} structures, expected one"
        structure = structures[0].structure
        if structure is None or reason is not None:
            yield Entry(id=name, source=source, columns=row, reason=reason)
            continue
        info = {key: value for key, value in row.items() if value == value and value is not None}
        yield Entry(
            id=name,
            source=source,
            structure=structure.replace(info=({**structure.info[0], **info},)),
            columns=row,
        )


def folder_table(folder: Path) -> tuple[str, Mapping[str, Mapping[str, Any]]] | None:
    """Read the table that lies in a folder of structure files: its first column holds the files' names.

    Names may lack their suffix. A first line that already holds a number (as in CGCNN's ``id_prop.csv``) is
    taken for a row, and its second column answers to any name of a property.

    Returns:
        The table's name and its rows by file name, or None where there is no table.

    Raises:
        InputError: Several tables, none of which is ``properties.csv`` or ``id_prop.csv``.
    """
    found = sorted(path for path in folder.iterdir() if bare_name(path).endswith((".csv", ".parquet")))
    if len(found) > 1:
        preferred = [path for name in _PREFERRED for path in found if bare_name(path) == name]
        if not preferred:
            raise InputError(
                f"{folder}: has {len(found)} tables ({', '.join(path.name for path in found)}), expected one "
                "with the properties of the files. Name it properties.csv."
            )
        found = preferred
    if not found:
        return None
    path = found[0]
    table = read_table(path, parquet=bare_name(path).endswith(".parquet"), names_first=True)
    names = list(table.columns)
    # By column: as one array, whole numbers beside fractions would become fractions.
    rows = [list(row) for row in zip(*(table[name] for name in names), strict=True)]
    if len(names) == 2 and _is_number(names[1]):
        rows, names = [names, *rows], ["", ANY_PROPERTY]
    return path.name, {str(key).strip(): dict(zip(names[1:], values, strict=True)) for key, *values in rows}


ANY_PROPERTY = "*"  # name of a column that answers to every name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
