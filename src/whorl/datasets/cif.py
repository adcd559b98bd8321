"""CIF text to structures, block by block.

Symmetry and special positions are determined, and the result is checked against the formula, number of
formula units, volume and density that the block states. gemmi reads the syntax and knows the tables of space
groups. What cannot be interpreted is rejected with a reason; ambiguous interpretations give a doubt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, chemical_symbols
from jaxtyping import Float

from whorl.datasets.cif_sites import Sites, has_sites, read_formula, read_sites
from whorl.datasets.cif_symmetry import Symmetry, find_symmetries
from whorl.datasets.cif_text import Block, read_blocks, require_number
from whorl.datasets.entries import WARNINGS, in_words
from whorl.datasets.orbits import Expanded, expand
from whorl.errors import InputError
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import cells_from_parameters
from whorl.structures.checks import SAME_PLACE
from whorl.structures.convert import EXTRAS

_LENGTHS = ("a", "b", "c")
_ANGLES = ("alpha", "beta", "gamma")
_LONGEST = 1e5  # Å; a lattice vector beyond is none
_RATIO = 2e-3  # relative difference of two numbers of atoms that are the same
_VOLUME = 0.01
_DENSITY = 0.05  # densities are often stated for an isotope, another temperature, or with two digits
_DALTON = 1.66053907  # g/cm³ of one Dalton in one Å³


@dataclass(frozen=True, kw_only=True)
class CifEntry:
    """One block of a CIF that states atoms, or is broken.

    Attributes:
        block: What follows ``data_``.
        structure: A batch of one; None where it cannot be read.
        reason: Why it cannot be read.
    """

    block: str
    structure: StructureBatch | None = None
    reason: str | None = None


def read_cif(text: str) -> list[CifEntry]:
    """Read each block of a CIF, in the cell of the file and in the order of its sites.

    Blocks without atoms (``data_global``) are passed over where others have some. Doubts stand in
    ``info["cif_warnings"]``.

    Raises:
        InputError: The text has no block with atoms; the message is the reason alone.
    """
    entries = []
    for name, block in read_blocks(text):
        if isinstance(block, str):
            entries.append(CifEntry(block=name, reason=block))
        elif has_sites(block):
            try:
                entries.append(CifEntry(block=name, structure=_structure(block)))
            except InputError as error:
                entries.append(CifEntry(block=name, reason=str(error).removesuffix(".")))
            except Exception as error:  # a broken block must not prevent reading the next one
                entries.append(CifEntry(block=name, reason=f"no valid CIF: {in_words(error)}"))
    if not entries:
        raise InputError("no valid CIF: it holds no structure, for no block of it states atom sites")
    return entries


def _structure(block: Block) -> StructureBatch:
    _require_three_dimensions(block)
    cell, doubts = _cell(block)
    sites = read_sites(block, cell)
    contents = _Contents(block, sites, cell)
    symmetry, expanded, mismatches = _chosen(find_symmetries(block, cell), sites, contents)
    doubts += [*sites.doubts, *symmetry.doubts, *expanded.doubts, *mismatches]
    if any(name.startswith("_atom_site_moment_") for name in block.columns):
        doubts.append("its magnetic moments were not read")
    info: dict[str, Any] = {WARNINGS: doubts} if doubts else {}
    if extras := _extras(sites, expanded):
        info[EXTRAS] = extras
    return StructureBatch(
        positions=torch.from_numpy(expanded.fractional @ cell),
        cells=torch.from_numpy(cell)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
        atomic_numbers=torch.from_numpy(sites.numbers[expanded.site].astype(np.int64)),
        structure_index=torch.zeros(len(expanded.site), dtype=torch.int64),
        info=(info,),
    )


def _require_three_dimensions(block: Block) -> None:
    dimension = require_number(block, "_cell_modulation_dimension")
    modulated = dimension is not None and dimension.value > 0
    if modulated or any(name.startswith("_space_group_ssg_") for name in block.columns):
        raise InputError("it is a modulated structure, which three coordinates do not describe")


def _cell(block: Block) -> tuple[Float[np.ndarray, "3 3"], list[str]]:
    """Return the lattice vectors in Å, as rows, and doubts.

    Raises:
        InputError: There are none.
    """
    parameters, doubts = [], []
    for name in (
        *(f"_cell_length_{axis}" for axis in _LENGTHS),
        *(f"_cell_angle_{angle}" for angle in _ANGLES),
    ):
        number = require_number(block, name)
        if number is not None:
            parameters.append(number.value)
        elif "angle" in name:
            parameters.append(90.0)
            doubts.append(f"it has no {name}, so that 90° was taken")
        else:
            raise InputError(f"it has no {name}, so that its cell is not known")
    written = ", ".join(f"{value:g}" for value in parameters)
    if not all(abs(value) <= _LONGEST for value in parameters):
        raise InputError(f"its cell {written} is none, expected lengths in Å and angles in degrees")
    try:
        cell = cells_from_parameters(torch.tensor([parameters], dtype=torch.float64))[0].numpy()
    except InputError:
        cell = np.zeros((3, 3))
    lengths = np.linalg.norm(cell, axis=1)
    if lengths.min() < SAME_PLACE or abs(np.linalg.det(cell)) <= 1e-6 * lengths.prod():
        raise InputError(f"its cell {written} has no volume")
    return cell, doubts


def _chosen(
    symmetries: list[Symmetry], sites: Sites, contents: _Contents
) -> tuple[Symmetry, Expanded, list[str]]:
    """Return the symmetry that the contents of the cell agree with, and what they still disagree about.

    Raises:
        InputError: No symmetry fits the sites, or the contents do not decide between several.
    """
    attempts, reasons = [], []
    for symmetry in symmetries:
        try:
            expanded = expand(sites, symmetry.operations, contents.cell)
            _require_certain(sites, expanded, contents)
            attempts.append((symmetry, expanded, contents.mismatches(expanded)))
        except InputError as error:
            reasons.append(str(error))
    if not attempts:
        raise InputError(reasons[0])
    agreeing = [attempt for attempt in attempts if not attempt[2]]
    if len(agreeing or attempts) > 1:
        raise InputError(
            f"{symmetries[0].source} are known for {len(symmetries)} origins or axes, and the contents do "
            "not tell which is meant: add the setting to its name, such as ':1' or ':2', or list the "
            "symmetry operations"
        )
    return (agreeing or attempts)[0]


def _require_certain(sites: Sites, expanded: Expanded, contents: _Contents) -> None:
    """Reject sites that may or may not be on a special position.

    Raises:
        InputError: There is such a site.
    """
    agree, differ = contents.elements(expanded)
    for number in {*expanded.uncertain, *expanded.coarse}:
        element = chemical_symbols[sites.numbers[number]]
        stated = sites.multiplicities[number]
        known = element in agree or stated == expanded.multiplicities[number]
        wrong = element in differ or (stated > 0 and not known and not contents.orders(expanded))
        if wrong or (number in expanded.uncertain and not known):
            raise InputError(
                f"{sites.name(number)} may be on a special position of multiplicity "
                f"{expanded.multiplicities[number]} or off it, so coarsely is it written, and formula and Z "
                f"{'do not agree' if wrong else 'do not tell'}; give more digits"
            )


class _Contents:
    """What a block says of the contents of its cell."""

    def __init__(self, block: Block, sites: Sites, cell: Float[np.ndarray, "3 3"]) -> None:
        self.cell, self.sites = cell, sites
        self.formula = read_formula(block)
        self.formula_text = block.text("_chemical_formula_sum") or ""
        self.units = _value(block, "_cell_formula_units_z")
        self.volume = _value(block, "_cell_volume")
        self.density = _value(block, "_exptl_crystal_density_diffrn")

    def elements(self, expanded: Expanded) -> tuple[set[str], set[str]]:
        """Return the elements of which the sites make as many atoms as formula and Z, and those of which not.

        Both are empty where formula or Z is not stated. Elements without a site, such as hydrogens that were
        not found, do not count.
        """
        counts = self._counts(expanded)
        if self.units is None or not self.formula.keys() >= counts.keys():
            return set(), set()
        of_cell = all(count == self.formula[symbol] for symbol, count in counts.items())
        whole = self._may_state_a_cell and of_cell
        agree = {
            symbol
            for symbol, count in counts.items()
            if whole or abs(count - self.units * self.formula[symbol]) <= _RATIO * count
        }
        return agree, counts.keys() - agree

    def orders(self, expanded: Expanded) -> bool:
        """Whether the multiplicities stated are orders of the sites' symmetry, as some programs have them."""
        stated, own = self.sites.multiplicities, expanded.multiplicities
        return bool((stated * own == own.max())[stated > 0].all())

    @property
    def _may_state_a_cell(self) -> bool:
        """Whether the formula can be that of the whole cell, as some databases write Ag4 with Z = 4."""
        return self.units is not None and all(amount % self.units == 0 for amount in self.formula.values())

    def _counts(self, expanded: Expanded) -> Counter[str]:
        return Counter(chemical_symbols[z] for z in self.sites.numbers[expanded.site].tolist())

    def mismatches(self, expanded: Expanded) -> list[str]:
        """Return the differences between a cell of atoms and the stated contents."""
        numbers = self.sites.numbers[expanded.site]
        volume = abs(float(np.linalg.det(self.cell)))
        found = [*self._of_formula(self._counts(expanded)), *self._of_multiplicities(expanded)]
        if self.volume and abs(volume / self.volume - 1) > _VOLUME:
            found.append(f"its cell has a volume of {volume:.5g} Å³, but it states {self.volume:g}")
        density = _DALTON * float(atomic_masses[numbers].sum()) / volume
        if self.density and abs(density / self.density - 1) > _DENSITY:
            found.append(f"its density is {density:.3g} g/cm³, but it states {self.density:g}")
        return found

    def _of_formula(self, counts: Counter[str]) -> list[str]:
        if not self.formula:
            text = " ".join(self.formula_text.split())[:60]
            return [f"its formula '{text}' is not understood, and was not compared"] if text else []
        units = counts.total() / sum(self.formula.values())
        same = counts.keys() == self.formula.keys() and all(
            abs(counts[symbol] - units * amount) <= _RATIO * counts[symbol]
            for symbol, amount in self.formula.items()
        )
        if not same:
            return [f"its formula is {self.formula_text}, but its sites make {_formula(counts)}"]
        whole = self._may_state_a_cell and units == 1
        if self.units and not whole and abs(units / self.units - 1) > _RATIO:
            return [
                f"its formula {self.formula_text} with Z = {self.units:g} makes "
                f"{self.units * sum(self.formula.values()):g} atoms, but its sites make {counts.total()}"
            ]
        return []

    def _of_multiplicities(self, expanded: Expanded) -> list[str]:
        stated, own = self.sites.multiplicities, expanded.multiplicities
        known = stated > 0
        if (stated == own)[known].all() or self.orders(expanded):
            return []
        number = int(np.flatnonzero(known & (stated != own))[0])
        return [
            f"{self.sites.name(number)} has a multiplicity of {own[number]}, but the file states "
            f"{stated[number]}"
        ]


def _value(block: Block, name: str) -> float | None:
    try:
        number = require_number(block, name)
    except InputError:  # nothing to compare with
        return None
    return number.value if number is not None and number.value > 0 else None


def _formula(counts: Mapping[str, int]) -> str:
    return " ".join(f"{symbol}{count}" for symbol, count in sorted(counts.items()))


def _extras(sites: Sites, expanded: Expanded) -> dict[str, Any]:
    """Return the sites' names and oxidation states, where they say more than the element."""
    symbols = [chemical_symbols[z] for z in sites.numbers]
    extras: dict[str, Any] = {}
    if list(sites.species) != symbols:
        extras["species"] = [sites.species[i] for i in expanded.site]
    if list(sites.labels) != symbols:
        extras["labels"] = [sites.labels[i] for i in expanded.site]
    return extras
