"""Can the search tell fingerprints that no structure has? ``python -m benchmarks.inversion.infeasible``.

Fingerprints of real Pt10 clusters are disturbed by noise of several sizes, as parts of each feature's spread
in the data set; noise takes a fingerprint off the set of those that structures have. Samples of a trained
generator can be added. The area under the ROC curve says how well ``infeasibility`` (0 for what is solved)
tells the disturbed from the real: 1 is perfect, 0.5 is chance.
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

from benchmarks.inversion import suites
from benchmarks.inversion.runner import spread_over
from whorl.datasets import load_dataset, load_features
from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.inversion import InversionProblem, InversionStatus, solve
from whorl.representations import make_representation
from whorl.structures import from_ase
from whorl.workflow.round_trip_settings import fingerprint

NOISE = (0.001, 0.01, 0.03, 0.1, 0.3)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inversion.infeasible", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="two targets: does it run?")
    add("--targets", type=int, default=24)
    add("--evaluations", type=int, default=4000, help="for each target")
    add("--pooling", default="max,min")
    add("--seed", type=int, default=0)
    add("--threads", type=int, help="torch threads")
    add("--dataset", type=Path, default=suites.PT10)
    add("--generated", type=Path, help="features that a generator made, of the same representation")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.quick:
        options.targets, options.evaluations = 2, 30
    try:
        originals = from_ase(spread_over(suites.pt10(dataset=options.dataset), options.targets))
        everything = load_dataset(options.dataset).structures
    except InputError as error:
        print(f"skipped: {error}")
        return 0
    assert everything is not None
    acsf = fingerprint("fung2022", ["Pt"], pooling=options.pooling.split(","))
    with torch.no_grad():
        real = acsf(originals)
        spread = acsf(everything[:500].to(dtype=torch.float64)).std(0)
    rng = torch.Generator().manual_seed(options.seed)
    kinds: dict[str, Tensor] = {"real": real}
    for noise in NOISE:
        shift = torch.randn(real.shape, generator=rng, dtype=torch.float64)
        kinds[f"noise of {noise:g} spreads"] = real + noise * spread * shift
    if options.generated:
        made = load_features(options.generated, representation=make_representation(acsf.config()))
        chosen = torch.randperm(len(made.features), generator=rng)[: options.targets]
        kinds["generated"] = made.features[chosen].flatten(1).double()

    print("| fingerprints | solved | called invalid | median loss | median RMSD | ROC AUC | s/target |")
    print("|---|---|---|---|---|---|---|", flush=True)
    of_real = torch.zeros(0)
    for kind, target in kinds.items():
        began = time.perf_counter()
        template = originals[[i % len(originals) for i in range(len(target))]]
        problem = InversionProblem(representation=acsf, target=target, template=template)
        result = solve(problem, budget_evaluations=options.evaluations, seed=options.seed)
        seconds = (time.perf_counter() - began) / len(target)
        assert result.infeasibility is not None
        score, area, distance = result.infeasibility, "", ""
        if kind == "real":
            of_real = score
        else:
            labels = [0] * len(of_real) + [1] * len(score)
            area = f"{roc_auc_score(labels, torch.cat([of_real, score]).tolist()):.3f}"
        if kind != "generated":
            distance = f"{float(rmsd(result.structures, originals).median()):.3f} Å"
        solved = sum(status is InversionStatus.CONVERGED for status in result.status)
        invalid = sum(status is InversionStatus.INVALID for status in result.status)
        cells = [
            kind,
            solved,
            invalid,
            f"{float(result.loss.median()):.1e}",
            distance,
            area,
            f"{seconds:.2f}",
        ]
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
