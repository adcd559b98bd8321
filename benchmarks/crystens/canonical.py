"""Do canonical choices make the tensor less arbitrary? ``python -m benchmarks.crystens.canonical [--quick]``.

Each crystal is written down again in three ways that are the same crystal: with another origin; with atoms
shuffled and moved by lattice vectors, lattice vectors added to one another, and the whole turned; and with
both. Without canonical choices the tensor is another one; the table says how often it is the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.crystens.codec import DATA
from whorl.datasets import read_dataset
from whorl.representations import CrysTens
from whorl.structures import StructureBatch, from_ase, to_ase

CHOICES = (  # cell, order, origin
    ("as_is", "as_is", "as_is"),
    ("as_is", "canonical", "as_is"),
    ("as_is", "canonical", "canonical"),
    ("primitive", "canonical", "as_is"),
    ("conventional", "canonical", "as_is"),
    ("conventional", "canonical", "canonical"),
    ("niggli", "canonical", "as_is"),
    ("niggli", "canonical", "canonical"),
)


def rewritten(structures: StructureBatch, seed: int = 0) -> StructureBatch:
    """The same crystals, written down differently."""
    rng = np.random.default_rng(seed)
    frames = []
    for atoms in to_ase(structures):
        other = atoms[rng.permutation(len(atoms))]
        first, second = rng.permutation(3)[:2]
        step = np.eye(3)
        step[first, second] = rng.choice([-1, 1])
        other.set_cell(step @ other.cell.array)
        other.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ other.cell.array
        other.rotate(float(rng.uniform(0, 180)), rng.normal(size=3), rotate_cell=True)
        frames.append(other)
    return from_ase(frames)


def shifted(structures: StructureBatch, seed: int = 0) -> StructureBatch:
    """The same crystals with another origin."""
    rng = torch.Generator().manual_seed(seed)
    shift = torch.rand(len(structures), 3, generator=rng, dtype=torch.float64)
    moved = torch.einsum("bk,bkx->bx", shift, structures.cells)[structures.structure_index]
    return structures.replace(positions=structures.positions + moved)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of two tensors, for each of B."""
    return (first - second).flatten(1).square().mean(1).sqrt()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crystens.canonical", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few crystals: does it run?")
    parser.add_argument("--data", type=Path, default=DATA, help="crystals, with spacegroup_number")
    parser.add_argument("--sample", type=int, default=300)
    options = parser.parse_args()
    if not options.data.exists():
        print(f"skipped: {options.data} is not there")
        return 0
    crystals = read_dataset(options.data, property=None).structures
    count = 10 if options.quick else options.sample
    crystals = crystals[torch.randperm(len(crystals), generator=torch.Generator().manual_seed(0))[:count]]
    groups = torch.tensor([int(info["spacegroup_number"]) for info in crystals.info])
    others = (shifted(crystals), rewritten(crystals), shifted(rewritten(crystals)))
    print(f"{len(crystals)} crystals, each written down again; share of tensors that are the same "
          "(RMS difference below 1e-3)\n")  # fmt: skip
    print("| cell | order | origin | crystals that fit | other origin | other cell | both "
          "| median difference, both | of different crystals |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for cell, order, origin in CHOICES:
        codec = CrysTens(cell=cell, order=order, origin=origin)
        bad = {i for structures in (crystals, *others) for i in codec.find_problems(structures)}
        keep = [i for i in range(len(crystals)) if i not in bad]
        codec = codec.fit(crystals[keep])
        first = codec.encode(crystals[keep], groups[keep])
        apart = [distance(first, codec.encode(other[keep], groups[keep])) for other in others]
        shares = " | ".join(f"{(one < 1e-3).double().mean():.0%}" for one in apart)
        foreign = distance(first, first.roll(1, 0))
        print(
            f"| {cell} | {order} | {origin} | {len(keep)} | {shares} | {apart[-1].median():.4f} | "
            f"{foreign.median():.4f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
