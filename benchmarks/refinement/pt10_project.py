"""Pt10 clusters moved onto a formation energy: hits by the true energy, with no energy call.

Run from the root of the repository: ``OMP_NUM_THREADS=1 python -m benchmarks.refinement.pt10_project``,
and with ``--calculator chgnet --targets 1.9,2.8,3.7``. For each seed, 300 clusters are drawn, an additive
surrogate is fitted to their energies and forces, and others of the set, within 0.6 eV/atom of the target by
the surrogate, are projected onto it. ``--run FOLDER`` takes the training clusters and the reconstructed
structures of a run of a recipe instead. Hits, errors and coverage are by the energy method; times are in
units of one energy call of a cluster with ASE's EMT in the same process. The data set and the results of each
seed are kept in ``--directory``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.datasets import Dataset, load_dataset, save_dataset
from whorl.datasets.clusters import build_clusters
from whorl.evaluation.samples import Reference, Samples
from whorl.files import stable_hash
from whorl.potentials import formation_energy, make_potential
from whorl.refinement import Project, RefinementContext
from whorl.representations import ACSF
from whorl.structures import StructureBatch
from whorl.structures.connectivity import count_pieces
from whorl.surrogates import AdditiveSurrogate

TOLERANCE = 0.1
WITHIN = 0.6  # eV/atom of the target by the surrogate: clusters to start from
NAMES = {
    "starts": "starts",
    "before": "hits before",
    "reached": "reached",
    "hits": "hits",
    "error": "MAE",
    "covered": "in 90 % interval",
    "covered_all": "… uncertain too",
    "moved": "Å moved",
    "spread": "spread",
    "whole": "in one piece",
    "calls": "time/EMT call",
}


def main() -> None:
    """Print a table of all targets and seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calculator", default="emt")
    parser.add_argument("--targets", default="1.0,1.5,2.0,3.0")
    parser.add_argument("--seeds", default="10,11,12", help="those that settings were chosen on are 0 to 2")
    parser.add_argument("--count", type=int, default=3000, help="clusters in the set")
    parser.add_argument("--training", type=int, default=300)
    parser.add_argument("--starts", type=int, default=100, help="for each target")
    parser.add_argument("--run", type=Path, help="folder of a run of a recipe")
    parser.add_argument("--directory", type=Path, default=Path("benchmark-data"))
    parser.add_argument("--settings", type=json.loads, default={}, help="of the refiner, as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.targets, args.seeds, args.count, args.training, args.starts = "2.0", "0", 60, 20, 4
        args.settings = {"surrogate": {"kind": "additive", "cosines": 50}, **args.settings}
    potential = make_potential(args.calculator)
    targets = [float(target) for target in args.targets.split(",")]
    dataset = _dataset(args, potential)
    rows: list[dict[str, Any]] = []
    for seed in (int(seed) for seed in args.seeds.split(",")):
        what = [args.calculator, args.count, args.training, args.starts, str(args.run), args.settings]
        key = stable_hash([seed, targets, *what])
        kept = args.directory / f"projected-{key}.json"
        if not kept.exists():
            kept.write_text(json.dumps(_of_seed(args, dataset, potential, targets, seed)), encoding="utf-8")
        rows += json.loads(kept.read_text(encoding="utf-8"))
        _print(rows[-len(targets) :], f"seed {seed}")
    _print([_together([row for row in rows if row["target"] == target]) for target in targets], "all seeds")


def _dataset(args: argparse.Namespace, potential: Any) -> Dataset:
    if args.run is not None:
        return load_dataset(args.run / "data" / "dataset.safetensors")
    path = args.directory / f"{args.calculator}-{args.count}.safetensors"
    if not path.exists():
        args.directory.mkdir(parents=True, exist_ok=True)
        dataset = build_clusters(
            element="Pt",
            atoms=10,
            count=args.count,
            potential=potential,
            directory=args.directory,
            seed=1,
            processes=1,
        )
        save_dataset(dataset, path)
    return load_dataset(path)


def _of_seed(
    args: argparse.Namespace, dataset: Dataset, potential: Any, targets: list[float], seed: int
) -> list[dict[str, Any]]:
    assert dataset.structures is not None
    structures, values = dataset.structures, dataset.properties["formation_energy"].double()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    training, others = order[: args.training], order[args.training :]
    if args.run is not None:
        chosen = next((args.run / "sampling").glob("*/rows.json"))
        training = torch.tensor(json.loads(chosen.read_text(encoding="utf-8"))["rows"])
    forces = dataset.forces
    if forces is None:
        forces = torch.full_like(structures.positions, torch.nan)
        forces[structures.atoms_of(training)] = potential(structures[training]).forces
    reference = Reference(
        name="formation_energy",
        unit="eV/atom",
        properties=values,
        features=torch.zeros(len(values), 1, dtype=torch.float64),
        structures=structures,
        forces=forces,
        training_rows=training,
    )
    refiner = Project(Project.Settings.model_validate(args.settings))
    surrogate = refiner._surrogate(RefinementContext(reference=reference, seed=seed))
    assert isinstance(surrogate, AdditiveSurrogate)
    unit = _seconds_of_emt(structures)
    rows = []
    for target in targets:
        if args.run is not None:
            made = load_dataset(next((args.run / "reconstruct").glob("*/structures.safetensors")))
            assert made.structures is not None
            starts = made.structures[made.properties["target"] == target]
        else:
            predicted = surrogate.predict(structures[others]).mean
            near = others[((predicted - target).abs() < WITHIN)][: args.starts]
            starts = structures[near]
        rows.append(_projected(refiner, surrogate, reference, starts, target, potential, dataset, unit))
    return rows


def _projected(
    refiner: Project,
    surrogate: AdditiveSurrogate,
    reference: Reference,
    starts: StructureBatch,
    target: float,
    potential: Any,
    dataset: Dataset,
    unit: float,
) -> dict[str, Any]:
    count = len(starts)
    samples = Samples(
        ids=tuple(map(str, range(count))),
        targets=torch.full((count,), target, dtype=torch.float64),
        structures=starts,
        rows=torch.arange(count),
    )
    context = RefinementContext(reference=reference, surrogate=surrogate, tolerance=TOLERANCE)
    began = time.perf_counter()
    made = refiner.refine(samples, context)
    seconds = time.perf_counter() - began
    assert made.structures is not None and made.displacement is not None
    bulk = dataset.provenance["bulk_energy"]

    def energies(of: StructureBatch) -> Tensor:
        return formation_energy(potential(of).energy.double(), of.n_atoms.double(), bulk)

    said = surrogate.predict(made.structures)
    assert said.uncertainty is not None
    true, words = energies(made.structures), [status.partition(":")[0] for status in made.refinement]
    reached = torch.tensor([word == "reached" for word in words])
    there = torch.tensor([word in ("reached", "uncertain") for word in words])
    inside = (true - said.mean).abs() <= 1.645 * said.uncertainty
    features = ACSF.fung2022(["Pt"])
    before, after = (torch.pdist(features(batch[reached])).mean() for batch in (starts, made.structures))
    return {
        "target": target,
        "starts": count,
        "before": _share((energies(starts) - target).abs() <= TOLERANCE),
        "reached": _share(reached),
        "hits": _share((true[reached] - target).abs() <= TOLERANCE),
        "error": float((true[reached] - target).abs().mean()),
        "covered": _share(inside[reached]),
        "covered_all": _share(inside[there]),
        "moved": float(made.displacement[reached].mean()),
        "spread": float(after / before),
        "whole": f"{_share(count_pieces(starts[reached]) == 1):.0%} → "
        f"{_share(count_pieces(made.structures[reached]) == 1):.0%}",
        "calls": seconds / count / unit,
    }


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _seconds_of_emt(structures: StructureBatch) -> float:
    emt, some = make_potential("emt"), structures[:20]
    began = time.perf_counter()
    emt(some)
    return (time.perf_counter() - began) / len(some)


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds, each weighted by its reached structures (or its starts)."""
    result: dict[str, Any] = {"target": rows[0]["target"], "starts": sum(row["starts"] for row in rows)}
    for name in NAMES:
        of_starts = name in ("before", "reached", "calls")
        weights = [row["starts"] * (1.0 if of_starts else row["reached"]) for row in rows]
        counted = [(row[name], weight) for row, weight in zip(rows, weights, strict=True) if weight]
        if name == "whole":
            result[name] = ""
        elif name not in result:
            total = sum(weight for _, weight in counted)
            result[name] = sum(value * weight for value, weight in counted) / total if counted else math.nan
    return result


def _print(rows: list[dict[str, Any]], title: str) -> None:
    print(f"\n{title}")
    print(" | ".join(["target", *NAMES.values()]))
    for row in rows:
        cells = []
        for name in NAMES:
            value = row[name]
            percent = name in ("before", "reached", "hits", "covered", "covered_all")
            if isinstance(value, float):
                value = f"{100 * value:.1f} %" if percent else f"{value:.3f}"
            cells.append(str(value))
        print(" | ".join([f"{row['target']:g}", *cells]), flush=True)


if __name__ == "__main__":
    main()
