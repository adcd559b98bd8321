"""Distances between crystals by average minimum distances (AMD) and pointwise distributions of them (PDD)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from whorl.structures.convert import Structures


def amd_distances(
    structures: Structures, others: Structures, *, k: int = 100, kind: Literal["amd", "pdd"] = "amd"
) -> Float[Tensor, "n m"]:
    """Return the distances in Å between crystals and others, continuous in the atoms' positions.

    Args:
        structures: n crystals.
        others: m crystals.
        k: Neighbours of each atom that count.
        kind: ``amd``: largest difference of the average distances to the first, second … k-th neighbour;
            ``pdd``: earth mover's distance between the atoms' rows of such distances. Neither sees elements.

    Returns:
        float64; NaN for what is not a crystal.

    Raises:
        MissingExtraError: ``average-minimum-distance`` is not installed.
    """
    raise NotImplementedError
