"""Composition of structures: formulas and fractions of elements."""

from __future__ import annotations

from ase.symbols import Symbols

from whorl.structures.batch import StructureBatch


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
