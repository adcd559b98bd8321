"""Entries yielded by readers, and opening of files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader, RawIOBase, TextIOWrapper
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from whorl.errors import InputError, shortened
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import EXTRAS

WARNINGS = "cif_warnings"  # key of ``info`` that holds what a reader doubts of an entry

# Results of a calculation that have a row for each atom.
OF_EACH_ATOM = frozenset(("forces", "stresses", "charges", "magmoms", "energies"))

# What a reader may raise on a damaged compressed file.
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, OSError)

LONGEST_LINE = 4_000_000  # characters
_LONGEST_TEXT = 256 << 20  # characters of a file that is read in one piece
_MOST_UNPACKED = 100  # bytes of contents for each byte of a compressed file; text has 3 to 20
_ALWAYS_UNPACKED = 100 << 20  # bytes that any file may unpack to
_LONG_WORD = re.compile(r"\S{81,}")

# Suffixes that say in which format a file is.
SUFFIXES = {
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".db": "ase-db",
    ".json": "ase-db",
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".contcar": "poscar",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".zip": "zip",
}
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One structure of a source, or why there is none.

    Attributes:
        id: A name that is unique in the data set.
        source: File and position, for messages.
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


class _Bounded(RawIOBase):
    """What a compressed file unpacks to, up to a limit; a small file that makes too much is refused."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path, self._done = file, path, 0
        self._packed = path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # By read1, since what comes before a damaged place would be lost to a longer reading.
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        self._done += len(data)
        refuse_bomb(self._path, packed=self._packed, unpacked=self._done)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def refuse_bomb(path: Path, *, packed: int, unpacked: int) -> None:
    """Refuse a file that unpacks to more than memory should be asked for, given its size in bytes.

    Raises:
        InputError: More than 100 MiB, and more than 100 times the size of the file.
    """
    if unpacked > max(_ALWAYS_UNPACKED, _MOST_UNPACKED * packed):
        raise InputError(
            f"{path}: unpacks to more than {_MOST_UNPACKED} times its {packed / 2**20:.1f} MiB, which no "
            "real data does. Unpack it yourself if you trust it."
        )


def open_binary(path: Path) -> BufferedReader:
    """Open a file, compressed (.gz, .bz2, .xz) or not, for its bytes.

    Reading raises :class:`InputError` where it unpacks to more than :func:`refuse_bomb` allows.
    """
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        return path.open("rb")
    return BufferedReader(_Bounded(opener(path, "rb"), path), buffer_size=1 << 18)


def open_text(path: Path) -> TextIOWrapper:
    """Open a text file, compressed (.gz, .bz2, .xz) or not, in UTF-8, or UTF-16 where it begins as such.

    Bytes that are neither do not stop it. Reading raises as that of :func:`open_binary`.
    """
    file = open_binary(path)
    try:
        utf16 = file.peek(2)[:2] in (BOM_UTF16_LE, BOM_UTF16_BE)
    except DAMAGED:
        utf16 = False  # reading says what is wrong
    return TextIOWrapper(file, encoding="utf-16" if utf16 else "utf-8-sig", errors="replace")


def read_text(path: Path) -> str:
    """Return the text of a file that holds one structure or a few.

    Raises:
        InputError: It is longer than any such file is; the message is the reason alone.
    """
    with open_text(path) as file:
        text = file.read(_LONGEST_TEXT + 1)
    if len(text) > _LONGEST_TEXT:
        raise InputError(
            f"is longer than {_LONGEST_TEXT >> 20} MiB, expected a file of one structure or a few"
        )
    return text


def read_lines(file: TextIOWrapper) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it was cut because it is longer than any line should be."""
    while line := file.readline(LONGEST_LINE):
        cut = len(line) == LONGEST_LINE and not line.endswith("\n")
        yield (f"{line[:80]}\n" if cut else line), cut
        while cut and (rest := file.readline(LONGEST_LINE)) and not rest.endswith("\n"):
            pass


def with_doubts(structure: StructureBatch, doubts: Sequence[str]) -> StructureBatch:
    """Return a batch of one with more doubts in its ``info``."""
    (info,) = structure.info or ({},)
    warnings = [*info.get(WARNINGS, ()), *doubts]
    return structure.replace(info=({**info, WARNINGS: warnings},)) if doubts else structure


def own_info(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a file says of a structure; keys that whorl needs itself get an underscore at the end."""
    return {f"{key}_" if key in (EXTRAS, WARNINGS) else str(key): value for key, value in values.items()}


def may_be_group(symbol: str) -> bool:
    """Whether a symbol in large letters may be a group of atoms too: CO is cobalt, or carbon and oxygen."""
    return len(symbol) == 2 and symbol.isupper() and all(atomic_numbers.get(letter) for letter in symbol)


def bare_name(path: Path) -> str:
    """Return the file's name in lower case without the suffix of a compression."""
    name = path.name.lower()
    return name[: -len(path.suffix)] if path.suffix.lower() in _OPENERS else name


def without_suffixes(name: str) -> tuple[str, str]:
    """Return a name without the suffix of a compression, and without that of a format too.

    >>> without_suffixes("mp-1.5.cif.gz"), without_suffixes("mp-1.5")
    (('mp-1.5.cif', 'mp-1.5'), ('mp-1.5', 'mp-1.5'))
    """
    stem, dot, suffix = name.rpartition(".")
    plain = stem if dot and f".{suffix.lower()}" in _OPENERS else name
    stem, dot, suffix = plain.rpartition(".")
    return plain, stem if dot and f".{suffix.lower()}" in SUFFIXES else plain


def in_words(error: Exception) -> str:
    """Return what a parser's exception says, in one line that quotes no long value whole."""
    text = _LONG_WORD.sub(lambda word: shortened(word[0]), " ".join(str(error)[:10_000].split()))
    if isinstance(error, KeyError):
        return f"{shortened(text)} is neither a chemical element nor a known name"
    if isinstance(error, InputError):  # of a conversion, where the batch has one structure only
        return text.removeprefix("structure 0 ")
    return shortened(text, 300) or type(error).__name__
