"""Symmetry functions: throughput against DScribe, cost of the Jacobian, memory for 10,000 clusters.

    python benchmarks/acsf.py [--quick]

All times are the best of several runs in this process; every line is a ratio to a baseline of the same run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from whorl.representations import ACSF
from whorl.structures import StructureBatch, from_ase


def random_clusters(count: int, atoms: int = 10, seed: int = 0) -> list[Atoms]:
    """Clusters of Pt with no two atoms nearer than 1.8 Å."""
    rng = np.random.default_rng(seed)
    clusters: list[Atoms] = []
    while len(clusters) < count:
        positions = rng.normal(size=(atoms, 3)) * rng.uniform(2.0, 3.5)
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9.0 * np.eye(atoms)
        if distances.min() > 1.8:
            clusters.append(Atoms(f"Pt{atoms}", positions=positions))
    return clusters


def best(run: Callable[[], object], repeats: int) -> float:
    """Shortest wall time in seconds, after one run to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory(count: int) -> None:
    """Print what 10,000 clusters cost; runs in a process of its own, so that only they are counted."""
    structures: StructureBatch = from_ase(random_clusters(count))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ACSF.fung2022(["Pt"])(structures)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"memory, {count} clusters: {after / 2**20:.2f} GB for the whole process, of which features "
        f"{(after - before) / 2**20:.2f} GB (bound: 2 GB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to see that it runs")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores for both sides")
    arguments = parser.parse_args()
    count, repeats = (20, 1) if arguments.quick else (1000, 7)
    torch.set_num_threads(arguments.threads)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dscribe import descriptors
    atoms = random_clusters(count)
    structures = from_ase(atoms)
    acsf = ACSF.fung2022(["Pt"])
    dscribe = descriptors.ACSF(
        species=["Pt"], r_cut=20.0, g2_params=[list(g) for g in acsf.g2], g5_params=[list(g) for g in acsf.g5]
    )
    ours = best(lambda: acsf(structures), repeats)
    theirs = {1: best(lambda: dscribe.create(atoms), repeats)}
    if arguments.threads > 1 and not arguments.quick:
        theirs[arguments.threads] = best(lambda: dscribe.create(atoms, n_jobs=arguments.threads), repeats)
    for jobs, seconds in theirs.items():
        print(f"DScribe 2.1.2, {jobs} job(s): {1e3 * seconds / count:.3f} ms per cluster")
    print(f"whorl, {arguments.threads} thread(s): {1e3 * ours / count:.3f} ms per cluster")
    print(f"value: {min(theirs.values()) / ours:.1f} times DScribe's throughput (its best; goal 15)")
    for pooling in (("max", "min"), ("mean", "std")):
        pooled = ACSF.from_config({**acsf.config(), "pooling": pooling})
        value = best(lambda pooled=pooled: pooled(structures), max(1, repeats // 2))
        jacobian = best(lambda pooled=pooled: pooled.value_and_jacobian(structures), max(1, repeats // 2))
        print(
            f"value + Jacobian, {' and '.join(pooling)}: {1e6 * jacobian / count:.0f} µs per cluster, "
            f"{jacobian / value:.1f} times the value alone (goal: at most 10)"
        )
    crystals = from_ase([bulk("NaCl", "rocksalt", 5.6, cubic=True)] * (2 if arguments.quick else 20))
    crystals = crystals.replace(positions=crystals.positions + 0.05 * torch.randn_like(crystals.positions))
    of_crystals = ACSF.crystal(["Na", "Cl"])
    value = best(lambda: of_crystals(crystals), max(1, repeats // 2))
    jacobian = best(lambda: of_crystals.value_and_jacobian(crystals, strain=True), max(1, repeats // 2))
    print(
        f"value + Jacobian with strain, 8-atom NaCl: {1e3 * jacobian / len(crystals):.2f} ms per crystal, "
        f"{jacobian / value:.1f} times the value alone"
    )

    if not arguments.quick:
        process = multiprocessing.get_context("spawn").Process(target=peak_memory, args=(10_000,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
