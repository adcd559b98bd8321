"""Smooth histogram of the distances between atoms."""

from typing import Any

import torch
from torch import Tensor

from whorl.representations.base import FeatureLayout, Representation
from whorl.representations.settings import RepresentationSettings
from whorl.settings import Count, Positive
from whorl.structures.batch import StructureBatch


class PairHistogram(Representation):
    """Histogram of the distances between the atoms of a cluster, each smeared by a Gaussian.

    Args:
        bins: Number of bins.
        largest: Centre of the last bin, in Å.
    """

    kind = "pair_histogram"

    class Settings(RepresentationSettings):
        """Settings of the histogram."""

        bins: Count = 12
        """Number of bins."""
        largest: Positive = 6.0
        """Centre of the last bin, in Å."""

    def __init__(self, *, bins: int = 12, largest: float = 6.0) -> None:
        super().__init__()
        self.bins, self.largest = bins, largest
        self.layout = FeatureLayout(
            names=tuple(f"bin {number}" for number in range(bins)),
            shape=(bins,),
            blocks={"pairs": slice(0, bins)},
        )

    def config(self) -> dict[str, Any]:
        """Return the settings, with the kind."""
        return {"kind": self.kind, "bins": self.bins, "largest": self.largest}

    def forward(self, structures: StructureBatch) -> Tensor:
        """Return the histogram of each structure."""
        return torch.stack([self._histogram(structures[i].positions) for i in range(len(structures))])

    def _histogram(self, positions: Tensor) -> Tensor:
        first, second = torch.triu_indices(len(positions), len(positions), offset=1)
        distances = (positions[first] - positions[second]).norm(dim=1)
        centres = torch.linspace(1.0, self.largest, self.bins, dtype=positions.dtype)
        width = (self.largest - 1.0) / self.bins
        return torch.exp(-(((distances[:, None] - centres) / width) ** 2)).sum(0)
