"""What each part of the search is worth: ``python -m benchmarks.reconstruction.ablation``.

Pt10 clusters and small crystals are searched with parts of the search taken away, with the same number of
evaluations and the same seeds. An unsolved target counts with all of its budget. The difference is that to
the whole search on the same target with the same seed, with its standard error: within two of them it says
nothing.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from ase import Atoms
from torch import Tensor

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import spread_over
from whorl.errors import InputError, unknown_option
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, PopulationSettings, solve
from whorl.structures import from_ase
from whorl.workflow.round_trip import RECOVERED, forget
from whorl.workflow.round_trip_settings import fingerprint

WHOLE = PopulationSettings()
ALONE = replace(WHOLE, patience=1, children=1, promising=1)  # hardly more than its openings
CLUSTERS = {
    "all of it": WHOLE,
    "no broad descents": replace(WHOLE, length=0.0),
    "every child to the end": replace(WHOLE, children=8, promising=8),
    "no relocation": replace(WHOLE, moves=("shake",)),
    "no shaking": replace(WHOLE, moves=("relocate",)),
    "no choice among starts": replace(WHOLE, candidates=WHOLE.first),
    "many starts, no population": ALONE,
}
CRYSTALS = {
    "all of it": WHOLE,
    "no broad descents": replace(WHOLE, length=0.0),
    "no symmetric starts": replace(WHOLE, symmetric=0.0),
    "no swaps": replace(WHOLE, moves=("shake", "relocate")),
}


def run(
    targets: Sequence[Atoms], population: PopulationSettings, options: argparse.Namespace, kind: str
) -> tuple[int, Tensor]:
    """Search all targets with each seed; return how many were solved, and the evaluations of each."""
    solved, spent = 0, []
    groups: dict[tuple[str, ...], list[Atoms]] = {}
    for atoms in targets:
        groups.setdefault(tuple(sorted(set(atoms.get_chemical_symbols()))), []).append(atoms)
    for species, members in groups.items():
        originals = from_ase(members)
        pooling = options.pooling.split(",") if kind == "fung2022" else ["mean", "std"]
        representation = fingerprint(kind, list(species), pooling=pooling)
        with torch.no_grad():
            target = representation(originals)
        problem = InversionProblem(representation=representation, target=target, template=forget(originals))
        for seed in map(int, options.seeds.split(",")):
            result = solve(problem, budget_evaluations=options.evaluations, seed=seed, population=population)
            found = rmsd(result.structures, originals) < RECOVERED
            solved += int(found.sum())
            assert result.evaluations is not None
            spent.append(
                torch.where(found, result.evaluations.clamp(max=options.evaluations), options.evaluations)
            )
    return solved, torch.cat(spent).double()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconstruction.ablation", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="one small target each: does it run?")
    add("--targets", type=int, default=24, help="of each kind")
    add("--evaluations", type=int, default=4000, help="for each target")
    add("--pooling", default="max,min", help="of the clusters")
    add("--seeds", default="0,1", help="each target is searched once with each")
    add("--kinds", default="clusters,crystals", help="which targets")
    add("--threads", type=int, help="torch threads")
    add("--dataset", type=Path, default=suites.PT10, help="Pt10 clusters")
    add("--data", type=Path, default=suites.CRYSTALS, help="crystals")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    count = 1 if options.quick else options.targets
    if options.quick:
        options.evaluations = 50
    kinds = {
        "clusters": ("fung2022", CLUSTERS, lambda: suites.pt10(dataset=options.dataset)),
        "crystals": (
            "crystal",
            CRYSTALS,
            lambda: [a for a in suites.crystals(data=options.data) if 8 <= len(a) <= 16],
        ),
    }
    print(
        "| targets | the search | solved | evaluations/target | difference | s/target |\n"
        "|---|---|---|---|---|---|",
        flush=True,
    )
    for name in options.kinds.split(","):
        if name not in kinds:
            raise SystemExit(f"error: {unknown_option('kind', name, kinds)}")
        kind, variants, build = kinds[name]
        try:
            targets = spread_over(build(), count)
        except InputError as problem:
            print(f"skipped: {problem}")
            continue
        whole = None
        for label, population in variants.items():
            began = time.perf_counter()
            solved, spent = run(targets, population, options, kind)
            seconds = (time.perf_counter() - began) / len(spent)
            whole = spent if whole is None else whole
            apart = spent - whole
            error = float(apart.std()) / len(spent) ** 0.5 if len(spent) > 1 else math.nan
            difference = "" if spent is whole else f"{float(apart.mean()):+.0f} ± {error:.0f}"
            cells = [f"{solved} of {len(spent)}", f"{float(spent.mean()):.0f}", difference, f"{seconds:.2f}"]
            print(f"| {name} | {label} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
