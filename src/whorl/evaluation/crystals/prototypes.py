"""Crystals that differ from known ones by more than a substitution of elements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from whorl.evaluation.crystals.settings import MatcherSettings
from whorl.executors.base import Executor
from whorl.structures.convert import Structures


def new_prototypes(
    structures: Structures,
    known: Structures,
    *,
    settings: MatcherSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
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
    raise NotImplementedError
