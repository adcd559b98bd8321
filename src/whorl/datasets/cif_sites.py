"""Atom sites of a CIF block: elements, positions and their precision."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Float, Int

from whorl.datasets.cif_text import Block, Number, read_number
from whorl.datasets.entries import may_be_group
from whorl.errors import InputError

_AXES = ("x", "y", "z")
_FULL = 1e-3  # difference from 1 that an occupancy may have
_FAR = 1000.0  # fractional coordinates beyond are none
_VERY_FAR = 1e6  # Å
_COARSEST = 0.01  # a coordinate of one digit is taken for rounded to no more than this

_HEAVIEST_IN_CAPITALS = 103  # CN is a group of atoms and no copernicium

_WORD = re.compile(r"([A-Za-z]+)(.*)")
_CHARGE = re.compile(r"(\d{0,2}(?:\.\d{1,4})?)([+-])|([+-])(\d{1,2}(?:\.\d{1,4})?)")
_FORMULA = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")
_CAPITALS = re.compile(r"[A-Z]{1,2}\d*\.?\d*")  # FE2, of older files
_GROUP = re.compile(r"\(([^()]{1,1000})\)(\d{0,9}(?:\.\d{1,9})?)")
_GROUPS = re.compile(r"(?:OH|NH|CH|OW|H[2-4][ON])(?![a-z])")
_HYDROGEN = ("D", "T")  # its isotopes


@dataclass(frozen=True, eq=False)
class Sites:
    """The atom sites of a block, n of them.

    Attributes:
        labels: Their names in the file.
        numbers: Atomic numbers, shape (n,).
        fractional: Coordinates as written, shape (n, 3).
        low: Smallest error δ (position = coordinate + δ) that rounding or the uncertainty allows, shape (n,
            3).
        high: Greatest error δ, shape (n, 3).
        multiplicities: Stated number of atoms of each site; 0 where there is none.
        species: Symbol, or symbol, oxidation state and None where it has one.
        doubts: Doubts about the interpretation.
    """

    labels: tuple[str, ...]
    numbers: Int[np.ndarray, "n"]
    fractional: Float[np.ndarray, "n 3"]
    low: Float[np.ndarray, "n 3"]
    high: Float[np.ndarray, "n 3"]
    multiplicities: Int[np.ndarray, "n"]
    species: tuple[str | list[str | float | None], ...]
    doubts: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self.labels)

    def name(self, number: int) -> str:
        """Return how messages call a site."""
        return _named(self.labels, number)


def has_sites(block: Block) -> bool:
    """Whether a block states where atoms are, be it of one of them and incompletely."""
    return _kind(block) is not None


def _kind(block: Block) -> str | None:
    """Return whether coordinates are fractional or in Å; None where there are none."""
    for kind in ("fract", "cartn"):
        for axis in _AXES:
            values = block.columns.get(f"_atom_site_{kind}_{axis}", ())
            if any(not gemmi.cif.is_null(value) for value in values):
                return kind
    return None


def read_sites(block: Block, cell: Float[np.ndarray, "3 3"]) -> Sites:
    """Read the atom sites.

    Args:
        block: A block for which :func:`has_sites` holds.
        cell: Its lattice vectors in Å, as rows.

    Raises:
        InputError: A site that is no chemical element, has no place, or is not fully occupied. It is named.
    """
    columns = {name.removeprefix("_atom_site_"): block.columns[name] for name in _columns_of_sites(block)}
    count = len(next(iter(columns.values())))
    if any(len(values) != count for values in columns.values()):
        raise InputError("its atom sites are in several loops of different length")
    labels = _labels(columns, count)
    _require_atoms(columns, labels)
    _require_full(columns, labels)
    _require_one_alternative(columns, labels)
    formula = read_formula(block)
    reader = _Elements(columns, formula)
    kinds = [reader.read(labels[i], i) for i in range(count)]
    low, high, fractional, doubts = _places(block, columns, labels, cell)
    return Sites(
        labels=labels,
        numbers=np.array([atomic_numbers["H" if symbol in _HYDROGEN else symbol] for symbol, _ in kinds]),
        fractional=fractional,
        low=low,
        high=high,
        multiplicities=np.array([_whole(text) for text in _multiplicities(columns, count)]),
        species=tuple(symbol if charge is None else [symbol, charge, None] for symbol, charge in kinds),
        doubts=(*reader.doubts, *_hydrogens(labels, kinds, formula), *doubts),
    )


def _hydrogens(
    labels: tuple[str, ...], kinds: Sequence[tuple[str, float | None]], formula: Mapping[str, float]
) -> list[str]:
    """Doubt sites such as OH1 of type O where there is no hydrogen; a formula is compared anyway."""
    if formula or any(symbol in ("H", *_HYDROGEN) for symbol, _ in kinds):
        return []
    return [
        f"{_named(labels, number)} was read as {kinds[number][0]}, and there is no hydrogen"
        for number, label in enumerate(labels)
        if _GROUPS.match(label)
    ]


def read_formula(block: Block) -> dict[str, float]:
    """Return the atoms of each element in the formula that a block states; empty where it states none."""
    text = block.text("_chemical_formula_sum")
    return {} if text is None else parse_formula(text)


def parse_formula(text: str) -> dict[str, float]:
    """Return the atoms of each element; empty where a formula is not understood.

    >>> parse_formula("Cu (O H)2"), parse_formula("FE2 O3")
    ({'Cu': 1.0, 'O': 2.0, 'H': 2.0}, {'Fe': 2.0, 'O': 3.0})
    """
    words = text.split()
    if len(words) > 1 and all(_CAPITALS.fullmatch(word) for word in words):
        text = " ".join(map(str.capitalize, words))
    while group := _GROUP.search(text):
        inner = parse_formula(group[1])
        times = float(group[2] or 1)
        text = text.replace(group[0], " ".join(f"{s}{n * times:g}" for s, n in inner.items()) or "?")
    counts: dict[str, float] = {}
    if _FORMULA.sub("", text).strip(" ,'"):
        return counts
    for symbol, amount in _FORMULA.findall(text):
        element = "H" if symbol in _HYDROGEN else symbol
        if element not in atomic_numbers or amount == ".":
            return {}
        counts[element] = counts.get(element, 0.0) + float(amount or 1)
    return {symbol: amount for symbol, amount in counts.items() if amount > 0}


_MULTIPLICITIES = ("symmetry_multiplicity", "site_symmetry_multiplicity")
_USED = {
    *("label", "label_atom_id", "id", "type_symbol", "occupancy", "calc_flag", *_MULTIPLICITIES),
    *(
        "disorder_assembly",
        "disorder_group",
        "attached_hydrogens",
        *(f"{kind}_{axis}" for kind in ("fract", "cartn") for axis in _AXES),
    ),
}


def _columns_of_sites(block: Block) -> list[str]:
    return [
        name
        for name in block.columns
        if name.removeprefix("_atom_site_") in _USED and name[:11] == "_atom_site_"
    ]


def _multiplicities(columns: Mapping[str, list[str]], count: int) -> list[str]:
    return next((columns[name] for name in _MULTIPLICITIES if name in columns), ["0"] * count)


def _labels(columns: Mapping[str, list[str]], count: int) -> tuple[str, ...]:
    for name in ("label", "label_atom_id", "id", "type_symbol"):
        if name in columns:
            return tuple(gemmi.cif.as_string(value).strip() for value in columns[name])
    return ("",) * count


def _named(labels: tuple[str, ...], number: int) -> str:
    return f"site '{labels[number][:30]}'" if labels[number] else f"site {number}"


def _require_atoms(columns: Mapping[str, list[str]], labels: tuple[str, ...]) -> None:
    for number, flag in enumerate(columns.get("calc_flag", ())):
        if flag.lower() == "dum":
            raise InputError(f"{_named(labels, number)} is a dummy site (_atom_site_calc_flag dum), no atom")
    for number, value in enumerate(columns.get("attached_hydrogens", ())):
        if not gemmi.cif.is_null(value) and _whole(value):
            raise InputError(
                f"{_named(labels, number)} has {value} attached hydrogens, whose places are not stated"
            )


def _require_full(columns: Mapping[str, list[str]], labels: tuple[str, ...]) -> None:
    for number, value in enumerate(columns.get("occupancy", ())):
        if gemmi.cif.is_null(value):  # the default, which is 1
            continue
        occupancy = read_number(gemmi.cif.as_string(value).strip())
        if occupancy is None:
            raise InputError(f"{_named(labels, number)} has the occupancy {value[:20]!r}, expected a number")
        if abs(occupancy.value - 1.0) >= _FULL:
            raise InputError(
                f"{_named(labels, number)} has an occupancy of {value[:20]}, expected 1: the structure is "
                "disordered. Make it ordered first, for instance with pymatgen's "
                "OrderDisorderedStructureTransformation"
            )


def _require_one_alternative(columns: Mapping[str, list[str]], labels: tuple[str, ...]) -> None:
    """Reject sites that are alternatives of one another, even if fully occupied."""
    first: dict[str, int] = {}
    groups = columns.get("disorder_group", ())
    assemblies = columns.get("disorder_assembly", ["."] * len(groups))
    for number, (assembly, group) in enumerate(zip(assemblies, groups, strict=True)):
        if gemmi.cif.is_null(group) or group == "0":
            continue
        other = first.setdefault("." if gemmi.cif.is_null(assembly) else assembly, number)
        if groups[other] != group:
            raise InputError(
                f"{_named(labels, other)} and {_named(labels, number)} are alternatives "
                f"(_atom_site_disorder_group {groups[other]} and {group}): the structure is disordered"
            )


def _whole(text: str) -> int:
    number = read_number(text)
    return 0 if number is None or not math.isfinite(number.value) else round(min(abs(number.value), 1e6))


class _Elements:
    """Elements of sites, by type symbol, else by label."""

    def __init__(self, columns: Mapping[str, list[str]], formula: Mapping[str, float]) -> None:
        self.types = columns.get("type_symbol", ())
        self.formula = formula
        self.doubts: dict[str, None] = {}  # a set that keeps the order
        # Older files have all letters large, or all small: FE for Fe. Where both occur, CO is no cobalt.
        letters = "".join(value for value in self.types if not gemmi.cif.is_null(value))
        self.one_case = letters in (letters.upper(), letters.lower())
        self.known: dict[tuple[str, bool], tuple[str, float | None] | None] = {}

    def read(self, label: str, number: int) -> tuple[str, float | None]:
        """Return the symbol of a site and its oxidation state, if one is stated.

        Raises:
            InputError: It is no element.
        """
        raw = self.types[number] if self.types else "?"
        by_label = gemmi.cif.is_null(raw)
        text = label if by_label else gemmi.cif.as_string(raw).strip()
        name = f"site '{label[:30]}'" if label else f"site {number}"
        if re.match(r"vac", label, re.IGNORECASE):
            raise InputError(f"{name} is a vacancy, no atom: leave it out of the file")
        key = (text, by_label)
        if key not in self.known:
            self.known[key] = self._element(text, by_label=by_label)
        kind = self.known[key]
        if kind is None:
            what = "label" if by_label else "type"
            remedy = "; give _atom_site_type_symbol" if by_label else ""
            raise InputError(f"{name}: its {what} '{text[:30]}' is no chemical element{remedy}")
        if may_be_group(text) and not (by_label or self.formula):
            self.doubts[f"{name} is '{text}', read as {kind[0]} and not as a group of atoms"] = None
        if kind[0] == "T":
            self.doubts[f"{name} is 'T', which was read as tritium, an isotope of hydrogen"] = None
        return kind

    def _element(self, text: str, *, by_label: bool) -> tuple[str, float | None] | None:
        match = _WORD.fullmatch(text)
        if match is None:
            return None
        word, rest = match.groups()
        symbol = self._symbol(word, by_label=by_label)
        if symbol is None or (by_label and symbol == "T"):
            return None
        if by_label:  # after the element a label may have anything but another one
            return None if re.search(r"[/,;&]", rest) else (symbol, None)
        charge = _CHARGE.fullmatch(rest)
        if charge is None:  # it may be a number, as in Fe1
            return (symbol, None) if not rest or rest.isdigit() else None
        size, sign, other_sign, other_size = charge.groups()
        value = float(size or other_size or 1)
        return symbol, value if (sign or other_sign) == "+" else -value

    def _symbol(self, word: str, *, by_label: bool) -> str | None:
        if word in _HYDROGEN:
            return word
        if atomic_numbers.get(word, 0) > 0:
            return None if by_label and self.formula and word not in self.formula else word
        symbol = word.capitalize()
        if len(word) > 2 or not 0 < atomic_numbers.get(symbol, 0) <= _HEAVIEST_IN_CAPITALS:
            return None
        if self.formula:
            alone = by_label and word[0].upper() in self.formula  # CA may be one of the carbons
            return symbol if symbol in self.formula and not alone else None
        return symbol if self.one_case and not by_label else None


def _places(
    block: Block, columns: Mapping[str, list[str]], labels: tuple[str, ...], cell: Float[np.ndarray, "3 3"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return least and greatest error, the fractional coordinates, and doubts."""
    kind = _kind(block) or "fract"
    rows = [[_coordinate(columns, labels, kind, axis, i) for axis in _AXES] for i in range(len(labels))]
    values = np.array([[one.value for one in row] for row in rows]).reshape(-1, 3)
    units = np.array([[one.unit for one in row] for row in rows]).reshape(-1, 3)
    spread = np.array([[one.uncertainty for one in row] for row in rows]).reshape(-1, 3)
    doubts: tuple[str, ...] = ()
    if kind == "fract":
        low, high = _rounding(values, units)
    else:
        inverse, shift, doubts = _from_cartesian(block, cell)
        values = values @ inverse.T + shift
        high = (units / 2) @ np.abs(inverse).T
        low, spread = -high, spread @ np.abs(inverse).T
    far = np.abs(values).max(1) > _FAR
    if far.any():
        number = int(np.flatnonzero(far)[0])
        where = ", ".join(f"{x:g}" for x in values[number])
        raise InputError(f"{_named(labels, number)} is at ({where}), far outside the cell")
    return np.minimum(low, -spread), np.maximum(high, spread), values, doubts


def _rounding(values: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of place minus what is written: rounded by half a unit, or cut off by one."""
    units = np.minimum(units, _COARSEST)
    # 0, 0.5, 0.25 … are exact where the site's other coordinates have more digits.
    exact = np.abs(values * 24 - np.rint(values * 24)) < 1e-9
    units = np.where(exact, units.min(1, keepdims=True), units)
    down = values >= 0
    cut = 0.999 * units
    return -np.where(down, units / 2, cut), np.where(down, cut, units / 2)


def _coordinate(
    columns: Mapping[str, list[str]], labels: tuple[str, ...], kind: str, axis: str, number: int
) -> Number:
    name = f"{kind}_{axis}"
    value = columns[name][number] if name in columns else "?"
    read = read_number(gemmi.cif.as_string(value).strip())
    if read is None or not abs(read.value) <= _VERY_FAR:
        raise InputError(f"{_named(labels, number)} has {axis} = {value[:20]!r}, expected a number")
    return read


def _from_cartesian(
    block: Block, cell: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"], tuple[str, ...]]:
    """Return M and v, such that fractional = M · Cartesian + v, and what is assumed."""

    def stated(kind: str) -> tuple[np.ndarray, np.ndarray] | None:
        names = [[f"_atom_sites_{kind}_tran_matrix_{i}{j}" for j in "123"] for i in "123"]
        entries = [[read_number(block.text(name) or "") for name in row] for row in names]
        vector = [read_number(block.text(f"_atom_sites_{kind}_tran_vector_{i}") or "0") for i in "123"]
        if any(one is None for row in entries for one in row) or any(one is None for one in vector):
            return None
        matrix = np.array([[one.value for one in row if one] for row in entries])
        return matrix, np.array([one.value for one in vector if one])

    if (found := stated("fract")) is not None:
        return (*found, ())
    if (found := stated("cartn")) is not None and abs(np.linalg.det(found[0])) > 1e-9:
        inverse = np.linalg.inv(found[0])
        return inverse, -inverse @ found[1], ()
    doubt = "its sites are in Å without the axes; a was taken along x and b in the x-y plane"
    return np.linalg.inv(cell).T, np.zeros(3), (doubt,)
