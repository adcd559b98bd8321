r"""Volumes of atoms in crystals of a data set.

The volumes :math:`v_e` of elements are fitted to the cells of the data by non-negative least squares, in
doubt in proportion to the cube of the covalent radius.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.composition import covalent_radii, element_counts

_FEWEST_PAIRS = 30
_DOUBT = 3.0  # structures with an element by which its volume is as much the data's as the radius's


def kept_packing(
    structures: StructureBatch, atomic: Float[Tensor, "119"], pairs: Sequence[tuple[int, int]]
) -> float:
    """Return the exponent λ; 1 where few crystals tell it."""
    pairs = [pair for pair in pairs if bool(structures.pbc[list(pair)].all())]
    if len(pairs) < _FEWEST_PAIRS:
        return 1.0
    one, other = (structures[list(rows)] for rows in zip(*pairs, strict=True))
    first, second = ((volumes(some.cells) / (element_counts(some) @ atomic)).log() for some in (one, other))
    first, second = first - first.mean(), second - second.mean()
    return min(max(float(first @ second / second.square().sum().clamp(min=1e-12)), 0.0), 1.0)


def atomic_volumes(structures: StructureBatch) -> Float[Tensor, "119"]:
    """Return the volume of an atom of each element in Å³."""
    from scipy.optimize import nnls

    radii = covalent_radii(torch.arange(119)).pow(3)
    periodic = torch.nonzero(structures.pbc.all(1)).flatten()
    if not len(periodic):
        return radii
    crystals = structures[periodic]
    counts = element_counts(crystals)
    volume = volumes(crystals.cells)
    prior = radii * float((volume / (counts @ radii)).median())
    # Errors of a volume count in proportion; the prior counts as a few structures do.
    there = torch.nonzero(counts.sum(0)).flatten()
    table = counts[:, there] / volume[:, None]
    weight = (
        _DOUBT**0.5 * (counts[:, there] / counts.sum(1, keepdim=True)).square().mean(0).sqrt() / prior[there]
    )
    rows: list[NDArray[np.float64]] = [table.numpy(), torch.diag(weight).numpy()]
    right = torch.cat([torch.ones(len(volume), dtype=torch.float64), weight * prior[there]])
    fitted, _ = nnls(np.concatenate(rows), right.numpy())
    prior[there] = torch.from_numpy(fitted).clamp(min=0.1 * prior[there])
    return prior
