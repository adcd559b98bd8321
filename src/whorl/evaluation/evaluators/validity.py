"""Validity of structures: distances, cell volumes, charge neutrality."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from whorl.chunked import Part
from whorl.evaluation.evaluators.base import EvaluationContext, Evaluator
from whorl.evaluation.metrics import Metrics, column, percent
from whorl.evaluation.samples import Reference, Samples
from whorl.evaluation.validity import check_validity
from whorl.structures.batch import StructureBatch
from whorl.structures.checks import find_problems
from whorl.structures.connectivity import count_pieces

_AT_ONCE = 500


class ValidityEvaluator(Evaluator):
    """Validity by the usual rules of the field, and by a stricter one.

    Columns of structures: ``valid``, ``strictly_valid``, ``charge_neutral`` (of crystals, where smact is
    installed), ``shortest_distance`` (Å; None above 3 Å), ``pieces`` (fragments of clusters) and ``remarks``.
    """

    kind = "validity"

    def applies(self, samples: Samples, reference: Reference) -> bool:
        """Whether there are structures."""
        return samples.structures is not None

    def evaluate(
        self,
        samples: Samples,
        reference: Reference,
        context: EvaluationContext,
        prepared: dict[str, Any] | None = None,
    ) -> Metrics:
        """Return flags of each structure, and their shares."""
        structures = samples.structures
        assert structures is not None
        structures = structures.to(device="cpu", dtype=torch.float64)
        crystals = bool(structures.pbc.all())
        chemistry = len(structures) > 0 and crystals and importlib.util.find_spec("smact") is not None
        chunks = list(structures.chunks(_AT_ONCE)) if len(structures) else [structures]
        parts = context.map(partial(_checked, chemistry), chunks, key=["validity", chemistry, "pieces"])
        flags = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        neutral, valid, strict = flags.get("neutral"), flags["valid"], flags["strict"]
        return Metrics(
            evaluator=self.kind,
            overall={
                "count": samples.attempted,
                "structures": len(structures),
                "percent_distances": percent(flags["distances"]),
                "percent_volume": percent(flags["volume"]) if crystals else None,
                "percent_valid": 100.0 * int(valid.sum()) / max(samples.attempted, 1),
                "percent_strictly_valid": 100.0 * int(strict.sum()) / max(samples.attempted, 1),
                "percent_neutral": None if neutral is None else percent(neutral),
            },
            per_structure={
                "valid": column(valid),
                "strictly_valid": column(strict),
                "charge_neutral": [None] * len(structures) if neutral is None else column(neutral),
                "shortest_distance": column(flags["shortest"]),
                "pieces": [None if count < 0 else count for count in flags["pieces"].tolist()],
                "remarks": [text for part in parts for text in part.notes],
            },
        )


def _checked(chemistry: bool, structures: StructureBatch) -> Part:
    found = check_validity(structures, chemistry=chemistry)
    tensors = {
        "distances": found.distances_ok,
        "volume": found.volume_ok,
        "valid": found.structurally_valid,
        "strict": found.strictly_valid,
        "shortest": found.shortest_distance,
        "pieces": _pieces(structures),
    }
    if found.charge_neutral is not None:
        tensors["neutral"] = found.charge_neutral
    return Part(tensors, found.reasons())


def _pieces(structures: StructureBatch) -> Int[Tensor, "B"]:
    """Return in how many pieces each cluster is; -1 of what is none."""
    clusters = ~structures.pbc.any(1)
    clusters[list(find_problems(structures))] = False
    pieces = torch.full((len(structures),), -1)
    pieces[clusters] = count_pieces(structures[clusters])
    return pieces
