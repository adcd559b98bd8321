"""Farthest point sampling against a plain NumPy loop over the same rows.

Run from the root of the repository: ``python benchmarks/fps.py [--quick] [--threads 1]``. The full size is
the paper's: 300 of 100,000 structures × 380 features. The baselines make the first few choices only, and must
choose the same rows.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from whorl.datasets import farthest_point_sampling


def plain(features: np.ndarray, count: int, start: int) -> list[int]:
    """The textbook: distances to the last one chosen, row by row in NumPy."""
    chosen = [start]
    nearest = np.full(len(features), np.inf)
    while len(chosen) < count:
        distance = np.linalg.norm(features - features[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, distance)
        chosen.append(int(nearest.argmax()))
    return chosen


def loop(features: np.ndarray, count: int, start: int) -> list[int]:
    """The plainest: a Python loop over rows."""
    chosen = [start]
    nearest = [float("inf")] * len(features)
    while len(chosen) < count:
        last = features[chosen[-1]]
        for i, row in enumerate(features):
            difference = row - last
            nearest[i] = min(nearest[i], float(difference @ difference))
        chosen.append(max(range(len(nearest)), key=nearest.__getitem__))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small size, to see that it runs")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, count, compared = (2_000, 20, 5) if arguments.quick else (100_000, 300, 10)
    # Correlated, on different scales: what symmetry functions look like.
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(rows, 40, generator=rng, dtype=torch.float64)
    features = features @ torch.randn(40, 380, generator=rng, dtype=torch.float64)
    features *= torch.logspace(-3, 2, 380, dtype=torch.float64)

    start = time.perf_counter()
    chosen = farthest_point_sampling(features, count, seed=0)
    seconds = time.perf_counter() - start
    print(f"{count} of {rows} × 380, float64, {arguments.threads} threads: {seconds:.2f} s (wanted: < 30 s)")

    for name, baseline in (("NumPy", plain), ("Python loop", loop)):
        start = time.perf_counter()
        theirs = baseline(features.numpy(), compared, int(chosen[0]))
        per_choice = (time.perf_counter() - start) / (compared - 1)
        assert theirs == chosen[:compared].tolist(), f"{name} chooses other rows"
        print(f"whorl / {name}, choices per second: {per_choice * count / seconds:.1f} times")


if __name__ == "__main__":
    main()
