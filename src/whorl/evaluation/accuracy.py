"""Target accuracy: error measures that account for failures."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.evaluation.metrics import number
from whorl.evaluation.results import Accuracy

Target = float | Float[Tensor, "n"]


def count_failed(predicted: Float[Tensor, "n"]) -> int:
    """Return the number of samples without a value (NaN or infinite).

    >>> count_failed(torch.tensor([1.9, float("nan")]))
    1
    """
    return int((~torch.isfinite(predicted)).sum())


def mean_absolute_error(predicted: Float[Tensor, "n"], target: Target) -> float:
    r"""Return :math:`\frac{1}{m} \sum_i |p_i - t_i|` over the m samples with a value.

    A sample without a value has no error and is not included; :func:`count_failed` returns how many there
    are, and :func:`percent_within` counts them as misses.

    Args:
        predicted: Property of each sample; NaN where that failed.
        target: The value asked for, one or one per sample.

    Returns:
        In units of the property; NaN when no sample has a value.

    >>> mean_absolute_error(torch.tensor([2.0, 1.5]), 1.75)
    0.25
    """
    error = (predicted.double() - target).abs()
    return float(error[torch.isfinite(error)].mean())


def percent_within(predicted: Float[Tensor, "n"], target: Target, tolerance: float = 0.1) -> float:
    r"""Return :math:`\frac{100}{n} \sum_i [\,|p_i - t_i| \le \mathrm{tolerance}\,]` over all n samples.

    A sample without a value (NaN) counts as not within.

    Args:
        predicted: Property of each sample; NaN where that failed.
        target: The value asked for, one or one per sample.
        tolerance: In units of the property.

    Returns:
        0 to 100; NaN when there are no samples.

    >>> percent_within(torch.tensor([1.95, 2.5, float("nan"), 1.85]), 1.9)
    50.0
    """
    if len(predicted) == 0:
        return float("nan")
    # A sum or difference of decimal fractions is off by a rounding error: 2.0 is within 0.1 of 1.9.
    limit = tolerance * (1 + 1e-9) + 1e-12
    # NaN <= limit is False
    return 100 * float(((predicted.double() - target).abs() <= limit).double().mean())


def accuracy(predicted: Float[Tensor, "n"], target: float, tolerance: float) -> Accuracy:
    """Return all accuracy metrics for samples of one target."""
    predicted = predicted.double()
    return Accuracy(
        count=len(predicted),
        failed=count_failed(predicted),
        mean_absolute_error=number(mean_absolute_error(predicted, target)),
        percent_within=number(percent_within(predicted, target, tolerance)),
        mean=number(float(predicted[torch.isfinite(predicted)].mean())),
    )
