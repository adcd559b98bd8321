"""Structures × steps per second of the batched search, against one-structure-at-a-time loops.

Run from the root of the repository: ``python benchmarks/inversion.py [--quick] [--threads 2]``. All methods
follow Adam on the same 380 features of the same Pt10 clusters, in float64, in the same run; the features are
first checked to agree to 1e-10.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from baselines.reconstruction_loop import features_loop, features_vectorised, reconstruct

from whorl.inversion import Adam, InversionProblem, algorithm1, random_starts
from whorl.representations import ACSF
from whorl.structures import StructureBatch

ATOMS = 10


def clusters(count: int) -> StructureBatch:
    return StructureBatch(
        positions=torch.zeros(count * ATOMS, 3, dtype=torch.float64),
        cells=torch.zeros(count, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(count, 3, dtype=torch.bool),
        atomic_numbers=torch.full((count * ATOMS,), 78),
        structure_index=torch.arange(count).repeat_interleave(ATOMS),
    )


def check_agreement(acsf: ACSF, structures: StructureBatch) -> None:
    with torch.no_grad():
        ours = acsf(structures)
        for features in (features_loop, features_vectorised):
            theirs = torch.stack([features(one.positions) for one in structures])
            worst = float((ours - theirs).abs().max())
            print(f"  {features.__name__:22s} largest difference from ACSF.fung2022 {worst:.1e}")
            assert worst < 1e-10, f"{features.__name__} gives other features"


def rate_of_loop(
    features: Callable[[torch.Tensor], torch.Tensor],
    problem: InversionProblem,
    starts: StructureBatch,
    steps: int,
) -> float:
    reconstruct(features, problem.target[0], starts[0].positions, steps=2, learning_rate=0.1)  # warm up
    rates = []
    for i in range(len(problem)):
        began = time.perf_counter()
        reconstruct(features, problem.target[i], starts[i].positions, steps=steps, learning_rate=0.1)
        rates.append(steps / (time.perf_counter() - began))
    return statistics.median(rates)


def rate_of_solver(problem: InversionProblem, batch_size: int, repeats: int, steps: int) -> float:
    part = problem.select(torch.arange(batch_size) % len(problem))
    solver = Adam(learning_rate=0.1)
    state = solver.init(part, random_starts(part.template, seeds=range(batch_size)))
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(steps):
            state = solver.step(part, state)
        rates.append(batch_size * steps / (time.perf_counter() - began))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds")
    parser.add_argument("--threads", type=int, default=None, help="torch threads for all methods")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    quick = options.quick
    acsf = ACSF.fung2022(["Pt"])
    hidden = random_starts(clusters(4 if quick else 16), seeds=range(4 if quick else 16))
    with torch.no_grad():
        target = acsf(hidden)
    problem = InversionProblem(representation=acsf, target=target, template=hidden)
    starts = random_starts(hidden, seeds=range(100, 100 + len(hidden)))

    print(f"Pt10, 380 features, float64, {torch.get_num_threads()} threads")
    check_agreement(acsf, hidden[:4])

    few = problem.select(slice(0, 2 if quick else 5))
    loop = rate_of_loop(features_loop, few, starts, 3 if quick else 15)
    vectorised = rate_of_loop(features_vectorised, few, starts, 10 if quick else 60)
    sizes = (16, 64) if quick else (1, 16, 64, 128, 256, 512, 1024)
    rates = {}
    for size in sizes:
        rates[size] = rate_of_solver(
            problem, size, 1 if quick else 5, max(2, (128 if quick else 1024) // size)
        )
    best = max(rates, key=lambda size: rates[size])

    settings = {"starts": 2, "hops": 2, "iterations": 10 if quick else 40, "polish": 0 if quick else 40}
    seconds, done = [], 0
    whole = problem.select(torch.arange(2 if quick else 256) % len(problem))
    for _ in range(1 if quick else 3):
        began = time.perf_counter()
        algorithm1(whole, batch_size=best, **settings)
        seconds.append(time.perf_counter() - began)
    done = len(whole) * (settings["starts"] * settings["hops"] * settings["iterations"] + settings["polish"])
    whole_rate = done / statistics.median(seconds)

    print("\n  method                                structures x steps / s    x loop   x vectorised loop")

    def row(name: str, rate: float) -> None:
        print(f"  {name:38s} {rate:20.0f} {rate / loop:11.1f} {rate / vectorised:13.1f}")

    row("loop over functions, one structure", loop)
    row("vectorised functions, one structure", vectorised)
    for size, rate in rates.items():
        row(f"whorl, batch of {size}", rate)
    row(f"whorl, algorithm1 whole (batch {best})", whole_rate)
    print(f"\nRatio algorithm1 / loop over functions: {whole_rate / loop:.0f} (aim: at least 100)")


if __name__ == "__main__":
    main()
