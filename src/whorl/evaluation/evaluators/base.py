"""Contract of evaluators: samples and real data in, metrics out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from whorl.chunked import Part, map_chunks
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.samples import Reference, Samples
from whorl.evaluation.settings import EvaluatorSettings
from whorl.settings import Method

if TYPE_CHECKING:
    from whorl.surrogates import Surrogate

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """Input of evaluators in addition to samples and real data.

    Attributes:
        tolerance: A sample within this distance of the target is a hit, in units of the property.
        seed: Of all randomness.
        directory: Where finished chunks of long evaluations are kept.
        progress: Called with (done, in all).
        surrogate: Of the property, where there is one.
        metrics: Of the evaluators that this one comes after, by kind, as far as they were chosen.
    """

    tolerance: float
    seed: int = 0
    directory: Path | None = None
    progress: Progress | None = None
    surrogate: Surrogate | None = None
    metrics: Mapping[str, Metrics] = field(default_factory=dict)

    def map(self, function: Callable[[Any], Part], chunks: Sequence[Any], *, key: Any) -> list[Part]:
        """Return ``[function(chunk) for chunk in chunks]``, by any executor; finished chunks are read again.

        Args:
            function: As :func:`whorl.chunked.map_chunks` wants it.
            chunks: Structures or rows of a tensor.
            key: JSON-able: everything but the chunk itself that the result depends on.
        """
        return map_chunks(function, chunks, folder=self.directory, key=key, progress=self.progress)


class Evaluator(Method, ABC):
    """A method of evaluating samples. Samples are not modified; failures have the value None.

    An evaluator is built from its settings: ``ValidityEvaluator(ValidityEvaluator.Settings())``.
    """

    Settings: ClassVar[type[EvaluatorSettings]] = EvaluatorSettings
    of_structures: ClassVar[bool] = True
    """Whether it evaluates structures, and thus does not apply if a run ends with features."""
    of_crystals: ClassVar[bool] = False
    """Whether these have to be crystals."""
    after: ClassVar[tuple[str, ...]] = ()
    """Kinds of evaluators whose metrics it reads, if these are used too."""

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @abstractmethod
    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether it applies to these samples."""

    def prepare(self, reference: Reference, context: EvaluationContext) -> dict[str, Any] | None:
        """Return reference values from the real data only, JSON-able; they are stored.

        An entry ``warnings``, a list of sentences, is for the reader of the results.
        """
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
