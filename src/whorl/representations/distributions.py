r"""Distributions of numbers over the points of a grid, as sums of Gaussians, and their Jacobians.

Of numbers :math:`g_t` with weights :math:`w_t`, a point x of a grid with the spacing Δ has

.. math:: f(x) = \sum_t w_t\, \frac{\Phi(x + \Delta/2 - g_t) - \Phi(x - \Delta/2 - g_t)}{\Delta},
   \qquad \Phi(y) = \frac12 \Bigl(1 + \operatorname{erf} \frac{y}{\sqrt2\,\sigma}\Bigr) ,

the mean of Gaussians over the point's bin.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

_POWERS = 14  # of a quarter of σ: the rest of the series is below 1e-14
_REACH = 8.5  # σ, beyond which a Gaussian is below 1e-16
_WIDTH = 256  # numbers in one product
_NUMBERS_AT_ONCE = 300_000  # few enough for the caches, enough to amortise a call


class Grid:
    r"""A grid of points from ``first`` to ``last``, with Gaussians of width ``sigma``.

    Attributes:
        points: The points.
        numbers_per_row: Numbers that :meth:`sums` holds for each row.

    :meth:`sums` is a fast Gauss transform (Greengard and Strain, SIAM J. Sci. Stat. Comput. 12, 79, 1991):
    numbers are collected in cells of width σ/2, by the powers of their distance δ from the cell's centre c,
    and the points take the sums of the powers with the coefficients of a Taylor series,

    .. math:: \sum_t w_t \Phi(y - g_t) = \sum_{cp} \Bigl(\sum_{t \in c} w_t \frac{\delta_t^p}{p!}\Bigr)
       (-1)^p\, \Phi^{(p)}(y - c) .
    """

    def __init__(self, first: float, last: float, n: int, sigma: float) -> None:
        self.points = torch.linspace(first, last, n, dtype=torch.float64)
        self.spacing, self.sigma = (last - first) / (n - 1), sigma
        self.edges = first + self.spacing * torch.linspace(-0.5, n - 0.5, n + 1, dtype=torch.float64)
        self._start = first - 0.5 * self.spacing - _REACH * sigma
        self._cells = math.ceil((last - first + self.spacing + 2 * _REACH * sigma) / (0.5 * sigma)) + 1
        self.numbers_per_row = self._cells * _POWERS
        centres = self._start + 0.5 * sigma * torch.arange(self._cells, dtype=torch.float64)
        self._blocks: list[tuple[slice, Tensor]] = []  # cells, and their coefficients at some points
        size = min(max(round(16.0 * sigma / self.spacing), 4), 64)
        for edges in self.edges.unfold(0, min(size, n) + 1, min(size, n)):
            self._blocks.append(self._block(edges, centres))
        if (rest := n % min(size, n)) > 0:
            self._blocks.append(self._block(self.edges[-rest - 1 :], centres))

    def _block(self, edges: Float[Tensor, "e"], centres: Float[Tensor, "c"]) -> tuple[slice, Tensor]:
        near = (centres > edges[0] - _REACH * self.sigma) & (centres < edges[-1] + _REACH * self.sigma)
        cells = torch.nonzero(near).squeeze(1)
        y = (edges - centres[cells, None]) / self.sigma
        density = torch.exp(-0.5 * y.square()) / math.sqrt(2.0 * math.pi)
        terms = [0.5 * (1.0 + torch.erf(y / math.sqrt(2.0))), -density]
        hermite = [torch.ones_like(y), y]
        for p in range(2, _POWERS):
            terms.append(-hermite[-1] * density)
            hermite.append(y * hermite[-1] - (p - 1) * hermite[-2])
        table = torch.stack(terms, 1).diff(dim=2) / self.spacing
        return slice(int(cells[0]), int(cells[-1]) + 1), table.flatten(0, 1)

    def sums(
        self, g: Float[Tensor, "T"], w: Float[Tensor, "T"], row: Int[Tensor, "T"], n_rows: int
    ) -> Float[Tensor, "R n"]:
        """Return the distribution of the numbers of each row, differentiable in them and their weights."""
        filled = torch.bincount(row, minlength=n_rows) > 0
        rows = torch.nonzero(filled).squeeze(1)
        row = (torch.cumsum(filled, 0) - 1)[row]
        place = (g - self._start) / (0.5 * self.sigma)
        cell = place.detach().round()
        inside = (cell >= 0) & (cell < self._cells)
        cell = torch.where(inside, cell, 0.0)
        delta = 0.5 * torch.where(inside, place - cell, 0.0)
        powers = [torch.where(inside, w, 0.0)]
        for p in range(1, _POWERS):
            powers.append(powers[-1] * (delta / p))
        collected = g.new_zeros(len(rows) * self._cells, _POWERS)
        collected = collected.index_add(0, row * self._cells + cell.long(), torch.stack(powers, 1))
        by_row = collected.reshape(len(rows), self._cells, _POWERS)
        sums = torch.cat([by_row[:, cells].flatten(1) @ table.to(g) for cells, table in self._blocks], 1)
        return (
            sums if len(rows) == n_rows else sums.new_zeros(n_rows, sums.shape[1]).index_copy(0, rows, sums)
        )

    def sums_and_jacobian(
        self,
        g: Float[Tensor, "T"],
        w: Float[Tensor, "T"],
        row: Int[Tensor, "T"],
        n_rows: int,
        changes: Callable[[slice], tuple[Float[Tensor, "t C"], Float[Tensor, "t C"]]],
        n_coordinates: int,
    ) -> tuple[Float[Tensor, "R n"], Float[Tensor, "R n C"]]:
        r"""Return the distributions and their derivatives in C coordinates of each row.

        Sums are taken of Φ at the edges of the bins, as products of matrices, and differences of the sums:

        .. math:: \frac{\partial}{\partial x} \sum_t w_t \Phi(e - g_t) = \sum_t \Phi(e - g_t)
           \frac{\partial w_t}{\partial x} - \Phi'(e - g_t)\, w_t \frac{\partial g_t}{\partial x}

        Args:
            g: Numbers, sorted by row.
            w: Weights.
            row: Of each number.
            n_rows: Number R of rows.
            changes: Returns the derivatives of some of the numbers, and of their weights, in the coordinates.
            n_coordinates: Number C of coordinates.
        """
        # Rows are cut into segments of nearly equal length, padded with weights of zero.
        counts = torch.bincount(row, minlength=n_rows)
        longest = max(int(counts.max()), 1)
        width = math.ceil(longest / math.ceil(longest / _WIDTH))
        segments = (counts + width - 1) // width
        rank = torch.arange(len(row), device=row.device) - (torch.cumsum(counts, 0) - counts)[row]
        segment = (torch.cumsum(segments, 0) - segments)[row] + rank // width
        slot, count = segment * width + rank % width, int(segments.sum())

        edges, scale = self.edges.to(g), 1.0 / (math.sqrt(2.0) * self.sigma)
        sums = g.new_zeros(count, len(edges), 1 + n_coordinates)
        step = max(1, _NUMBERS_AT_ONCE // (width * (len(edges) + 2 * n_coordinates)))
        for start in range(0, count, step):
            stop = min(start + step, count)
            some = slice(*torch.searchsorted(segment, segment.new_tensor([start, stop])).tolist())
            place = slot[some] - start * width

            def padded(values: Tensor, place: Tensor = place, size: int = stop - start) -> Tensor:
                blank = values.new_zeros(size * width, *values.shape[1:])
                return blank.index_copy_(0, place, values).unflatten(0, (size, width))

            of_g, of_w = changes(some)
            z = (edges - padded(g[some])[..., None]).mul_(scale)
            density = z.square().neg_().exp_().mul_(-2.0 * scale / math.sqrt(math.pi))
            total = z.erf_().transpose(1, 2) @ padded(torch.cat([w[some, None], of_w], 1))
            total[:, :, 1:] += density.transpose(1, 2) @ padded(of_g * w[some, None])
            sums[start:stop] = total
        row_of = torch.repeat_interleave(torch.arange(n_rows, device=row.device), segments)
        by_row = g.new_zeros(n_rows, *sums.shape[1:]).index_add_(0, row_of, sums)
        means = by_row.diff(dim=1) / (2.0 * self.spacing)
        return means[:, :, 0], means[:, :, 1:]
