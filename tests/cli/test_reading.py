"""``whorl data read``: what it says of what it reads."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixSymmetry
from ase.db import connect

from whorl.datasets import Dataset, load_dataset, load_features, save_dataset
from whorl.structures import from_ase


def chains(path, energy_of):
    rng = np.random.default_rng(0)
    frames = []
    for n in rng.integers(2, 9, 20):
        atoms = Atoms(f"Pt{n}", np.arange(3 * n).reshape(n, 3))
        atoms.info["energy"] = energy_of(n, rng)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return np.array([len(atoms) for atoms in frames])


def test_a_property_that_grows_with_the_atoms_is_said_and_may_be_divided(whorl, tmp_path):
    counts = chains(tmp_path / "c.extxyz", lambda n, rng: -5.0 * n + rng.normal())
    done = whorl(
        "data", "read", tmp_path / "c.extxyz", "--property", "energy", "-o", tmp_path / "o.safetensors"
    )
    assert done.code == 0
    assert "'energy' grows with the number of atoms (2 to 8)" in done.err
    done = whorl(
        "data",
        "read",
        tmp_path / "c.extxyz",
        "--property",
        "energy",
        "--per-atom",
        "-o",
        tmp_path / "p.safetensors",
    )
    assert "grows with" not in done.err
    whole, divided = (load_dataset(tmp_path / f"{name}.safetensors").properties for name in "op")
    assert torch.equal(divided["energy_per_atom"], whole["energy"] / torch.from_numpy(counts))


def test_other_properties_are_not_said_to_grow(whorl, tmp_path):
    chains(tmp_path / "c.extxyz", lambda n, rng: rng.normal())
    done = whorl(
        "data", "read", tmp_path / "c.extxyz", "--property", "energy", "-o", tmp_path / "o.safetensors"
    )
    assert "grows with" not in done.err


def test_a_constraint_that_cannot_be_stored_is_said(whorl, tmp_path):
    held = bulk("Cu", cubic=True)
    held.set_constraint(FixSymmetry(held))
    with connect(tmp_path / "sym.db") as database:
        database.write(held, y=1.0)
        database.write(bulk("Ag"), y=2.0)
    stored = tmp_path / "sym.safetensors"
    done = whorl("data", "read", tmp_path / "sym.db", "--property", "y", "-o", stored)
    assert done.code == 3
    assert "FixSymmetry" in done.err or "constraints cannot be rebuilt" in done.err
    assert whorl("data", "show", stored).code in (0, 3)
    assert whorl("encode", stored, "--preset", "crystal", "-o", tmp_path / "f.safetensors").code == 0


@pytest.mark.parametrize("edge", [0.4, 0.81])
def test_one_cell_that_is_too_dense_leaves_the_others(whorl, tmp_path, edge):
    # In a stored set, since readers refuse the first of them.
    structures = from_ase([Atoms("Pt", cell=[edge] * 3, pbc=True), Atoms("Pt", cell=[9, 9, 9], pbc=True)])
    save_dataset(Dataset(structures=structures, ids=("dense", "good")), tmp_path / "o.safetensors")
    features = tmp_path / "f.safetensors"
    done = whorl("encode", tmp_path / "o.safetensors", "--preset", "fung2022", "-o", features)
    assert done.code == 3
    assert "dense: " in done.err
    assert load_features(features).ids == ("good",)
