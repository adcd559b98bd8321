"""Atoms as every other room receives them: batched tensors, and the ways in and out of them."""

from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.structures.convert import from_ase, from_pymatgen, to_ase, to_pymatgen

__all__ = ["StructureBatch", "find_problems", "from_ase", "from_pymatgen", "to_ase", "to_pymatgen"]
