r"""Symmetry operations of a CIF block: listed, or by Hall symbol, Hermann-Mauguin symbol or number.

An operation maps fractional coordinates x to W x + w. The tables of settings are those of gemmi (564, with
their Hall symbols) and of spglib (full symbols).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np
from jaxtyping import Float, Int

from whorl.datasets.cif_text import Block
from whorl.errors import InputError
from whorl.symmetry.detection import full_symbols, space_group_type

MISFIT = 0.01  # relative change of the cell's metric beyond which an operation is none of this cell
_DOUBTFUL_MISFIT = 1e-3
_MOST = 2000  # operations; a space group has at most 192, and more in a supercell

_LISTED = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_magn_operation_xyz",
)
_CENTRINGS = "_space_group_symop_magn_centering_xyz"
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m_ref",
    "_space_group_name_h-m",
)
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_CODE = "_space_group_it_coordinate_system_code"

_TERM = re.compile(r"([+-]?)(?:(\d+(?:\.\d*)?|\.\d+)(?:/(\d+))?|([xyz]))")
# At the end of a name: ':2', ':H', 'R', 'O1', and 'S' or 'Z' as ICSD writes the two origins.
_SETTING = re.compile(r"\s*(?::\s*([12hrsz]|o[12])|\s(o[12]|[hrsz])|(o[12]|[hrsz]))\s*$", re.IGNORECASE)
# An axis as SHELX writes it, P2(1)/c; not a letter or an axis before the number of the group, P2(3).
_SCREW = re.compile(r"(?<=[\s_A-Za-z)])(2(?=\(1)|3(?=\([12])|4(?=\([1-3])|6(?=\([1-5]))\((\d)\)")
_TRIVIAL = frozenset(("", "?", ".", "1", "p1", "triclinic", "x,y,z", "c1", "c1^1"))  # what states no symmetry
_SETTING_CODES = {"o1": "1", "s": "1", "o2": "2", "z": "2"}


@dataclass(frozen=True, eq=False)
class Operations:
    """The operations of a space group in one setting, all of them, the identity first.

    Attributes:
        rotations: W, shape (g, 3, 3).
        translations: w from 0 to 1, shape (g, 3).
    """

    rotations: Int[np.ndarray, "g 3 3"]
    translations: Float[np.ndarray, "g 3"]

    def __len__(self) -> int:
        """Return the number of operations."""
        return len(self.rotations)

    @property
    def keys(self) -> frozenset[bytes]:
        """What two lists of the same operations have in common."""
        return frozenset(_keys(self.rotations, self.translations))

    def misfit(self, cell: Float[np.ndarray, "3 3"]) -> float:
        """Return by how much an operation changes the metric of a cell at most, relative to its lengths."""
        metric = cell @ cell.T
        lengths = np.sqrt(np.diag(metric))
        changed = self.rotations.swapaxes(1, 2) @ metric @ self.rotations - metric
        return float(np.abs(changed / np.outer(lengths, lengths)).max())


@dataclass(frozen=True)
class Symmetry:
    """A possible symmetry of a block.

    Attributes:
        operations: The operations.
        source: Description of their origin.
        doubts: Doubts about them.
        rank: Of several that fit the cell equally well, those of the lowest rank are meant.
    """

    operations: Operations
    source: str
    doubts: tuple[str, ...] = ()
    rank: int = 0


def find_symmetries(block: Block, cell: Float[np.ndarray, "3 3"]) -> list[Symmetry]:
    """Return the possible symmetries of a block; several if only the contents of the cell can decide.

    Operations that are listed go before a Hall symbol, that before a Hermann-Mauguin symbol, that before a
    number. Without any of these, the structure is in P1.

    Args:
        block: The block.
        cell: Its lattice vectors in Å, as rows.

    Raises:
        InputError: Operations that are no group or do not fit the cell, a group that is not known, or
            statements that contradict each other.
    """
    names = _texts(block, _NAMES)
    numbers = tuple(dict.fromkeys(map(_number, _texts(block, _NUMBERS))))
    listed = _listed(block)
    if listed is not None:
        return [_fitting(_checked(listed, names, numbers), cell)]
    hall = next(iter(_texts(block, _HALL)), None)
    doubts: tuple[str, ...] = ()
    if hall is not None:
        try:
            found = Symmetry(_of_hall(" ".join(hall.split())), f"the operations of the Hall symbol '{hall}'")
            return [_fitting(_checked(found, names, numbers), cell)]
        except RuntimeError:  # gemmi cannot read it
            if not names and not numbers:
                raise InputError(
                    f"its Hall symbol '{hall}' is not understood; list the symmetry operations"
                ) from None
            doubts = (f"its Hall symbol '{hall}' is not understood, and was left aside",)
    if len(numbers) > 1:
        raise InputError(f"it states two space group numbers, {' and '.join(map(str, numbers))}")
    number = numbers[0] if numbers else None
    if names:
        candidates = _of_name(_agreed(names), number, block.text(_CODE))
    elif number is not None:
        candidates = _of_number(number, block.text(_CODE))
    else:
        _require_nothing_else(block)
        return [Symmetry(_of_hall("P 1"), "no operations but the identity")]
    fitting = [one for one in candidates if one.operations.misfit(cell) <= MISFIT]
    if not fitting:
        raise InputError(f"{candidates[0].source} do not fit its cell{_of_cell(cell)}")
    best = min(one.rank for one in fitting)
    chosen = [_fitting(one, cell) for one in fitting if one.rank == best]
    return [Symmetry(one.operations, one.source, (*doubts, *one.doubts)) for one in chosen]


def _of_cell(cell: Float[np.ndarray, "3 3"]) -> str:
    lengths = np.linalg.norm(cell, axis=1)
    cosines = (cell @ cell.T) / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos(np.clip([cosines[1, 2], cosines[0, 2], cosines[0, 1]], -1, 1)))
    words = [f"{x:g} Å" for x in lengths.round(4)] + [f"{x:g}°" for x in angles.round(2)]
    return f" ({', '.join(words)})"


def _fitting(symmetry: Symmetry, cell: Float[np.ndarray, "3 3"]) -> Symmetry:
    """Return the symmetry, doubted where it fits the cell badly.

    Raises:
        InputError: It does not fit.
    """
    misfit = symmetry.operations.misfit(cell)
    if misfit > MISFIT:
        raise InputError(f"{symmetry.source} do not fit its cell{_of_cell(cell)}")
    if misfit <= _DOUBTFUL_MISFIT:
        return symmetry
    doubt = f"its cell{_of_cell(cell)} has not quite the symmetry of {symmetry.source}"
    return Symmetry(symmetry.operations, symmetry.source, (*symmetry.doubts, doubt))


def _texts(block: Block, tags: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct values of some tags."""
    return tuple(dict.fromkeys(text for tag in tags if (text := block.text(tag)) is not None))


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= 230:
        raise InputError(f"its space group number is '{text[:20]}', expected 1 to 230")
    return int(text)


def _require_nothing_else(block: Block) -> None:
    """Reject a block that states a symmetry by other tags only (misspelled, or a Schoenflies symbol).

    Raises:
        InputError: It does.
    """
    for tag in block.columns:
        if not re.match(r"_symmetry|_(?:\w+_)?space_?group", tag) or tag.endswith("_id"):
            continue
        text = next((text for text in block.texts(tag) if _compact(text) not in _TRIVIAL), None)
        if text is not None:
            raise InputError(
                f"it states a symmetry by {tag} alone ('{' '.join(text.split())[:40]}'), which is not "
                "understood; give _space_group_name_H-M_alt, or list the symmetry operations"
            )


# Listed operations


def _listed(block: Block) -> Symmetry | None:
    found = {
        tag: parse_operations(tuple(texts), tuple(block.texts(_CENTRINGS)))
        for tag in _LISTED
        if (texts := block.texts(tag))
    }
    if not found:
        return None
    first, *others = found.values()
    if any(other.keys != first.keys for other in others):
        raise InputError(f"it lists its symmetry operations twice ({' and '.join(found)}), and differently")
    return Symmetry(first, "the symmetry operations listed")


@lru_cache(maxsize=256)
def parse_operations(texts: tuple[str, ...], centrings: tuple[str, ...] = ()) -> Operations:
    """Read operations such as ``-y, x-y, z+1/3``; of those of a magnetic group the part for the positions.

    Args:
        texts: One operation each.
        centrings: Translations that are listed apart.

    Raises:
        InputError: One that is not understood, or they are no group.
    """
    operations = _unique(*_stacked([_operation(text) for text in texts]))
    if centrings:
        operations = _product(_unique(*_stacked([_operation(text) for text in centrings])), operations)
    _require_group(operations)
    return operations


def _operation(text: str) -> tuple[Int[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    shown = " ".join(text.split())[:60]
    parts = text.lower().split(",")
    if (
        len(parts) == 4 and parts[3].strip().lstrip("+-") == "1"
    ):  # the last part says whether time is reversed
        parts = parts[:3]
    if len(parts) != 3:
        raise InputError(
            f"its symmetry operation '{shown}' is not understood: expected three parts such as 'x, y, z', in "
            "quotes where there are spaces"
        )
    rotation, translation = np.zeros((3, 3), dtype=np.int64), np.zeros(3)
    for row, part in enumerate(parts):
        terms = _terms("".join(part.split()))
        if terms is None:
            raise InputError(f"its symmetry operation '{shown}' is not understood: '{part.strip()[:20]}'")
        for axis, value in terms:
            if axis is None:
                translation[row] += value
            else:
                rotation[row, axis] += int(value)
    if abs(round(float(np.linalg.det(rotation)))) != 1:
        raise InputError(f"its symmetry operation '{shown}' is none: its determinant is not 1 or -1")
    return rotation, translation % 1.0


def _terms(text: str) -> list[tuple[int | None, float]] | None:
    """Return axis and factor of each term of one part of an operation, a shift without an axis."""
    found: list[tuple[int | None, float]] = []
    place = 0
    while place < len(text):
        match = _TERM.match(text, place)
        if match is None or (place and not match[1]) or match[3] == "0" or len(match[0]) > 20:
            return None
        sign = -1.0 if match[1] == "-" else 1.0
        if match[4]:
            found.append(("xyz".index(match[4]), sign))
        else:
            found.append((None, sign * _shift(match[2], match[3])))
        place = match.end()
    return found or None


def _shift(number: str, denominator: str | None) -> float:
    if denominator is not None:
        if not int(denominator):
            return float("nan")
        return float(Fraction(number) / int(denominator))
    exact = Fraction(number)
    nearest = exact.limit_denominator(24)
    digits = len(number.partition(".")[2])
    return float(nearest if abs(nearest - exact) < Fraction(1, 10**digits) else exact)


def _stacked(operations: Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([w for w, _ in operations]), np.array([w for _, w in operations])


def _keys(rotations: Int[np.ndarray, "g 3 3"], translations: Float[np.ndarray, "g 3"]) -> list[bytes]:
    steps = np.rint(translations * 1e5).astype(np.int64) % 100_000
    rows = np.concatenate([rotations.reshape(-1, 9), steps], 1).astype(np.int64)
    return [row.tobytes() for row in rows]


def _unique(rotations: Int[np.ndarray, "g 3 3"], translations: Float[np.ndarray, "g 3"]) -> Operations:
    """Return each operation once (some programs list one twice), the identity first.

    Raises:
        InputError: There are too many.
    """
    first = {key: number for number, key in reversed(list(enumerate(_keys(rotations, translations))))}
    if len(first) > _MOST:
        raise InputError(f"it lists {len(first)} symmetry operations, expected {_MOST} at most")
    kept = np.array(sorted(first.values()))
    away = np.abs(rotations[kept] - np.eye(3)).sum((1, 2)) + translations[kept].sum(1)
    kept = kept[np.argsort(away > 1e-5, kind="stable")]
    return Operations(rotations[kept], translations[kept])


def _product(first: Operations, second: Operations) -> Operations:
    rotations = (first.rotations[:, None] @ second.rotations).reshape(-1, 3, 3)
    shifts = second.translations @ first.rotations.swapaxes(1, 2) + first.translations[:, None]
    return _unique(rotations, shifts.reshape(-1, 3) % 1.0)


def _require_group(operations: Operations) -> None:
    keys = operations.keys
    for rotation, translation in zip(operations.rotations, operations.translations, strict=True):
        turned = rotation @ operations.rotations
        moved = operations.translations @ rotation.T + translation
        for missing, key in enumerate(_keys(turned, moved)):
            if key not in keys:
                raise InputError(
                    f"its {len(operations)} symmetry operations are no group: they lack "
                    f"'{_written(turned[missing], moved[missing] % 1.0)}'"
                )


def _written(rotation: Int[np.ndarray, "3 3"], translation: Float[np.ndarray, "3"]) -> str:
    parts = []
    for row, shift in zip(rotation, translation, strict=True):
        axes = "".join(
            f"{'-' if value < 0 else '+'}{axis}" for axis, value in zip("xyz", row, strict=True) if value
        )
        fraction = Fraction(float(shift)).limit_denominator(100)
        parts.append(axes.removeprefix("+") + (f"+{fraction}" if fraction else ""))
    return ",".join(parts)


def _checked(symmetry: Symmetry, names: Sequence[str], numbers: Sequence[int]) -> Symmetry:
    """Return a symmetry, doubted where a number or name of the block belongs to another space group."""
    stated = {number: f"number {number}" for number in numbers}
    for name in names:
        known = _numbers_named(name)
        if known and known.isdisjoint(numbers):
            stated.setdefault(min(known), f"'{name}'")
    if not stated:
        return symmetry
    own = _number_of(symmetry.operations.rotations.tobytes(), symmetry.operations.translations.tobytes())
    wrong = [words for other, words in stated.items() if own is not None and other != own]
    if not wrong:
        return symmetry
    doubt = f"{symmetry.source} are those of space group {own}, but it states {' and '.join(wrong)}"
    return Symmetry(symmetry.operations, symmetry.source, (*symmetry.doubts, doubt))


@lru_cache(maxsize=1024)
def _number_of(rotations: bytes, translations: bytes) -> int | None:
    return space_group_type(
        np.frombuffer(rotations, dtype=np.int64).reshape(-1, 3, 3), np.frombuffer(translations).reshape(-1, 3)
    )


# Groups by name


@lru_cache(maxsize=2048)
def _of_hall(symbol: str) -> Operations:
    """Return the operations of a Hall symbol.

    Raises:
        RuntimeError: gemmi cannot read it.
    """
    operations = list(gemmi.symops_from_hall(symbol))
    rotations = np.array([operation.rot for operation in operations]) // gemmi.Op.DEN
    translations = np.array([operation.tran for operation in operations]) / gemmi.Op.DEN
    return _unique(rotations, translations % 1.0)


_Setting = tuple[int, str, int]  # number of the group, Hall symbol, rank


def _compact(name: str) -> str:
    return re.sub(r"[\s_]", "", name).lower()


@lru_cache(maxsize=1)
def _settings_by_name() -> dict[str, dict[str, list[_Setting]]]:
    """Return, for each name in lower case without spaces, the settings by their code (1, 2, h, r or none)."""
    table: dict[str, dict[str, list[_Setting]]] = {}

    def add(name: str, code: str, setting: _Setting) -> None:
        known = table.setdefault(_compact(name), {}).setdefault(code, [])
        if setting not in known:
            known.append(setting)

    for group in gemmi.spacegroup_table():
        code = "" if group.ext == "\0" else group.ext.lower()
        setting = (group.number, group.hall, 0)
        add(group.hm, code, setting)
        words = group.hm.split()
        if 3 <= group.number <= 15 and len(words) == 4:
            # The short symbol does not name the axis: it is b if the cell allows it.
            rank = ("b", "c", "a").index(group.monoclinic_unique_axis())
            add(
                " ".join([words[0], *(word for word in words[1:] if word != "1")]),
                "",
                (group.number, group.hall, rank),
            )
    short = set(table)
    for number, name, choice, hall in full_symbols():
        if _compact(name) not in short:
            add(name, choice.lower() if choice in ("1", "2", "H", "R") else "", (number, hall, 0))
    return table


def _settings_named(name: str) -> list[tuple[int, str, int]]:
    """Return number, Hall symbol and rank of all settings that a Hermann-Mauguin symbol can mean.

    Raises:
        InputError: A name that is not known.
    """
    table = _settings_by_name()
    text = _SCREW.sub(r"\1\2", name)
    text = re.sub(r"\(\s*(?:no\.?|#)?\s*\d+\s*\)\s*$", "", text, flags=re.IGNORECASE).strip()
    base, code = text, None
    if match := _SETTING.search(text):
        code = next(part for part in match.groups() if part).lower()
        base, code = text[: match.start()], _SETTING_CODES.get(code, code)
    settings = table.get(_compact(base))
    if settings is None and (group := gemmi.find_spacegroup_by_name(base)) is not None:
        settings = table[_compact(group.hm)]  # such as F m 3 m, C m c e
    if settings is not None and (code is None or code in settings):
        return [setting for key, chosen in settings.items() for setting in chosen if code in (None, key)]
    raise InputError(f"its space group '{name[:40]}' is not known; list the symmetry operations")


def _numbers_named(name: str) -> set[int]:
    """Return the numbers of the groups that a name can mean; empty where it is not known."""
    try:
        return {number for number, _, _ in _settings_named(name)}
    except InputError:
        return set()


def _agreed(names: Sequence[str]) -> str:
    """Return the first name that is known, or the first.

    Raises:
        InputError: Another one names another group.
    """
    known = {name: numbers for name in names if (numbers := _numbers_named(name))}
    chosen = next(iter(known), names[0])
    for other, numbers in known.items():
        if numbers.isdisjoint(known[chosen]):
            raise InputError(f"its space group is '{chosen}' by one name and '{other}' by another")
    return chosen


def _of_name(name: str, number: int | None, code: str | None) -> list[Symmetry]:
    settings = _settings_named(name)
    numbers = {one for one, _, _ in settings}
    if number is not None:
        settings = [setting for setting in settings if setting[0] == number]
    if not settings:
        raise InputError(
            f"its space group '{name}' has number {' or '.join(map(str, sorted(numbers)))}, but it states "
            f"{number}"
        )
    settings = _of_code(settings, code, f"its space group '{name}'")
    return [Symmetry(_of_hall(hall), f"the operations of '{name}'", rank=rank) for _, hall, rank in settings]


def _of_number(number: int, code: str | None) -> list[Symmetry]:
    """Return the settings that a number alone can mean; the standard one is preferred, and doubted."""
    settings = []
    for group in gemmi.spacegroup_table():
        if group.number == number:
            reference = group.is_reference_setting()
            same_name = group.hm == gemmi.find_spacegroup_by_number(number).hm
            settings.append((number, group.hall, 0 if reference else 1 if same_name else 2))
    chosen = _of_code(settings, code, f"its space group number {number}")
    doubt = f"its symmetry is stated by the number {number} alone; the standard setting was taken"
    # Where the group has one setting only, nothing is left open.
    doubts = () if len(settings) == 1 or (code is not None and len(chosen) == 1) else (doubt,)
    return [
        Symmetry(_of_hall(hall), f"the operations of space group {number}", doubts, rank)
        for _, hall, rank in chosen
        if rank < 2 or code is not None
    ]


def _of_code(settings: list[_Setting], code: str | None, what: str) -> list[_Setting]:
    """Keep the settings of a coordinate system code such as 1, h, b1 or -cba, where one is stated."""
    if code is None:
        return settings
    fitting = {
        group.hall
        for group in gemmi.spacegroup_table()
        if code.lower() in {group.ext.lower(), group.qualifier, group.ext.lower() + group.qualifier}
        or (code.lower() == "abc" and not group.qualifier)
    }
    kept = [setting for setting in settings if setting[1] in fitting]
    if not kept:
        raise InputError(f"{what} has no setting '{code}' that is known; list the symmetry operations")
    return kept
