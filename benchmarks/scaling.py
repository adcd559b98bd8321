"""Relaxation and matching by 1 and 2 workers: speed, cost per structure, and equal bits.

Relaxation: AFLOW prototypes by CHGNet with L-BFGS. Matching: representatives (``distinct``) of distorted
crystals of few compositions. Workers have loaded what they need before the time is taken. The load of the
machine is printed, since it decides what a second worker can bring.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.matching import made
from benchmarks.relaxation import prototypes
from whorl.evaluation.duplicates import distinct
from whorl.executors import ExecutorSettings, executing
from whorl.potentials import make_potential, relax_chunks
from whorl.structures import StructureBatch, from_ase

Task = tuple[str, Callable[[StructureBatch], torch.Tensor], StructureBatch]


def relaxation(count: int, *, quick: bool) -> Task:
    potential = make_potential("emt" if quick else "chgnet")
    settings: dict[str, Any] = {"optimizer": "lbfgs", "steps": 3 if quick else 40, "cell": not quick}

    def work(structures: StructureBatch) -> torch.Tensor:
        result = relax_chunks(structures, potential, folder=None, structures_at_once=2, **settings)
        return result.energy.nan_to_num()

    structures = from_ase(prototypes(count, max_atoms=4 if quick else 12))
    return f"relaxation by {potential.name}", work, structures


def matching(count: int) -> Task:
    def work(structures: StructureBatch) -> torch.Tensor:
        return torch.tensor([group[0] for group in distinct(structures)])

    return "matching", work, made(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few crystals, in seconds")
    parser.add_argument("--relaxed", type=int, default=48, help="crystals to relax")
    parser.add_argument("--matched", type=int, default=400, help="crystals to match")
    parser.add_argument("--executor", action="append", help="kind of executor; default: processes, dask")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    quick = options.quick
    kinds = options.executor or (["processes"] if quick else ["processes", "dask"])
    tasks = [
        relaxation(4 if quick else options.relaxed, quick=quick),
        matching(12 if quick else options.matched),
    ]
    for name, work, structures in tasks:
        print(f"{name} of {len(structures)} crystals, {int(structures.n_atoms.sum())} atoms")
        work(structures[:2])
        cpu = time.process_time()
        expected = work(structures)
        cpu = time.process_time() - cpu
        print(f"  in this process: {1000 * cpu / len(structures):.1f} ms of CPU per structure")
        for kind in kinds:
            single = 0.0
            for workers in (1, 2):
                with executing(ExecutorSettings.model_validate({"kind": kind, "workers": workers})):
                    work(structures[: 4 * workers])
                    start = time.perf_counter()
                    result = work(structures)
                    seconds = time.perf_counter() - start
                single = single or seconds
                print(
                    f"  {kind}, {workers} worker{'s' * (workers > 1)}: {seconds:.2f} s, "
                    f"{single / seconds:.2f} x, load {os.getloadavg()[0]:.1f}, "
                    f"the same bits: {torch.equal(result, expected)}"
                )


if __name__ == "__main__":
    main()
