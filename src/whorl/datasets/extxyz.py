"""Extended XYZ, frame by frame: a broken frame costs itself and no other."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from whorl.datasets.entries import DAMAGED, Entry, Source, in_words, open_text
from whorl.errors import InputError
from whorl.structures.convert import from_ase

_Frame = tuple[int, int, str | None]  # first line, line after the last, what is wrong


def read_extxyz(path: Path) -> Source:
    """Find the frames of an extended (or plain) XYZ file.

    Raises:
        InputError: The file has no frame at all.
    """
    lines, damage = _lines(path)
    frames = split_frames(lines)
    if not frames or (len(frames) == 1 and frames[0][0] == 0 and _count(lines[0]) is None):
        raise InputError(
            f"{path}: not an XYZ file: its first line should be a number of atoms"
            + (f", got '{lines[0].strip()[:40]}'." if lines else ", but it is empty.")
        )
    if damage:
        if frames[-1][2]:
            frames.pop()  # cut off by the damage
        start = frames[-1][1] if frames else 0
        frames.append((start, len(lines), f"the file is damaged from here on: {damage}"))
    return Source(total=len(frames), entries=_entries(path, lines, frames), columns_from="its frames")


def _lines(path: Path) -> tuple[list[str], str | None]:
    """Return all lines that can be read, and what stopped the reading."""
    lines: list[str] = []
    try:
        with open_text(path) as file:
            lines.extend(file)
    except DAMAGED as error:
        if not lines:
            raise InputError(f"{path}: cannot be read ({in_words(error)}).") from None
        return lines, in_words(error)
    return lines, None


def split_frames(lines: list[str]) -> list[_Frame]:
    """Say where each frame begins and ends, and which frames do not add up.

    After a frame that does not, the search goes on at the next line that holds nothing but a number.
    """
    frames: list[_Frame] = []
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        n_atoms = _count(lines[start])
        wrong: str | None
        if n_atoms is None:
            wrong = f"expected a number of atoms, got '{lines[start].strip()[:40]}'"
            stop = _next_count(lines, start + 1)
        else:
            stop = start + 2 + n_atoms
            wrong = _wrong_length(lines, start, stop)
            if wrong:
                stop = _next_count(lines, start + 2)
        frames.append((start, stop, wrong))
        start = stop
    return frames


def _wrong_length(lines: list[str], start: int, stop: int) -> str | None:
    """Say in which way a frame has more or fewer atoms than its first line announces."""
    announced = f"the frame announces {stop - start - 2} atoms"
    if stop > len(lines):
        return f"the file ends before the {stop - start - 2} atoms that the frame announces"
    if any(_count(lines[i]) is not None for i in range(start + 2, stop)):
        return f"{announced}, but has fewer"
    # By index: a slice would copy the rest of the file for every frame.
    follows = next((lines[i] for i in range(stop, len(lines)) if lines[i].strip()), "")
    return f"{announced}, but has more" if len(follows.split()) >= 4 else None


def _count(line: str) -> int | None:
    word = line.strip()
    return int(word) if word.isascii() and word.isdigit() else None


def _next_count(lines: list[str], start: int) -> int:
    return next((i for i in range(start, len(lines)) if _count(lines[i]) is not None), len(lines))


def _entries(path: Path, lines: list[str], frames: list[_Frame]) -> Iterator[Entry]:
    from ase.io.extxyz import read_xyz

    for number, (start, stop, wrong) in enumerate(frames):
        name, source = f"{path.name}@{number}", f"{path} frame {number} (line {start + 1})"
        if wrong:
            yield Entry(id=name, source=source, reason=wrong)
            continue
        try:
            atoms = next(read_xyz(StringIO("".join(lines[start:stop])), 0))
            results = atoms.calc.results if atoms.calc else {}
            yield Entry(id=name, source=source, structure=from_ase(atoms), columns={**results, **atoms.info})
        except Exception as error:  # whatever a parser makes of a broken frame, the next one shall be read
            yield Entry(id=name, source=source, reason=in_words(error))
