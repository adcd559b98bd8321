"""Crystals that differ from known ones by more than a substitution of elements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from whorl.evaluation.crystals.comparison import Comparison
from whorl.evaluation.crystals.reduction import sound_crystals
from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.executors.base import Executor
from whorl.structures.convert import Structures, as_batch


def new_prototypes(
    structures: Structures,
    known: Structures,
    *,
    settings: MatcherSettings | None = None,
    progress: Callable[[int, int], object] | None = None,
    executor: Executor | None = None,
    folder: Path | None = None,
) -> Bool[Tensor, "B"]:
    """Return which crystals match no known one under any exchange of elements (``fit_anonymous``).

    Args:
        structures: Crystals; unphysical ones are no new prototypes.
        known: Known crystals.
        settings: Tolerances and order of arguments.
        progress: Called with (done, in all).
        executor: Does the work.
        folder: Where finished parts are kept.
    """
    structures = as_batch(structures)
    comparison = Comparison(settings or MatcherSettings(), True, progress, executor, folder)
    return sound_crystals(structures) & (comparison.first_known(structures, as_batch(known)) < 0)
