"""Encoding by processes and by Dask against one process: time of 2,000 Pt10 clusters, and equal bits.

Workers are started, and have loaded what they need, before the time is taken; the best of five is shown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from whorl.axes import EXECUTORS
from whorl.chunked import map_chunks
from whorl.datasets.geometries import random_clusters
from whorl.executors import Executor
from whorl.representations import ACSF
from whorl.structures import StructureBatch
from whorl.workflow.stages.encode import _features

CHUNK = 250


def clusters(count: int) -> StructureBatch:
    positions, _ = random_clusters(count, atoms=10, bond=2.72, box=17.0, seed=0)
    return StructureBatch(
        positions=positions.reshape(-1, 3),
        cells=torch.zeros(count, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(count, 3, dtype=torch.bool),
        atomic_numbers=torch.full((10 * count,), 78),
        structure_index=torch.arange(count).repeat_interleave(10),
    )


def encoded(executor: Executor, structures: StructureBatch) -> tuple[float, torch.Tensor]:
    work = partial(_features, ACSF.fung2022(["Pt"]))
    with tempfile.TemporaryDirectory() as folder, executor:
        map_chunks(work, list(structures[:8].chunks(1)), folder=Path(folder, "0"), key=0, executor=executor)
        chunks = list(structures.chunks(CHUNK))
        best = float("inf")
        for repeat in range(1, 6):
            start = time.perf_counter()
            parts = map_chunks(work, chunks, folder=Path(folder, str(repeat)), key=0, executor=executor)
            best = min(best, time.perf_counter() - start)
        return best, torch.cat([part.tensors["features"] for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    structures = clusters(200 if parser.parse_args().quick else 2000)
    torch.set_num_threads(1)
    alone, expected = encoded(EXECUTORS.get("serial")(), structures)
    print(f"serial, one thread: {alone:.2f} s for {len(structures)} clusters")
    torch.set_num_threads(2)
    for kind, options in (
        ("serial", {}),
        *((kind, {"workers": 2}) for kind in ("threads", "processes", "dask")),
    ):
        seconds, features = encoded(EXECUTORS.get(kind)(**options), structures)
        same = "equal bits" if torch.equal(features, expected) else "OTHER NUMBERS"
        print(f"{kind}, two cores: {alone / seconds:.2f} × as fast, {same}")


if __name__ == "__main__":
    main()
