"""Selection of refined structures that are as far apart as real ones, in their own features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.evaluation.distances import mean_pairwise_distance, standardized
from whorl.evaluation.samples import Reference, Samples
from whorl.refinement.base import REACHED
from whorl.structures.batch import StructureBatch
from whorl.surrogates.selection import choose, reference_spread


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A bound of the mean distance of the structures of one target, in standardised features.

    Attributes:
        fraction: Of the mean distance of the training rows around the target.
        representation: Of features.
        reference: The training rows.
        tolerance: Rows within it are around a target.
    """

    fraction: float
    representation: Callable[[StructureBatch], Tensor]
    reference: Reference
    tolerance: float

    def bound(self, target: float) -> float:
        """Return the least mean distance."""
        known = self.reference.features.flatten(1)
        values, rows = self.reference.properties, standardized(known, known)
        return self.fraction * reference_spread(rows, values, target=target, tolerance=self.tolerance)

    def features(self, structures: StructureBatch) -> Float[Tensor, "B F"]:
        """Return standardised features."""
        with torch.no_grad():
            made = torch.cat([self.representation(chunk) for chunk in structures.chunks(256)])
        return standardized(made.flatten(1), self.reference.features.flatten(1))

    def too_near(self, refined: Samples, index: Int[Tensor, "k"]) -> list[float]:
        """Return the targets whose structures at ``index`` are nearer together than the bound."""
        assert refined.structures is not None
        features, targets = self.features(refined.structures[index]), refined.structure_targets[index]
        return [
            target
            for target in targets.unique().tolist()
            if mean_pairwise_distance(features[targets == target]) < self.bound(target)
        ]

    def select(self, refined: Samples, index: Int[Tensor, "k"]) -> Int[Tensor, "k"]:
        """Take structures that are farther apart, of all that have reached their targets.

        Those are preferred that moved less. Places of structures that have not reached theirs stay.

        Args:
            refined: The structures to take from; the first k are those of the places.
            index: The structure in each place.

        Returns:
            The same as it is now.
        """
        assert refined.structures is not None and refined.displacement is not None
        index, targets = index.clone(), refined.structure_targets
        reached = torch.tensor([status == REACHED for status in refined.refinement])
        near = self.too_near(refined, index)
        for target in targets[: len(index)].unique().tolist():
            places = torch.nonzero(targets[: len(index)] == target).flatten()
            rows = torch.nonzero(reached & (targets == target)).flatten()
            filled = places[reached[index[places]]]
            if target not in near or len(rows) <= len(filled) or not len(filled):
                continue
            choice = choose(
                self.features(refined.structures[rows]),
                refined.displacement[rows],
                count=len(filled),
                spread=self.bound(target),
            )
            chosen = set(rows[choice.rows].tolist())
            left = sorted(chosen - set(index[filled].tolist()))
            for place in filled.tolist():
                if int(index[place]) not in chosen:
                    index[place] = left.pop(0)
        return index
