"""Farthest point sampling in feature space, and splits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError
from whorl.linalg import principal_axes

_SHORT = 32  # principal axes for a first estimate of distances
_ROWS_AT_ONCE = 10_000  # bounds the memory of exact distances
# Margin of the lower bound, relative to the largest squared length; within it, distances are exact.
_ROUNDING = 1e-7


def farthest_point_sampling(
    features: Float[Tensor, "n f"], count: int, *, seed: int, start: int | None = None
) -> Int[Tensor, "count"]:
    r"""Select ``count`` rows, each as far as possible from those selected before.

    .. math:: s_k = \arg\max_i \min_{j<k} \lVert x_i - x_{s_j} \rVert_2

    Distances are Euclidean in the features as given; scale them first where their units differ. Of rows that
    are equally far the first is chosen, so the answer depends on ``seed`` through the first row alone. Rows
    that are there twice are chosen twice only after all others.

    Args:
        features: One row per structure.
        count: Number of rows, at most n.
        seed: Draws the first row.
        start: The first row itself, instead of a drawn one.

    Returns:
        Row numbers in the order chosen, shape (count,).

    Raises:
        InputError: More rows asked for than there are, or features that are not finite.
    """
    n = features.shape[0]
    if not 1 <= count <= n:
        raise InputError(
            f"farthest point sampling: got count {count}, expected 1 to {n}, the number of rows."
        )
    finite = features.isfinite().all(dim=1)
    if not bool(finite.all()):
        rows = torch.nonzero(~finite).squeeze(1)
        raise InputError(
            f"farthest point sampling: {len(rows)} rows have NaN or infinite features (first: row "
            f"{int(rows[0])}). Leave them out first."
        )
    if start is None:
        start = int(torch.randint(n, (), generator=torch.Generator().manual_seed(seed)))
    if not 0 <= start < n:
        raise InputError(
            f"farthest point sampling: got start {start}, expected a row number from 0 to {n - 1}."
        )
    rows = features.detach()
    short = _shortened(rows)
    short_square = short.square().sum(1)
    scale = float(short_square.max()) if n else 0.0
    nearest = torch.full_like(short_square, torch.inf)  # squared
    chosen = torch.empty(count, dtype=torch.int64)
    row = start
    for k in range(count):
        chosen[k] = row
        # A lower bound for all rows; only few come nearer to the new one than to those chosen before.
        bound = torch.addmv(short_square, short, short[row], alpha=-2.0).add_(short_square[row])
        near = torch.nonzero(bound <= nearest + _ROUNDING * scale).squeeze(1)
        for part in near.split(_ROWS_AT_ONCE):
            distance = (rows[part] - rows[row]).square_().sum(1).double()
            nearest[part] = torch.minimum(nearest[part], distance)
        nearest[row] = -1.0  # never again, even among equals
        row = int(nearest.argmax())
    return chosen


def _shortened(rows: Float[Tensor, "n f"]) -> Float[Tensor, "n g"]:
    """Return rows of at most 33 numbers whose distances are never larger than those of the rows given.

    The first 32 are coordinates along the principal axes, the last is the distance from the space they span:
    by the triangle inequality, its difference is no larger than the difference of what was left out.
    """
    centred = rows.double()
    centred = centred - centred.mean(0)
    if rows.shape[1] <= _SHORT + 1:
        return centred
    along = centred @ principal_axes(centred, _SHORT)[0].T
    beyond = (centred.square().sum(1) - along.square().sum(1)).clamp_min_(0.0).sqrt_()
    return torch.cat([along, beyond[:, None]], dim=1)


def training_count(n: int, fraction: float) -> int:
    """Return how many of n rows :func:`split` gives to train on."""
    size = round(n * fraction)
    return min(max(size, 1), n - 1) if n >= 2 else size


def split(n: int, *, fraction: float = 0.8, seed: int) -> tuple[Int[Tensor, "t"], Int[Tensor, "v"]]:
    """Divide rows 0 … n-1 at random into training and validation rows.

    Args:
        n: Number of rows.
        fraction: Fraction of training rows, rounded to whole rows; if n allows, no part is empty.
        seed: The same seed gives the same split.

    Returns:
        Row numbers of both parts, each in ascending order.

    Raises:
        InputError: ``fraction`` is not between 0 and 1.

    >>> train, validation = split(10, fraction=0.8, seed=0)
    >>> len(train), len(validation)
    (8, 2)
    """
    if not 0 < fraction < 1:
        raise InputError(f"split: got fraction {fraction}, expected a number between 0 and 1.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    size = training_count(n, fraction)
    return order[:size].sort().values, order[size:].sort().values
