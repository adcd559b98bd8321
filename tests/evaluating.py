"""Samples with the metrics of chosen evaluators, where values are given instead of predicted."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from whorl.axes import EVALUATORS
from whorl.evaluation import Evaluated, EvaluationContext, Metrics, Reference, Samples, accuracy
from whorl.evaluation.evaluators.energy import _numbers
from whorl.evaluation.metrics import by_target, column


def evaluated(
    samples: Samples,
    reference: Reference,
    *,
    predicted: Tensor | None = None,
    computed: Tensor | None = None,
    failures: dict[int, str] | None = None,
    kinds: Sequence[str] = ("reconstruction", "diversity"),
    tolerance: float = 0.1,
) -> Evaluated:
    """Evaluate samples; ``predicted`` and ``computed`` are what surrogate and energy method would say."""
    metrics: dict[str, Metrics] = {}
    if predicted is not None:
        metrics["surrogate"] = Metrics(
            evaluator="surrogate",
            per_target=by_target(
                samples.targets, lambda t, own: dataclasses.asdict(accuracy(predicted[own], t, tolerance))
            ),
            per_sample={"value": column(predicted)},
        )
    if computed is not None:
        reasons = failures or {}
        metrics["energy"] = Metrics(
            evaluator="energy",
            per_target=by_target(
                samples.targets,
                lambda t, own: _numbers(computed, own[samples.rows], ~samples.invalid, t, tolerance),
            ),
            per_structure={
                "value": column(computed),
                "failure": [reasons.get(row) for row in range(len(samples.rows))],
            },
            warnings=tuple(f"it failed on {row}: {reason}" for row, reason in reasons.items()),
        )
    for kind in kinds:
        evaluator = EVALUATORS.get(kind)()
        if evaluator.applies(samples, reference):
            context = EvaluationContext(tolerance=tolerance, metrics=metrics)
            metrics[kind] = evaluator.evaluate(samples, reference, context)
    return Evaluated(samples=samples, reference=reference, metrics=metrics)


def without_structures(samples: Samples) -> Samples:
    """Leave the generated features alone."""
    return Samples(ids=samples.ids, targets=samples.targets, features=samples.features)
