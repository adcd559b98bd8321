"""Linear algebra on tables of many rows and many features."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_DENSE = 1000  # a matrix with a side of at most this is decomposed as a whole


def principal_axes(rows: Float[Tensor, "m f"], count: int) -> tuple[Float[Tensor, "k f"], Float[Tensor, "k"]]:
    """Return the leading right singular vectors of a table, and its singular values, largest first.

    No f × f matrix is made where there are fewer rows than features, and none of either side where both are
    many: then the vectors come from products with the table alone (ARPACK), to rounding.

    Args:
        rows: Any floating-point type; computed in float64.
        count: Vectors wanted; k is at most m and at most f.

    Returns:
        Orthonormal vectors as rows, each with a free sign, and the singular values.
    """
    rows = rows.double()
    m, f = rows.shape
    count = min(count, m, f)
    if f <= min(m, _DENSE):
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        return vectors.flip(1)[:, :count].T.contiguous(), values.flip(0)[:count].clamp(min=0).sqrt()
    if min(m, f) <= max(_DENSE, count) or not bool(rows.any()):
        _, singular, axes = torch.linalg.svd(rows, full_matrices=False)
        return axes[:count].contiguous(), singular[:count]
    from scipy.sparse.linalg import svds

    start = np.random.default_rng(0).standard_normal(min(m, f))  # the same axes at every call
    _, found, directions = svds(rows.numpy(), k=count, v0=start, solver="arpack")
    axes, singular = torch.as_tensor(directions.copy()), torch.as_tensor(found.copy())
    return axes.flip(0), singular.flip(0)
