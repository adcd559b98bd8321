"""Estimates: shares and means of a set of structures, with 95 % confidence intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

_Z = 1.959963984540054  # of the normal distribution, 97.5 %
_RESAMPLES = 2000
_AT_ONCE = 4_000_000  # drawn values


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number, with the interval in which it would lie for a larger set of such structures.

    Attributes:
        value: None where there is nothing to compute it from.
        low: Lower end of the 95 % interval; None for numbers without one.
        high: Upper end.
        count: Structures that are counted, or whose values are averaged.
        of: Structures in all.
        unit: Of the value; empty for shares and counts.
        text: Definition in words.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    of: int | None = None
    unit: str = ""
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return dataclasses.asdict(self)


def wilson(count: int, of: int) -> tuple[float, float]:
    r"""Return the 95 % confidence interval of a share (Wilson, J. Am. Stat. Assoc. 22, 209, 1927).

    With :math:`p` = ``count`` / n and :math:`z` = 1.96, it is
    :math:`\left(p + \frac{z^2}{2n} \pm z \sqrt{\frac{p (1-p)}{n} + \frac{z^2}{4 n^2}}\right) / (1 + z^2/n)`.

    >>> low, high = wilson(0, 10)
    >>> round(low, 6), round(high, 4)
    (0.0, 0.2775)
    """
    share, square = count / of, _Z * _Z / of
    middle = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return (0.0 if count == 0 else low), (1.0 if count == of else high)


def share(flags: Tensor | Sequence[bool], *, of: int | None = None, text: str = "") -> Estimate:
    """Return the share of flags that are set.

    Args:
        flags: One per structure.
        of: Denominator; by default the number of flags.
        text: Definition.
    """
    values = [bool(flag) for flag in (flags.tolist() if isinstance(flags, Tensor) else flags)]
    count, of = sum(values), len(values) if of is None else of
    if not of:
        return Estimate(value=None, count=count, of=of, text=text)
    low, high = wilson(count, of)
    return Estimate(value=count / of, low=low, high=high, count=count, of=of, text=text)


def mean(
    values: Tensor | Sequence[float], *, of: int | None = None, unit: str = "", text: str = ""
) -> Estimate:
    """Return the mean of the finite values, with the percentile interval of 2,000 bootstrap samples.

    The resampling has a fixed seed, so that equal values have equal intervals.

    Args:
        values: One per structure.
        of: Structures in all; by default the number of values.
        unit: Of the values.
        text: Definition.
    """
    numbers = np.asarray(values.tolist() if isinstance(values, Tensor) else values, dtype=np.float64)
    of = len(numbers) if of is None else of
    finite = numbers[np.isfinite(numbers)]
    count = len(finite)
    if not count:
        return Estimate(value=None, count=0, of=of, unit=unit, text=text)
    low = high = None
    if count > 1:
        generator, means, made = np.random.default_rng(0), np.empty(_RESAMPLES), 0
        step = max(1, _AT_ONCE // count)
        while made < _RESAMPLES:
            rows = min(step, _RESAMPLES - made)
            means[made : made + rows] = finite[generator.integers(0, count, (rows, count))].mean(1)
            made += rows
        low, high = (float(end) for end in np.percentile(means, [2.5, 97.5]))
    return Estimate(value=float(finite.mean()), low=low, high=high, count=count, of=of, unit=unit, text=text)
