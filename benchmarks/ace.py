"""Cluster expansions: the cost of the Jacobian, and of each body order against power spectra.

    python benchmarks/ace.py [--quick]

All times are the best of several runs in this process; every line is a ratio to a baseline of the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms

from whorl.representations import ACE, SOAP
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
    count, repeats = (20, 1) if parser.parse_args().quick else (500, 5)
    torch.set_num_threads(1)
    structures = from_ase(random_clusters(count))
    soap = SOAP(species=["Pt"], cutoff=6.0)
    baseline = best(lambda: soap(structures), repeats)
    for order, degree in ((1, 9), (2, 9), (3, 9), (3, 12)):
        ace = ACE(species=["Pt"], cutoff=6.0, order=order, degree=degree)
        value = best(lambda ace=ace: ace(structures), repeats)
        jacobian = best(lambda ace=ace: ace.value_and_jacobian(structures), max(1, repeats // 2))
        print(
            f"ν ≤ {order}, degree {degree}, {len(ace.atomic_names)} features of an atom: "
            f"{1e6 * value / count:.0f} µs per cluster, {value / baseline:.2f} times SOAP "
            f"({len(soap.atomic_names)} features); value + Jacobian {jacobian / value:.1f} times the value"
        )


if __name__ == "__main__":
    main()
