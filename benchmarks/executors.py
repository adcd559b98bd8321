"""Encoding and searches for atoms by workers against one process with one thread: speed, and equal bits.

Encoding is light work: 2,000 Pt10 clusters. The population search is heavy: seconds for each of 8 clusters.
Workers have loaded what they need before the time is taken; of encoding the best of five is shown. The load
of the machine is printed, since it decides what a second worker can bring.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from whorl.axes import EXECUTORS
from whorl.chunked import map_chunks
from whorl.datasets.geometries import random_clusters
from whorl.executors import ExecutorSettings, executing
from whorl.reconstruction import InversionProblem, PopulationSettings, solve
from whorl.representations import ACSF
from whorl.structures import StructureBatch
from whorl.workflow.stages.encode import _features

CHUNK = 250
EVALUATIONS = 400
Work = Callable[[], tuple[float, torch.Tensor]]


def clusters(count: int) -> StructureBatch:
    positions, _ = random_clusters([torch.full((10,), 78)] * count, box=17.0, seed=0)
    return StructureBatch(
        positions=torch.cat(positions),
        cells=torch.zeros(count, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(count, 3, dtype=torch.bool),
        atomic_numbers=torch.full((10 * count,), 78),
        structure_index=torch.arange(count).repeat_interleave(10),
    )


def encoded(structures: StructureBatch) -> tuple[float, torch.Tensor]:
    work = partial(_features, ACSF.fung2022(["Pt"]))
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        map_chunks(work, list(structures[:8].chunks(1)), folder=Path(folder, "0"), key=0)
        for repeat in range(1, 6):
            start = time.perf_counter()
            parts = map_chunks(work, list(structures.chunks(CHUNK)), folder=Path(folder, str(repeat)), key=0)
            best = min(best, time.perf_counter() - start)
    return best, torch.cat([part.tensors["features"] for part in parts])


def searched(structures: StructureBatch, evaluations: int) -> tuple[float, torch.Tensor]:
    acsf = ACSF.fung2022(["Pt"])
    template = structures.replace(positions=torch.zeros_like(structures.positions))
    problem = InversionProblem(representation=acsf, target=acsf(structures), template=template)
    loading = PopulationSettings(candidates=2, first=1, opening=(1, 1))
    solve(problem.select([0, 0, 0, 0]), budget_evaluations=1, population=loading)
    start = time.perf_counter()
    result = solve(problem, budget_evaluations=evaluations)
    return time.perf_counter() - start, result.structures.positions


def compare(work: Work, what: str, kinds: list[str]) -> None:
    torch.set_num_threads(1)
    alone, expected = work()
    print(f"{what}, serial with one thread: {alone:.2f} s", flush=True)
    torch.set_num_threads(2)
    for kind in kinds:
        options = {} if kind == "serial" else {"workers": 2}
        with executing(ExecutorSettings.model_validate({"kind": kind, **options})):
            seconds, result = work()
        same = "equal bits" if torch.equal(result, expected) else "OTHER NUMBERS"
        print(f"{what}, {kind} on two cores: {alone / seconds:.2f} × as fast, {same}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=list(EXECUTORS), default=list(EXECUTORS))
    options = parser.parse_args()
    structures = clusters(200 if options.quick else 2000)
    targets, evaluations = (2, 20) if options.quick else (8, EVALUATIONS)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    compare(lambda: encoded(structures), f"encoding {len(structures)} clusters", options.kinds)
    search = partial(searched, structures[:targets], evaluations)
    compare(search, f"searching {targets} clusters", options.kinds)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
