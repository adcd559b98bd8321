"""What every reader yields, and how files are opened."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from whorl.errors import InputError
from whorl.structures.batch import StructureBatch

WARNINGS = "cif_warnings"  # key of ``info`` that holds what a reader doubts of an entry

# What a reader may raise on a damaged compressed file.
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, OSError)

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One structure of a source, or why there is none.

    Attributes:
        id: A name that is unique in the data set.
        source: Where it stands, for people.
        structure: A batch of one; None where it cannot be read.
        columns: Names and values among which the property is looked for.
        reason: Why it cannot be read.
    """

    id: str
    source: str
    structure: StructureBatch | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A number of entries, and a way to go through them once.

    Attributes:
        total: How many entries there are.
        entries: The entries.
        columns_from: Where the columns come from, for messages ("its frames", "its columns").
        columns: Their names, where they are known before the entries are read.
    """

    total: int
    entries: Iterator[Entry]
    columns_from: str
    columns: tuple[str, ...] | None = None


def open_text(path: Path) -> TextIOWrapper:
    """Open a text file, compressed (.gz, .bz2, .xz) or not. Bytes that are no UTF-8 do not stop it."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    return opener(path, "rt", encoding="utf-8", errors="replace")


def bare_name(path: Path) -> str:
    """Return the file's name in lower case without the suffix of a compression."""
    name = path.name.lower()
    return name[: -len(path.suffix)] if path.suffix.lower() in _OPENERS else name


def in_words(error: Exception) -> str:
    """Return what a parser's exception says, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        return f"{text} is neither a chemical element nor a known name"
    if isinstance(error, InputError):  # of a conversion, where the batch has one structure only
        return text.removeprefix("structure 0 ")
    return text or type(error).__name__
