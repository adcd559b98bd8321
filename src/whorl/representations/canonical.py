"""Canonical order of the atoms and canonical origin of crystals."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.structures.convert import EXTRAS

_STEPS = 10_000  # fractional coordinates within 1e-4 are sorted as one
_AT_ONCE = 256  # structures whose origins are sought together


def sorted_atoms(structures: StructureBatch, fractional: Float[Tensor, "A 3"]) -> StructureBatch:
    """Return the structures with atoms by atomic number, then x, y, z in [0, 1)."""
    order = torch.argsort(_keys(structures.atomic_numbers, fractional), stable=True)
    order = order[torch.argsort(structures.structure_index[order], stable=True)]
    return structures.replace(
        positions=structures.positions[order],
        atomic_numbers=structures.atomic_numbers[order],
        info=tuple({k: v for k, v in info.items() if k != EXTRAS} for info in structures.info),  # per atom
    )


def canonical_origins(structures: StructureBatch, fractional: Float[Tensor, "A 3"]) -> Int[Tensor, "B"]:
    """Return for each structure the atom at the canonical origin.

    It is an atom of the rarest element (of several such, the lightest). Of these atoms, that
    one is taken for which the sorted list of atoms (atomic number, x, y, z in [0, 1)) is
    lexicographically smallest. The list thus does not depend on the previous origin.
    """
    index, numbers = structures.structure_index, structures.atomic_numbers
    of_element = torch.bincount(index * 128 + numbers, minlength=128 * len(structures))
    rank = of_element[index * 128 + numbers] * 128 + numbers  # few and light ones first
    least = torch.full_like(structures.n_atoms, torch.iinfo(torch.int64).max)
    least = least.scatter_reduce(0, index, rank, "amin")
    candidates = (rank == least[index]).nonzero()[:, 0]
    chosen = [
        _first_in_alphabet(structures, fractional, candidates[(index[candidates] // _AT_ONCE) == part])
        for part in range(-(-len(structures) // _AT_ONCE))
    ]
    return torch.cat([*chosen, index.new_zeros(0)])


def _first_in_alphabet(structures: StructureBatch, fractional: Tensor, candidates: Tensor) -> Tensor:
    """Return the candidate of each structure with the lexicographically smallest list of atoms."""
    owner = structures.structure_index[candidates]
    n = structures.n_atoms[owner]
    line = torch.repeat_interleave(torch.arange(len(candidates), device=n.device), n)
    within = torch.arange(len(line), device=n.device) - (torch.cumsum(n, 0) - n)[line]
    atom = structures.first_atom[owner][line] + within
    apart = fractional[atom] - fractional[candidates[line]]
    lists = torch.full((len(candidates), int(n.max())), torch.iinfo(torch.int64).max, device=n.device)
    lists[line, within] = _keys(structures.atomic_numbers[atom], apart)
    lists = lists.sort(1).values
    columns = [*lists.flip(1).unbind(1), owner]  # the last one sorts first
    order = torch.from_numpy(np.lexsort([column.cpu().numpy() for column in columns])).to(n.device)
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner[order][1:] != owner[order][:-1]
    return candidates[order[first]]


def _keys(numbers: Int[Tensor, "A"], fractional: Float[Tensor, "A 3"]) -> Int[Tensor, "A"]:
    """Return one integer per atom with the order of (atomic number, x, y, z)."""
    step = torch.round(fractional.detach() * _STEPS).to(torch.int64) % _STEPS
    return ((numbers * _STEPS + step[:, 0]) * _STEPS + step[:, 1]) * _STEPS + step[:, 2]
