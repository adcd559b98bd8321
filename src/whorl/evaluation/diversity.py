"""Novelty with respect to the training set, and diversity with respect to the real data."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.evaluation.distances import (
    mean_pairwise_distance,
    nearest_distances,
    nearest_neighbour_distances,
    neighbour_distances,
)
from whorl.linalg import principal_axes


def copy_distance(training: Float[Tensor, "m f"], *, fraction: float = 0.1) -> float:
    """Return the distance below which a sample counts as a copy of a training row.

    It is ``fraction`` of the median distance from a training row to its nearest other training row.

    Args:
        training: Standardised features, one row per structure.
        fraction: Of the median nearest-neighbour distance.

    Returns:
        0 for fewer than two rows.
    """
    if len(training) < 2:
        return 0.0
    return fraction * float(nearest_neighbour_distances(training).median())


def percent_copies(
    generated: Float[Tensor, "n f"], training: Float[Tensor, "m f"], *, distance: float
) -> float:
    """Return the share of samples nearer than ``distance`` to a training row, 0 to 100; NaN without samples.

    >>> percent_copies(torch.tensor([[0.01], [0.5]]), torch.tensor([[0.0], [1.0]]), distance=0.1)
    50.0
    """
    if len(generated) == 0:
        return float("nan")
    return 100 * float((nearest_distances(generated, training) < distance).double().mean())


def spread_ratio(
    generated: Float[Tensor, "n f"], real: Float[Tensor, "m f"]
) -> tuple[float | None, str | None]:
    """Return the mean pairwise distance of the samples over that of real structures.

    1 means as diverse as the real ones, below 1 less.

    Args:
        generated: Standardised features.
        real: Those of real structures with the target property, standardised in the same way.

    Returns:
        The ratio and ``None``, or ``None`` and the reason why there is none.

    >>> spread_ratio(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
    (0.5, None)
    >>> spread_ratio(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]]))
    (None, '1 real structure in the window, at least 2 needed')
    """
    for count, what in ((len(real), "real structure"), (len(generated), "generated sample")):
        if count < 2:
            where = " in the window" if what == "real structure" else ""
            return None, f"{count} {what}{'' if count == 1 else 's'}{where}, at least 2 needed"
    width = mean_pairwise_distance(real)
    if width == 0:
        return None, "the real structures in the window are all equal"
    return mean_pairwise_distance(generated) / width, None


def coverage(
    generated: Float[Tensor, "n f"], real: Float[Tensor, "m f"], *, neighbours: int = 5
) -> float | None:
    """Return the share of real structures that have a sample as near as their k-th real neighbour.

    It counts modes, where the mean distance of samples hides that some are missing (Naeem et al., ICML 2020).
    Few samples cannot cover many real structures.

    Args:
        generated: Standardised features.
        real: Those of real structures with the target property, standardised in the same way.
        neighbours: k.

    Returns:
        0 to 1; ``None`` without samples, or for no more than k real structures.

    >>> coverage(torch.tensor([[0.1]]), torch.tensor([[0.0], [1.0], [3.0]]), neighbours=1)
    0.6666666666666666
    """
    if len(real) <= neighbours or not len(generated):
        return None
    near = nearest_distances(real, generated) <= neighbour_distances(real, neighbours)
    return float(near.double().mean())


def principal_components(
    reference: Float[Tensor, "m f"], *, count: int = 2
) -> tuple[Float[Tensor, "count f"], Float[Tensor, "count"]]:
    """Return the directions of largest variance of standardised rows, and their shares of it.

    Args:
        reference: Standardised features (mean 0), one row per structure.
        count: Number of directions.

    Returns:
        Directions as rows, each with its largest entry positive (the sign is free, and so fixed), and the
        share of the variance along each. Where there are fewer rows or features than ``count``, the last
        directions are zeros. Project with ``features @ directions.T``.
    """
    rows = reference.double()
    directions, singular = principal_axes(rows, count)
    sign = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    total = rows.square().sum().clamp(min=1e-300)
    missing = count - len(directions)  # a table of fewer rows or features has no more directions
    directions = torch.cat([directions * sign, directions.new_zeros(missing, rows.shape[1])])
    return directions, torch.cat([singular.square() / total, singular.new_zeros(missing)])
