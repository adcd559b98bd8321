r"""Choice of the structures that the energy method labels next.

Each structure is moved to where the surrogate predicts its target, or as near to it as possible. A batch then
has, for each target in turn, the structure from which most is to be learned about where the target is, by the
largest straddle

.. math:: 1.96\,u - |f - y^*|

(Bryan et al. 2005), and the one with the highest probability of a hit. None is nearer in the features of the
structures to another one, or to a labelled one, than a distance that is halved only when no other is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whorl.chunked import Part, map_chunks
from whorl.evaluation.distances import nearest_distances, nearest_neighbour_distances
from whorl.refinement.project import Requested, project
from whorl.structures.batch import StructureBatch
from whorl.structures.connectivity import count_pieces
from whorl.structures.frozen import without_info
from whorl.surrogates.base import StructureSurrogate
from whorl.tensor_files import tensors_hash

_AT_ONCE = 32  # structures between two saves
_HALVINGS = 5  # of the least distance, below which structures count as duplicates


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Structures moved to their targets.

    Attributes:
        structures: Where they are now.
        targets: Of each.
        values: Predicted property.
        uncertainties: Of the prediction.
        confidence: Probability of a hit.
        usable: Whether each may be labelled: it can be predicted, and is not in fragments.
    """

    structures: StructureBatch
    targets: Float[Tensor, "n"]
    values: Float[Tensor, "n"]
    uncertainties: Float[Tensor, "n"]
    confidence: Float[Tensor, "n"]
    usable: Bool[Tensor, "n"]


def candidates(
    structures: StructureBatch,
    targets: Float[Tensor, "n"],
    surrogate: StructureSurrogate,
    *,
    tolerance: float,
    whole: bool,
    folder: Path,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> Candidates:
    """Move structures to their targets; finished chunks are kept.

    Args:
        structures: Where to begin.
        targets: The value that each is to have.
        surrogate: Predicts the property.
        tolerance: Difference that counts as a hit.
        whole: Whether structures in fragments are not usable; otherwise those that fell into more are not.
        folder: Of the chunks.
        progress: Called as it goes on.
        options: Of :func:`whorl.refinement.project.project`.
    """
    structures = without_info(structures).to(dtype=torch.float64)
    parts = map_chunks(
        partial(_moved, structures, targets.double(), surrogate, tolerance, whole, options),
        list(torch.arange(len(structures)).split(_AT_ONCE)),
        folder=folder,
        key=[
            tensors_hash({**structures.tensors, "targets": targets}),
            surrogate.identity,
            tolerance,
            whole,
            options,
        ],
        progress=progress,
    )
    columns = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    return Candidates(
        structures=structures.replace(positions=columns.pop("positions"), cells=columns.pop("cells")),
        targets=targets.double(),
        **columns,
    )


def _moved(
    structures: StructureBatch,
    targets: Tensor,
    surrogate: StructureSurrogate,
    tolerance: float,
    whole: bool,
    options: dict[str, Any],
    rows: Tensor,
) -> Part:
    chunk = structures[rows]
    problems = surrogate.find_problems(chunk)
    usable = torch.tensor([row not in problems for row in range(len(chunk))])
    good = chunk[usable]
    made = project(good, [Requested.value(surrogate, targets[rows][usable], tolerance)], **options)
    tensors: dict[str, Tensor] = {
        "positions": chunk.positions.clone(),
        "cells": chunk.cells.clone(),
        **{
            name: torch.full((len(chunk),), torch.nan, dtype=torch.float64)
            for name in ("values", "uncertainties", "confidence")
        },
    }
    at = torch.nonzero(usable).flatten()
    tensors["positions"][chunk.atoms_of(at)] = made.structures.positions
    tensors["cells"][at] = made.structures.cells
    tensors["values"][at], tensors["uncertainties"][at] = made.values[:, 0], made.uncertainties[:, 0]
    tensors["confidence"][at] = made.confidence
    pieces = count_pieces(made.structures)
    usable[at] = pieces <= (torch.ones_like(pieces) if whole else count_pieces(good))
    return Part({**tensors, "usable": usable})


def choose_batch(
    found: Candidates, features: Float[Tensor, "n f"], known: Float[Tensor, "m f"], *, count: int
) -> list[int]:
    """Return which candidates to label: at most ``count``, as many for each target.

    Args:
        found: Candidates.
        features: Of their structures, standardised.
        known: Of labelled structures, likewise.
        count: Size of the batch.

    Returns:
        Fewer than ``count`` where the others are near duplicates.
    """
    straddle = 1.96 * found.uncertainties.nan_to_num() - (found.values - found.targets).abs()
    usable = found.usable & found.values.isfinite() & features.isfinite().all(1)
    # Of each target, rows in two orders that take turns.
    queues: list[list[list[int]]] = []
    for target in found.targets.unique().tolist():
        own = torch.nonzero(usable & (found.targets == target)).flatten()
        ranks = (straddle[own], found.confidence[own])
        queues.append([own[rank.argsort(descending=True, stable=True)].tolist() for rank in ranks])
    near = nearest_distances(features, known)
    typical = nearest_neighbour_distances(known)
    distance = float(typical[typical.isfinite()].median()) if bool(typical.isfinite().any()) else 0.0
    chosen: list[int] = []
    for _ in range(_HALVINGS + 1):
        turn = 0
        waiting = list(queues)
        while waiting and len(chosen) < count:
            for queue in list(waiting):
                row = next((row for row in queue[turn % 2] if float(near[row]) > distance), None)
                if row is None:
                    waiting.remove(queue)
                elif len(chosen) < count:
                    chosen.append(row)
                    away = (features - features[row]).square().sum(1).sqrt()
                    near = torch.minimum(near, away)
            turn += 1
        distance /= 2
    return chosen
