"""A representation small enough to see through, and problems made with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whorl.reconstruction import InversionProblem
from whorl.representations.base import FeatureLayout, Representation
from whorl.structures.batch import StructureBatch


class PairGaussians(Representation):
    """Sum over pairs of Gaussians of their distance, nearest image; NaN where an atom is beyond ``wall``."""

    kind = "pair_gaussians"
    species = ("H", "Pt")

    def __init__(
        self, *, centres: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0), wall: float = 1e9
    ) -> None:
        super().__init__()
        self.centres = centres
        self.wall = wall
        self.calls = 0
        self.largest = 0
        names = tuple(f"d={c}" for c in centres)
        self.layout = FeatureLayout(names=names, shape=(len(names),), blocks={"pairs": slice(0, len(names))})

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "centres": list(self.centres)}

    def forward(self, structures: StructureBatch) -> Tensor:
        self.calls += 1
        self.largest = max(self.largest, len(structures))
        n = int(structures.n_atoms.max()) if len(structures) else 0
        place = (structures.structure_index, structures.position_in_structure)
        x = structures.positions.new_zeros(len(structures), n, 3).index_put(place, structures.positions)
        there = torch.zeros(len(structures), n, dtype=torch.bool).index_put(place, torch.tensor(True))
        i, j = torch.triu_indices(n, n, offset=1)
        vector = x[:, j] - x[:, i]
        if bool(structures.pbc.any()):
            inverse = torch.linalg.inv(structures.cells)
            vector = vector - torch.round(vector @ inverse) @ structures.cells
        distance = vector.square().sum(-1).add(1e-12).sqrt()
        gauss = torch.exp(-((distance[..., None] - x.new_tensor(self.centres)) ** 2))
        total = (gauss * (there[:, i] & there[:, j])[..., None]).sum(1)
        broken = (x.abs() > self.wall).flatten(1).any(1, keepdim=True)
        return torch.where(broken, torch.nan, 1.0) * total


def make_template(sizes: list[int], *, cell: float | None = None, number: int = 78) -> StructureBatch:
    count = len(sizes)
    cells = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1) * (cell or 0.0)
    return StructureBatch(
        positions=torch.zeros(sum(sizes), 3, dtype=torch.float64),
        cells=cells,
        pbc=torch.full((count, 3), cell is not None),
        atomic_numbers=torch.full((sum(sizes),), number),
        structure_index=torch.repeat_interleave(torch.arange(count), torch.tensor(sizes)),
    )


def make_problem(
    sizes: list[int], *, cell: float | None = None, seed: int = 0, **options: Any
) -> InversionProblem:
    """Return targets that are fingerprints of random structures, so that each has a solution."""
    representation = options.pop("representation", None) or PairGaussians()
    template = make_template(sizes, cell=cell)
    rng = torch.Generator().manual_seed(seed)
    spread = torch.rand(template.positions.shape, generator=rng, dtype=torch.float64) * (cell or 3.5)
    target = representation(template.replace(positions=spread))
    return InversionProblem(representation=representation, target=target, template=template, **options)
