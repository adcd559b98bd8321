"""Recipes run with several seeds: hits of generated structures by the energy method, for each arm.

Run from the root of the repository: ``OMP_NUM_THREADS=1 python -m benchmarks.refinement.generated``, and
with ``--recipe recipes/pt10_chgnet.yaml --count 3000``. The data set is built once. For each seed the recipe
is run with other training structures (drawn by farthest point sampling from another split), generator,
surrogates and samples; only the surrogate that evaluates fingerprints, which no structure depends on, is
trained for fewer epochs. Printed are means over the seeds, with the lowest and the highest, of each target
and arm, and for the projected structures the share of true values within the stated 90 % interval, and the
time of the projection. Runs are kept in ``--directory`` and continued there.
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
from whorl.surrogates.additive import QUANTILE
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
}
OF_PROJECTED = {
    "covered": "in 90 % interval (%)",
    "spread": "spread / real",
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
        for of_target in results["sizes"][label]["targets"]:
            about = {"label": label, "target": of_target["target"]}
            arms = {arm: {**about, "arm": arm, **own} for arm, own in of_target["arms"].items()}
            if "project" in arms:
                arms["project"] |= _of_projected(run, label, of_target)
            rows += arms.values()
    return rows


def _of_projected(run: RunFolder, label: str, of_target: dict[str, Any]) -> dict[str, Any]:
    """Return what the results of the run do not say of projected structures."""
    made = load_dataset(run.arms(label)["project"])
    actual = json.loads((run.metrics(label, "project/energy")).read_text(encoding="utf-8"))["per_structure"]
    surrogate = AdditiveSurrogate.load(run.last_surrogate(label))
    rows = torch.nonzero(made.properties["target"] == of_target["target"]).flatten()
    assert made.structures is not None
    predicted = surrogate.predict(made.structures[rows])
    assert predicted.uncertainty is not None
    errors = torch.tensor(actual["value"], dtype=torch.float64)[rows] - predicted.mean
    inside = errors.abs() <= QUANTILE * predicted.uncertainty
    plain = load_dataset(run.arms(label)["plain"])
    chosen = torch.nonzero(plain.properties["target"] == of_target["target"]).flatten()
    assert plain.structures is not None
    samples = Samples(
        ids=tuple(plain.ids[row] for row in chosen.tolist()),
        targets=plain.properties["target"][chosen],
        structures=plain.structures[chosen],
        rows=torch.arange(len(chosen)),
    )
    settings = next(method for method in run.recipe.refine if method.kind == "project")
    context = RefinementContext(surrogate=surrogate, tolerance=run.recipe.evaluate.tolerance)
    began = time.process_time()
    Project(settings).refine(samples, context)
    return {
        "covered": 100 * float(inside.double().mean()),
        "spread": of_target["diversity_atoms"]["ratio"],
        "seconds": (time.process_time() - began) / len(chosen),
    }


def _print(rows: list[dict[str, Any]], title: str) -> None:
    """Print a line for each training size, target and arm: means over seeds, with their range."""
    print(f"\n{title}")
    names = {**COLUMNS, **OF_PROJECTED}
    print(" | ".join(["training", "target", "arm", *names.values()]))
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["target"], row["arm"]), []).append(row)
    for group, own in groups.items():
        cells = [_range([row[name] for row in own if row.get(name) is not None]) for name in names]
        print(" | ".join([*map(str, group), *cells]), flush=True)


def _range(values: list[float]) -> str:
    if not values:
        return ""
    low, mean, high = min(values), sum(values) / len(values), max(values)
    return f"{mean:.3g}" if low == high else f"{mean:.3g} ({low:.3g}–{high:.3g})"


if __name__ == "__main__":
    main()
