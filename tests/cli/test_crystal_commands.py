"""Crystals as images on the command line: encode, train, generate, decode, evaluate."""

import csv

from ase.build import bulk

from whorl.datasets import Dataset, save_dataset
from whorl.structures import from_ase


def test_from_crystals_to_crystals(whorl, tmp_path):
    import torch

    salts = [
        bulk(pair, "rocksalt", a=4.5 + 0.1 * i) for i, pair in enumerate(("NaCl", "KCl", "LiF", "KBr") * 5)
    ]
    properties = {"energy": torch.linspace(0, 1, 20, dtype=torch.float64)}
    dataset = Dataset(structures=from_ase(salts), properties=properties, ids=tuple(map(str, range(20))))
    there = tmp_path / "salts.safetensors"
    save_dataset(dataset, there)
    features, model = tmp_path / "f.safetensors", tmp_path / "gan.safetensors"
    made, found = tmp_path / "made.safetensors", tmp_path / "crystals.safetensors"

    said = whorl("encode", there, "--kind", "crystens", "--option", "max_atoms=4", "-o", features)
    assert said.code == 0, said.err
    small = ("--epochs", 1, "--option", "channels=4", "--condition", "elements", "--dataset", there)
    said = whorl("train", "generator", features, "--kind", "gan", *small, "-o", model)
    assert said.code == 0, said.err
    asked = ("--target", 0.5, "--samples", 4, "--element", "Cl", "--dataset", there)
    said = whorl("generate", model, "--features", features, *asked, "-o", made)
    assert said.code == 0, said.err
    said = whorl("decode", made, "-o", found, "--clustering", "paper", "--no-refine", "--elements", "any")
    assert said.code in (0, 3) and "another element" not in said.err, said.err
    said = whorl("decode", made, "-o", found, "--clustering", "paper", "--no-refine")
    assert said.code in (0, 3) and "sites were given another element" in said.err, said.err
    said = whorl(
        "evaluate",
        made,
        "--features",
        features,
        "--structures",
        found,
        "--dataset",
        there,
        "-o",
        tmp_path / "e",
    )
    assert said.code == 0, said.err
    assert "of 4 samples" in said.out
    assert (tmp_path / "e" / "all" / "novelty.json").is_file()


def test_every_cif_beside_the_invalid_ones_opens_in_pymatgen(whorl, tmp_path):
    from pymatgen.core import Structure

    near = bulk("NaCl", "rocksalt", a=5.0)
    near.positions[1] = [0.2, 0, 0]
    close = bulk("CsCl", "cesiumchloride", a=4.1)
    close.positions[1] = [1.0, 0, 0]
    batch = from_ase([bulk("KCl", "rocksalt", a=6.3), near, close])
    there, features = tmp_path / "salts.safetensors", tmp_path / "f.safetensors"
    save_dataset(Dataset(structures=batch, ids=("good", "near", "close")), there)
    assert whorl("encode", there, "--kind", "crystens", "--option", "max_atoms=4", "-o", features).code == 0
    said = whorl("decode", features, "-o", tmp_path / "crystals.safetensors", "--no-refine")
    assert said.code == 0, said.err
    files = sorted((tmp_path / "crystals" / "cif").glob("*.cif"))
    assert [file.name[:5] for file in files] == ["00001", "00003"]
    assert [len(Structure.from_file(file)) for file in files] == [8, 2]
    assert [file.name[:5] for file in (tmp_path / "crystals" / "invalid" / "poscar").iterdir()] == ["00002"]
    rows = list(csv.DictReader((tmp_path / "crystals.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["valid"], row["strictly_valid"]) for row in rows] == [
        ("True", "True"),
        ("False", "False"),
        ("True", "False"),
    ]
    assert "0.20 Å apart" in rows[1]["remarks"] and "covalent radii" in rows[2]["remarks"]


def test_unknown_clustering_and_unknown_kind(whorl, tmp_path):
    said = whorl(
        "decode", tmp_path / "x.safetensors", "-o", tmp_path / "y.safetensors", "--clustering", "papers"
    )
    assert said.code == 2
    assert "Did you mean 'paper'" in said.err
    said = whorl("encode", tmp_path / "x.safetensors", "--kind", "crystal", "-o", tmp_path / "y.safetensors")
    assert said.code == 2
    assert "Choose from: " in said.err and "acsf, crystens" in said.err
    said = whorl("decode", tmp_path / "x.safetensors", "-o", tmp_path / "y.safetensors")
    assert said.code == 1
    assert "x.safetensors" in said.err
