"""Match rates of crystal structure prediction: of pairs (match rate) and of whole sets (METRe)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.structures.convert import Structures


@dataclass(frozen=True)
class MatchRate:
    """Share of references that are matched, and by how much their atoms are displaced.

    Attributes:
        matched: Number of references that are matched.
        of: Number of references.
        rms: (of,) float64: RMS displacement of the best match in units of (V/N)^⅓; NaN without a match.
    """

    matched: int
    of: int
    rms: Float[Tensor, "M"]

    @property
    def rate(self) -> float | None:
        """Share of references that are matched; None without references."""
        return self.matched / self.of if self.of else None

    @property
    def mean_rms(self) -> float | None:
        """Mean RMS displacement of matched references (RMSE of the literature); None without any."""
        raise NotImplementedError

    def corrected_rms(self, stol: float) -> float | None:
        """Return the mean RMS displacement where references without a match count ``stol`` (cRMSE)."""
        raise NotImplementedError


def match_rate(
    structures: Structures, references: Structures, *, settings: MatcherSettings | None = None
) -> MatchRate:
    """Return how many structures match the reference of the same index (DiffCSP, FlowMM)."""
    raise NotImplementedError


def metre(
    structures: Structures, references: Structures, *, settings: MatcherSettings | None = None
) -> MatchRate:
    """Return how many references any of the structures matches (METRe, match everyone to reference)."""
    raise NotImplementedError
