"""Results of the search for structures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, by_target, column
from whorl.evaluation.results import Inversion
from whorl.evaluation.samples import Reference, Samples


class ReconstructionEvaluator(Evaluator):
    """Losses and outcomes of reconstruction: columns ``loss``, ``status`` and ``invalid`` of structures."""

    kind = "reconstruction"

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether there are structures with a loss."""
        return samples.structures is not None and samples.loss is not None

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return losses, and at each target how many structures are invalid."""
        assert samples.loss is not None
        loss, invalid = samples.loss.double(), samples.invalid
        searched = not bool(loss.isnan().all())  # a closed form has no loss

        def numbers(_target: float, own: Tensor) -> dict[str, Any] | None:
            return dataclasses.asdict(_inversion(samples, loss, invalid, own[samples.rows]))

        return Metrics(
            evaluator=self.kind,
            overall={
                "structures": len(loss),
                "skipped": len(samples.skipped),
                "invalid": int(invalid.sum()),
                "status": dict(sorted(Counter(samples.status).items())),
            },
            per_target=by_target(samples.targets, numbers) if searched else {},
            per_structure={
                "loss": column(loss),
                "status": list(samples.status),
                "invalid": column(invalid),
            },
        )


def _inversion(samples: Samples, loss: Tensor, invalid: Tensor, own: Tensor) -> Inversion:
    count, unusable = int(own.sum()), int((invalid & own).sum())
    status = Counter(samples.status[k] for k in torch.nonzero(own).flatten().tolist())
    finite = loss[own & loss.isfinite()]
    known = count > 0 and (samples.invalid_above is not None or unusable > 0)
    return Inversion(
        count=count,
        invalid=unusable,
        percent_invalid=100 * unusable / count if known else None,
        status=dict(sorted(status.items())),
        median_loss=float(finite.median()) if len(finite) else None,
    )
