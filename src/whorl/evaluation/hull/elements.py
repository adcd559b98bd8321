"""Crystals of the elements, from which an energy method finds its own ground states."""

from __future__ import annotations

import contextlib
import warnings
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, reference_states

from whorl.errors import InputError, did_you_mean

_MOST_ATOMS = 34  # of the primitive cell: all but β boron, α sulfur and the larger forms of P and Se
_MOLECULES = {"H": 0.74, "N": 1.10, "O": 1.21, "F": 1.42, "Cl": 1.99, "Br": 2.28, "I": 2.67}  # bonds in Å
_BETWEEN = {"H": 3.6, "N": 4.0, "O": 3.6, "F": 3.6, "Cl": 4.6, "Br": 4.9, "I": 5.3}  # molecules, in Å
_KNOWN_LATTICES = ("sc", "fcc", "bcc", "diamond", "hcp", "bct", "rhombohedral")
_NO_METALS = {*_MOLECULES, "B", "C", "P", "S", "Se"}
# Elements with the structure of another one.
_RELATIVES = {"Te": ("Se", "A_hP3_152_a"), "Br": ("I", "A_oC8_64_f"), "Sn": ("C", "A_cF8_227_a")}


def elemental_crystals(element: str) -> dict[str, Atoms]:
    """Return crystals of an element by name, none of them relaxed.

    They are ASE's reference state, the AFLOW prototypes that are this element itself (α-Mn, black phosphorus,
    graphite …), of metals face and body centred cubic and hexagonal close packings, and of diatomic gases and
    the halogens a crystal of molecules.

    Raises:
        InputError: Unknown element.
    """
    if element not in atomic_numbers or element == "X":
        raise InputError(f"unknown element '{element}'.{did_you_mean(element, chemical_symbols[1:])}")
    number = atomic_numbers[element]
    crystals: dict[str, Atoms] = {}
    state = reference_states[number] if number < len(reference_states) else None
    if state is not None and state["symmetry"] in _KNOWN_LATTICES:
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError, KeyError):  # ASE lacks more
            crystals[str(state["symmetry"])] = bulk(element)
    crystals |= _prototypes().get(element, {})
    if element in _RELATIVES:
        other, name = _RELATIVES[element]
        crystals[name] = _like(_prototypes()[other][name], element)
    if element in _MOLECULES:
        crystals["molecules"] = _molecular(element)
    distance = _nearest(crystals) or 2 * float(covalent_radii[number])
    if element not in _NO_METALS:
        for name, length in (("fcc", 2**0.5), ("bcc", 2 / 3**0.5), ("hcp", 1.0)):
            if name not in crystals:
                crystals[name] = bulk(element, name, a=length * distance)
    return crystals


def _like(crystal: Atoms, element: str) -> Atoms:
    """Return a crystal of another element, with its distances scaled by the covalent radii."""
    number = atomic_numbers[element]
    factor = float(covalent_radii[number] / covalent_radii[crystal.numbers[0]])
    scaled = Atoms(numbers=[number] * len(crystal), cell=crystal.cell * factor, pbc=True)
    scaled.set_scaled_positions(crystal.get_scaled_positions())
    return scaled


def _nearest(crystals: dict[str, Atoms]) -> float | None:
    """Return the shortest distance in the first crystal, in Å."""
    from ase.neighborlist import neighbor_list

    for atoms in crystals.values():
        distances = neighbor_list("d", atoms, 5.0)
        if len(distances):
            return float(distances.min())
    return None


def _molecular(element: str) -> Atoms:
    """Return diatomic molecules along [111] on a face centred cubic lattice."""
    half = _MOLECULES[element] / 2 / 3**0.5 * np.ones(3)
    cell = _BETWEEN[element] / 2**0.5 * (np.ones((3, 3)) - np.eye(3))
    return Atoms(f"{element}2", positions=[-half, half], cell=cell, pbc=True)


@lru_cache(maxsize=1)
def _prototypes() -> dict[str, dict[str, Atoms]]:
    """Return the elemental crystals of the AFLOW library (Mehl et al., 2017), by element."""
    from pymatgen.io.ase import AseAtomsAdaptor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
    crystals: dict[str, dict[str, Atoms]] = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = entry["snl"].structure
        if not structure.is_ordered or len(structure.composition) != 1:
            continue
        primitive = structure.get_primitive_structure()
        if len(primitive) <= _MOST_ATOMS:
            atoms = AseAtomsAdaptor.get_atoms(primitive, msonable=False)
            plain = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
            of_element = crystals.setdefault(structure.elements[0].symbol, {})
            of_element[str(entry["tags"]["aflow"])] = plain
    return crystals
