"""Contract of evaluators: samples and real data in, metrics out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from whorl.axes import EVALUATORS
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.samples import Reference, Samples
from whorl.settings import Method, SectionOfKind

Progress = Callable[[int, int], object]


class EvaluatorSettings(SectionOfKind):
    """Settings of an evaluator. Which other keys there are depends on its kind."""

    registry = EVALUATORS
    default = "validity"


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """What evaluators may use besides samples and real data.

    Attributes:
        tolerance: Within this of the target is a hit, in units of the property.
        seed: Of all randomness.
        directory: Where finished chunks of long evaluations are kept.
        progress: Called with (done, in all).
    """

    tolerance: float
    seed: int = 0
    directory: Path | None = None
    progress: Progress | None = None


class Evaluator(Method, ABC):
    """One way of judging samples. It changes nothing and hides nothing: what failed has a value of None.

    An evaluator is built from its settings: ``Validity(Validity.Settings())``.
    """

    Settings: ClassVar[type[EvaluatorSettings]] = EvaluatorSettings

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @abstractmethod
    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether it has something to say about these samples."""

    def prepare(self, reference: Reference, context: EvaluationContext) -> dict[str, Any] | None:
        """Return what it works out from the real data alone, JSON-able; it is kept and not repeated."""
        return None

    @abstractmethod
    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return the metrics of samples.

        Args:
            samples: Of one generator.
            reference: The real data.
            context: Tolerance, seed, where to keep chunks.
            prepared: What :meth:`prepare` returned for the same data.
        """
