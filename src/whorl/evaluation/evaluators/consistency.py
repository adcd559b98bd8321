"""Self-consistency of generated features: tables 1 and 2 of Alverson et al. 2024."""

from __future__ import annotations

from typing import Any

from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, column, number
from whorl.evaluation.samples import Reference, Samples


class ConsistencyEvaluator(Evaluator):
    """Self-consistency of features that state something several times, as its closed form measures it."""

    kind = "consistency"
    of_structures = False

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether self-consistency was measured."""
        return bool(samples.consistency)

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return each measure of each sample, and its mean."""
        return Metrics(
            evaluator=self.kind,
            overall={
                name: number(float(values.double().nanmean())) for name, values in samples.consistency.items()
            },
            per_sample={name: column(values) for name, values in samples.consistency.items()},
        )
