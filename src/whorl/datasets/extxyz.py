"""Extended XYZ reader and writer; a broken frame does not affect others."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whorl.datasets.entries import (
    DAMAGED,
    LONGEST_LINE,
    OF_EACH_ATOM,
    Entry,
    Source,
    in_words,
    may_be_group,
    open_text,
    own_info,
    read_lines,
    with_doubts,
)
from whorl.errors import InputError, shortened
from whorl.files import atomic_path
from whorl.structures.batch import StructureBatch
from whorl.structures.convert import Structures, as_batch, from_ase, to_ase

_Frame = tuple[int, int, str | None]  # first line, line after the last, what is wrong


def read_extxyz(path: Path) -> Source:
    """Find the frames of an extended (or plain) XYZ file.

    Raises:
        InputError: The file has no frame at all.
    """
    lines, cut, damage = _lines(path)
    frames = split_frames(lines)
    if not frames or (len(frames) == 1 and frames[0][0] == 0 and _count(lines[0]) is None):
        raise InputError(
            f"{path}: not an XYZ file: its first line should be a number of atoms"
            + (f", got '{shortened(lines[0])}'." if lines else ", but it is empty.")
        )
    if cut:
        frames = [_with_cut_line(frame, cut) for frame in frames]
    if damage:
        if frames[-1][2]:
            frames.pop()  # cut off by the damage
        start = frames[-1][1] if frames else 0
        frames.append((start, len(lines), f"the file is damaged from here on: {damage}"))
    return Source(total=len(frames), entries=_entries(path, lines, frames), columns_from="its frames")


def _lines(path: Path) -> tuple[list[str], list[int], str | None]:
    """Return all lines that can be read, the indices of those cut for their length, and what stopped it."""
    lines: list[str] = []
    cut: list[int] = []
    try:
        with open_text(path) as file:
            for line, is_cut in read_lines(file):
                if is_cut:
                    cut.append(len(lines))
                lines.append(line)
    except DAMAGED as error:
        if not lines:
            raise InputError(f"{path}: cannot be read ({in_words(error)}).") from None
        return lines, cut, in_words(error)
    return lines, cut, None


def _with_cut_line(frame: _Frame, cut: Sequence[int]) -> _Frame:
    start, stop, wrong = frame
    where = bisect.bisect_left(cut, start)
    if where < len(cut) and cut[where] < stop:
        wrong = f"its line {cut[where] + 1} has more than {LONGEST_LINE} characters"
    return start, stop, wrong


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
            wrong = f"expected a number of atoms, got '{shortened(lines[start])}'"
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
    return int(word) if word.isascii() and word.isdigit() and len(word) < 12 else None


def _next_count(lines: list[str], start: int) -> int:
    return next((i for i in range(start, len(lines)) if _count(lines[i]) is not None), len(lines))


def _entries(path: Path, lines: list[str], frames: list[_Frame]) -> Iterator[Entry]:
    for number, (start, stop, wrong) in enumerate(frames):
        name, source = f"{path.name}@{number}", f"{path} frame {number} (line {start + 1})"
        if wrong:
            yield Entry(id=name, source=source, reason=wrong)
            continue
        try:
            structure, columns = _frame(lines[start:stop])
        except Exception as error:  # a broken frame must not prevent reading the next one
            yield Entry(id=name, source=source, reason=in_words(error))
        else:
            yield Entry(id=name, source=source, structure=structure, columns=columns)


def _frame(lines: list[str]) -> tuple[StructureBatch, dict[str, Any]]:
    """Read one frame with ASE, and what ASE would refuse a frame for and whorl does not need.

    Returns:
        The structure, and what its comment line and results say of it.

    Raises:
        Exception: Whatever ASE makes of atoms, a cell or columns that cannot be understood.
    """
    from ase.io.extxyz import read_xyz

    doubts: list[str] = []
    apart: dict[str, Any] = {}
    properties = [_PLAIN]

    def parse(line: str) -> dict[str, Any]:
        info = _comment(line, doubts)
        _check_columns(info, lines[2:])
        properties.append(str(info.get("Properties", _PLAIN)))
        if "Lattice" not in info:
            doubts.extend(
                f"it has no Lattice, but '{key}', which is no key of the format: read without a cell"
                for key in info
                if key.lower() in ("lattice", "cell", "unit_cell")
            )
        # ASE takes such keys for results of a calculator; those that are none stay what they are.
        for key in [key for key in info if _is_odd_result(key, info)]:
            value = info.pop(key)
            apart[key] = "T" if value is True else value  # a bare word such as energy is no number
        return info

    atoms = next(read_xyz(StringIO("".join(lines)), 0, properties_parser=parse))
    doubts.extend(
        f"its '{symbol}' was read as {symbol.capitalize()} and not as a group of atoms"
        for symbol in sorted(_symbols(properties[-1], lines[2:]))
        if may_be_group(symbol)
    )
    results = atoms.calc.results if atoms.calc else {}
    atoms.info = own_info({**atoms.info, **apart})
    return with_doubts(from_ase(atoms), doubts), {**results, **atoms.info}


# A part of a comment line as ASE takes it apart: words, quoted or bracketed parts, and what '=' joins.
_WORD = (
    r"""(?:\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{(?:\\.|[^}\\])*\}|\[(?:\\.|[^\]\\])*\]|[^\s="'{\[\\])"""
)
# After '=' and a space comes the value, unless it is the next name.
_PART = re.compile(rf"({_WORD}+)\s*(?:=(?:((?:{_WORD}|=)+)|\s+({_WORD}+)(?!{_WORD}|\s*=))?)?")
_PLAIN = "species:S:1:pos:R:3"  # columns of a frame that announces none
_NUMBERS = ("Z", "numbers")
_SPECIAL = ("stress", "virial")  # ASE refuses these unless they have nine numbers
_LONGEST_MENDED = 100_000  # characters; beyond it a comment line is read as a whole or not at all


def _comment(line: str, doubts: list[str]) -> dict[str, Any]:
    """Return what the comment line says; a part that cannot be understood stays text and is doubted."""
    from ase.io.extxyz import key_val_str_to_dict

    try:
        return dict(key_val_str_to_dict(line))
    except Exception:
        if len(line) > _LONGEST_MENDED:
            raise
    info: dict[str, Any] = {}
    for part in _PART.finditer(line):
        key, text = part[1].strip("\"'"), part[2] or part[3] or ""
        try:
            if key in _SPECIAL:
                (value,) = key_val_str_to_dict(f"numbers={text}").values()
                nine = isinstance(value, np.ndarray) and value.shape == (9,)
                info[key] = value.reshape((3, 3), order="F") if nine else value
            else:
                info |= key_val_str_to_dict(part[0])
        except Exception as error:
            if key == "Lattice":
                raise
            info[key] = text.strip("\"'")
            doubts.append(f"its '{shortened(key)}' was kept as text ({in_words(error)})")
    return info


def _is_odd_result(key: str, info: Mapping[str, Any]) -> bool:
    """Whether a key is that of a result and its value is not what such a result is."""
    from ase.io.extxyz import per_config_properties

    if key not in per_config_properties:
        return False
    value = info[key]
    numbers = (
        isinstance(value, np.ndarray | np.generic | int | float) and np.asarray(value).dtype.kind in "if"
    )
    shape = np.shape(value)
    if key == "stress":
        return not (numbers and shape in ((3, 3), (6,)))
    return not (numbers and (shape == () or key not in ("energy", "free_energy", "magmom")))


def _check_columns(info: dict[str, Any], atoms: Sequence[str]) -> None:
    """Compare ``Properties`` with the columns that the atoms have, before room is made for them.

    Raises:
        InputError: It announces others, or no species and positions.
    """
    from ase.io.extxyz import per_atom_properties

    if "Properties" not in info:
        return
    fields = str(info["Properties"]).split(":")
    names, kinds, counts = fields[::3], fields[1::3], fields[2::3]
    if len(fields) % 3 or not all(
        count.isascii() and count.isdigit() and len(count) < 12 for count in counts
    ):
        raise InputError(
            f"its Properties are '{shortened(info['Properties'])}', expected such as species:S:1:pos:R:3"
        )
    columns = sum(map(int, counts))
    for number, line in enumerate(atoms):
        if len(line.split(maxsplit=columns)) < columns:
            raise InputError(
                f"its Properties announce {columns} columns, but atom {number} has {len(line.split())}"
            )
    if "3" not in [count for name, count in zip(names, counts, strict=True) if name == "pos"]:
        raise InputError("its Properties name no positions (pos:R:3)")
    if not {"species", "Z"} & {*names}:
        raise InputError("its Properties name no elements (species:S:1)")
    if "species" in names and kinds[names.index("species")] == "I":
        raise InputError("its Properties say that species are numbers; call them Z (Z:I:1)")
    # A result of each atom that is no number would be refused by ASE, and numbers would go before species.
    # Under another name they are kept.
    fields[::3] = [
        f"{name}_"
        if (name in per_atom_properties and kind in "SL") or (name in _NUMBERS and "species" in names)
        else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    info["Properties"] = ":".join(fields)


def _symbols(properties: str, atoms: Sequence[str]) -> set[str]:
    """Return the different words in the column of species, as written."""
    fields = properties.split(":")
    if "species" not in fields[::3]:
        return set()
    place = sum(map(int, fields[2 : 3 * fields[::3].index("species") : 3]))
    return {words[place] for line in atoms if len(words := line.split(maxsplit=place + 1)) > place}


# Writing


def write_extxyz(
    structures: Structures,
    path: Path | str,
    *,
    properties: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
    forces: Float[Tensor, "A 3"] | None = None,
    stresses: Float[Tensor, "B 3 3"] | None = None,
) -> None:
    """Write structures as extended XYZ, atomically, for ASE, OVITO and others.

    Each frame's ``info`` gets the structure's own info, its properties, its id and the provenance (whorl's
    version, seed, hash of the recipe; nested entries are left to the store). Where structures have an entry
    of their own under such a name, whorl's is called ``whorl_id``, ``whorl_source`` … What the format cannot
    hold (positions beyond 8 decimals, results for another number of atoms, constraints other than fixed
    atoms, objects and many-line texts in ``info``) is left out; :func:`save_dataset` keeps it.

    Args:
        structures: What to write.
        path: A file name such as ``new.extxyz`` or ``new.extxyz.gz``.
        properties: One tensor of shape (B,) per name.
        provenance: The same for all frames.
        ids: A name for each structure.
        forces: In eV/Å, the column ``forces`` of frames that have them.
        stresses: In eV/Å³, likewise ``stress``.

    Raises:
        InputError: Lengths that differ.
    """
    import ase.io
    from ase.constraints import FixAtoms, FixCartesian

    structures = as_batch(structures)
    columns: dict[str, Sequence[Any]] = {
        name: torch.as_tensor(values).tolist() for name, values in (properties or {}).items()
    }
    common = {key: value for key, value in (provenance or {}).items() if isinstance(value, int | float | str)}
    name_of = {key: _free_name(key, structures.info) for key in (*common, "id")}
    common = {name_of[key]: value for key, value in common.items()}
    if ids is not None:
        columns[name_of["id"]] = ids
    for name, values in columns.items():
        if len(values) != len(structures):
            raise InputError(
                f"write_extxyz: got {len(values)} values of '{name}' for {len(structures)} structures."
            )
    frames = to_ase(structures)
    _add_results(frames, structures, forces, stresses)
    for index, atoms in enumerate(frames):
        row = {name: values[index] for name, values in columns.items()}
        entries = {key: _as_written(value) for key, value in {**atoms.info, **row, **common}.items()}
        atoms.info = {
            f"{key}_" if key in _SPECIAL and not hasattr(value, "shape") else key: value  # ASE wants arrays
            for key, value in entries.items()
            if value is not None and _is_key(key)
        }
        for name in [name for name, array in atoms.arrays.items() if array.dtype.kind not in "biufU"]:
            del atoms.arrays[name]
        atoms.set_constraint([c for c in atoms.constraints if isinstance(c, FixAtoms | FixCartesian)])
        if atoms.calc is not None:  # ASE rejects a result that is also in info; ours is the later one
            for name in {*atoms.info, *atoms.arrays} & {*atoms.calc.results}:
                del atoms.calc.results[name]
            # A matrix for each atom, such as Born charges, is no column.
            for name in [name for name, value in atoms.calc.results.items() if np.ndim(value) > 2]:
                del atoms.calc.results[name]
            for name in OF_EACH_ATOM & {*atoms.calc.results}:
                if np.shape(atoms.calc.results[name])[:1] != (len(atoms),):
                    del atoms.calc.results[name]
    with atomic_path(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")


def _add_results(
    frames: Sequence[Any], structures: StructureBatch, forces: Tensor | None, stresses: Tensor | None
) -> None:
    """Give frames their labels as results of a calculator, as which ASE writes and reads them."""
    from ase.calculators.singlepoint import SinglePointCalculator

    counts = structures.n_atoms.tolist()
    of_frames = {
        "forces": None if forces is None else [f.cpu().numpy() for f in forces.split(counts)],
        "stress": None if stresses is None else list(stresses.cpu().numpy()),
    }
    for name, values in of_frames.items():
        if values is not None and len(values) != len(frames):
            raise InputError(f"write_extxyz: got {len(values)} of {name} for {len(frames)} structures.")
        for atoms, value in zip(frames, values or (), strict=False):
            if value.size and np.isfinite(value).all():
                atoms.calc = atoms.calc or SinglePointCalculator(atoms)
                atoms.calc.results[name] = value


def _free_name(name: str, infos: Sequence[Mapping[str, Any]]) -> str:
    """Return the name that whorl's own entry gets where structures may have one of that name themselves.

    Entries of a file that whorl wrote are its own: they are written anew.
    """
    own = f"{_PREFIX}{name.removeprefix(_PREFIX)}"
    taken = any(name in info and (own in info or _VERSION not in info) for info in infos)
    return own if taken else name


_PREFIX, _VERSION = "whorl_", "whorl_version"

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
