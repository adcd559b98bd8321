"""One small run with everything a report can show: two training sizes, three targets, failures."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from whorl.evaluation import Generated, Reconstructed, Verdict, evaluate
from whorl.structures.batch import StructureBatch

TARGETS = (1.9, 2.8, 3.7)


def clusters(count, *, seed=0, atoms=10, cell=None):
    """Random clusters of platinum, one atom every 2.5 Å or so."""
    rng = torch.Generator().manual_seed(seed)
    return StructureBatch(
        positions=2.2 * torch.randn(count * atoms, 3, generator=rng, dtype=torch.float64),
        cells=torch.zeros(count, 3, 3, dtype=torch.float64)
        if cell is None
        else torch.eye(3, dtype=torch.float64).repeat(count, 1, 1) * cell,
        pbc=torch.full((count, 3), cell is not None),
        atomic_numbers=torch.full((count * atoms,), 78),
        structure_index=torch.arange(count).repeat_interleave(atoms),
    )


@dataclass
class Run:
    sizes: dict[str, Generated]
    data_features: torch.Tensor
    data_properties: torch.Tensor
    data_structures: StructureBatch | None
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        return evaluate(self.sizes, data_features=self.data_features, data_properties=self.data_properties)

    def arguments(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "sizes": self.sizes,
            "data_features": self.data_features,
            "data_properties": self.data_properties,
            "data_structures": self.data_structures,
            "title": "Pt10 by EMT",
            "recipe": self.recipe,
            "provenance": {"whorl_version": "0.1.0", "seed": 7, "recipe_hash": "0123456789abcdef"},
        }


def one_size(*, rows, data, seed):
    features, properties = data
    rng = torch.Generator().manual_seed(seed)
    targets = torch.tensor(TARGETS, dtype=torch.float64).repeat_interleave(12)
    n, found = len(targets), torch.arange(0, len(targets), 3)
    noise = 0.1 * torch.randn(n, generator=rng, dtype=torch.float64)
    energy = (targets + 2 * noise)[found]
    energy[1] = float("nan")
    return Generated(
        targets=targets,
        features=torch.randn(n, features.shape[1], generator=rng, dtype=torch.float64),
        predicted=targets + noise,
        training_features=features[:rows],
        training_properties=properties[:rows],
        reconstructed=Reconstructed(
            rows=found,
            loss=torch.logspace(-3, 0, len(found), dtype=torch.float64),
            status=("local_minimum",) * (len(found) - 1) + ("invalid",),
            invalid_above=0.5,
            reference_loss=torch.logspace(-3, -1, 20, dtype=torch.float64),
            energy=energy,
            failures={1: "two atoms <closer> than 0.3 Å"},
            features=torch.randn(len(found), features.shape[1], generator=rng, dtype=torch.float64),
            structures=clusters(len(found), seed=seed),
        ),
    )


@pytest.fixture
def run():
    rng = torch.Generator().manual_seed(0)
    data = (
        torch.randn(400, 5, generator=rng, dtype=torch.float64),
        torch.linspace(1.2, 3.65, 400, dtype=torch.float64)[torch.randperm(400, generator=rng)],
    )
    return Run(
        sizes={"n300": one_size(rows=300, data=data, seed=1), "n40": one_size(rows=40, data=data, seed=2)},
        data_features=data[0],
        data_properties=data[1],
        data_structures=clusters(400, seed=3),
        recipe={
            "name": "pt10",
            "data": {"clusters": {"element": "Pt", "atoms": 10, "calculator": {"name": "emt"}}},
            "representation": {"kind": "acsf", "preset": "fung2022", "species": ["Pt"]},
            "sampling": {"sizes": [300, 40], "split": 0.8},
            "reconstruct": {
                "kind": "algorithm1",
                "samples": 4,
                "starts": 10,
                "hops": 5,
                "iterations": 140,
                "polish": 900,
            },
            "generate": {"samples": 12},
        },
    )
