"""Match rates of crystal structure prediction: of pairs (match rate) and of whole sets (METRe)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from whorl.evaluation.crystals.comparison import Comparison
from whorl.evaluation.crystals.rmsd import rmsd_of_pairs
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.executors.base import Executor
from whorl.structures.convert import Structures, as_batch

PREDICTION = MatcherSettings(ltol=0.3, stol=0.5, angle_tol=10, order="candidate first")
"""Settings of the literature on crystal structure prediction (CDVAE, DiffCSP, FlowMM)."""


@dataclass(frozen=True)
class MatchRate:
    """Share of references that are matched, and by how much their atoms are displaced.

    Attributes:
        rms: (M,) float64: for each reference the RMS displacement of its best match in units of (V/N)^⅓; NaN
            without a match.
        stol: The largest RMS displacement of a match.
    """

    rms: Float[Tensor, "M"]
    stol: float

    @property
    def of(self) -> int:
        """Number of references."""
        return len(self.rms)

    @property
    def matched(self) -> int:
        """Number of references that are matched."""
        return int((~self.rms.isnan()).sum())

    @property
    def rate(self) -> float | None:
        """Share of references that are matched; None without references."""
        return self.matched / self.of if self.of else None

    @property
    def mean_rms(self) -> float | None:
        """Mean RMS displacement of the references that are matched (RMSE of the literature)."""
        return float(self.rms.nanmean()) if self.matched else None

    @property
    def corrected_rms(self) -> float | None:
        """Mean RMS displacement, where references without a match count ``stol`` (cRMSE)."""
        return float(torch.nan_to_num(self.rms, nan=self.stol).mean()) if self.of else None


def match_rate(
    structures: Structures,
    references: Structures,
    *,
    settings: MatcherSettings = PREDICTION,
    progress: Callable[[int, int], object] | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> MatchRate:
    """Return which references the structure of the same index matches (match rate of DiffCSP, FlowMM).

    Args:
        structures: Predicted crystals.
        references: As many real ones.
        settings: Tolerances and order of arguments. A pair matches if its RMS displacement is below ``stol``.
        progress: Called with (crystals done, crystals in all).
        executor: Does the work.
        folder: Where finished chunks are kept.

    Raises:
        InputError: Not as many references as structures.
    """
    candidate_first = settings.order == "candidate first"
    pair = (structures, references) if candidate_first else (references, structures)
    result = rmsd_of_pairs(*pair, settings=settings, progress=progress, executor=executor, folder=folder)
    return MatchRate(result.normalized, settings.stol)


def metre(
    structures: Structures,
    references: Structures,
    *,
    settings: MatcherSettings = PREDICTION,
    progress: Callable[[int, int], object] | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> MatchRate:
    """Return which references any structure matches, the best match of each (METRe, arXiv 2509.12178).

    In contrast to the match rate it does not depend on which polymorph of a composition is paired with which.

    Args:
        structures: Predicted crystals.
        references: Real ones.
        settings: Tolerances and order of arguments. A pair matches if its RMS displacement is below ``stol``.
        progress: Called with (references done, references in all).
        executor: Does the work.
        folder: Where finished chunks are kept.
    """
    comparison = Comparison(settings, False, progress, executor, folder)
    return MatchRate(comparison.best_rms(as_batch(structures), as_batch(references)), settings.stol)
