"""Matching of crystals against pymatgen's StructureMatcher, in one run: time, and equal answers.

- Groups: crystals of carbon-24, all of one composition, by ``group_structures`` and by ``distinct``.
- Novelty: crystals of Pearson's database, half of them strained and displaced, against all of it
  (``first_known``); and pairs of equal composition, then others, by ``fit``.
- New prototypes: the same crystals against part of the database, elements exchanged.

Without the data, or with ``--quick``, crystals made by ASE stand for them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io.extxyz import read_xyz
from pymatgen.analysis.structure_matcher import StructureMatcher

from whorl.evaluation.crystals import MatcherSettings, new_prototypes
from whorl.evaluation.crystals.comparison import classes
from whorl.evaluation.crystals.matcher import Cells, Matcher
from whorl.evaluation.crystals.reduction import ReducedCrystals, reduce_crystals
from whorl.evaluation.duplicates import distinct, first_known
from whorl.executors import ExecutorSettings, executing
from whorl.structures import StructureBatch, from_ase, from_pymatgen, to_ase, to_pymatgen

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def made(count: int) -> StructureBatch:
    """Return crystals of few compositions, which ASE knows, distorted."""
    rng = np.random.default_rng(0)
    kinds = [("zincblende", 5.4), ("rocksalt", 5.1), ("cesiumchloride", 3.1), ("wurtzite", 3.8)]
    prototypes = [bulk(name, kind, a=a) for name in ("ZnS", "NaCl") for kind, a in kinds]
    return from_ase([distorted(prototypes[k % len(prototypes)], rng) for k in range(count)])


def carbon(count: int) -> StructureBatch:
    import pandas as pd
    from pymatgen.core import Structure

    table = pd.read_csv(DATA / "carbon_24_val.csv.gz")
    return from_pymatgen([Structure.from_str(text, fmt="cif") for text in table["cif"][:count]])


def pearson() -> StructureBatch:
    with gzip.open(DATA / "crystals_pcd20k.extxyz.gz", "rt") as file:
        text = io.StringIO(file.read())  # in which frames are found at once
    return from_ase(list(read_xyz(text, index=slice(None)))).replace(info=())


def distorted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Return a crystal strained by 4 % and displaced by 0.15 (V/N)^⅓ on average, somewhere in its cell."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.04, size=(3, 3))), scale_atoms=True)
    steps = rng.normal(scale=0.15 / np.sqrt(3), size=(len(atoms), 3))
    atoms.positions += steps * (atoms.get_volume() / len(atoms)) ** (1 / 3) + rng.uniform(0, 3, 3)
    return atoms


@dataclass
class Seconds:
    """Wall time, and processor time of this process: the machine may have others to do work for."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.processor:.2f} s of processor)"


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Seconds, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return Seconds(time.perf_counter() - wall, time.process_time() - processor), result


def grouped_by_pymatgen(items: list[Any]) -> list[list[int]]:
    place = {id(item): row for row, item in enumerate(items)}
    groups = StructureMatcher().group_structures(items)
    return sorted(sorted(place[id(item)] for item in group) for group in groups)


def compare_groups(structures: StructureBatch) -> None:
    items = to_pymatgen(structures)
    seconds, ours = timed(distinct, structures)
    theirs_seconds, theirs = timed(grouped_by_pymatgen, items)
    same = "the same groups" if ours == theirs else "OTHER GROUPS"
    print(
        f"groups of {len(structures)} crystals: {len(ours)} groups in {seconds}; group_structures "
        f"{theirs_seconds}, {theirs_seconds.processor / seconds.processor:.1f} ×; {same}",
        flush=True,
    )
    seconds, crystals = timed(reduce_crystals, structures)
    matcher, cells = Matcher(MatcherSettings()), Cells(crystals)
    every = sum(len(rows) * (len(rows) - 1) // 2 for rows in classes(crystals).values())
    for rows in classes(crystals).values():
        firsts: list[int] = []
        for row in rows:
            if matcher.first_match(cells.cells[row], cells, firsts) is None:
                firsts.append(row)
    counts = matcher.counts
    print(
        f"  {len(structures) * (len(structures) - 1) // 2} pairs, {every} with as many atoms in primitive "
        f"cells (reduced in {seconds}); looked at {counts['pairs']}, minima allow {counts['minima']}, "
        f"lattices map {counts['mapping']}, match {counts['match']}",
        flush=True,
    )


def compare_novelty(known: StructureBatch, count: int, pairs: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(known))[:count]
    half = count // 2
    crystals = to_ase(known[torch.tensor(rows)])
    structures = from_ase([distorted(atoms, rng) for atoms in crystals[:half]] + crystals[half:])
    seconds, found = timed(first_known, structures, known)
    share = float((found >= 0).double().mean())
    print(
        f"novelty of {count} against {len(known)}: {seconds}, {share:.1%} known "
        f"({float((found[half:] >= 0).double().mean()):.1%} of those that are in it)",
        flush=True,
    )
    compare_pairs(known, structures, pairs)
    some = known[:: max(1, len(known) // 2000)]
    seconds, new = timed(new_prototypes, structures, some)
    share = float(new.double().mean())
    print(f"new prototypes of {count} against {len(some)}: {seconds}, {share:.1%} new", flush=True)


def compare_pairs(known: StructureBatch, structures: StructureBatch, count: int) -> None:
    """Compare pairs one by one: first those of one composition, then any."""
    names: dict[tuple[Any, ...], list[int]] = {}
    for row, name in enumerate(_compositions(known)):
        names.setdefault(name, []).append(row)
    alike = [
        (row, other) for row, name in enumerate(_compositions(structures)) for other in names.get(name, [])
    ]
    rng = np.random.default_rng(2)
    some = [alike[k] for k in rng.permutation(len(alike))[:count]]
    others = rng.integers(0, [len(structures), len(known)], (count - len(some), 2))
    some += [tuple(pair) for pair in others.tolist()]
    mine, theirs = (sorted(set(column)) for column in zip(*some, strict=True))
    reduced, known_reduced = _reduced(structures, mine), _reduced(known, theirs)
    items = dict(zip(mine, to_pymatgen(structures[mine]), strict=True))
    known_items = dict(zip(theirs, to_pymatgen(known[theirs]), strict=True))
    matcher, ours = StructureMatcher(), Matcher(MatcherSettings())
    matches = differ = failed = 0
    start = time.perf_counter()
    for row, other in some:
        answer = False
        one, two = reduced[row], known_reduced[other]
        if classes(one).keys() & classes(two).keys():
            answer = ours.first_match(Cells(one).cells[0], Cells(two), [0]) is not None
        try:
            expected = matcher.fit(known_items[other], items[row])
        except ValueError:  # a cell that pymatgen cannot reduce
            failed += 1
            continue
        matches += expected
        differ += answer != expected
    print(
        f"  {count} pairs ({min(len(alike), count)} of one composition), one by one by fit: {matches} match, "
        f"{differ} answers differ, {failed} without an answer by fit; {time.perf_counter() - start:.0f} s",
        flush=True,
    )


def _compositions(structures: StructureBatch) -> list[tuple[Any, ...]]:
    answer = []
    for numbers in structures.atomic_numbers.split(structures.n_atoms.tolist()):
        elements, counts = np.unique(numbers.numpy(), return_counts=True)
        answer.append((*elements.tolist(), *(counts // max(1, np.gcd.reduce(counts))).tolist()))
    return answer


def _reduced(structures: StructureBatch, rows: list[int]) -> dict[int, ReducedCrystals]:
    crystals = reduce_crystals(structures[rows])
    return {row: crystals[torch.tensor([k])] for k, row in enumerate(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--crystals", type=int, default=1000, help="whose novelty is evaluated")
    parser.add_argument("--pairs", type=int, default=20_000, help="compared one by one by fit")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of CIFs
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    many = {"kind": "processes", "workers": options.workers}
    alone = {"kind": "serial"}
    with executing(ExecutorSettings.model_validate(many if options.workers > 1 else alone)):
        if options.quick or not DATA.is_dir():
            compare_groups(made(40))
            compare_novelty(made(80), 20, 50)
        else:
            compare_groups(carbon(500))
            compare_novelty(pearson(), options.crystals, options.pairs)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
