"""Symmetry-preserving coordinates: orbits of equivalent atoms and their free coordinates.

A symmetry takes each atom to others of its *orbit*. Their surroundings are alike, so that one atom of each
orbit stands for all, and a few coordinates q move the whole structure without breaking the symmetry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SymmetryCoordinates:
    """Symmetric motions of B structures of n atoms each; Q coordinates, padded with ones that move nothing.

    Attributes:
        head: Within its structure, the atom that stands for each atom's orbit, shape (B, n).
        atoms: Displacement of each atom per coordinate, shape (B, n, 3, Q).
        strain: Strain ε of structure and cell per coordinate, shape (B, 3, 3, Q): x becomes x (1 + ε).
    """

    head: Int[Tensor, "B n"]
    atoms: Float[Tensor, "B n 3 Q"]
    strain: Float[Tensor, "B 3 3 Q"]

    @classmethod
    def stack(cls, orbits: Sequence[SymmetryCoordinates]) -> SymmetryCoordinates:
        """Join orbits of structures with equally many atoms."""
        width = max(one.atoms.shape[3] for one in orbits)

        def padded(motion: Tensor) -> Tensor:
            return torch.nn.functional.pad(motion, (0, width - motion.shape[3]))

        return cls(
            head=torch.cat([one.head for one in orbits]),
            atoms=torch.cat([padded(one.atoms) for one in orbits]),
            strain=torch.cat([padded(one.strain) for one in orbits]),
        )

    def __len__(self) -> int:
        """Return the number of structures B."""
        return len(self.head)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> SymmetryCoordinates:
        """Return those of the chosen structures."""
        return SymmetryCoordinates(head=self.head[index], atoms=self.atoms[index], strain=self.strain[index])

    def to(self, like: Tensor) -> SymmetryCoordinates:
        """Return the orbits with the device and floating-point type of another tensor."""
        return SymmetryCoordinates(
            head=self.head.to(like.device), atoms=self.atoms.to(like), strain=self.strain.to(like)
        )

    @property
    def resting(self) -> SymmetryCoordinates:
        """The same orbits without coordinates: for values whose derivatives nobody asks for."""
        return SymmetryCoordinates(head=self.head, atoms=self.atoms[..., :0], strain=self.strain[..., :0])

    def trimmed(self) -> SymmetryCoordinates:
        """Return the orbits without last coordinates that move nothing."""
        moving = torch.nonzero(
            (self.atoms != 0).flatten(0, 2).any(0) | (self.strain != 0).flatten(0, 2).any(0)
        )
        width = int(moving[-1]) + 1 if len(moving) else 0
        return SymmetryCoordinates(
            head=self.head, atoms=self.atoms[..., :width], strain=self.strain[..., :width]
        )

    def along(self, jacobian: Float[Tensor, "B F n 3"]) -> Float[Tensor, "B F Q"]:
        """Return derivatives in the coordinates from those in all atoms, without strain."""
        return jacobian.flatten(2) @ self.atoms.flatten(1, 2)

    def along_strain(self, jacobian: Float[Tensor, "B F 3 3"]) -> Float[Tensor, "B F Q"]:
        """Return what a strain of the coordinates adds, from derivatives in a strain."""
        return jacobian.flatten(2) @ self.strain.flatten(1, 2)

    def displacement(
        self, step: Float[Tensor, "B Q"]
    ) -> tuple[Float[Tensor, "B n 3"], Float[Tensor, "B 3 3"]]:
        """Return displacements (B, n, 3) and strains (B, 3, 3) of a step in the coordinates."""
        return (
            torch.einsum("bnxq,bq->bnx", self.atoms, step),
            torch.einsum("bxyq,bq->bxy", self.strain, step),
        )
