"""Space groups of crystals."""

from __future__ import annotations

from typing import Any

import torch

from whorl.chunked import Part
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, column, percent
from whorl.evaluation.samples import Reference, Samples
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import sound_crystals
from whorl.symmetry.detection import space_group_numbers, space_group_symbol

_AT_ONCE = 200


class SymmetryEvaluator(Evaluator):
    """The space group that spglib finds at 0.01 Å; what cannot be a crystal has P1.

    Columns of structures: ``space_group`` (its symbol) and ``space_group_number``.
    """

    kind = "symmetry"
    of_crystals = True

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
        """Return the space group of each structure, and how many have another one than P1."""
        crystals = samples.crystals
        assert crystals is not None
        chunks = list(crystals.replace(info=()).chunks(_AT_ONCE))
        parts = context.map(_numbers, chunks, key="symmetry")
        numbers = torch.cat([torch.zeros(0, dtype=torch.int64), *(part.tensors["numbers"] for part in parts)])
        return Metrics(
            evaluator=self.kind,
            overall={"percent_symmetric": percent(numbers > 1)},
            per_structure={
                "space_group": [space_group_symbol(number) for number in numbers.tolist()],
                "space_group_number": column(numbers),
            },
        )


def _numbers(crystals: StructureBatch) -> Part:
    numbers = torch.ones(len(crystals), dtype=torch.int64)
    sound = sound_crystals(crystals)
    if bool(sound.any()):
        numbers[sound] = space_group_numbers(crystals[sound])
    return Part({"numbers": numbers})
