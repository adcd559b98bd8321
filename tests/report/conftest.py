"""One small run with everything a report can show: two training sizes, three targets, failures."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from evaluating import evaluated

from whorl.evaluation import Evaluated, Reference, Results, Samples, results_of
from whorl.evaluation.candidates import rank_candidates
from whorl.report.sections.base import ReportContext
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
    """What a report is made of; tests change the samples, their values or the real data."""

    samples: dict[str, Samples]
    values: dict[str, dict[str, Any]]
    reference: Reference
    training: dict[str, int]
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, Evaluated]:
        return {
            label: evaluated(
                samples,
                self.reference.replace(training_rows=torch.arange(self.training[label])),
                **self.values[label],
            )
            for label, samples in self.samples.items()
        }

    @property
    def results(self) -> Results:
        return results_of(self.sizes, tolerance=0.1)

    def context(self, **changes: Any) -> ReportContext:
        sizes = self.sizes
        given = {
            "title": "Pt10 by EMT",
            "results": self.results,
            "evaluated": sizes,
            "candidates": rank_candidates(sizes),
            "recipe": self.recipe,
            "provenance": {"whorl_version": "0.1.0", "seed": 7, "recipe_hash": "0123456789abcdef"},
        }
        return ReportContext(**{**given, **changes})


def one_size(*, data, seed):
    features, _ = data
    rng = torch.Generator().manual_seed(seed)
    targets = torch.tensor(TARGETS, dtype=torch.float64).repeat_interleave(12)
    n, found = len(targets), torch.arange(0, len(targets), 3)
    noise = 0.1 * torch.randn(n, generator=rng, dtype=torch.float64)
    energy = (targets + 2 * noise)[found]
    energy[1] = float("nan")
    samples = Samples(
        ids=tuple(f"s{i}" for i in range(n)),
        targets=targets,
        features=torch.randn(n, features.shape[1], generator=rng, dtype=torch.float64),
        rows=found,
        loss=torch.logspace(-3, 0, len(found), dtype=torch.float64),
        status=("local_minimum",) * (len(found) - 1) + ("invalid",),
        invalid_above=0.5,
        reference_loss=torch.logspace(-3, -1, 20, dtype=torch.float64),
        structure_features=torch.randn(len(found), features.shape[1], generator=rng, dtype=torch.float64),
        structures=clusters(len(found), seed=seed),
    )
    return samples, {
        "predicted": targets + noise,
        "computed": energy,
        "failures": {1: "two atoms <closer> than 0.3 Å"},
    }


@pytest.fixture
def run():
    rng = torch.Generator().manual_seed(0)
    data = (
        torch.randn(400, 5, generator=rng, dtype=torch.float64),
        torch.linspace(1.2, 3.65, 400, dtype=torch.float64)[torch.randperm(400, generator=rng)],
    )
    sizes = {"n300": one_size(data=data, seed=1), "n40": one_size(data=data, seed=2)}
    return Run(
        samples={label: samples for label, (samples, _) in sizes.items()},
        values={label: values for label, (_, values) in sizes.items()},
        training={"n300": 300, "n40": 40},
        reference=Reference(
            name="formation_energy",
            unit="",
            properties=data[1],
            features=data[0],
            structures=clusters(400, seed=3),
            training_rows=torch.arange(400),
        ),
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
