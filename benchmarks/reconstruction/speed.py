"""Structures × steps per second of the batched search, against one-structure-at-a-time loops.

Run from the root of the repository: ``python -m benchmarks.reconstruction.speed [--quick] [--threads 2]``.
All methods follow Adam on the same 380 features of the same Pt10 clusters, in float64, in the same run; the
features are first checked to agree to 1e-10.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

# Before torch is loaded: threads that wait must not spin, or they take the cores from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.baselines.reconstruction_loop import features_loop, features_vectorised, reconstruct
from whorl.reconstruction import Adam, InversionProblem, algorithm1, random_starts
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


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def loop(
    features: Callable[[torch.Tensor], torch.Tensor],
    problem: InversionProblem,
    starts: StructureBatch,
    steps: int,
) -> Callable[[int], float]:
    """Return a function that follows one structure and returns structures × steps per second."""

    def rate(i: int) -> float:
        one = i % len(problem)
        target, start = problem.target[one], starts[one].positions
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # at its fastest: one cluster's arrays are too small to share out
        taken = seconds(lambda: reconstruct(features, target, start, steps=steps, learning_rate=0.1))
        torch.set_num_threads(threads)
        return steps / taken

    return rate


def batched(problem: InversionProblem, batch_size: int, steps: int) -> Callable[[int], float]:
    """Return a function that takes Adam's steps on a batch and returns structures × steps per second."""
    part = problem.select(torch.arange(batch_size) % len(problem))
    solver = Adam(learning_rate=0.1)
    begin = solver.init(part, random_starts(part.template, seeds=range(batch_size)))

    def follow() -> None:
        state = begin
        for _ in range(steps):
            state = solver.step(part, state)

    return lambda _: batch_size * steps / seconds(follow)


def whole(problem: InversionProblem, batch_size: int, *, quick: bool) -> Callable[[int], float]:
    """Return a function that runs Algorithm 1 from start to end."""
    many = problem.select(torch.arange(2 if quick else 2 * batch_size) % len(problem))
    starts, hops, iterations, polish = (2, 2, 5, 5) if quick else (1, 2, 10, 3)
    steps = starts * hops * iterations + polish

    def run() -> None:
        algorithm1(
            many, starts=starts, hops=hops, iterations=iterations, polish=polish, batch_size=batch_size
        )

    return lambda _: len(many) * steps / seconds(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (the loops use one)")
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

    plain, kinder = "loop over functions, one structure", "vectorised functions, one structure"
    methods = {
        plain: loop(features_loop, problem, starts, 3 if quick else 20),
        kinder: loop(features_vectorised, problem, starts, 10 if quick else 100),
    }
    for size in (16, 64) if quick else (1, 16, 64, 256, 1024):
        methods[f"whorl, Adam, batch of {size}"] = batched(
            problem, size, max(2, (64 if quick else 1024) // size)
        )
    size = 64 if quick else 256
    headline = f"whorl, algorithm1, batches of {size}"
    methods[headline] = whole(problem, size, quick=quick)

    # All methods take turns, so that whatever else the machine does falls on all of them.
    rounds = [{name: rate(i) for name, rate in methods.items()} for i in range(1 if quick else 7)]

    def middle(name: str, base: str | None = None) -> float:
        return statistics.median(one[name] / (one[base] if base else 1.0) for one in rounds)

    print("\n  method                                structures x steps / s    x loop   x vectorised loop")
    for name in methods:
        print(f"  {name:38s} {middle(name):20.0f} {middle(name, plain):11.1f} {middle(name, kinder):13.1f}")
    print(f"\n{headline} / {plain}: {middle(headline, plain):.0f} (aim: at least 100)")


if __name__ == "__main__":
    main()
