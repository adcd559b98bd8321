"""Which structures are the same."""

from __future__ import annotations

from typing import Any

import torch

from whorl.chunked import Part
from whorl.evaluation.duplicates import distinct
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.samples import Reference, Samples


class UniquenessEvaluator(Evaluator):
    """Groups of crystals that are the same by StructureMatcher.

    Columns of structures: ``group``, and ``unique`` for the first of each group. What cannot be a crystal is
    in no group.
    """

    kind = "uniqueness"

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether the structures are crystals."""
        return samples.crystals is not None

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return the group of each structure, and how many groups there are."""
        crystals = samples.crystals
        assert crystals is not None
        (part,) = context.map(_groups, [crystals.replace(info=())], key="uniqueness")
        group = part.tensors["group"].tolist()
        firsts = {number: row for row, number in reversed(list(enumerate(group))) if number >= 0}
        return Metrics(
            evaluator=self.kind,
            overall={
                "groups": len(firsts),
                "percent_unique": 100.0 * len(firsts) / len(group) if group else None,
            },
            per_structure={
                "unique": [firsts.get(number) == row for row, number in enumerate(group)],
                "group": [None if number < 0 else number for number in group],
            },
        )


def _groups(crystals: Any) -> Part:
    group = torch.full((len(crystals),), -1)
    for number, members in enumerate(distinct(crystals)):
        group[members] = number
    return Part({"group": group})
