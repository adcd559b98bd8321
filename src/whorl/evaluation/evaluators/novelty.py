"""Novelty of structures with respect to the real ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import Part
from whorl.evaluation.clusters import known_clusters
from whorl.evaluation.duplicates import is_known
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, percent
from whorl.evaluation.samples import Reference, Samples
from whorl.structures.batch import StructureBatch
from whorl.tensor_files import tensors_hash


class NoveltyEvaluator(Evaluator):
    """Structures that match none of the real ones, as in uniqueness: column ``novel`` of structures.

    The column ``copy`` says which of the others match one of the training rows. Where uniqueness is evaluated
    too, one of each group is looked for, its group shares the answer, and the share of new ones is that of
    the groups. What is in no group has no answer.
    """

    kind = "novelty"
    after = ("uniqueness",)

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether the structures are all crystals or all clusters, and there are real ones of their kind."""
        real = reference.structures
        if real is None:
            return False
        if samples.crystals is not None:
            return not len(real) or bool(real.pbc.any())
        return samples.clusters is not None and not bool(real.pbc.any())

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return which structures are new."""
        structures = samples.crystals if samples.crystals is not None else samples.clusters
        real = reference.structures
        assert structures is not None and real is not None
        groups = list(range(len(structures)))
        if (uniqueness := context.metrics.get("uniqueness")) is not None:
            groups = uniqueness.per_structure["group"]
        first: dict[int, int] = {}
        for row, group in enumerate(groups):
            if group is not None:
                first.setdefault(group, row)
        chosen, structures = (
            torch.tensor(list(first.values()), dtype=torch.int64),
            structures.replace(info=()),
        )

        def among(others: StructureBatch, rows: Tensor, folder: str) -> Tensor:
            if bool(structures.pbc.all()):
                kept = None if context.directory is None else context.directory / folder
                return is_known(structures[rows], others, progress=context.progress, folder=kept)
            (part,) = context.map(
                partial(_known, others), [structures[rows]], key=["novelty", tensors_hash(others.tensors)]
            )
            return part.tensors["known"]

        real = real.replace(info=())
        known = among(real, chosen, "real")
        copy = torch.zeros_like(known)
        if bool(known.any()):
            copy[known] = among(real[reference.training_rows], chosen[known], "training")
        answers = dict(zip(first, zip((~known).tolist(), copy.tolist(), strict=True), strict=True))
        columns = [answers.get(group, (None, None)) for group in groups]
        return Metrics(
            evaluator=self.kind,
            overall={"percent_novel": percent(~known)},
            per_structure={"novel": [novel for novel, _ in columns], "copy": [copy for _, copy in columns]},
        )


def _known(real: StructureBatch, structures: StructureBatch) -> Part:
    return Part({"known": known_clusters(structures, real)})
