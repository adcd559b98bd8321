"""How much does a fingerprint say about the atoms? ``python -m benchmarks.reconstruction.information``.

At disordered Pt clusters of several sizes: the weakest singular value of the Jacobian over its strongest,
each feature as a part of its spread over random arrangements (at 1e-8 a step of the solver no longer sees
that direction in float64), and how many of eight arrangements, every coordinate off by 0.2 Å, descend to it.

    python -m benchmarks.reconstruction.information --sizes 8 --clusters 4 --off 0.35
        --representation '{kind: mbtr, k3: {cutoff: 8}, broadening: [5, 20]}'
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.reconstruction import suites
from benchmarks.reconstruction.runner import SOLVED, round_trip_settings
from whorl.evaluation.matching import rmsd
from whorl.reconstruction import InversionProblem, LevenbergMarquardt, random_starts
from whorl.reconstruction.objective import whitening_weights
from whorl.representations import Representation
from whorl.structures import StructureBatch, from_ase
from whorl.workflow.round_trip import forget

POOLINGS = ("max,min", "mean,std", "max,min,mean,std")
DESCENTS, ARRANGEMENTS = 8, 100
LEVELS = ((2.0, 12), (0.0, 20))  # Å below which features count less, steps; as the search has it


def row(clusters: StructureBatch, name: str, representation: Representation, off: float) -> str:
    """Return a row of the table."""
    n = int(clusters.n_atoms[0])
    measured = [of_cluster(cluster, representation, off) for cluster in clusters]
    ratios = sorted(ratio for ratio, _ in measured)
    span = f"{ratios[0]:.0e}" + f" – {ratios[-1]:.0e}" * (len(ratios) > 1)
    back = f"{sum(back for _, back in measured)} of {DESCENTS * len(measured)}"
    return f"| {n} | {name} | {len(representation.layout)} | {3 * n - 6} | {span} | {back} |"


def of_cluster(original: StructureBatch, representation: Representation, off: float) -> tuple[float, int]:
    """Return the weakest singular value over the strongest, and how many descents come back."""
    n = int(original.n_atoms[0])
    template = forget(original)
    with torch.no_grad():
        target = representation(original)
        around = representation(random_starts(template[[0] * ARRANGEMENTS], seeds=range(ARRANGEMENTS)))
    weights = whitening_weights(around)
    # Not "mae": at the solution itself its rows are weighed by rounding errors.
    problem = InversionProblem(
        representation=representation, target=target, template=template, weights=weights, loss="squared"
    )
    values = torch.linalg.svdvals(problem.value_and_rows(original)[2][0])
    ratio = float(values[3 * n - 7] / values[0]) if len(values) >= 3 * n - 6 else 0.0

    many = problem.select([0] * DESCENTS)
    rng = torch.Generator().manual_seed(1)
    found = original[[0] * DESCENTS]
    shift = off * torch.randn(found.positions.shape, generator=rng, dtype=torch.float64)
    found, solver = found.replace(positions=found.positions + shift), LevenbergMarquardt()
    for length, steps in LEVELS:
        level = many.replace(weights=weights * (1.0 + (representation.sharpness() * length) ** 4).rsqrt())
        state = solver.init(level, found)
        for _ in range(steps):
            state = solver.step(level, state)
        found = state.best
    return ratio, int((rmsd(found, original[[0] * DESCENTS]) < SOLVED).sum())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reconstruction.information", description=__doc__
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one small cluster: does it run?")
    add("--sizes", default="10,20,40,60,100", help="numbers of atoms")
    add("--clusters", type=int, default=1, help="of each size")
    add("--seed", type=int, default=0, help="of the clusters")
    add("--off", type=float, default=0.2, help="Å by which coordinates are off")
    add("--representation", action="append", help="in the place of fung2022 with three poolings")
    add("--threads", type=int, help="torch threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print("| atoms | functions | features | degrees of freedom | weakest/strongest | come back |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in [6] if options.quick else map(int, options.sizes.split(",")):
        clusters = from_ase(suites.disordered([size], options.clusters, seed=options.seed))
        for name in options.representation or POOLINGS:
            settings = (
                round_trip_settings(name, None)
                if options.representation
                else round_trip_settings("fung2022", name)
            )
            representation = settings.build(settings.kind(periodic=False), clusters, ["Pt"])
            print(row(clusters, name, representation, options.off), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
