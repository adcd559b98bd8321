"""What each part of the search is worth: ``python -m benchmarks.inversion.ablation``.

Pt10 clusters and small crystals are searched with parts of the search taken away, all with the same number of
evaluations. The evaluations of an unsolved target are all of its budget.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from ase import Atoms

from benchmarks.inversion import suites
from benchmarks.inversion.runner import spread_over
from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.inversion import InversionProblem, Population, solve
from whorl.structures import from_ase
from whorl.workflow.round_trip import RECOVERED, forget
from whorl.workflow.round_trip_settings import fingerprint

WHOLE = Population()
ALONE = replace(WHOLE, patience=1, children=1, promising=1)  # hardly more than its openings
CLUSTERS = {
    "all of it": WHOLE,
    "no coarse levels": replace(WHOLE, opening=((1.0, 26),), coarse=(1.0, 6), fine=((1.0, 12),)),
    "every child to the end": replace(WHOLE, children=8, promising=8),
    "no choice among tries": replace(WHOLE, tries=1),
    "no relocation": replace(WHOLE, moves=("shake", "reflect")),
    "no shaking": replace(WHOLE, moves=("relocate", "reflect")),
    "no mirrors": replace(WHOLE, moves=("shake", "relocate")),
    "no choice among starts": replace(WHOLE, candidates=WHOLE.first),
    "no polish by absolute values": replace(WHOLE, polish=0),
    "many starts, no population": ALONE,
}
CRYSTALS = {
    "all of it": WHOLE,
    "no symmetric starts": replace(WHOLE, symmetric=0.0),
    "no swaps": replace(WHOLE, moves=("shake", "relocate")),
}


def run(
    targets: Sequence[Atoms], population: Population, options: argparse.Namespace, kind: str
) -> list[str]:
    """Search all targets, and return the cells of a row."""
    solved, evaluations, began = 0, 0, time.perf_counter()
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
        result = solve(
            problem, budget_evaluations=options.evaluations, seed=options.seed, population=population
        )
        solved += int((rmsd(result.structures, originals) < RECOVERED).sum())
        assert result.evaluations is not None
        evaluations += int(result.evaluations.sum())
    seconds = time.perf_counter() - began
    return [
        f"{solved} of {len(targets)}",
        f"{evaluations / len(targets):.0f}",
        f"{seconds / len(targets):.2f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inversion.ablation", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="one small target each: does it run?")
    add("--targets", type=int, default=24, help="of each kind")
    add("--evaluations", type=int, default=4000, help="for each target")
    add("--pooling", default="max,min", help="of the clusters")
    add("--seed", type=int, default=0)
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
        "Pt10": ("fung2022", CLUSTERS, lambda: suites.pt10(dataset=options.dataset)),
        "crystals of 8 to 16 atoms": (
            "crystal",
            CRYSTALS,
            lambda: [a for a in suites.crystals(data=options.data) if 8 <= len(a) <= 16],
        ),
    }
    print(
        "| targets | the search | solved | evaluations/target | s/target |\n|---|---|---|---|---|", flush=True
    )
    for name, (kind, variants, build) in kinds.items():
        try:
            targets = spread_over(build(), count)
        except InputError as error:
            print(f"skipped: {error}")
            continue
        for label, population in variants.items():
            print(f"| {name} | {label} | {' | '.join(run(targets, population, options, kind))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
