"""Contract of refiners: structures in, better structures out, and what that moved and cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from whorl.axes import REFINERS
from whorl.evaluation.samples import Reference, Samples
from whorl.settings import Method, SectionOfKind
from whorl.surrogates.base import Surrogate

Progress = Callable[..., object]


class RefinerSettings(SectionOfKind):
    """Settings of a refiner. Which other keys there are depends on its kind."""

    registry = REFINERS
    default = "relax"


@dataclass(frozen=True, kw_only=True)
class RefinementContext:
    """What a refiner may use besides samples.

    Attributes:
        reference: The labelled data, for refiners that fit a surrogate to its training rows.
        surrogate: Of structures, fitted already; otherwise such a refiner fits its own.
        tolerance: Difference from the value asked for that counts as a hit, in units of the property.
        seed: Of all randomness.
        directory: Where finished chunks are kept.
        progress: Called as it goes on.
    """

    reference: Reference | None = None
    surrogate: Surrogate | None = None
    tolerance: float | None = None
    seed: int = 0
    directory: Path | None = None
    progress: Progress | None = None


class Refiner(Method, ABC):
    """A step from structures to structures.

    It never hides what it did: ``displacement`` (Å), ``energy_calls`` and a ``refinement`` status of every
    structure are filled. A structure that it fails on comes back as it was, with the reason as its status.
    """

    Settings: ClassVar[type[RefinerSettings]] = RefinerSettings

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @abstractmethod
    def refine(self, samples: Samples, context: RefinementContext) -> Samples:
        """Return samples with refined structures, in the same order."""
