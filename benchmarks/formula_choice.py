"""Choice among five formulas, by true labels: ``python -m benchmarks.formula_choice``.

    whorl run half.yaml --until generate    # many samples, with generate.formulas
    python -m benchmarks.formula_choice runs/half held_out.csv --property heat_all --target 0.2

Some of the structures proposed in the run are decorations that other labelled crystals are. Of each five of
these, drawn at random, one is chosen: by the order of the proposals (their chance of a hit by the predicted
value), by the value that the run's surrogate reads from the structure's features or from the generated ones,
and by the distance of the two. The baseline: one at random.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.formulas import decorator, read
from whorl.datasets import load_dataset, load_features, read_dataset, write_extxyz
from whorl.evaluation import standardized
from whorl.representations import make_representation
from whorl.structures import StructureBatch
from whorl.surrogates import load_surrogate
from whorl.workflow import Recipe, run_recipe
from whorl.workflow.run_folder import RunFolder

_DRAWS = 300
_TRIED = 5


def small_run(folder: Path, structures: StructureBatch, values: Float[Tensor, "N"], target: float) -> Path:
    """Return a run of a hardly trained generator."""
    write_extxyz(structures, folder / "own.extxyz", properties={"value": values})
    recipe = Recipe.model_validate(
        {
            "name": "quick",
            "data": {"files": {"path": str(folder / "own.extxyz"), "property": "value"}},
            "representation": {"g2": [[0.5, 1.5], [0.5, 3.0]], "g5": [], "cutoff": 4.0, "embedding": 2},
            "generator": {"epochs": 1, "layers": 1, "hidden": 8, "latent": 2, "conditions": ["composition"]},
            "surrogate": {"epochs": 1, "layers": 1, "hidden": 8},
            "generate": {"targets": [target], "samples": 40, "formulas": {}},
            "reconstruct": None,
        }
    )
    run_recipe(recipe, folder / "run", until="generate")
    return folder / "run"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path, help="folder of a run of one target")
    parser.add_argument("data", nargs="?", type=Path, help="other labelled crystals")
    parser.add_argument("--property")
    parser.add_argument("--target", type=float)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--quick", action="store_true", help="a few perovskites, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.quick:
        structures, values = read(None, None)
        target = float(values.median())
        with tempfile.TemporaryDirectory() as folder:
            run = small_run(Path(folder), structures[:120], values[:120], target)
            compare(run, structures[120:], values[120:], target, given.tolerance)
    elif given.data is None:
        print("skipped: no run and no data were given")
    else:
        data = read_dataset(given.data, property=given.property)
        assert data.structures is not None
        compare(given.run, data.structures, data.properties[given.property], given.target, given.tolerance)


def compare(folder: Path, others: StructureBatch, values: Tensor, target: float, tolerance: float) -> None:
    """Print the shares of hits."""
    run = RunFolder(folder, Recipe.model_construct())
    generated, real = load_features(run.generated("all")), load_features(run.features)
    own, proposals = load_dataset(run.dataset).structures, load_dataset(run.proposals("all")).structures
    assert own is not None and proposals is not None
    decorations = decorator(own)
    labels = dict(zip(decorations(others), values.tolist(), strict=True))
    seen = set(decorations(own))
    keys = decorations(proposals)
    known = [k for k, key in enumerate(keys) if key in labels and key not in seen]
    true = torch.tensor([labels[keys[k]] for k in known], dtype=torch.float64)
    hit = ((true - target).abs() <= tolerance).double()
    print(f"{len(proposals)} proposals, {len(known)} with a label; hits by fifths, in the order of chances:")
    print("  " + "  ".join(f"{float(part.mean()):.0%}" for part in hit.tensor_split(5)))
    representation, surrogate = make_representation(real.representation), load_surrogate(run.surrogate)
    chosen = proposals[known].to(dtype=torch.float64)
    with torch.no_grad():
        features = torch.cat([representation(some).flatten(1) for some in chosen.chunks(256)])
    drawn, reference = generated.features[known].flatten(1), real.features.flatten(1)
    distance = (standardized(features, reference) - standardized(drawn, reference)).square().mean(1)
    criteria = {
        "the likeliest by predicted value": torch.tensor(known).double(),
        "value read from the structure": (surrogate.predict(features.float()).mean - target).abs(),
        "value read from the fingerprint": (surrogate.predict(drawn.float()).mean - target).abs(),
        "structure most like the fingerprint": distance,
    }
    rng = torch.Generator().manual_seed(0)
    groups = torch.cat(
        [
            torch.randperm(len(known), generator=rng)[: len(known) // _TRIED * _TRIED].reshape(-1, _TRIED)
            for _ in range(_DRAWS)
        ]
    )
    print(f"one at random: {float(hit[groups].mean()):.0%}; of {_TRIED},")
    for name, criterion in criteria.items():
        best = groups.gather(1, criterion[groups].argmin(1, keepdim=True))
        print(f"  {name}: {float(hit[best].mean()):.0%}")


if __name__ == "__main__":
    main()
