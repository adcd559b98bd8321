"""Distances between structures: Euclidean, in standardised features, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_PAIRS_AT_ONCE = 4_000_000  # 32 MB of float64 distances


def standardized(features: Float[Tensor, "n f"], reference: Float[Tensor, "m f"]) -> Float[Tensor, "n f"]:
    r"""Return :math:`(x - \mu) / \sigma` with mean and standard deviation of ``reference``, in float64.

    A feature that does not vary in ``reference`` has no scale and becomes 0.
    """
    from whorl.generators.scaling import FeatureScaler  # brings Lightning, too slow for the top of a module

    scaler = FeatureScaler(reference.shape[1], "standard").fit(reference.double())
    return scaler.transform(features.double())


def nearest_distances(features: Float[Tensor, "n f"], others: Float[Tensor, "m f"]) -> Float[Tensor, "n"]:
    """Return the distance of each row to the nearest of ``others``; infinite where there are none."""
    if len(others) == 0:
        return torch.full((len(features),), float("inf"), dtype=torch.float64)
    return torch.cat(
        [torch.zeros(0, dtype=torch.float64)]
        + [block.amin(1) for _, block in _distance_blocks(features, others)]
    )


def nearest_rows(features: Float[Tensor, "n f"], others: Float[Tensor, "m f"]) -> Int[Tensor, "n"]:
    """Return which of ``others``, at least one, is nearest to each row."""
    none = torch.zeros(0, dtype=torch.int64)
    return torch.cat([none, *(block.argmin(1) for _, block in _distance_blocks(features, others))])


def nearest_neighbour_distances(features: Float[Tensor, "n f"]) -> Float[Tensor, "n"]:
    """Return the distance of each row to the nearest *other* row; infinite where there is none."""
    parts = [torch.zeros(0, dtype=torch.float64)]
    for start, block in _distance_blocks(features, features):
        own = torch.arange(len(block))
        block[own, start + own] = float("inf")
        parts.append(block.amin(1))
    return torch.cat(parts)


def neighbour_distances(features: Float[Tensor, "n f"], k: int) -> Float[Tensor, "n"]:
    """Return the distance of each row to its k-th nearest other row; infinite where there are fewer."""
    if len(features) <= k:
        return torch.full((len(features),), float("inf"), dtype=torch.float64)
    parts = [torch.zeros(0, dtype=torch.float64)]
    for start, block in _distance_blocks(features, features):
        own = torch.arange(len(block))
        block[own, start + own] = -1.0  # before all others
        parts.append(block.kthvalue(k + 1, dim=1).values)
    return torch.cat(parts)


def mean_pairwise_distance(features: Float[Tensor, "n f"], *, at_most: int = 5000) -> float:
    r"""Return the spread of a set, :math:`\frac{2}{n (n-1)} \sum_{i<j} \lVert x_i - x_j \rVert`.

    Args:
        features: One row per structure, standardised.
        at_most: Maximum number of rows; more are thinned evenly, which hardly changes the mean.

    Returns:
        NaN for fewer than two rows.

    >>> mean_pairwise_distance(torch.tensor([[0.0], [1.0], [2.0]]))
    1.3333333333333333
    """
    if len(features) > at_most:
        features = features[torch.linspace(0, len(features) - 1, at_most, dtype=torch.float64).long()]
    n = len(features)
    if n < 2:
        return float("nan")
    total = 0.0
    for start, block in _distance_blocks(features, features):
        own = torch.arange(len(block))
        block[own, start + own] = 0.0  # a row is at 0 from itself, but for rounding
        total += float(block.sum())
    return total / (n * (n - 1))


def count_distinct(features: Float[Tensor, "n f"], distance: float) -> int:
    """Return the number of groups if rows closer than ``distance`` count as one structure.

    >>> count_distinct(torch.tensor([[0.0], [0.01], [1.0]]), 0.1)
    2
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(features)
    if n == 0:
        return 0
    rows, columns = [], []
    for start, block in _distance_blocks(features, features):
        row, column = torch.nonzero(block < distance, as_tuple=True)
        rows.append(row + start)
        columns.append(column)
    pairs = (torch.cat(rows).numpy(), torch.cat(columns).numpy())
    same = coo_array((np.ones(len(pairs[0])), pairs), shape=(n, n))
    return int(connected_components(same, directed=False)[0])


def _distance_blocks(
    features: Float[Tensor, "n f"], others: Float[Tensor, "m f"]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the index of a first row, and the distances of it and the next few rows to all ``others``."""
    features, others = features.double(), others.double()
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(others)))
    for start in range(0, len(features), rows):
        yield start, torch.cdist(features[start : start + rows], others)
