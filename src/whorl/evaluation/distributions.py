"""Distributions of quantities among generated and real structures."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Distribution:
    r"""Distribution of one quantity among generated and real crystals.

    Attributes:
        name: What it is, such as ``"a"`` or ``"formation energy"``.
        unit: Of it; empty for none.
        statistic: Kolmogorov–Smirnov, :math:`\sup_x |F_1(x) - F_2(x)|`, 0 for equal and 1 for disjoint.
        p_value: Probability of a statistic as large for two samples of one distribution.
        made: Values of generated crystals.
        real: Values of real crystals.
        mean_made: Mean of the former.
        mean_real: Mean of the latter.
    """

    name: str
    unit: str
    statistic: float
    p_value: float
    made: int
    real: int
    mean_made: float
    mean_real: float


def compare(name: str, made: Tensor, real: Tensor, *, unit: str = "") -> Distribution:
    """Compare the distributions of one quantity by the Kolmogorov–Smirnov test.

    Non-finite values are ignored; if none are left on a side, statistic and p-value are NaN. The
    p-value is exact if SciPy can compute it, for up to 10,000 values.

    >>> compare("a", torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5, 3.5]), unit="Å").statistic
    0.6666666666666666
    """
    from scipy.stats import ks_2samp

    first, second = _finite(made), _finite(real)
    statistic = p_value = math.nan
    if first.numel() and second.numel():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
            result = ks_2samp(first.numpy(), second.numpy())
        statistic, p_value = float(result.statistic), float(result.pvalue)
    return Distribution(
        name=name,
        unit=unit,
        statistic=statistic,
        p_value=p_value,
        made=first.numel(),
        real=second.numel(),
        mean_made=float(first.mean()),
        mean_real=float(second.mean()),
    )


def _finite(values: Tensor) -> Float[Tensor, "v"]:
    values = values.detach().cpu().double()
    return values[values.isfinite()]
