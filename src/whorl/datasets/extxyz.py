"""Extended XYZ, in and out; a broken frame costs itself and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.datasets.entries import DAMAGED, Entry, Source, in_words, open_text
from whorl.errors import InputError
from whorl.files import atomic_path
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import from_ase, to_ase

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


# Writing


def write_extxyz(
    structures: StructureBatch,
    path: Path | str,
    *,
    properties: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
) -> None:
    """Write structures as extended XYZ, atomically, for ASE, OVITO and others.

    Each frame's ``info`` gets the structure's own info, its properties, its id and the provenance (whorl's
    version, seed, hash of the recipe; nested entries are left to the store). What the format cannot hold
    (positions beyond 8 decimals, constraints other than fixed atoms, objects and many-line texts in ``info``)
    is left out; :func:`save_dataset` keeps it.

    Args:
        structures: What to write.
        path: A file name such as ``new.extxyz`` or ``new.extxyz.gz``.
        properties: One tensor of shape (B,) per name.
        provenance: The same for all frames.
        ids: A name for each structure.

    Raises:
        InputError: Lengths that differ.
    """
    import ase.io
    from ase.constraints import FixAtoms, FixCartesian

    columns: dict[str, Sequence[Any]] = {
        name: torch.as_tensor(values).tolist() for name, values in (properties or {}).items()
    }
    if ids is not None:
        columns["id"] = ids
    for name, values in columns.items():
        if len(values) != len(structures):
            raise InputError(
                f"write_extxyz: got {len(values)} values of '{name}' for {len(structures)} structures."
            )
    common = {key: value for key, value in (provenance or {}).items() if isinstance(value, int | float | str)}
    frames = to_ase(structures)
    for index, atoms in enumerate(frames):
        row = {name: values[index] for name, values in columns.items()}
        entries = {key: _as_written(value) for key, value in {**atoms.info, **row, **common}.items()}
        atoms.info = {key: value for key, value in entries.items() if value is not None and _is_key(key)}
        for name in [name for name, array in atoms.arrays.items() if array.dtype.kind not in "biufU"]:
            del atoms.arrays[name]
        atoms.set_constraint([c for c in atoms.constraints if isinstance(c, FixAtoms | FixCartesian)])
        if atoms.calc is not None:  # ASE refuses a result that also stands in info; ours is the later one
            for name in {*atoms.info, *atoms.arrays} & {*atoms.calc.results}:
                del atoms.calc.results[name]
    with atomic_path(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")


# A name that every reader takes for one, and that has no meaning of its own in the format.
_KEY = re.compile(r"(?!(Lattice|Properties|pbc)$)[A-Za-z_][\w.:/+-]*")


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def _as_written(value: Any) -> Any:
    """Return what to hand to ASE's writer so that its reader finds ``value``; None for what it would not."""
    if hasattr(value, "dtype") and value.dtype.kind in "biuf":
        return value if value.size else None
    if hasattr(value, "dtype"):
        value = value.tolist()
    if isinstance(value, str):
        return _text_as_written(value)
    if isinstance(value, list | tuple | Mapping):
        return value if _read_back(value) is not None else None
    return value if isinstance(value, int | float) else None


@lru_cache(maxsize=10_000)
def _text_as_written(text: str) -> str | None:
    # As JSON where the reader would make a number of it, as of a hash with digits only.
    forms = (text, f"_JSON {json.dumps(text)}")
    for form in forms:
        found = _read_back(form)
        if isinstance(found, str) and found == text:
            return form
    return None


def _read_back(value: Any) -> Any:
    """Return what ASE's reader makes of a value that its writer wrote; None where it cannot read the line."""
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    try:
        line = key_val_dict_to_str({"k": value, "end": True})
        found = key_val_str_to_dict(line)
    except Exception:  # neither says which errors it raises
        return None
    whole = len(line.splitlines()) == 1 and found.keys() == {"k", "end"}
    return found["k"] if whole else None
