"""What people call a crystal: its formula and its space group."""

from __future__ import annotations

from functools import lru_cache

import torch
from ase.symbols import Symbols

from whorl.representations.crystens import known_space_group
from whorl.structures.batch import StructureBatch
from whorl.structures.symmetry import space_group_numbers

CRYSTAL_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")

_FIRST_OF_SYSTEM = (1, 3, 16, 75, 143, 168, 195)  # numbers of space groups


def formula(structure: StructureBatch) -> str:
    """Return the reduced formula of a batch of one, metals first; empty for no atoms.

    >>> from ase.build import bulk
    >>> from whorl.structures import from_ase
    >>> formula(from_ase(bulk("NaCl", "rocksalt", a=5.64, cubic=True)))
    'NaCl'
    """
    if not len(structure.atomic_numbers):
        return ""
    whole = Symbols(structure.atomic_numbers.cpu().numpy()).formula
    return str(whole.reduce()[0].convert("metal"))


@lru_cache(maxsize=256)
def space_group_symbol(number: int) -> str:
    """Return the Hermann–Mauguin symbol of a space group (1–230).

    >>> space_group_symbol(221)
    'Pm-3m'
    """
    from pymatgen.symmetry.groups import sg_symbol_from_int_number

    return str(sg_symbol_from_int_number(number))


def crystal_system(number: int) -> str:
    """Return the crystal system of a space group (1–230).

    >>> crystal_system(2), crystal_system(194), crystal_system(195)
    ('triclinic', 'hexagonal', 'cubic')
    """
    return CRYSTAL_SYSTEMS[sum(first <= number for first in _FIRST_OF_SYSTEM) - 1]


def space_groups(structures: StructureBatch) -> list[int]:
    """Return the number of each one's space group: from its ``info``, else as spglib finds it.

    0 stands for structures that are not periodic in all three directions.
    """
    known = [known_space_group(info) for info in structures.info] or [0] * len(structures)
    periodic = structures.pbc.all(1).tolist()
    unknown = [i for i, number in enumerate(known) if not number and periodic[i]]
    if unknown:
        found = space_group_numbers(structures[torch.tensor(unknown)])
        for i, number in zip(unknown, found.tolist(), strict=True):
            known[i] = number
    return known
