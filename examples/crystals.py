"""Crystals as images: encode, add noise as a generator would, decode, symmetrise, check validity."""

import tempfile
from pathlib import Path

import torch
from ase.build import bulk
from ase.spacegroup import crystal

from whorl.datasets import write_crystals
from whorl.evaluation import check_validity
from whorl.representations import CrysTens
from whorl.structures import from_ase


def main(*, noise=0.02, seed=0):
    """Add noise of ``noise`` times the value ranges to the tensors of five crystals, and decode them."""
    sites = [(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0)]
    perovskite = crystal(["Ca", "Ti", "O"], sites, spacegroup=221, cellpar=[3.9, 3.9, 3.9, 90, 90, 90])
    salt, diamond = bulk("NaCl", "rocksalt", a=5.64, cubic=True), bulk("C", cubic=True)
    crystals = from_ase([salt, diamond, bulk("ZnO", "wurtzite", a=3.25, c=5.2), bulk("Ti"), perovskite])

    codec = CrysTens(max_atoms=8, elements="periodic").fit(crystals)  # determines the ranges of the values
    tensors = codec(crystals)
    disturbed = tensors + noise * torch.randn(tensors.shape, generator=torch.Generator().manual_seed(seed))

    decoded = codec.decode(disturbed)
    refined = decoded.refined()  # detects space groups and symmetrises
    valid = check_validity(refined.structures, chemistry=False).structurally_valid
    with tempfile.TemporaryDirectory() as folder:
        files = write_crystals(refined.structures, Path(folder), formats=["cif"])
        names = [file.name for file in files]

    for row, name in enumerate(names):
        what, moved = "valid" if valid[row] else "invalid", refined.displacement[row]
        print(f"{name}: space group {refined.space_group[row]}, atoms moved by {moved:.3f} Å, {what}")
    for row, reason in decoded.skipped.items():
        print(f"tensor {row}: {reason}")
    shape = " × ".join(str(side) for side in codec.layout.shape)
    print(f"{len(names)} of {len(crystals)} tensors, {shape} numbers each, were decoded")


if __name__ == "__main__":
    main()
