"""Syntax of CIF, read by gemmi: blocks, columns of values, numbers with their digits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import gemmi

from whorl.datasets.entries import in_words
from whorl.errors import InputError, shortened

# A text field between lines that begin with ';', which may hold anything, or the head of a block.
_HEADS = re.compile(r"^;.*?^;|^[ \t]*(data_)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_LOOP = re.compile(r"\bloop_((?:\s+_\S+)+)", re.IGNORECASE)
_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,3}))?(?:\((\d{1,9})\))?")
_WHERE = re.compile(r"^string:(\d+)(?::\d+)?(?:\(\d+\))?(?: in data_\S*)?:? *")


@dataclass(frozen=True)
class Block:
    """One data block.

    Attributes:
        name: What follows ``data_``.
        columns: Values as written (a text field or quoted word with its quotes) of each name. Names are in
            lower case, with ``_`` where newer dictionaries write a dot.
    """

    name: str
    columns: Mapping[str, list[str]]

    def texts(self, name: str) -> list[str]:
        """Return the values of a name without quotes; none where it is absent or all are ``.`` or ``?``."""
        values = self.columns.get(name, [])
        if all(gemmi.cif.is_null(value) for value in values):
            return []
        return [gemmi.cif.as_string(value).strip() for value in values]

    def text(self, name: str) -> str | None:
        """Return the first value of a name; None where it is absent, empty, ``.`` or ``?`` (or ``'?'``)."""
        values = self.texts(name)[:1]
        return values[0] if values and values[0] not in ("", "?", ".") else None


def read_blocks(text: str) -> Iterator[tuple[str, Block | str]]:
    """Yield name and contents of each block of a CIF in its order, or why it is no valid CIF.

    A block that is broken does not hide the others, and blocks may have the same name.
    """
    for line, part in _parts(text.removeprefix("\ufeff")):
        try:
            document = gemmi.cif.read_string(part)
        except (RuntimeError, ValueError) as error:
            head = part.split(maxsplit=1)[0] if part.strip() else ""
            name = head[5:] if head.lower().startswith("data_") else ""
            yield name, f"no valid CIF: {_reason(error, part, line)}"
            continue
        for block in document:
            yield block.name.strip(), Block(block.name.strip(), _columns(block))


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text of each block and the number of lines before it."""
    starts = [match.start(1) for match in _HEADS.finditer(text) if match[1]]
    preamble = text[: starts[0]] if starts else text
    if any(line.strip() and not line.lstrip().startswith("#") for line in preamble.splitlines()):
        starts = [0, *starts]
    lines = 0
    place = 0
    for start, end in pairwise([*starts, len(text)]):
        lines += text.count("\n", place, start)
        place = start
        yield lines, text[start:end]


def _columns(block: gemmi.cif.Block) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for item in block:
        pair: Any = item.pair
        if pair is not None:
            columns[_plain(pair[0])] = [pair[1]]
        elif item.loop is not None:
            values, width = item.loop.values, len(item.loop.tags)
            for number, tag in enumerate(item.loop.tags):
                columns[_plain(tag)] = values[number::width]
    return columns


@lru_cache(maxsize=4096)
def _plain(tag: str) -> str:
    return tag.lower().replace(".", "_")


def _reason(error: Exception, part: str, lines_before: int) -> str:
    text = in_words(error)
    match = _WHERE.match(text)
    if match is None:
        return text
    line, reason = int(match[1]), text[match.end() :].strip()
    if reason.startswith("Wrong number of values in loop"):
        begins = [found.start() for found in re.finditer("^", part, re.MULTILINE)][line - 1]
        names = loop[1].split() if (loop := _LOOP.search(part, begins)) else []
        first = shortened(", ".join(names[:8]), 200)
        reason = f"a loop_ of {len(names)} columns ({first}) has too many or too few values"
    return f"line {lines_before + line}: {shortened(reason, 400)}"


@dataclass(frozen=True)
class Number:
    """A number as written.

    Attributes:
        value: The number.
        unit: One unit of its last digit.
        uncertainty: Standard uncertainty, as in ``0.3333(2)``; 0 where there is none.
    """

    value: float
    unit: float
    uncertainty: float = 0.0


def read_number(text: str) -> Number | None:
    """Read a number with its digits and standard uncertainty; None where it is none.

    >>> read_number("0.25(3)")
    Number(value=0.25, unit=0.01, uncertainty=0.03)
    """
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    sign, whole, digits, exponent, uncertainty = match.groups()
    power = int(exponent or 0)
    value = float(f"{sign}{whole or 0}.{digits or 0}e{power}")
    unit = float(f"1e{power - len(digits or '')}")
    return Number(value, unit, round(int(uncertainty or 0) * unit, 15))


def require_number(block: Block, name: str) -> Number | None:
    """Return the number that a name stands for; None where it is absent, ``.`` or ``?``.

    Raises:
        InputError: It is something else.
    """
    text = block.text(name)
    if text is None:
        return None
    number = read_number(text)
    if number is None:
        raise InputError(f"its {name} is '{text[:30]}', expected a number")
    return number
