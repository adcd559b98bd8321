"""Feature scaling: the one place where data units become network units, and back."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whorl.errors import InputError, unknown_option

ScalingMode = Literal["standard", "minmax", "shared"]

NEGLIGIBLE = 1e-6
"""A feature whose standard deviation is below this share of the largest one counts as constant: in new
structures it may vary a million times more than in the rows known, and drown all others once it is scaled."""


class FeatureScaler(nn.Module):
    r"""Shift and scale of each feature, learned from training rows: :math:`x' = (x - a) / s`.

    ``"standard"``: :math:`a` is the mean, :math:`s` the standard deviation (over rows, divisor n).
    ``"minmax"``: :math:`a` is the smallest value, :math:`s` the range, so training rows lie in [0, 1].
    ``"shared"``: the same, but one smallest value and one range for all features together. For tensors such
    as CrysTens, where several features state the same quantity: what is equal before is equal after.

    A feature that does not vary in training carries no information: it becomes exactly 0, and
    :meth:`inverse` gives back its training value, whatever a network says. "Does not vary" means: by no more
    than rounding errors of the type the data came in, or with a standard deviation below ``negligible`` of
    that of the feature which varies most. Symmetry functions have such features, down to ranges of 1e-31: a
    few rows alone decide what they are, and other rows lie thousands of these ranges away.

    The statistics are float64 buffers (saved with the model, moved with it); results come in the type of the
    argument. Both maps are differentiable.

    Args:
        features: Number of features f.
        mode: ``"standard"``, ``"minmax"`` or ``"shared"``.
        negligible: Share of the largest standard deviation below which a feature counts as constant; 0 for
            columns that are not of one kind, such as properties with units of their own.

    Attributes:
        offset: a, shape (f,).
        scale: s, shape (f,); 0 for a feature that does not vary.
        minimum: Smallest training value, shape (f,).
        maximum: Largest training value, shape (f,).
        fitted: Whether :meth:`fit` has been called.

    Raises:
        InputError: Unknown mode.
    """

    offset: Tensor
    scale: Tensor
    minimum: Tensor
    maximum: Tensor
    fitted: Tensor

    def __init__(
        self, features: int, mode: ScalingMode | str = "standard", *, negligible: float = NEGLIGIBLE
    ) -> None:
        super().__init__()
        if mode not in get_args(ScalingMode):
            raise unknown_option("scaling", str(mode), get_args(ScalingMode))
        self.mode = mode
        self.negligible = negligible
        for name in ("offset", "scale", "minimum", "maximum"):
            self.register_buffer(name, torch.zeros(features, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, rows: Float[Tensor, "n f"]) -> FeatureScaler:
        """Learn the statistics from training rows, and return the scaler itself.

        Raises:
            InputError: No rows, another number of features, NaN or infinite values.
        """
        if rows.shape[0] == 0 or rows.shape[1] != self.offset.shape[0]:
            raise InputError(
                f"feature scaling: got {tuple(rows.shape)} rows and columns, expected at least one row with "
                f"{self.offset.shape[0]} columns."
            )
        check_finite(rows, "feature scaling")
        rounding = 8 * torch.finfo(rows.dtype).eps
        rows = rows.to(self.offset)
        minimum, maximum = rows.amin(0), rows.amax(0)
        # Half the range first: the range of ±1e308 is not a float64.
        half_range = maximum / 2 - minimum / 2
        largest = torch.maximum(minimum.abs(), maximum.abs())
        varies = half_range > torch.clamp(rounding * largest, min=torch.finfo(torch.float64).tiny)
        half_range = torch.where(varies, half_range, 1.0)
        # Statistics of values within [-1, 1]: the squares of 1e200 or 1e-200 are not float64 either.
        middle = minimum / 2 + maximum / 2
        unit = (rows - middle) / half_range
        spread = torch.where(varies, half_range * unit.std(0, correction=0), 0.0)
        varies &= spread > self.negligible * spread.max()
        if self.mode == "standard":
            offset, scale = middle + half_range * unit.mean(0), spread
        elif self.mode == "minmax" or not varies.any():
            offset, scale = minimum, 2 * half_range
        else:
            lowest, highest = minimum[varies].min(), maximum[varies].max()
            offset, scale = lowest.expand_as(minimum), (highest - lowest).expand_as(minimum)
        self.offset.copy_(torch.where(varies, offset, rows[0]))
        self.scale.copy_(torch.where(varies, scale, 0.0))
        self.minimum.copy_(minimum)
        self.maximum.copy_(maximum)
        self.fitted.fill_(True)
        return self

    @property
    def constant(self) -> int:
        """Number of features that count as constant."""
        return int((self.scale == 0).sum())

    def transform(self, rows: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Return rows in network units."""
        inverse_scale = torch.where(self.scale > 0, 1 / self.scale, 0.0)
        return ((rows - self.offset) * inverse_scale).to(rows.dtype)

    def inverse(self, rows: Float[Tensor, "*n f"]) -> Float[Tensor, "*n f"]:
        """Return rows in data units: the inverse of :meth:`transform` where features vary."""
        return (rows * self.scale + self.offset).to(rows.dtype)


def check_finite(rows: Float[Tensor, "n *f"], what: str) -> None:
    """Refuse NaN and infinite values.

    Raises:
        InputError: Says how many rows have them, and the first place.
    """
    bad = ~torch.isfinite(rows.flatten(1))
    if bad.any():
        count = int(bad.any(1).sum())
        row, column = torch.nonzero(bad)[0].tolist()
        raise InputError(
            f"{what}: NaN or infinite values in {count} of {rows.shape[0]} rows, first in row {row}, "
            f"column {column} (counted from 0). Remove these rows, or repair the data they came from."
        )
