"""SOAP, MBTR and FCHL19 of Pt10 clusters: throughput against DScribe and qmllib, cost of the Jacobian.

    python benchmarks/representations.py [--quick] [--cores N]

Times are the best of several runs; every line is a ratio to a baseline of the same run, on as many cores.
DScribe and qmllib work in processes, whose start is not counted; whorl in threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers

from whorl.representations import FCHL19, MBTR, SOAP, Representation
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


def dscribe_soap(soap: SOAP) -> Any:
    """DScribe's power spectra with the same numbers."""
    from dscribe import descriptors

    return descriptors.SOAP(
        species=list(soap.species),
        r_cut=soap.radius,
        n_max=soap.n_max,
        l_max=soap.l_max,
        sigma=soap.sigma,
        weighting={"function": "poly", "r0": soap.radius, "c": 1, "m": 1},
        average="outer",
    )


def dscribe_mbtr(mbtr: MBTR, name: str) -> Any:
    """DScribe's values of one term."""
    from dscribe import core, descriptors

    def system(atoms: Atoms) -> Atoms:
        # Its own method passes arguments by place, to which ASE 3.29 gives other meanings.
        system = core.System()
        system.extend(atoms)
        system.cell, system.pbc = atoms.cell, atoms.pbc
        return system

    core.System.from_atoms = staticmethod(system)
    term: Any = mbtr.terms[name]
    weighting = {"function": term.weighting, "r_cut": term.cutoff, "threshold": term.threshold}
    return descriptors.MBTR(
        species=list(mbtr.species),
        geometry={"function": term.function},
        grid=term.model_dump(include={"min", "max", "n", "sigma"}),
        weighting=weighting if term.weighting == "exp" else {"function": "unity"},
        normalization=mbtr.normalization,
    )


def qmllib_fchl19(fchl: FCHL19) -> Callable[[list[Atoms]], object]:
    """The vectors of qmllib, with the published settings."""
    from qmllib.representations import generate_fchl19

    elements = np.array([atomic_numbers[symbol] for symbol in fchl.species], dtype=np.int32)

    def create(atoms: list[Atoms]) -> object:
        return [
            generate_fchl19(item.numbers.astype(np.int32), item.positions, elements=elements)
            for item in atoms
        ]

    return create


OTHERS: list[Callable[[list[Atoms]], object]] = []  # of the case that is measured, for its processes


def compute(atoms: list[Atoms]) -> None:
    """Compute the descriptors in one of the processes."""
    for create in OTHERS:
        create(atoms)


def measure(
    name: str,
    ours: Representation,
    others: Sequence[Callable[[list[Atoms]], object]],
    atoms: list[Atoms],
    cores: int,
    repeats: int,
    library: str = "DScribe",
) -> None:
    """Print the throughput against that of the others, and the cost of the Jacobian."""
    structures = from_ase(atoms)
    OTHERS[:] = others
    parts = [atoms[start :: 4 * cores] for start in range(4 * cores)]
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        theirs = best(lambda: pool.map(compute, parts, chunksize=1), max(1, repeats // 2))
    value = best(lambda: ours(structures), repeats)
    jacobian = best(lambda: ours.value_and_jacobian(structures), max(1, repeats // 2))
    print(
        f"{name}: {1e6 * value / len(atoms):.0f} µs per cluster, {theirs / value:.1f} times {library}'s "
        f"throughput; value + Jacobian {jacobian / value:.1f} times the value alone",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to see that it runs")
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    count, repeats = (20, 1) if options.quick else (1000, 7)
    torch.set_num_threads(options.cores)
    warnings.simplefilter("ignore")
    atoms = random_clusters(count)
    for n_max, l_max in ((6, 4), (8, 6)):
        soap = SOAP(species=["Pt"], cutoff=6.0, n_max=n_max, l_max=l_max, pooling=["mean"])
        name = f"SOAP, n_max {n_max}, l_max {l_max}"
        measure(name, soap, [dscribe_soap(soap).create], atoms, options.cores, repeats)
    for weighting in ("exp", "unity"):
        mbtr = MBTR(
            species=["Pt"],
            k2={"weighting": weighting, "cutoff": 12.0},
            k3={"weighting": weighting, "cutoff": 7.0},
        )
        others = [dscribe_mbtr(mbtr, name).create for name in mbtr.terms]
        measure(f"MBTR k2 and k3, weights {weighting}", mbtr, others, atoms, options.cores, repeats)
    if find_spec("qmllib"):
        fchl = FCHL19(species=["Pt"], pooling=["mean"])
        measure("FCHL19", fchl, [qmllib_fchl19(fchl)], atoms, options.cores, repeats, library="qmllib")


if __name__ == "__main__":
    main()
