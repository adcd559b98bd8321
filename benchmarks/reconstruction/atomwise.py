"""A fingerprint for each atom or a pooled one: ``python -m benchmarks.reconstruction.atomwise [--quick]``.

The same structures are sought twice with the same search: once from the fingerprints of their atoms, in
random order within each element, once from their extremes over all atoms of an element.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Before torch is loaded: threads that wait must not spin, or they take the cores from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ase
import numpy as np
import torch

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import SOLVED
from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import AtomwiseProblem, InversionProblem, solve
from whorl.structures import StructureBatch, from_ase
from whorl.workflow.round_trip import forget
from whorl.workflow.round_trip_settings import fingerprint

MOLECULES = ("CH4", "C2H4", "CH3OH", "N2H4", "CF4")
POOLING = ("max", "min")
HEAD = [
    "| suite | target | targets | solved | share | evaluations/target, median | mean | s/target |",
    "|---|---|---|---|---|---|---|---|",
]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of some targets."""

    solved: list[bool]
    evaluations: list[int]
    seconds: float


def problem_of(originals: StructureBatch, species: Sequence[str], kind: str, seed: int) -> InversionProblem:
    """Return the problem of finding the structures again, from ``"atoms"`` or ``"pooled"`` fingerprints."""
    acsf = fingerprint("fung2022", species, pooling=POOLING)
    with torch.no_grad():
        if kind == "pooled":
            return InversionProblem(
                representation=acsf, target=acsf(originals), template=forget(originals), loss="squared"
            )
        rows = acsf.atomic_features(originals)
    chance = np.random.default_rng(seed).random(len(rows))
    order = np.lexsort((chance, originals.atomic_numbers.numpy(), originals.structure_index.numpy()))
    return AtomwiseProblem.of(acsf, rows[torch.as_tensor(order)], forget(originals), loss="squared")


def run(targets: Sequence[ase.Atoms], kind: str, *, budget: int, seed: int) -> Outcome:
    """Seek all targets; those of the same elements are one batch."""
    systems: dict[tuple[str, ...], list[ase.Atoms]] = {}
    for atoms in targets:
        systems.setdefault(tuple(sorted(set(atoms.get_chemical_symbols()))), []).append(atoms)
    solved, evaluations, seconds = [], [], 0.0
    for species, members in systems.items():
        originals = from_ase(members)
        problem = problem_of(originals, species, kind, seed)
        began = time.perf_counter()
        result = solve(problem, budget_evaluations=budget, seed=seed)
        seconds += time.perf_counter() - began
        assert result.evaluations is not None
        solved += (rmsd(result.structures, originals) < SOLVED).tolist()
        evaluations += result.evaluations.tolist()
    return Outcome(solved=solved, evaluations=evaluations, seconds=seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconstruction.atomwise", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="two small molecules, hardly any search: does it run?")
    add("--clusters", type=int, default=10, help="Pt10 clusters of four kinds")
    add("--dataset", type=Path, default=suites.PT10, help="Pt10 clusters (safetensors)")
    add("--budget-evaluations", type=int, default=10_000, help="for each target")
    add("--seed", type=int, default=0, help="of the search (the targets stay the same)")
    options = parser.parse_args()
    budget = 100 if options.quick else options.budget_evaluations
    sought = {"molecules": suites.molecules(MOLECULES[:2] if options.quick else MOLECULES)}
    if not options.quick:
        try:
            sought["Pt10"] = suites.pt10(options.clusters, dataset=options.dataset)
        except InputError as error:
            print(f"Pt10 skipped: {error}")
    print(
        f"fung2022, pooled: {','.join(POOLING)}; at most {budget} evaluations a target, seed {options.seed}; "
        f"solved: RMSD < {SOLVED} Å\n"
    )
    print("\n".join(HEAD), flush=True)
    ratios = []
    for suite, targets in sought.items():
        of_kind = {}
        for kind in ("atoms", "pooled"):
            outcome = of_kind[kind] = run(targets, kind, budget=budget, seed=options.seed)
            cells = [
                suite,
                kind,
                len(targets),
                sum(outcome.solved),
                f"{np.mean(outcome.solved):.0%}",
                f"{np.median(outcome.evaluations):.0f}",
                f"{np.mean(outcome.evaluations):.0f}",
                f"{outcome.seconds / len(targets):.2f}",
            ]
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
        ratio = np.mean(of_kind["pooled"].evaluations) / np.mean(of_kind["atoms"].evaluations)
        ratios.append(f"{suite}: pooled targets take {ratio:.2g} times the evaluations of lists of atoms")
    print("\n" + "\n".join(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
