"""Perovskites of many elements by an embedding: features, time and memory, against features of each element.

    python benchmarks/embedding.py [--quick] [--data ../shared/data/perov_5_val.csv.gz]

The baseline are perovskites of five elements, which have features of their own. With labelled crystals,
channels are also learned from 1,000 and 300 of them. This gives the mean absolute error of ridge regression
on SOAP features for 1,200 others, its penalty chosen on 400 more, with the fixed channels (the baseline) and
with the learned ones.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from whorl.datasets import read_dataset
from whorl.representations import ACE, ACSF, SOAP, Representation
from whorl.structures import from_ase
from whorl.structures.batch import StructureBatch
from whorl.structures.composition import species_of
from whorl.surrogates import learned_embedding

MANY = [symbol for symbol in chemical_symbols[1:60] if symbol not in ("He", "Ne", "Ar")]
FEW = ["O", "F", "Ti", "Sr", "Ba"]
PLACES = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]


def perovskites(count: int, symbols: list[str]) -> StructureBatch:
    """Cubic ABX3 of random elements, as large as their radii ask for, all slightly displaced."""
    rng = np.random.default_rng(0)
    crystals = []
    for _ in range(count):
        a, b, x = rng.choice(symbols, 3, replace=False)
        radii = [covalent_radii[chemical_symbols.index(symbol)] for symbol in (a, b, x)]
        length = max(2.0 * (radii[1] + radii[2]), 2**0.5 * (radii[0] + radii[2]))
        atoms = Atoms([a, b, x, x, x], scaled_positions=PLACES, cell=[length] * 3, pbc=True)
        atoms.positions += rng.normal(0.0, 0.05, (5, 3))
        crystals.append(atoms)
    return from_ase(crystals)


def seconds(representation: Representation, structures: StructureBatch) -> float:
    """Time of encoding the structures once."""
    representation(structures[:2])
    start = time.perf_counter()
    representation(structures)
    return time.perf_counter() - start


def ridge_error(features: torch.Tensor, values: torch.Tensor, rows: list[torch.Tensor]) -> float:
    """Mean absolute error for the last of three sets of rows, fitted to the first, chosen by the second."""
    train, choice, test = rows
    mean, spread = features[train].mean(0), features[train].std(0)
    scaled = (features - mean) / torch.where(spread > 1e-9 * spread.max(), spread, torch.inf)
    middle = values[train].mean()
    kernel = scaled @ scaled[train].T / scaled.shape[1]
    errors = []
    for penalty in 10.0 ** torch.arange(-6, 1):
        weights = torch.linalg.solve(kernel[train] + penalty * torch.eye(len(train)), values[train] - middle)
        off = (kernel @ weights + middle - values).abs()
        errors.append((float(off[choice].mean()), float(off[test].mean())))
    return min(errors)[1]


def learned(data: Path, seeds: range) -> None:
    """Print the errors with fixed and with learned channels."""
    labelled = read_dataset(data, property="heat_all")
    structures, values = labelled.structures, labelled.properties["heat_all"].double()
    symbols = species_of(structures)
    for count, seed in itertools.product((1000, 300), seeds):
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        rows = [order[:count], order[count : count + 400], order[-1200:]]
        start = time.process_time()
        table = learned_embedding(structures[rows[0].tolist()], values[rows[0]], seed=seed)
        cost = time.process_time() - start
        fixed, new = (
            ridge_error(
                SOAP(species=symbols, embedding=embedding, cutoff=5.0, n_max=4, l_max=3)(structures),
                values,
                rows,
            )
            for embedding in (4, table)
        )
        print(
            f"{count} crystals, seed {seed}: {fixed:.3f} eV with fixed channels, {new:.3f} with learned ones "
            f"({new / fixed:.2f} times), learned in {cost:.0f} CPU s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few crystals, to see that it runs")
    parser.add_argument("--data", type=Path, help="labelled crystals, to learn channels from")
    options = parser.parse_args()
    count = 20 if options.quick else 1000
    torch.set_num_threads(1)
    few, many = perovskites(count, FEW), perovskites(count, MANY)
    for name, kind in {"ACSF, preset crystal": ACSF.crystal, "SOAP": SOAP, "ACE": ACE}.items():
        plain, embedded = kind(species=FEW), kind(species=MANY, embedding=4)
        baseline, ours = seconds(plain, few), seconds(embedded, many)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(
            f"{name}: {len(embedded.layout):,} features for 56 elements in {ours:.1f} s, "
            f"{ours / baseline:.2f} times those of 5 elements apart ({len(plain.layout):,} features); "
            f"process at most {peak / 1e9:.2f} GB",
            flush=True,
        )
    if options.data is not None:
        learned(options.data, seeds=range(1, 3))


if __name__ == "__main__":
    main()
