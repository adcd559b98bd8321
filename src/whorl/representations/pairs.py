r"""Pairs of neighbouring atoms in padded arrays, and their derivatives in the coordinates of a structure.

The *lever* of a pair is the derivative of its vector v in coordinate r of the structure: +1 for the
neighbour, -1 for the centre, v itself for a strain. A feature :math:`G_i` of the vectors :math:`v_j` to the
neighbours of atom i has the derivative

.. math:: \frac{\partial G_i}{\partial x_r} = \sum_j \frac{\partial G_i}{\partial v_{jx}} \ell_{jr} .

Pairs are in one block of columns per species, or pair of species, so that each product runs over the pairs
that exist and none is multiplied by zero for being of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TINY = 1e-12  # Å; nearer than this, two atoms have no direction


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs in N rows of M; zero where padded, so that padding does not contribute.

    Attributes:
        blocks: For each kind of pair that occurs, its number and its columns.
        row_kind: Species of the atom of each row, -1 where there is no atom or rows are of
            something else, shape (N,).
        vectors: In Å, 0 where padded, shape (N, 3, M).
        r: Distances in Å, 1 where padded, shape (N, M).
        real: 1, or 0 where padded, shape (N, M).
        inverse_r: 1/r, 0 where padded or without direction, shape (N, M).
        unit: Unit vectors, 0 where padded or without direction, shape (N, 3, M).
        lever: Derivative of each vector in the R coordinates of its structure, shape (N, R, M) where a
            coordinate is a direction of one atom, or (N, 3, M, R).
        ends: One where the pair begins, and one where it ends, shape (2, N, n, M).
        by_atom: Whether the column of a pair is the place of the atom where it ends; ends and lever are not
            filled then.
        mixing: Channels of the kinds of each row's structure (see :mod:`whorl.representations.embedding`),
            shape (N, S, K); None where each kind has its own features.
    """

    blocks: list[tuple[int, slice]]
    row_kind: Int[Tensor, "N"]
    vectors: Float[Tensor, "N 3 M"]
    r: Float[Tensor, "N M"]
    real: Float[Tensor, "N M"]
    inverse_r: Float[Tensor, "N M"]
    unit: Float[Tensor, "N 3 M"]
    lever: Float[Tensor, "N R M"] | Float[Tensor, "N 3 M R"]
    ends: Float[Tensor, "2 N n M"]
    by_atom: bool
    mixing: Float[Tensor, "N S K"] | None

    @classmethod
    def of(
        cls,
        vectors: Float[Tensor, "P 3"],
        *,
        row: Int[Tensor, "P"],
        kind: Int[Tensor, "P"],
        ends: tuple[Int[Tensor, "P"], Int[Tensor, "P"]],
        n_rows: int,
        n_kinds: int,
        n_atoms: int,
        strain: bool,
        by_atom: bool = False,
        levers: Float[Tensor, "P 3 Q"] | None = None,
        row_kind: Int[Tensor, "N"] | None = None,
        mixing: Float[Tensor, "N S K"] | None = None,
    ) -> Pairs:
        """Arrange pairs by their row and kind; ``ends`` are the two atoms' places within the structure.

        ``by_atom`` needs pairs of one kind, no two of which end in the same atom. ``levers`` say how each
        vector moves with Q coordinates, in place of those of its ends.
        """
        counts = torch.bincount(row * n_kinds + kind, minlength=n_rows * n_kinds)
        widths = counts.reshape(n_rows, n_kinds).amax(0)
        offsets = torch.cumsum(widths, 0) - widths
        group = row * n_kinds + kind
        order = None
        if bool((group[1:] < group[:-1]).any()):
            order = torch.argsort(group, stable=True)
            group, row, kind, vectors = group[order], row[order], kind[order], vectors[order]
            ends = ends[0][order], ends[1][order]
            levers = None if levers is None else levers[order]
        rank = torch.arange(len(group), device=group.device) - (torch.cumsum(counts, 0) - counts)[group]
        column = offsets[kind] + rank
        m = int(widths.sum())
        if by_atom:
            column, m, widths = ends[1], n_atoms, widths.new_tensor([n_atoms])
        starts = offsets.tolist()
        blocks = [
            (number, slice(starts[number], starts[number] + width))
            for number, width in enumerate(widths.tolist())
            if width
        ]
        slot = row * m + column
        padded = vectors.new_zeros(n_rows * m, 5)
        padded[slot, :3] = vectors
        # The root of zero has no derivative.
        padded[slot, 3] = vectors.square().sum(1).clamp(min=torch.finfo(vectors.dtype).tiny).sqrt()
        padded[slot, 4] = 1.0
        by_row = padded.reshape(n_rows, m, 5).transpose(1, 2).contiguous()
        distance, real = by_row[:, 3], by_row[:, 4]
        inverse = torch.where(distance > _TINY, 1.0 / distance.clamp(min=_TINY), 0.0)
        if levers is not None:
            lever = levers.new_zeros(n_rows * m, *levers.shape[1:])
            lever[slot] = levers
            lever = lever.unflatten(0, (n_rows, m)).transpose(1, 2).contiguous()
            n_atoms = 0
        at_ends = vectors.new_zeros(2, n_rows * n_atoms * m)
        if not by_atom and levers is None:
            at_ends[0, (row * n_atoms + ends[0]) * m + column] = 1.0
            at_ends[1, (row * n_atoms + ends[1]) * m + column] = 1.0
        at_ends = at_ends.reshape(2, n_rows, n_atoms, m)
        if levers is None:
            lever = at_ends[1] - at_ends[0]
        if strain:
            lever = torch.cat([lever, by_row[:, :3]], 1)
        return cls(
            blocks=blocks,
            row_kind=row.new_full((n_rows,), -1) if row_kind is None else row_kind,
            vectors=by_row[:, :3],
            r=distance + (1.0 - real),
            real=real,
            inverse_r=inverse,
            unit=by_row[:, :3] * inverse[:, None],
            lever=lever,
            ends=at_ends,
            by_atom=by_atom,
            mixing=mixing,
        )

    def of_channels(self, of_kinds: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return sums over neighbours by channel from those by kind: the same where there is no embedding."""
        if self.mixing is None or not of_kinds:
            return of_kinds
        together = torch.stack(list(of_kinds.values()), 1)
        mixed = self.mixing[:, list(of_kinds)].transpose(1, 2) @ together.flatten(2)
        return dict(enumerate(mixed.unflatten(2, together.shape[2:]).unbind(1)))

    def moved(self, slopes: Float[Tensor, "N 3 K m"], columns: slice) -> Float[Tensor, "N x K R"]:
        """Return derivatives in the coordinates from those in the vectors of some columns; rows are centres.

        The result may take the memory of the slopes. x is the direction in which a coordinate moves an atom,
        or of length one where ``levers`` give the direction.
        """
        if self.lever.dim() == 4:
            return (slopes.transpose(1, 2).flatten(2) @ self.lever[:, :, columns].flatten(1, 2))[:, None]
        flat = slopes.flatten(1, 2)
        if not self.by_atom:
            return (flat @ self.lever[:, :, columns].transpose(1, 2)).unflatten(1, (3, -1))
        # Each column is an atom: that of the centre, which is its own neighbour nowhere, takes the recoil.
        of_structures = flat.unflatten(0, (-1, flat.shape[2]))
        of_structures.diagonal(dim1=1, dim2=3).sub_(of_structures.sum(-1).transpose(1, 2))
        return slopes
