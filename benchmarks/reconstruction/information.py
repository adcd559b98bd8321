"""How much does a fingerprint say about the atoms? ``python -m benchmarks.reconstruction.information``.

At disordered Pt clusters of several sizes: the weakest singular value of the Jacobian over its strongest,
each feature as a part of its spread over random arrangements (at 1e-8 a step of the solver no longer sees
that direction in float64), and how many of eight arrangements, every coordinate off by 0.2 Å, descend to it.
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import SOLVED
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, LevenbergMarquardt, random_starts
from whorl.reconstruction.objective import whitening_weights
from whorl.structures import StructureBatch, from_ase
from whorl.workflow.round_trip import forget
from whorl.workflow.round_trip_settings import fingerprint

POOLINGS = ("max,min", "mean,std", "max,min,mean,std")
OFF, DESCENTS, ARRANGEMENTS = 0.2, 8, 100
LEVELS = ((2.0, 12), (0.0, 20))  # Å below which features count less, steps; as the search has it


def row(original: StructureBatch, pooling: str) -> str:
    """Return a row of the table."""
    n = int(original.n_atoms[0])
    acsf = fingerprint("fung2022", ["Pt"], pooling=pooling.split(","))
    template = forget(original)
    with torch.no_grad():
        target = acsf(original)
        around = acsf(random_starts(template[[0] * ARRANGEMENTS], seeds=range(ARRANGEMENTS)))
    weights = whitening_weights(around)
    # Not "mae": at the solution itself its rows are weighed by rounding errors.
    problem = InversionProblem(
        representation=acsf, target=target, template=template, weights=weights, loss="squared"
    )
    values = torch.linalg.svdvals(problem.value_and_rows(original)[2][0])
    ratio = float(values[3 * n - 7] / values[0]) if len(values) >= 3 * n - 6 else 0.0

    many = problem.select([0] * DESCENTS)
    rng = torch.Generator().manual_seed(1)
    found = original[[0] * DESCENTS]
    shift = OFF * torch.randn(found.positions.shape, generator=rng, dtype=torch.float64)
    found, solver = found.replace(positions=found.positions + shift), LevenbergMarquardt()
    for length, steps in LEVELS:
        level = many.replace(weights=weights * (1.0 + (acsf.sharpness() * length) ** 4).rsqrt())
        state = solver.init(level, found)
        for _ in range(steps):
            state = solver.step(level, state)
        found = state.best
    back = int((rmsd(found, original[[0] * DESCENTS]) < SOLVED).sum())
    return f"| {n} | {pooling} | {len(values)} | {3 * n - 6} | {ratio:.0e} | {back} of {DESCENTS} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reconstruction.information", description=__doc__
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one small cluster: does it run?")
    add("--sizes", default="10,20,40,60,100", help="numbers of atoms")
    add("--threads", type=int, help="torch threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print("| atoms | pooling | singular values | degrees of freedom | weakest/strongest | come back |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in [6] if options.quick else map(int, options.sizes.split(",")):
        original = from_ase(suites.disordered([size], 1))
        for pooling in POOLINGS:
            print(row(original, pooling), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
