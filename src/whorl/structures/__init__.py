"""Batched atomic structures, and conversion from and to other libraries."""

from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.structures.convert import Structures, as_batch, from_ase, from_pymatgen, to_ase, to_pymatgen

__all__ = [
    "StructureBatch",
    "Structures",
    "as_batch",
    "find_problems",
    "from_ase",
    "from_pymatgen",
    "to_ase",
    "to_pymatgen",
]
