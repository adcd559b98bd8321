"""Can the search tell fingerprints that no structure has? ``python -m benchmarks.reconstruction.infeasible``.

Fingerprints of real Pt10 clusters are disturbed by noise of several sizes, as parts of each feature's spread
in the data set; noise takes a fingerprint off the set of those that structures have. Samples of a trained
generator can be added. The area under the ROC curve says how well ``infeasibility`` (0 for what is solved)
tells the disturbed from the real: 1 is perfect, 0.5 is chance.

Two more tables are what the verdict is calibrated with: the share of real clusters of several sizes that are
still unsolved after so many evaluations, and how often restarts agree for unsolved targets, real and not.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import SOLVED, spread_over
from whorl.datasets import load_dataset, load_features
from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, InversionResult, InversionStatus, solve
from whorl.reconstruction.population.feasibility import infeasibility
from whorl.representations import make_representation
from whorl.structures import StructureBatch, from_ase
from whorl.workflow.round_trip_settings import fingerprint

NOISE = (0.001, 0.01, 0.03, 0.1, 0.3)
AGREEING = (1, 2, 3, 4)
MARKS = (1_000, 3_000, 10_000, 30_000, 100_000)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reconstruction.infeasible", description=__doc__
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two targets: does it run?")
    add("--targets", type=int, default=24, help="of each kind that is not real")
    add("--real", type=int, default=100, help="real clusters")
    add("--sizes", default="8,12,14", help="atoms of disordered clusters, eight of each, beside those of ten")
    add("--evaluations", type=int, default=20_000, help="for each target")
    add("--pooling", default="max,min")
    add("--seed", type=int, default=0)
    add("--threads", type=int, help="torch threads")
    add("--dataset", type=Path, default=suites.PT10)
    add("--generated", type=Path, help="features that a generator made, of the same representation")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    each = 8
    if options.quick:
        options.targets, options.real, options.evaluations, options.sizes, each = 2, 2, 30, "5", 1
    try:
        clusters = suites.pt10(dataset=options.dataset)
        everything = load_dataset(options.dataset).structures
    except InputError as error:
        print(f"skipped: {error}")
        return 0
    assert everything is not None
    acsf = fingerprint("fung2022", ["Pt"], pooling=options.pooling.split(","))
    real, disturbed = from_ase(spread_over(clusters, options.real)), spread_over(clusters, options.targets)
    originals = from_ase(disturbed)
    with torch.no_grad():
        features = acsf(originals)
        spread = acsf(everything[:500].to(dtype=torch.float64)).std(0)
        kinds: dict[str, tuple[StructureBatch, Tensor]] = {"real": (real, acsf(real))}
    rng = torch.Generator().manual_seed(options.seed)
    for noise in NOISE:
        shift = torch.randn(features.shape, generator=rng, dtype=torch.float64)
        kinds[f"noise of {noise:g} spreads"] = originals, features + noise * spread * shift
    if options.generated:
        made = load_features(options.generated, representation=make_representation(acsf.config()))
        chosen = torch.randperm(len(made.features), generator=rng)[: options.targets]
        template = originals[[i % len(originals) for i in range(len(chosen))]]
        kinds["generated"] = template, made.features[chosen].flatten(1).double()

    def search(template: StructureBatch, target: Tensor) -> InversionResult:
        problem = InversionProblem(representation=acsf, target=target, template=template)
        return solve(problem, budget_evaluations=options.evaluations, seed=options.seed)

    print("| fingerprints | targets | solved | called invalid | loss, median | RMSD, median | ROC AUC | s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    results: dict[str, InversionResult] = {}
    for kind, (template, target) in kinds.items():
        began = time.perf_counter()
        result = results[kind] = search(template, target)
        seconds = (time.perf_counter() - began) / len(target)
        assert result.infeasibility is not None
        solved = sum(status is InversionStatus.CONVERGED for status in result.status)
        invalid = sum(status is InversionStatus.INVALID for status in result.status)
        distance = "" if kind == "generated" else f"{float(rmsd(result.structures, template).median()):.3f} Å"
        cells = [
            *(kind, len(target), solved, invalid, f"{float(result.loss.median()):.1e}", distance),
            *("" if kind == "real" else f"{_area(results['real'], result):.3f}", f"{seconds:.2f}"),
        ]
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)

    print("\nReal clusters: the share still unsolved after so many evaluations (what the formula says)\n")
    marks = [mark for mark in MARKS if mark <= options.evaluations]
    print("| atoms | clusters | " + " | ".join(f"{mark:,}" for mark in marks) + " |")
    print("|---" * (2 + len(marks)) + "|", flush=True)
    print(_unsolved(real, results["real"], marks), flush=True)
    for size in map(int, options.sizes.split(",")):
        known = from_ase(suites.disordered([size], each))
        with torch.no_grad():
            target = acsf(known)
        print(_unsolved(known, search(known, target), marks), flush=True)

    print("\nUnsolved targets whose best structure was the end of so many populations\n")
    print("| populations | real | not real | real / not real (shares) |")
    print("|---|---|---|---|")
    counts = [
        _agreeing([result for kind, result in results.items() if (kind == "real") == of_real])
        for of_real in (True, False)
    ]
    sums = [max(sum(count), 1) for count in counts]
    for k, name in enumerate([*map(str, AGREEING[:-1]), f"{AGREEING[-1]} or more"]):
        shares = [count[k] / total for count, total in zip(counts, sums, strict=True)]
        ratio = f"{shares[0] / shares[1]:.2f}" if shares[1] else ""
        print(f"| {name} | {counts[0][k]} | {counts[1][k]} | {ratio} |")
    return 0


def _area(real: InversionResult, other: InversionResult) -> float:
    """Return the area under the ROC curve of ``infeasibility``."""
    assert real.infeasibility is not None and other.infeasibility is not None
    labels = [0] * len(real) + [1] * len(other)
    return float(roc_auc_score(labels, torch.cat([real.infeasibility, other.infeasibility]).tolist()))


def _unsolved(known: StructureBatch, result: InversionResult, marks: list[int]) -> str:
    """Return a row: the share of real clusters still unsolved after so many evaluations."""
    assert result.evaluations is not None
    n = int(known.n_atoms[0])
    found = rmsd(result.structures, known) < SOLVED
    cells = []
    for mark in marks:
        unsolved = float((~found | (result.evaluations > mark)).double().mean())
        odds = 1.0 / infeasibility(evaluations=mark, n_atoms=n, agreeing=1) - 1.0
        cells.append(f"{unsolved:.0%} ({odds:.0%})")
    return f"| {n} | {len(known)} | {' | '.join(cells)} |"


def _agreeing(results: list[InversionResult]) -> list[int]:
    counts = [0] * len(AGREEING)
    for result in results:
        assert result.agreeing is not None
        for status, same in zip(result.status, result.agreeing.tolist(), strict=True):
            if status is not InversionStatus.CONVERGED:
                counts[min(max(same, 1), AGREEING[-1]) - 1] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main())
