"""The benchmark of crystal generators runs on a model of the smallest size."""

import json
import sys

import torch
from ase.build import bulk

from benchmarks.crystens import generators
from whorl.datasets import Dataset, FeatureSet, save_dataset, save_features
from whorl.generators import GAN, fit, save_model
from whorl.representations import CrysTens
from whorl.structures import from_ase
from whorl.surrogates import NetworkSurrogate


def test_it_prints_a_row_for_each_model_and_for_the_paper(tmp_path, monkeypatch, capsys):
    made = [
        bulk(pair, "rocksalt", a=4.5 + 0.1 * i) for i, pair in enumerate(("NaCl", "KCl", "LiF", "KBr") * 5)
    ]
    crystals, labels = from_ase(made), torch.linspace(0, 1, 20, dtype=torch.float64)
    codec = CrysTens(max_atoms=4, elements="periodic").fit(crystals)
    tensors, ids = codec(crystals), tuple(map(str, range(20)))
    save_dataset(Dataset(structures=crystals, ids=ids), tmp_path / "data.safetensors")
    features = FeatureSet(
        features=tensors,
        representation=codec.config(),
        fingerprint=codec.fingerprint,
        properties={"y": labels},
        ids=ids,
    )
    save_features(features, tmp_path / "features.safetensors")
    for name, model in (
        ("gan", GAN(shape=(16, 16, 4), channels=4)),
        ("surrogate", NetworkSurrogate(shape=(16, 16, 4), layers=1, hidden=4)),
    ):
        fit(model, tensors, labels, validation=torch.arange(4), seed=0, epochs=1, batch_size=8)
        save_model(model, tmp_path / f"{name}.safetensors")
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("features", "data", "gan")]
    options = ["--samples", "6", "--surrogate", str(tmp_path / "surrogate.safetensors")]
    monkeypatch.setattr(sys, "argv", ["generators", *paths, *options, "--json", str(tmp_path / "out.json")])
    assert generators.main() == 0
    printed = capsys.readouterr().out
    assert "| gan |" in printed
    assert printed.count("| paper, ") == 3
    assert json.loads((tmp_path / "out.json").read_text())["gan"]["count"] == 6
