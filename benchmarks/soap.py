"""Power spectra: throughput against DScribe on one core, and the cost of the Jacobian.

    python benchmarks/soap.py [--quick]

All times are the best of several runs in this process; every line is a ratio to a baseline of the same run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms

from whorl.representations.soap import SOAP
from whorl.structures import from_ase


def random_clusters(count: int) -> list[Atoms]:
    """Clusters of ten Pt with no two atoms nearer than 1.8 Å."""
    rng = np.random.default_rng(0)
    clusters: list[Atoms] = []
    while len(clusters) < count:
        cluster = Atoms("Pt10", positions=rng.normal(size=(10, 3)) * rng.uniform(2.0, 3.5))
        if (cluster.get_all_distances() + 9.0 * np.eye(10)).min() > 1.8:
            clusters.append(cluster)
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to see that it runs")
    count, repeats = (20, 1) if parser.parse_args().quick else (500, 7)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dscribe import descriptors
    atoms = random_clusters(count)
    structures = from_ase(atoms)
    for n_max, l_max in ((6, 4), (8, 6)):
        soap = SOAP(species=["Pt"], cutoff=6.0, n_max=n_max, l_max=l_max)
        weighting = {"function": "poly", "r0": 6.0, "c": 1, "m": 1}
        dscribe = descriptors.SOAP(
            species=["Pt"], r_cut=6.0, n_max=n_max, l_max=l_max, sigma=0.5, weighting=weighting
        )
        theirs = best(lambda dscribe=dscribe: dscribe.create(atoms), repeats)
        ours = best(lambda soap=soap: soap(structures), repeats)
        jacobian = best(lambda soap=soap: soap.value_and_jacobian(structures), max(1, repeats // 2))
        print(
            f"n_max {n_max}, l_max {l_max}: {1e6 * ours / count:.0f} µs per cluster, "
            f"{theirs / ours:.2f} times DScribe's throughput; value + Jacobian {jacobian / ours:.1f} times "
            "the value alone"
        )


if __name__ == "__main__":
    main()
