"""Formulas by substitution and by a network, found again among formulas that neither was shown.

    python -m benchmarks.formula_network mp2019_formation_energies.csv.xz --rows 1000 5000 40000
    python -m benchmarks.formula_network --quick

The table has the columns `formula` and `target`, a property (the least of those of a formula).
Its reduced formulas are divided in halves at random. From rows of the first half each method proposes 1,000
formulas that these rows do not have. Counted are those that the other half has, so that somebody made or
computed them, and those with charge balance; without a target and with one at the tenth percentile, which is
compared with the property of those found in the other half.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from whorl.proposals import FormulaModel, FormulaNetwork, FormulaRequest
from whorl.structures.composition import is_charge_neutral

Pairs = frozenset[tuple[str, int]]


def read(path: Path | None) -> dict[Pairs, float]:
    """Return the property of reduced formulas; without a file of salts, the number of their elements."""
    if path is None:
        return {
            frozenset({(a, 1), (b, n), (x, 1 + 2 * n)}): 1.0 + n
            for a, b, x, n in product(
                ("Li", "Na", "K", "Rb"), ("Mg", "Ca", "Sr", "Ba"), ("F", "Cl", "Br", "I"), (1, 2)
            )
        }
    best: dict[Pairs, float] = {}
    for formula, value in pd.read_csv(path)[["formula", "target"]].itertuples(index=False):
        numbers = {e: int(n or 1) for e, n in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}
        if 2 <= len(numbers) <= 6 and max(reduced := _reduced(numbers), key=lambda pair: pair[1])[1] <= 20:
            best[reduced] = min(value, best.get(reduced, value))
    return best


def _reduced(numbers: dict[str, int]) -> Pairs:
    common = int(np.gcd.reduce(list(numbers.values())))
    return frozenset((e, n // common) for e, n in numbers.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 5000, 40000])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    table = read(None if args.quick else args.table)
    count, steps, sizes = (20, 30, [60]) if args.quick else (1000, args.steps, args.rows)

    names = sorted(table, key=sorted)
    random.Random(args.seed).shuffle(names)
    first, other = names[: len(names) // 2], set(names[len(names) // 2 :])
    target = float(np.quantile([table[one] for one in first], 0.1))
    new = FormulaRequest(new=True)

    def show(method: str, found: list[Pairs], seconds: float) -> None:
        values = np.array([table[one] for one in found if one in other])
        sample = ["".join(f"{e}{n}" for e, n in sorted(one)) for one in found[:300]]
        far = f"{np.abs(values - target).mean():.2f}" if len(values) else "-"
        print(
            f"  {method:26} {len(found):5} formulas, {len(values) / len(found):6.1%} in the other half, "
            f"balanced {np.mean([is_charge_neutral(one) for one in sample]):4.0%}, from the target {far}, "
            f"{seconds:.0f} s",
            flush=True,
        )

    print(f"{len(table):,} formulas, target {target:.2f}")
    for size in sizes:
        rows = [dict(one) for one in first[:size]]
        values = torch.tensor([table[one] for one in first[:size]])
        print(f"{len(rows):,} rows", flush=True)
        start = time.process_time()
        proposed = FormulaModel(rows).propose(2 * count, request=new, rng=np.random.default_rng(args.seed))
        distinct = list(dict.fromkeys(_reduced(dict(one.counts)) for one in proposed))[:count]
        show("substitution", distinct, time.process_time() - start)
        start = time.process_time()
        network = FormulaNetwork(rows, values, steps=steps, seed=args.seed)
        for method, wanted in (("network", None), ("network, with the target", target)):
            drawn = network.sample(count, target=wanted, request=new, seed=args.seed)
            show(method, list(dict.fromkeys(map(_reduced, drawn))), time.process_time() - start)


if __name__ == "__main__":
    main()
