"""Recipes run with several seeds: hits of generated structures by the energy method, for each arm.

Run from the root of the repository: ``OMP_NUM_THREADS=1 python -m benchmarks.refinement.generated``, and
with ``--recipe recipes/pt10_chgnet.yaml --count 3000``. The data set is built once. For each seed the recipe
is run with other training structures (drawn by farthest point sampling from another split), generator,
surrogates and samples; only the surrogate that evaluates fingerprints, which no structure depends on, is
trained for fewer epochs. Printed are means over the seeds, with the lowest and the highest, of each target
and arm, and the processor time of the projection for a structure. Runs are kept in ``--directory`` and
continued there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from whorl.datasets import load_dataset
from whorl.evaluation.samples import Samples
from whorl.files import stable_hash
from whorl.refinement import Project, RefinementContext
from whorl.surrogates import AdditiveSurrogate
from whorl.workflow import Monitor, read_recipe, run_recipe
from whorl.workflow.run_folder import RunFolder

COLUMNS = {
    "percent_within": "hits (%)",
    "mean_absolute_error": "MAE",
    "energy_calls": "calls",
    "labels": "labels",
    "draws": "draws",
    "displacement": "Å moved",
    "percent_whole": "in one piece (%)",
    "unique": "unique",
    "copies": "copies",
    "spread_ratio": "spread / real",
    "coverage": "coverage",
    "interval_coverage": "in 90 % interval",
    "seconds": "s / structure",
}


def main() -> None:
    """Run the recipe with all seeds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/pt10_emt.yaml"))
    parser.add_argument("--seeds", default="11,12,13", help="settings were chosen on others")
    parser.add_argument("--samples", type=int, default=100, help="structures of each target")
    parser.add_argument("--sizes", default="300", help="training structures")
    parser.add_argument("--count", type=int, help="clusters in the data set; by default as in the recipe")
    parser.add_argument("--dataset", type=Path, help="the data set in a file, if there is one already")
    parser.add_argument("--set", action="append", default=[], help="change a setting, as in whorl run")
    parser.add_argument("--directory", type=Path, default=Path("benchmark-data"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    args = parser.parse_args()
    changes = [
        f"sampling.sizes=[{args.sizes}]",
        f"reconstruct.samples={args.samples}",
        "reconstruct.reference=0",
        "surrogate.epochs=100",
    ]
    if args.quick:
        args.seeds, args.count = "0", 40
        changes += [
            "sampling.sizes=[24]",
            "generator.epochs=20",
            "surrogate.epochs=5",
            "generate={targets: [2.0], samples: 20}",
            "reconstruct.samples=2",
            "reconstruct.budget_evaluations=20",
            "refine=[{kind: project, spare: 0, surrogate: {kind: additive, cosines: 50}}]",
        ]
    changes += args.set
    if args.count is not None:
        changes.append(f"data.clusters.count={args.count}")
    data = _data_of(args, changes)
    rows: list[dict[str, Any]] = []
    for seed in (int(seed) for seed in args.seeds.split(",")):
        recipe = read_recipe(args.recipe, changes=[*changes, *data, f"seed={seed}"])
        key = stable_hash(recipe.model_copy(update={"seed": 0}).model_dump(mode="json"))
        folder = args.directory / f"{recipe.name}-{key}" / f"seed-{seed}"
        run_recipe(recipe, folder, monitor=Monitor(), until="evaluate")
        own = _measured(RunFolder(folder, recipe))
        rows += own
        _print(own, f"{recipe.name}, seed {seed}: {folder}")
    _print(rows, "all seeds: mean (lowest–highest)")


def _data_of(args: argparse.Namespace, changes: list[str]) -> list[str]:
    """Return changes of a recipe that make it read the data set, built by the seed of the recipe."""
    recipe = read_recipe(args.recipe, changes=changes)
    path, property = args.dataset, recipe.property_name
    if path is None:
        key = stable_hash([recipe.seed, recipe.data.model_dump(mode="json")])
        folder = args.directory / f"{recipe.name}-data-{key}"
        run_recipe(recipe, folder, monitor=Monitor(), until="data")
        path = folder / "data" / "dataset.extxyz"
    method = {} if recipe.calculator is None else recipe.calculator.model_dump(mode="json")
    files = {"path": str(path.resolve()), "property": property}
    return [f"data={json.dumps({'files': files})}", f"evaluate.calculator={json.dumps(method)}"]


def _measured(run: RunFolder) -> list[dict[str, Any]]:
    """Return a row for each training size, target and arm."""
    results = json.loads(run.results.read_text(encoding="utf-8"))
    rows = []
    for label in run.labels:
        seconds = _seconds_of_projection(run, label)
        for of_target in results["sizes"][label]["targets"]:
            for arm, own in of_target["arms"].items():
                rows.append({"label": label, "target": of_target["target"], "arm": arm, **own})
                if arm == "project":
                    rows[-1]["seconds"] = seconds
    return rows


def _seconds_of_projection(run: RunFolder, label: str) -> float:
    """Return the processor time that the projection takes for a reconstructed structure."""
    data = load_dataset(run.arms(label)["plain"])
    assert data.structures is not None
    samples = Samples(
        ids=data.ids,
        targets=data.properties["target"],
        structures=data.structures,
        rows=torch.arange(len(data)),
    )
    settings = next(method for method in run.recipe.refine if method.kind == "project")
    context = RefinementContext(
        surrogate=AdditiveSurrogate.load(run.last_surrogate(label)), tolerance=run.recipe.evaluate.tolerance
    )
    began = time.process_time()
    Project(settings).refine(samples, context)
    return (time.process_time() - began) / len(data)


def _print(rows: list[dict[str, Any]], title: str) -> None:
    """Print a line for each training size, target and arm: means over seeds, with their range."""
    print(f"\n{title}")
    print(" | ".join(["training", "target", "arm", *COLUMNS.values()]))
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["target"], row["arm"]), []).append(row)
    for group, own in groups.items():
        cells = [_range([row[name] for row in own if row.get(name) is not None]) for name in COLUMNS]
        print(" | ".join([*map(str, group), *cells]), flush=True)


def _range(values: list[float]) -> str:
    if not values:
        return ""
    low, mean, high = min(values), sum(values) / len(values), max(values)
    return f"{mean:.3g}" if low == high else f"{mean:.3g} ({low:.3g}–{high:.3g})"


if __name__ == "__main__":
    main()
