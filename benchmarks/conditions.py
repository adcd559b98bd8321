"""Fingerprints drawn for held-out crystals, against the true ones: ``python -m benchmarks.conditions``.

    python -m benchmarks.conditions held_out.csv --property heat_all runs/composition runs/volume

Each crystal's own property and conditions are requested, and the drawn fingerprint is compared with the true
one: mean absolute difference, and in standard deviations of the training rows. A linear regression of the
training rows reads the volume per atom from both.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.formula_choice import small_run
from benchmarks.formulas import read
from whorl.conditions import Conditions
from whorl.datasets import load_dataset, load_features, read_dataset
from whorl.evaluation import standardized
from whorl.generators import ConditionalGenerator, load_model
from whorl.representations import make_representation
from whorl.structures import StructureBatch
from whorl.structures.cells import volume_per_atom
from whorl.workflow import Recipe
from whorl.workflow.run_folder import RunFolder

_RIDGE = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, help="labelled crystals that the runs do not have")
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs with trained generators")
    parser.add_argument("--property")
    parser.add_argument("--every", type=int, default=4, help="of these crystals")
    parser.add_argument("--quick", action="store_true", help="a few perovskites, to see that it runs")
    given = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    if given.quick:
        structures, values = read(None, None)
        with tempfile.TemporaryDirectory() as folder:
            run = small_run(Path(folder), structures[:120], values[:120], float(values.median()))
            compare(run, structures[120:140], values[120:140], "value")
    elif given.data is None:
        print("skipped: no data were given")
    else:
        data = read_dataset(given.data, property=given.property)
        assert data.structures is not None
        rows = torch.arange(0, len(data), given.every)
        for run in given.runs:
            compare(run, data.structures[rows], data.properties[given.property][rows], given.property)


def compare(folder: Path, crystals: StructureBatch, values: Tensor, property: str) -> None:
    """Print how far drawn fingerprints are from the true ones."""
    run = RunFolder(folder, Recipe.model_construct())
    real, own = load_features(run.features), load_dataset(run.dataset).structures
    generator = load_model(run.generator("all"))
    assert own is not None and isinstance(generator, ConditionalGenerator)
    crystals, known = crystals.to(dtype=torch.float64).replace(info=()), real.features.flatten(1).double()
    representation = make_representation(real.representation)
    with torch.no_grad():
        true = torch.cat([representation(some).flatten(1) for some in crystals.chunks(256)]).double()
    conditions = Conditions.of_model(generator, property=property)
    columns = conditions.columns(labels=values.double(), structures=crystals)
    drawn = generator.sample(columns, rng=torch.Generator().manual_seed(0)).flatten(1).double()

    def table(features: Tensor) -> Tensor:
        return torch.cat([standardized(features, known), torch.ones(len(features), 1).double()], 1)

    rows, logarithm = table(known), volume_per_atom(crystals).log()
    square = rows.T @ rows + _RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(square, rows.T @ volume_per_atom(own).log())
    apart = (standardized(drawn, known) - standardized(true, known)).square().mean(1).sqrt()
    error = {name: table(some) @ weights - logarithm for name, some in (("drawn", drawn), ("true", true))}
    volume = {name: float(some.square().mean().sqrt()) for name, some in error.items()}
    print(
        f"{property}, {', '.join(conditions.kinds)}: {len(crystals)} crystals; mean absolute difference "
        f"{float((drawn - true).abs().mean(1).median()):.3f}, {float(apart.median()):.2f} standard "
        f"deviations (medians); error of the volume read from the drawn ones {volume['drawn']:.1%}, from the "
        f"true ones {volume['true']:.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
