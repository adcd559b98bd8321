r"""One-dimensional clustering on a line or a circle, for many structures at once.

**Number of clusters.** The standard error s of the values is known. Among all divisions of the sorted values
into clusters of :math:`n_k` values, the one is taken that minimises

.. math::
   \sum_k \Bigl[ \frac{1}{2 s^2} \sum_{i \in k} (v_i - \bar v_k)^2 - n_k \ln\frac{n_k}{n} + \ln n \Bigr]

the integrated completed likelihood (Biernacki, Celeux, Govaert, IEEE Trans. Pattern Anal. Mach. Intell. 22,
719, 2000) of a mixture of Gaussians of width s, whose second term keeps noise from being divided.
In one dimension clusters are contiguous, so dynamic programming finds the minimum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_FAR = 1e9  # of padding: behind all values


def merge_on_circle(
    values: Float[Tensor, "P n"],
    present: Bool[Tensor, "P n"],
    error: Float[Tensor, "P"],
) -> Float[Tensor, "P n"]:
    """Return each value's cluster centre, in [0, 1); 0.99 and 0.01 are neighbours.

    The circle is cut at the largest gap between values, and clusters are those along the line.

    Args:
        values: On a circle of circumference 1.
        present: Mask of the values to cluster; the others are returned unchanged.
        error: Standard error s of the values of each row.
    """
    rows = torch.where(present, values - torch.floor(values), _FAR)
    counts = present.sum(1)
    ordered = rows.sort(1).values
    following = torch.cat([ordered[:, 1:], torch.full_like(ordered[:, :1], _FAR)], 1)
    last = torch.arange(rows.shape[1], device=rows.device) == counts[:, None] - 1
    following = torch.where(last, ordered[:, :1] + 1.0, following)
    gap = torch.where(ordered < _FAR, following - ordered, -1.0)
    start = following.gather(1, gap.argmax(1, keepdim=True))  # first value behind the largest gap
    start = start - torch.floor(start)
    # Values at the cut itself may be on the wrong side by rounding.
    unrolled = rows - start
    unrolled = torch.where(unrolled < -1e-12, unrolled + 1.0, unrolled)
    centres = merge_on_line(unrolled, present, error) + start
    return torch.where(present, centres - torch.floor(centres), values)


def merge_on_line(
    values: Float[Tensor, "P n"],
    present: Bool[Tensor, "P n"],
    error: Float[Tensor, "P"],
) -> Float[Tensor, "P n"]:
    """Return each value's cluster centre; see the module for the number of clusters."""
    return _centres(values, present, lambda sums: _best_cuts(sums, present.sum(1), error))


def k_means(
    values: Float[Tensor, "P n"], present: Bool[Tensor, "P n"], clusters: int
) -> Float[Tensor, "P n"]:
    """Return each value's centre of the best k-means clustering with ``clusters`` centres, or fewer values.

    In one dimension the optimum is computed exactly, which Lloyd's iterations only approximate.
    """
    return _centres(values, present, lambda sums: _fixed_cuts(sums, present.sum(1), clusters))


class _Sums:
    """Cumulative sums of sorted values and of their squares, for the variance of any range."""

    def __init__(self, ordered: Tensor) -> None:
        zero = torch.zeros_like(ordered[:, :1])
        self.first = torch.cat([zero, ordered.cumsum(1)], 1)
        self.second = torch.cat([zero, ordered.square().cumsum(1)], 1)
        self.n = ordered.shape[1]

    def spread_before(self, end: int) -> Tensor:
        """Return the sum of squares about the mean of values start … end - 1, for each start; (P, end)."""
        size = torch.arange(end, 0, -1, device=self.first.device)
        total = self.first[:, end : end + 1] - self.first[:, :end]
        square = self.second[:, end : end + 1] - self.second[:, :end]
        return (square - total.square() / size).clamp(min=0.0)


def _centres(values: Tensor, present: Tensor, cut: Callable[[_Sums], Tensor]) -> Tensor:
    counts = present.sum(1, keepdim=True).clamp(min=1)
    middle = torch.where(present, values, 0.0).sum(1, keepdim=True) / counts
    key = torch.where(present, values - middle, _FAR)
    ordered, order = key.sort(dim=1, stable=True)
    ordered = torch.where(ordered < _FAR / 2, ordered, 0.0)
    label = cut(_Sums(ordered))
    size = torch.zeros_like(ordered).scatter_add(1, label, torch.ones_like(ordered) * (label >= 0))
    total = torch.zeros_like(ordered).scatter_add(1, label, ordered)
    means = (total / size.clamp(min=1.0)).gather(1, label)
    merged = torch.zeros_like(values).scatter(1, order, means) + middle
    return torch.where(present, merged, values)


def _best_cuts(sums: _Sums, counts: Tensor, error: Tensor) -> Int[Tensor, "P n"]:
    n, kind = sums.n, sums.first.dtype
    share = counts.to(kind).clamp(min=1.0)[:, None]
    best = sums.first.new_zeros(len(counts), n + 1)
    source = torch.zeros(len(counts), n + 1, dtype=torch.int64, device=counts.device)
    for end in range(1, n + 1):  # over the length of a structure, all structures at once
        size = torch.arange(end, 0, -1, dtype=kind, device=counts.device)
        cost = sums.spread_before(end) / (2.0 * error[:, None].square())
        cost = best[:, :end] + cost - size * torch.log(size / share) + torch.log(share)
        best[:, end], source[:, end] = cost.min(1)
    return _labels(counts, lambda end, rows: source[rows, end], n)


def _fixed_cuts(sums: _Sums, counts: Tensor, clusters: int) -> Int[Tensor, "P n"]:
    n = sums.n
    best = torch.full((len(counts), n + 1), torch.inf, dtype=sums.first.dtype, device=counts.device)
    best[:, 0] = 0.0
    sources = []
    spreads = [sums.spread_before(end) for end in range(1, n + 1)]
    for _ in range(min(clusters, n)):
        following = torch.full_like(best, torch.inf)
        following[:, 0] = 0.0  # fewer clusters than values are possible
        source = torch.zeros(best.shape, dtype=torch.int64, device=counts.device)
        for end in range(1, n + 1):
            following[:, end], source[:, end] = (best[:, :end] + spreads[end - 1]).min(1)
        best = following
        sources.append(source)
    step = iter(reversed(sources))
    current = [next(step)]

    def source_of(end: Tensor, rows: Tensor) -> Tensor:
        start = current[0][rows, end]
        current[0] = next(step, current[0])
        return start

    return _labels(counts, source_of, n)


def _labels(counts: Tensor, source_of: Callable[[Tensor, Tensor], Tensor], n: int) -> Int[Tensor, "P n"]:
    """Return for each sorted value the start of its cluster, by backtracking from the last one."""
    rows = torch.arange(len(counts), device=counts.device)
    place = torch.arange(n, device=counts.device)
    label = torch.zeros(len(counts), n, dtype=torch.int64, device=counts.device)
    end = counts.clone()
    while bool((end > 0).any()):
        start = torch.where(end > 0, source_of(end, rows), 0)
        inside = (place >= start[:, None]) & (place < end[:, None])
        label = torch.where(inside, start[:, None], label)
        end = start
    # Padding follows the values of its row, in a separate cluster.
    behind = place >= counts[:, None]
    return torch.where(behind, counts.clamp(max=n - 1)[:, None], label)
