"""Agreement of a computed quantity with labels: offset, scatter and correlation on real structures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

_FEWEST = 5  # structures below which nothing is concluded
_SCATTER = 0.7  # of the labels' spread: with more, less than half of their variance is explained
_CORRELATION = 0.8
_SLOPE = 1.4  # or its inverse: farther from 1, the units or the number of atoms are others
_OFFSET = 0.25  # of the labels' spread
_ROUNDING = 1e-6  # of the labels' size: data without any spread agree only when they are the same


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of a computed quantity with labels of the same structures.

    Attributes:
        quantity: Its name.
        count: Structures with both.
        spread: Standard deviation of the labels.
        offset: Mean of computed value minus label; None without structures.
        scatter: Standard deviation of this difference.
        slope: Of the computed values over the labels, by least squares; None where the labels have no spread.
        correlation: None where one of them has no spread.
    """

    quantity: str
    count: int
    spread: float | None
    offset: float | None
    scatter: float | None
    slope: float | None
    correlation: float | None

    @property
    def is_shifted(self) -> bool:
        """Whether the quantity is the labelled one up to a constant."""
        if self.count < _FEWEST or self.scatter is None or self.spread is None or self.offset is None:
            return False
        if self.scatter <= self._rounding:
            return True
        if self.slope is None or self.correlation is None:
            return False
        related = self.correlation >= _CORRELATION and 1 / _SLOPE <= self.slope <= _SLOPE
        return related and self.scatter <= _SCATTER * self.spread

    @property
    def is_same(self) -> bool:
        """Whether the quantity is the labelled one."""
        if not self.is_shifted or self.offset is None or self.spread is None:
            return False
        return abs(self.offset) <= max(_OFFSET * self.spread, self._rounding)

    @property
    def error(self) -> float:
        """Root mean square of the difference; infinite without structures."""
        if self.offset is None or self.scatter is None:
            return float("inf")
        return (self.offset**2 + self.scatter**2) ** 0.5

    @property
    def _rounding(self) -> float:
        return _ROUNDING * max(1.0, abs(self.offset or 0.0))

    def __str__(self) -> str:
        if self.offset is None or self.scatter is None:
            return f"{self.quantity}: none could be computed"
        parts = [f"offset {self.offset:.4g}", f"scatter {self.scatter:.3g}"]
        parts += [f"slope {self.slope:.3g}"] if self.slope is not None else []
        parts += [f"correlation {self.correlation:.3f}"] if self.correlation is not None else []
        return f"{self.quantity}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON, with its conclusions."""
        return {**asdict(self), "is_same": self.is_same, "is_shifted": self.is_shifted}


def agreement(quantity: str, computed: Float[Tensor, "n"], labels: Float[Tensor, "n"]) -> Agreement:
    """Compare computed values with labels of the same structures; non-finite pairs are excluded.

    >>> labels = torch.linspace(0, 1, 9)
    >>> agreement("energy", labels - 3, labels).offset
    -3.0
    """
    both = computed.isfinite() & labels.isfinite()
    values, known = computed[both].double(), labels[both].double()
    if len(known) == 0:
        return Agreement(
            quantity=quantity, count=0, spread=None, offset=None, scatter=None, slope=None, correlation=None
        )
    difference = values - known
    spread, own = float(known.std(correction=0)), float(values.std(correction=0))
    covariance = float(((values - values.mean()) * (known - known.mean())).mean())
    return Agreement(
        quantity=quantity,
        count=len(known),
        spread=spread,
        offset=float(difference.mean()),
        scatter=float(difference.std(correction=0)),
        slope=covariance / spread**2 if spread > 0 else None,
        correlation=covariance / (spread * own) if spread * own > 0 else None,
    )
