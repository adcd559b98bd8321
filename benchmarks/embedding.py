"""Perovskites of many elements by an embedding: features, time and memory, against features of each element.

    python benchmarks/embedding.py [--quick]

The baseline are perovskites of five elements, which have features of their own.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from whorl.representations import ACE, ACSF, SOAP, Representation
from whorl.structures import from_ase
from whorl.structures.batch import StructureBatch

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few crystals, to see that it runs")
    count = 20 if parser.parse_args().quick else 1000
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


if __name__ == "__main__":
    main()
