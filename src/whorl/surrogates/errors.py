"""Prediction errors of surrogates."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PredictionErrors:
    """Errors of predictions for labelled structures.

    Attributes:
        rows: Structures.
        held_out: Whether they were excluded from training.
        mean_absolute_error: In units of the property.
        root_mean_square_error: Likewise.
        r_squared: 1 minus the ratio of the mean square error to the variance of the property: 1 is perfect, 0
            as bad as predicting the mean; ``None`` if all labels are equal.
    """

    rows: int
    held_out: bool
    mean_absolute_error: float
    root_mean_square_error: float
    r_squared: float | None

    def __str__(self) -> str:
        """Return a summary in one line."""
        share = "" if self.r_squared is None else f", R² {self.r_squared:.3g}"
        which = (
            f"{self.rows:,} {'held-out' if self.held_out else 'labelled'} row{'' if self.rows == 1 else 's'}"
        )
        return f"MAE {self.mean_absolute_error:.3g}, RMSE {self.root_mean_square_error:.3g}{share} on {which}"

    @property
    def warning(self) -> str | None:
        """A warning if the predictions are worse than the mean of the data; else ``None``."""
        if self.r_squared is None or self.r_squared >= 0:
            return None
        return (
            f"the surrogate is worse than the mean of the data ({self}): its predictions for generated "
            "samples are meaningless. Train it on more rows, for more epochs, or with another representation."
        )


def prediction_errors(
    predicted: Float[Tensor, "n"], actual: Float[Tensor, "n"], *, held_out: bool
) -> PredictionErrors:
    """Return the errors of predictions for at least one labelled structure; all values finite.

    >>> prediction_errors(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), held_out=True).r_squared
    0.5
    """
    difference = predicted.double() - actual.double()
    square = float(difference.square().mean())
    variance = float(actual.double().var(correction=0))
    return PredictionErrors(
        rows=len(predicted),
        held_out=held_out,
        mean_absolute_error=float(difference.abs().mean()),
        root_mean_square_error=square**0.5,
        r_squared=1 - square / variance if variance > 0 else None,
    )
