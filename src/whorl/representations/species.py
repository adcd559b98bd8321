"""Base of representations that are made for declared elements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from whorl.errors import InputError
from whorl.representations.base import Representation
from whorl.structures.batch import StructureBatch


class SpeciesRepresentation(Representation):
    """A representation whose features depend on which elements there may be.

    Args:
        species: Chemical symbols of all elements that may occur, in any order.

    Raises:
        InputError: No elements, or unknown ones.
    """

    species: tuple[str, ...]
    """Chemical symbols, in the order of atomic number."""

    def __init__(self, species: Sequence[str]) -> None:
        super().__init__()
        self.species, numbers = _sorted_species(species)
        lookup = torch.full((119,), -1, dtype=torch.int64)
        lookup[numbers] = torch.arange(len(numbers))
        self.register_buffer("_species_of", lookup, persistent=False)
        self._species_of: Tensor

    @property
    def species_pairs(self) -> list[tuple[int, int]]:
        """All pairs of species s ≤ t, by index, in the order (0, 0), (0, 1) … (1, 1) …."""
        n = len(self.species)
        return [(s, t) for s in range(n) for t in range(s, n)]

    def species_index(self, structures: StructureBatch) -> Int[Tensor, "A"]:
        """Return the index of each atom's element among the declared ones.

        Raises:
            InputError: A structure holds an element that was not declared.
        """
        numbers = structures.atomic_numbers
        index = self._species_of.to(numbers.device)[numbers.clamp(0, 118)]
        unknown = (index < 0) | (numbers != numbers.clamp(0, 118))
        if bool(unknown.any()):
            atom = int(torch.nonzero(unknown)[0])
            raise InputError(
                f"structure {int(structures.structure_index[atom])} contains {_symbol(int(numbers[atom]))}, "
                f"but this representation was made for {', '.join(self.species)}. "
                "Declare all elements that occur."
            )
        return index


def _sorted_species(species: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    from ase.data import atomic_numbers

    if isinstance(species, str) or not species:
        raise InputError(
            f"species: got {species!r}, expected a list of chemical symbols such as ['Pt', 'O']."
        )
    for symbol in species:
        if symbol not in atomic_numbers or symbol == "X":
            raise InputError(f"species: '{symbol}' is no chemical element. Use symbols such as 'Pt'.")
    ordered = sorted(set(species), key=lambda symbol: atomic_numbers[symbol])
    return tuple(ordered), [atomic_numbers[symbol] for symbol in ordered]


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"atomic number {number}"
