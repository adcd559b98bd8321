r"""Corrections of the Materials Project, the same function for reference phases and structures.

A correction depends on a compound's elements and on which of them are its anions. The legacy scheme
(``mp-legacy``; Jain et al., Phys. Rev. B 84, 045115, 2011) corrects oxides, sulfides and PBE+U metals, and
replaces the energies of N2, F2, Cl2 and H2; that of 2020 (``mp2020``; Wang et al., Sci. Rep. 11, 15496, 2021)
corrects thirteen anions. Their numbers are read from pymatgen.

Which elements are anions is stated nowhere. As in pymatgen, it is guessed from the formula by the statistics
of oxidation states; kinds of oxide and sulfide by bonds where there is a structure, else by formula. Where
the guess leaves a doubt, the correction says so.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations_with_replacement, product
from typing import TYPE_CHECKING, Any

from ase.data import atomic_numbers
from ase.formula import Formula

from whorl.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

CORRECTED = ("pbe+u", "mp-legacy", "mp2020")
"""Schemes that differ by known corrections, so that energies can be brought from one to another."""

_SIMPLE = re.compile(r"(?:[A-Z][a-z]?\d*)+")
_PART = re.compile(r"([A-Z][a-z]?)(\d*)")
_GUESSED = ("Br", "I", "Se", "Si", "Sb", "Te", "H", "N", "F", "Cl")  # corrected where they are anions
_MOST_ATOMS = 20  # of a reduced formula whose oxidation states are guessed, as in pymatgen
_PEROXIDES = frozenset(["Li2O2", "Na2O2", "K2O2", "Cs2O2", "Rb2O2", "BeO2", "MgO2", "CaO2", "SrO2", "BaO2"])
_SUPEROXIDES = frozenset(["LiO2", "NaO2", "KO2", "RbO2", "CsO2"])
_OZONIDES = frozenset(["LiO3", "NaO3", "KO3", "NaO5"])


@dataclass(frozen=True)
class Correction:
    """What is added to an uncorrected energy.

    Attributes:
        value: In eV/atom.
        warnings: Doubts about it.
    """

    value: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Anions:
    """Which elements of a compound are corrected as anions, and as what."""

    oxide: str | None
    sulfide: bool
    others: frozenset[str]
    warnings: tuple[str, ...]


def canonical_formula(composition: str | Mapping[str, Any]) -> str:
    """Return the reduced formula, without ones, with its elements in alphabetical order.

    The guess of oxidation states depends on the order where two are equally likely.

    >>> canonical_formula("O6Fe4")
    'Fe2O3'
    """
    amounts = _reduced(amounts_of(composition))
    return "".join(f"{e}{n:g}" if n != 1 else e for e, n in sorted(amounts.items()))


def metals_first(formula: str) -> str:
    """Return a formula as one writes it.

    >>> metals_first("ClNa")
    'NaCl'
    """
    try:
        return str(Formula(formula).convert("metal"))
    except ValueError:  # with fractions of atoms
        return formula


def amounts_of(composition: str | Mapping[str, Any]) -> dict[str, float]:
    """Return the atoms of each element, of a formula or of their numbers.

    Raises:
        ValueError: This is no formula.

    >>> amounts_of("Fe2O3")
    {'Fe': 2.0, 'O': 3.0}
    """
    if isinstance(composition, str) and _SIMPLE.fullmatch(composition):
        amounts: dict[str, float] = {}
        for element, number in _PART.findall(composition):
            amounts[element] = amounts.get(element, 0.0) + float(number or 1)
        if all(e in atomic_numbers and n > 0 for e, n in amounts.items()):
            return amounts
    from pymatgen.core import Composition

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = Composition(composition, strict=True).get_el_amt_dict()
    return {str(e): float(n) for e, n in parsed.items()}


def _reduced(amounts: Mapping[str, float]) -> dict[str, float]:
    if any(n != int(n) for n in amounts.values()):
        return dict(amounts)
    divisor = math.gcd(*(int(n) for n in amounts.values())) or 1
    return {e: n / divisor for e, n in amounts.items()}


def correction(formula: str, scheme: str, structure: Structure | None = None) -> Correction:
    """Return what a scheme adds to the uncorrected energy (``pbe+u``) of a compound.

    Args:
        formula: Of the compound, by :func:`canonical_formula`.
        scheme: One of :data:`CORRECTED`.
        structure: Of the compound; with it, peroxides, superoxides and sulfates are told by their bonds.

    Raises:
        InputError: Another scheme.

    >>> round(correction("ClNa", "mp2020").value, 4)
    -0.307
    """
    if scheme not in CORRECTED:
        raise InputError(
            f"energy scheme '{scheme}': got no corrections for it, expected one of {', '.join(CORRECTED)}."
        )
    amounts = amounts_of(formula)
    if scheme == "pbe+u" or not amounts:
        return Correction(0.0)
    if len(amounts) == 1:
        (element,) = amounts
        return Correction(_legacy_of_element(element) if scheme == "mp-legacy" else 0.0)
    anions = _anions(formula) if structure is None else _with_bonds(_anions(formula), amounts, structure)
    total = _legacy(amounts, anions) if scheme == "mp-legacy" else _of_2020(amounts, anions)
    total += _mixing(amounts, scheme)
    return Correction(total / sum(amounts.values()), anions.warnings)


def _of_2020(amounts: Mapping[str, float], anions: _Anions) -> float:
    values = _tables()["mp2020"]["Corrections"]["CompositionCorrections"]
    total = sum((float(values[e]) * amounts[e] for e in sorted(anions.others)), 0.0)
    if anions.oxide is not None:
        total += float(values[anions.oxide]) * amounts["O"]
    if anions.sulfide:
        total += float(values["S"]) * amounts["S"]
    return total


def _legacy(amounts: Mapping[str, float], anions: _Anions) -> float:
    table = _tables()["mp-legacy"]
    total = 0.0
    if anions.oxide is not None:
        total += float(table["OxideCorrections"][anions.oxide]) * amounts["O"]
    if "S" in amounts:  # in sulfates too, as the energies of that time show
        total += float(table["SulfideCorrections"]["sulfide"]) * amounts["S"]
    return total


def _legacy_of_element(element: str) -> float:
    """Return by how much the legacy scheme's fitted energy of a gas differs from the computed one."""
    fitted = _tables()["mp-legacy"]["Advanced"]["CompoundEnergies"].get(f"{element}2")
    return 0.0 if fitted is None else float(fitted) - elemental_energies()[element]


def _mixing(amounts: Mapping[str, float], scheme: str) -> float:
    """Return the correction of metals that the Materials Project computes with a U."""
    table = _tables()[scheme]
    values = (
        table["Corrections"]["GGAUMixingCorrections"]
        if scheme == "mp2020"
        else table["Advanced"]["UCorrections"]
    )
    of_anion = values.get(_anion(amounts), {})
    return sum((float(of_anion.get(e, 0.0)) * n for e, n in sorted(amounts.items())), 0.0)


def _anion(amounts: Mapping[str, float]) -> str:
    """Return the most electronegative element."""
    return max(sorted(amounts), key=_electronegativity)


@lru_cache(maxsize=128)
def _electronegativity(element: str) -> float:
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the noble gases have none
        value = float(Element(element).X)
    return value if math.isfinite(value) else 0.0


@cache
def _anions(formula: str) -> _Anions:
    """Return the anions of a compound by its formula alone."""
    amounts = amounts_of(formula)
    doubts: list[str] = []
    oxide = None
    if "O" in amounts:
        from pymatgen.core import Composition

        name = Composition(formula).reduced_formula
        kinds = ((_PEROXIDES, "peroxide"), (_SUPEROXIDES, "superoxide"), (_OZONIDES, "ozonide"))
        oxide = next((kind for names, kind in kinds if name in names), "oxide")
    candidates = [e for e in (*_GUESSED, "S") if e in amounts]
    if not candidates:
        return _Anions(oxide, False, frozenset(), ())
    strongest = _anion(amounts)
    guesses = list(_oxidation_states(formula))
    corrected = {e for e in candidates if _is_corrected(e, strongest, guesses[0] if guesses else {})}
    inner = [e for e in candidates if e != strongest]
    if not guesses and inner:
        doubts.append(
            f"{formula}: no oxidation states add up to zero, so {' and '.join(inner)} "
            f"{'is' if len(inner) == 1 else 'are'} not corrected as an anion"
        )
    for other in guesses[1:2]:
        doubtful = [e for e in candidates if _is_corrected(e, strongest, other) != (e in corrected)]
        doubts += [f"{formula}: whether {e} is an anion is ambiguous" for e in doubtful]
    return _Anions(oxide, "S" in corrected, frozenset(corrected - {"S"}), tuple(doubts))


def _is_corrected(element: str, strongest: str, states: Mapping[str, float]) -> bool:
    """Return pymatgen's rule: states of −1 and below, or the most electronegative element without a state."""
    state = states.get(element, 0.0)
    return state <= -1 if state < 0 else element == strongest


def _with_bonds(anions: _Anions, amounts: Mapping[str, float], structure: Structure) -> _Anions:
    """Return the anions with the kind of oxide and sulfide that the structure shows."""
    from pymatgen.analysis.structure_analyzer import oxide_type, sulfide_type

    oxide, sulfide, doubts = anions.oxide, anions.sulfide, anions.warnings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "O" in amounts:
                kind = str(oxide_type(structure, 1.05))
                oxide = "oxide" if kind == "hydroxide" else kind
            if "S" in amounts:
                sulfide = sulfide_type(structure) is not None
    except Exception as error:  # whatever its neighbours make it raise
        doubts = (*doubts, f"bonds of O and S cannot be told ({type(error).__name__}); the formula is used")
    return _Anions(oxide, sulfide, anions.others, doubts)


def _oxidation_states(formula: str) -> Iterator[dict[str, float]]:
    """Yield average oxidation states, the most likely first.

    The same as pymatgen's ``Composition.oxi_state_guesses(max_sites=-20)``, in the same order, with what each
    element contributes computed once.
    """
    amounts = amounts_of(formula)
    if sum(amounts.values()) > _MOST_ATOMS or any(n != int(n) for n in amounts.values()):
        return
    elements = list(amounts)
    contributions = [_sums(e, int(amounts[e])) for e in elements]
    *earlier, last = contributions
    solutions = []
    for sums in product(*(list(c) for c in earlier)):
        rest = -sum(sums)
        if rest in last:
            x = (*sums, rest)
            score = 0.0
            for c, s in zip(contributions, x, strict=True):
                score += c[s]
            solutions.append((score, x))
    for _, x in sorted(solutions, key=lambda pair: pair[0], reverse=True):
        yield {e: s / amounts[e] for e, s in zip(elements, x, strict=True)}


@cache
def _sums(element: str, n: int) -> dict[int, float]:
    """Return the total charges that n atoms can have, with the likelihood of the best way to each."""
    from pymatgen.core import Element

    states = Element(element).icsd_oxidation_states or Element(element).common_oxidation_states
    likelihood = {int(q): _likelihoods().get((element, int(q)), 0.0) for q in states}
    best: dict[int, float] = {}
    for combination in combinations_with_replacement([int(q) for q in states], n):
        total, score = sum(combination), sum((likelihood[q] for q in combination), 0.0)
        if total not in best or score > best[total]:
            best[total] = score
    return best


@lru_cache(maxsize=1)
def _likelihoods() -> dict[tuple[str, int], float]:
    from pymatgen.core import Composition

    Composition("NaCl").oxi_state_guesses()  # reads the statistics
    return {(s.element.symbol, int(s.oxi_state)): float(n) for s, n in (Composition.oxi_prob or {}).items()}


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, Any]]:
    """Return the numbers of both schemes from pymatgen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moved modules
        from pymatgen.entries import compatibility

    return {"mp2020": compatibility.MP2020_COMPAT_CONFIG, "mp-legacy": compatibility.MP_COMPAT_CONFIG}


@lru_cache(maxsize=1)
def elemental_energies() -> dict[str, float]:
    """Return the PBE energies per atom, in eV, of the elements' ground states in the Materials Project.

    They are those that pymatgen fits its corrections with.
    """
    from importlib.resources import files

    for package in ("pymatgen.analysis.compatibility", "pymatgen.entries"):
        try:
            file = files(package) / "calc_compounds.json.gz"
        except ModuleNotFoundError:
            continue
        if file.is_file():
            entries = json.loads(gzip.decompress(file.read_bytes()))
            break
    else:
        raise InputError(
            "this version of pymatgen has no energies of elements, expected calc_compounds.json.gz in it. "
            "Remedy: install pymatgen 2024.5 or later."
        )
    return {
        next(iter(entry["composition"])): float(entry["energy"]) / sum(entry["composition"].values())
        for entry in entries.values()
        if len(entry["composition"]) == 1
    }


def pymatgen_version() -> str:
    """Return the version of pymatgen, whose guesses of anions change with it."""
    from importlib.metadata import version

    return version("pymatgen")
