"""The command line as people use it, in this process: arguments in; exit code, output and errors out."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from whorl.cli import commands
from whorl.datasets import Dataset, save_dataset
from whorl.structures import StructureBatch

RECIPE = """\
name: tiny
seed: 3
data:
  clusters: {element: Pt, atoms: 4, count: 30, calculator: emt, window: [0.0, 5.0], processes: 1}
representation:
  cutoff: 8.0
  g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]]
generator: {epochs: 10, layers: 1, hidden: 8, latent: 2}
surrogate: {epochs: 10, layers: 1, hidden: 8}
generate: {targets: [2.0], samples: 5}
reconstruct: {kind: algorithm1, samples: 2, starts: 1, hops: 1, iterations: 2, polish: 2, reference: 2}
report: {gallery: 1}
"""


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def whorl(monkeypatch):
    """Return a function that runs ``whorl`` with some arguments."""
    monkeypatch.setenv("COLUMNS", "400")  # no wrapped lines in what is compared

    def call(*arguments: object) -> Outcome:
        result = CliRunner().invoke(commands(), [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def _chunks(tmp_path_factory) -> Path:
    """Return where all runs keep their clusters, which are built once."""
    return tmp_path_factory.mktemp("chunks")


@pytest.fixture
def recipe(tmp_path, _chunks) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.replace("processes: 1", f"processes: 1, directory: {_chunks}"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def _clusters() -> Dataset:
    """Return forty Pt4 clusters with an invented energy."""
    count, rng = 40, torch.Generator().manual_seed(0)
    base = torch.tensor([[0.0, 0, 0], [2.6, 0, 0], [0, 2.6, 0], [0, 0, 2.6]], dtype=torch.float64)
    scale = 1 + torch.linspace(0, 0.5, count, dtype=torch.float64)
    noise = 0.05 * torch.randn(count, 4, 3, generator=rng, dtype=torch.float64)
    structures = StructureBatch(
        positions=(base * scale[:, None, None] + noise).reshape(-1, 3),
        cells=torch.zeros(count, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(count, 3, dtype=torch.bool),
        atomic_numbers=torch.full((4 * count,), 78),
        structure_index=torch.arange(count).repeat_interleave(4),
    )
    return Dataset(
        structures=structures,
        properties={"formation_energy": 1 + 4 * (scale - 1)},
        ids=tuple(f"c{i}" for i in range(count)),
    )


@pytest.fixture
def clusters(_clusters, tmp_path) -> Path:
    """Return the data set as a file."""
    path = tmp_path / "clusters.safetensors"
    save_dataset(_clusters, path)
    return path


@pytest.fixture
def representation(tmp_path) -> Path:
    """Return a small representation as a file."""
    path = tmp_path / "r.yaml"
    path.write_text("cutoff: 8.0\ng2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]]\n", encoding="utf-8")
    return path
