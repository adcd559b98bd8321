r"""Symmetry operations as projections: forces and stresses that keep the space group of a crystal.

An operation takes atom i to the place of atom π(i) and turns vectors by an orthogonal R. The projection of
forces is :math:`f_{π(i)} = \frac{1}{g} \sum R f_i`, that of a tensor is the mean of :math:`R σ R^T`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.symmetry.detection import symmetrized


@dataclass(frozen=True)
class Operations:
    """The g operations of a crystal with n atoms.

    Attributes:
        rotations: R of each, of Cartesian column vectors, shape (g, 3, 3).
        onto: Where each takes each atom, shape (g, n).
    """

    rotations: Float[Tensor, "g 3 3"]
    onto: Int[Tensor, "g n"]

    def vectors(self, values: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Return the symmetric part of vectors at the atoms."""
        turned = torch.einsum("gxy,ny->gnx", self.rotations, values).reshape(-1, 3)
        return torch.zeros_like(values).index_add(0, self.onto.reshape(-1), turned) / len(self.rotations)

    def tensor(self, values: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
        """Return the symmetric part of a tensor."""
        return torch.einsum("gxi,ij,gyj->xy", self.rotations, values, self.rotations) / len(self.rotations)


def with_operations(
    structures: StructureBatch, *, symprec: float = 0.01
) -> tuple[StructureBatch, list[Operations | None]]:
    """Return crystals with the symmetry that they have within a tolerance made exact, and its operations.

    Args:
        structures: Periodic in all directions, with cells that have a volume.
        symprec: Tolerance in Å.

    Returns:
        The crystals, in the same cells with the atoms in the same order; for those of which spglib finds no
        symmetry, as they were, with None instead of operations.
    """
    crystals, symmetries = symmetrized(structures, symprec=symprec)
    operations: list[Operations | None] = []
    for symmetry, cell in zip(symmetries, crystals.cells.detach().cpu().double().numpy(), strict=True):
        if symmetry is None:
            operations.append(None)
            continue
        rotations, onto = symmetry
        columns = cell.T
        turned = columns @ rotations @ np.linalg.inv(columns)
        operations.append(
            Operations(
                torch.from_numpy(turned).to(structures.cells),
                torch.from_numpy(np.ascontiguousarray(onto)).to(structures.device, torch.int64),
            )
        )
    return crystals, operations
