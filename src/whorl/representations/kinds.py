"""Kinds of atoms: what sums over neighbours tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Kinds of atoms, each of which has columns of its own in the sums over neighbours.

    Attributes:
        of_atom: Kind of each atom.
        count: Number of kinds.
        mixing: Channels of each structure's kinds, zero where it has fewer; None where kinds are the declared
            elements and there is no embedding.
    """

    of_atom: Int[Tensor, "A"]
    count: int
    mixing: Float[Tensor, "B S K"] | None

    @classmethod
    def of(
        cls,
        species: Int[Tensor, "A"],
        structure_index: Int[Tensor, "A"],
        n_structures: int,
        table: Float[Tensor, "S K"],
    ) -> Kinds:
        """Number the elements of each structure 0, 1, 2 …, in their order."""
        present = torch.zeros(n_structures, len(table), dtype=torch.int64, device=species.device)
        present[structure_index, species] = 1
        of_atom = (torch.cumsum(present, 1) - 1)[structure_index, species]
        count = max(1, int(present.sum(1).max())) if n_structures else 1
        mixing = table.new_zeros(n_structures, count, table.shape[1])
        mixing[structure_index, of_atom] = table[species]
        return cls(of_atom=of_atom, count=count, mixing=mixing)
