"""Uniqueness of structures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whorl.chunked import Part
from whorl.evaluation.clusters import distinct_clusters
from whorl.evaluation.duplicates import distinct
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.samples import Reference, Samples
from whorl.structures.batch import StructureBatch


class UniquenessEvaluator(Evaluator):
    """Groups of structures that are the same: crystals by StructureMatcher, clusters by their atoms' RMSD.

    Columns of structures: ``group``, and ``unique`` for the first of each group. What cannot be a structure
    is in no group.
    """

    kind = "uniqueness"

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether the structures are all crystals, or all clusters."""
        return samples.crystals is not None or samples.clusters is not None

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return the group of each structure, and how many groups there are."""
        structures = samples.crystals if samples.crystals is not None else samples.clusters
        assert structures is not None
        structures = structures.replace(info=())
        if bool(structures.pbc.all()):
            groups = distinct(structures, progress=context.progress, folder=context.directory)
            group = _numbered(groups, len(structures)).tolist()
        else:
            (part,) = context.map(_clusters, [structures], key="uniqueness")
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


def _clusters(structures: StructureBatch) -> Part:
    return Part({"group": _numbered(distinct_clusters(structures), len(structures))})


def _numbered(groups: list[list[int]], count: int) -> Tensor:
    group = torch.full((count,), -1)
    for number, members in enumerate(groups):
        group[members] = number
    return group
