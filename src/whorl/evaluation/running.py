"""Evaluation of samples by several evaluators, in the order of their dependencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from whorl.axes import EVALUATORS
from whorl.errors import InputError
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator, Progress
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.results import Evaluated
from whorl.evaluation.samples import Reference, Samples
from whorl.surrogates.base import Surrogate


def evaluate(
    samples: Samples,
    reference: Reference,
    evaluators: Sequence[Evaluator | str],
    *,
    tolerance: float = 0.1,
    seed: int = 0,
    surrogate: Surrogate | None = None,
    prepared: Callable[[str], dict[str, Any] | None] | None = None,
    directory: Path | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Evaluated:
    """Evaluate samples by all of these evaluators that apply to them.

    Args:
        samples: Of one generator.
        reference: The real data.
        evaluators: In any order; a name stands for the evaluator with its default settings.
        tolerance: A sample within this distance of the target is a hit, in units of the property.
        seed: Of all randomness.
        surrogate: Of the property, for the evaluator ``surrogate``.
        prepared: Called with the kind of an evaluator, returns what it worked out from the real data before;
            by default each prepares itself now.
        directory: Where finished chunks are kept, in a folder for each evaluator.
        progress: Called with the kind of an evaluator, returns the callback for its progress.

    Raises:
        InputError: An unknown evaluator, one whose metrics do not fit the samples, or an error of an
            evaluator.
    """
    metrics: dict[str, Metrics] = {}
    for evaluator in in_order(evaluators):
        if not evaluator.applies(samples, reference):
            continue
        kind = evaluator.kind
        context = EvaluationContext(
            tolerance=tolerance,
            seed=seed,
            directory=None if directory is None else directory / file_of(kind),
            progress=None if progress is None else progress(kind),
            surrogate=surrogate,
            metrics={other: metrics[other] for other in evaluator.after if other in metrics},
        )
        known = evaluator.prepare(reference, context) if prepared is None else prepared(kind)
        metrics[kind] = evaluator.evaluate(samples, reference, context, known)
        require_fitting(metrics[kind], samples, kind)
    return Evaluated(samples=samples, reference=reference, metrics=metrics)


def in_order(evaluators: Sequence[Evaluator | str]) -> list[Evaluator]:
    """Return evaluators, each after those whose metrics it reads.

    Raises:
        InputError: An unknown name, or evaluators that each want to come after the other.
    """
    by_kind = {
        of.kind: of for of in (EVALUATORS.get(of)() if isinstance(of, str) else of for of in evaluators)
    }
    needs = {kind: [other for other in of.after if other in by_kind] for kind, of in by_kind.items()}
    try:
        return [by_kind[kind] for kind in TopologicalSorter(needs).static_order()]
    except CycleError as error:
        kinds = ", ".join(error.args[1])
        raise InputError(f"evaluators: each of {kinds} is to come after the other.") from None


def require_fitting(metrics: Any, samples: Samples, kind: str) -> None:
    """Make sure that metrics are of this evaluator, with an entry for each sample and structure.

    Raises:
        InputError: They are not; a fault of the evaluator.
    """
    remedy = "Correct it, or leave it out of evaluate.evaluators."
    if not isinstance(metrics, Metrics) or metrics.evaluator != kind:
        raise InputError(f"evaluator '{kind}': returned {metrics!r:.80}, expected its own Metrics. {remedy}")
    columns: Mapping[str, tuple[int, Mapping[str, list[Any]]]] = {
        "sample": (len(samples), metrics.per_sample),
        "structure": (len(samples.rows), metrics.per_structure),
    }
    for what, (count, of) in columns.items():
        for name, values in of.items():
            if len(values) != count:
                raise InputError(
                    f"evaluator '{kind}': its column '{name}' has {len(values)} entries, expected {count}, "
                    f"one a {what}. {remedy}"
                )


def file_of(kind: str) -> str:
    """Return the name of a file for a method, which may be an import path.

    >>> file_of("package.module:Class")
    'package.module.Class'
    """
    return kind.replace(":", ".")
