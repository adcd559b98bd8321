"""Requested conditions in addition to the property."""

from __future__ import annotations

from typing import Any

from whorl.conditions import satisfied
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, column, percent
from whorl.evaluation.samples import Reference, Samples


class ConditionsEvaluator(Evaluator):
    """Requested conditions: a column of structures for each, by its name, and its share."""

    kind = "conditions"

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether there are structures, and conditions were requested."""
        return samples.structures is not None and any(samples.requested.values())

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return which structures are what was requested."""
        assert samples.structures is not None
        met = satisfied(samples.structures, **samples.requested)
        return Metrics(
            evaluator=self.kind,
            overall={name: percent(flags) for name, flags in met.items()},
            per_structure={name: column(flags) for name, flags in met.items()},
        )
