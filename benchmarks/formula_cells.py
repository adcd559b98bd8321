"""Space groups and cells predicted for formulas, and searches of crystals in predicted cells.

    python -m benchmarks.formula_cells crystals.extxyz.gz --searches 40
    python -m benchmarks.formula_cells --quick

Crystals of the file are divided in halves at random, by reduced formula: no formula is in both. A
:class:`CellModel` of the first half predicts space group and volume of crystals of the other half. Compared
are the commonest groups of crystals with as many atoms, and volumes as sums of those of atoms. Then they are
divided by the ratio of the numbers of atoms, so that no crystal of the other half has a parent in the first.

With ``--searches``, crystals of 2–8 atoms and two or three elements of the other half are then searched for
by their fingerprints, formula known and cell not: from random cells, from predicted cells too, and from these
with their space groups. A crystal is solved where the primitive cells agree within an RMSD of 0.05 Å.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

from benchmarks.reconstruction.species import is_right
from whorl.datasets import read_dataset
from whorl.proposals.cells import CellModel
from whorl.proposals.volumes import atomic_volumes
from whorl.reconstruction import InversionProblem, solve
from whorl.representations import ACSF
from whorl.structures import StructureBatch, from_ase, to_ase
from whorl.structures.cells import volumes
from whorl.structures.composition import composition, element_counts, formula_of_all
from whorl.structures.composition import formula as formula_of
from whorl.symmetry.detection import known_space_groups
from whorl.symmetry.space_groups import Lattices
from whorl.workflow.round_trip import forget


def read(path: Path | None) -> StructureBatch:
    """Return crystals; without a file a few salts."""
    if path is None:
        pairs = list(product(("Li", "Na", "K", "Rb"), ("F", "Cl", "Br", "I")))
        return from_ase(
            [bulk(a + x, "rocksalt", 4.5 + 0.1 * k) for k, (a, x) in enumerate(pairs)]
            + [bulk(a + x, "cesiumchloride", 3.0 + 0.1 * k) for k, (a, x) in enumerate(pairs)]
            + [bulk(a + x + x, "fluorite", 5.0 + 0.1 * k) for k, (a, x) in enumerate(pairs)]
        )
    structures = read_dataset(path, property=None).structures
    assert structures is not None
    return structures


def halves(structures: StructureBatch, keys: list[object], seed: int) -> tuple[list[int], list[int]]:
    """Return rows of two halves of the keys; of the second one row of each formula."""
    formulas = [formula_of(one) for one in structures]
    rows: defaultdict[object, list[int]] = defaultdict(list)
    for k, key in enumerate(keys):
        rows[key].append(k)
    names = sorted(rows, key=repr)
    rng = random.Random(seed)
    rng.shuffle(names)
    half = len(names) // 2
    others = [k for name in names[half:] for k in rows[name]]
    rng.shuffle(others)
    first = {formulas[k]: k for k in others}
    return [k for name in names[:half] for k in rows[name]], list(first.values())


def ratios(structures: StructureBatch) -> list[object]:
    """Return the ratio of the numbers of atoms of each, such as (1, 1, 3)."""
    counts = element_counts(structures).long()
    some = [sorted(row[row > 0].tolist()) for row in counts]
    return [tuple(n // math.gcd(*one) for n in one) for one in some]


def predicted(model: CellModel, known: StructureBatch, others: StructureBatch) -> None:
    """Print how good space groups and volumes are."""
    groups = known_space_groups(known)
    common: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for n, group in zip(known.n_atoms.tolist(), groups.tolist(), strict=True):
        common[n][group] += 1
    rows = []
    sums = element_counts(others) @ atomic_volumes(known)
    for one, group, simple in zip(others, known_space_groups(others).tolist(), sums.tolist(), strict=True):
        formula = composition(formula_of_all(one))
        guesses = [g for g, _ in model.likely(formula)]
        frequent = [g for g, _ in common[len(one.atomic_numbers)].most_common(5)]
        volume = float(volumes(one.cells))
        rows.append(
            (
                *(group in guesses[:k] for k in (1, 5)),
                *(group in frequent[:k] for k in (1, 5)),
                abs(model.volume(formula) / volume - 1),
                abs(simple / volume - 1),
            )
        )
    mean, volume = np.mean(rows, 0), np.median(rows, 0)
    print(
        f"  group the first {mean[0]:.0%}, in five {mean[1]:.0%} (commonest {mean[2]:.0%}, {mean[3]:.0%}); "
        f"median error of the volume {volume[4]:.1%} (sum of atoms {volume[5]:.1%})",
        flush=True,
    )


def searched(
    model: CellModel, others: StructureBatch, count: int, evaluations: int, seed: int, draws: int
) -> None:
    """Print how many crystals are found again."""
    small = [
        k
        for k, one in enumerate(others)
        if 2 <= len(one.atomic_numbers) <= 8 and len(one.atomic_numbers.unique()) in (2, 3)
    ]
    small = sorted(random.Random(seed).sample(small, min(count, len(small))))
    arms = ("random cells", "predicted cells", "… with their space groups")
    results: dict[str, list[tuple[bool, int, float]]] = {name: [] for name in arms}
    for number, k in enumerate(small):
        one = others[[k]].replace(info=())
        formula = composition(formula_of_all(one))
        representation = ACSF.crystal(sorted(formula))
        with torch.no_grad():
            target = representation(one).flatten(1)
        problem = InversionProblem(
            representation=representation,
            target=target,
            template=forget(one, cell=True),
            free_cell=True,
            names=(str(k),),
        )
        drawn = model.sample(formula, count=draws, rng=np.random.default_rng([seed, k]))
        cells = Lattices(cells=drawn.cells, space_groups=torch.zeros_like(drawn.space_groups))
        for name, lattices in zip(arms, (None, [cells], [drawn]), strict=True):
            start = time.process_time()
            result = solve(problem, budget_evaluations=evaluations, seed=seed, lattices=lattices)
            right = is_right(result.structures, to_ase(one)[0])
            results[name].append((right, int(result.evaluations[0]), time.process_time() - start))
        if (number + 1) % 20 == 0 or number + 1 == len(small):
            for name, rows in results.items():
                right, spent, seconds = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
                print(
                    f"  {name:25}: {right.sum():.0f} of {len(rows)} found, evaluations median "
                    f"{np.median(spent):.0f}, mean {spent.mean():.0f}, {seconds.sum():.0f} s CPU",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("structures", type=Path, nargs="?")
    parser.add_argument("--most-atoms", type=int, default=20)
    parser.add_argument("--formulas", type=int, default=1000, help="held out")
    parser.add_argument("--searches", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--lattices", type=int, default=64, help="drawn for each search")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.structures, args.searches, args.evaluations = None, 1, 300
    structures = read(args.structures)
    structures = structures[torch.nonzero(structures.n_atoms <= args.most_atoms).flatten()]
    divisions = {
        "ratios of numbers of atoms": ratios(structures),
        "formulas": [formula_of(one) for one in structures],
    }
    for name, keys in divisions.items():
        first, other = halves(structures, keys, args.seed)
        known, others = structures[first], structures[other[: args.formulas]]
        start = time.process_time()
        model = CellModel(known)
        seconds = time.process_time() - start
        print(f"new {name}: {len(known):,} crystals known ({seconds:.0f} s CPU), {len(others):,} others")
        predicted(model, known, others)
    if args.searches:
        searched(model, others, args.searches, args.evaluations, args.seed, args.lattices)


if __name__ == "__main__":
    main()
