"""Structures back from rows in closed form: disordered, ordered and alloyed clusters, and noisy rows.

Ordered ones are relaxed by EMT, closed shells, geometric bodies, and pieces of simple cubic lattices, in
which most distances are equal. Settings of the inverse (tolerances, steps) were chosen on the seeds 0 to 219,
on bodies and on pieces of lattices; what is reported of disordered and of annealed clusters is from the seeds
1000 and up.

    python -m benchmarks.reconstruction.rows [--quick]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.optimize import FIRE
from ase.units import fs

from benchmarks.reconstruction import suites
from whorl.evaluation.matching import rmsd
from whorl.representations import Rows
from whorl.structures import from_ase

SEED = 1000


def disordered(n: int, seed: int, *, alloy: bool = False) -> Atoms:
    """Return atoms at random in a sphere with 0.7 of the density of platinum, none nearer than 2.3 Å."""
    rng = np.random.default_rng(seed)
    radius = (3 * n / (4 * np.pi * 0.7 * 0.066)) ** (1 / 3)
    points: list[np.ndarray] = []
    while len(points) < n:
        point = rng.uniform(-radius, radius, 3)
        if np.linalg.norm(point) < radius and all(np.linalg.norm(point - other) > 2.3 for other in points):
            points.append(point)
    atoms = Atoms(f"Pt{n}", points)
    if alloy:
        atoms.symbols[rng.random(n) < 0.4] = "Ni"
    return atoms


def relaxed(n: int, seed: int) -> Atoms:
    """Return a cluster annealed and relaxed by EMT."""
    atoms = disordered(n, seed)
    atoms.calc = EMT()
    FIRE(atoms, logfile=None).run(fmax=1.0, steps=100)
    dynamics = Langevin(
        atoms, 5 * fs, temperature_K=1500, friction=0.02, fixcm=False, rng=np.random.default_rng(seed)
    )
    for temperature in (1500, 1100, 800, 500, 200):
        dynamics.set_temperature(temperature_K=temperature)
        dynamics.run(300)
    FIRE(atoms, logfile=None).run(fmax=0.005, steps=1000)
    atoms.calc = None
    return atoms


def measure(name: str, clusters: list[Atoms], *, noise: float = 0.0, within: float = 1e-4) -> None:
    """Print how many clusters come back, and how long it takes."""
    recovered, seconds = 0, []
    for number, atoms in enumerate(clusters):
        original = from_ase(atoms)
        rows = Rows.Settings().build(sorted(set(atoms.get_chemical_symbols())), structures=original)
        values = rows(original)
        random = torch.Generator().manual_seed(SEED + number)
        values = values + noise * torch.randn(values.shape, generator=random, dtype=values.dtype)
        began = time.process_time()
        decoded = rows.decode(values)
        seconds.append(time.process_time() - began)
        recovered += bool((rmsd(decoded.structures, original) < within).all()) if len(decoded.index) else 0
    print(
        f"{name:40s} {recovered:3d} of {len(clusters):3d} within {within:g} Å, "
        f"{np.mean(seconds):7.3f} s each, at most {max(seconds):7.3f} s",
        flush=True,
    )


def main() -> None:
    """Measure all kinds of clusters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small clusters")
    parser.add_argument("--count", type=int, default=20, help="clusters of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count = 2 if arguments.quick else arguments.count
    seeds = range(SEED, SEED + count)
    for n in (10, 20) if arguments.quick else (10, 20, 40, 60, 100):
        measure(f"disordered, {n} atoms", [disordered(n, seed) for seed in seeds])
        measure(f"disordered alloy, {n} atoms", [disordered(n, seed, alloy=True) for seed in seeds])
    for noise in (1e-3, 1e-2, 3e-2):
        measure(
            f"disordered, 20 atoms, noise {noise:g}",
            [disordered(20, seed) for seed in seeds],
            noise=noise,
            within=0.05,
        )
    for n in (20,) if arguments.quick else (20, 38, 55):
        measure(f"annealed and relaxed by EMT, {n} atoms", [relaxed(n, seed) for seed in seeds])
    measure("geometric bodies", suites.shapes()[:3] if arguments.quick else suites.shapes())
    counts = (
        [(3, 3, 1)] if arguments.quick else [(3, 3, 1), (4, 4, 1), (5, 5, 1), (2, 5, 1), (3, 3, 3), (4, 4, 4)]
    )
    measure(
        "pieces of cubic lattices",
        [Atoms(positions=2.6 * np.argwhere(np.ones(n)), numbers=[78] * np.prod(n)) for n in counts],
    )
    if not arguments.quick:
        measure("closed shells relaxed by EMT, and C60", suites.ordered())


if __name__ == "__main__":
    main()
