"""``whorl train generator --kind``: every kind, from features to new features."""

import pytest
import torch
from ase.build import bulk
from ase.io import write

from whorl.datasets import FeatureSet, load_dataset, load_features, save_dataset, save_features
from whorl.generators import load_model


@pytest.fixture
def features(tmp_path):
    rng = torch.Generator().manual_seed(0)
    y = torch.rand(40, generator=rng, dtype=torch.float64)
    rows = y[:, None, None, None] + torch.randn(40, 8, 8, 2, generator=rng, dtype=torch.float64)
    made = FeatureSet(
        features=rows,
        representation={"kind": "images"},
        fingerprint="0123456789abcdef",
        properties={"y": y},
        ids=tuple(str(i) for i in range(40)),
    )
    save_features(made, tmp_path / "features.safetensors")
    return tmp_path / "features.safetensors"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gan", ("--latent", 3, "--learning-rate", 1e-3)),
        ("wgan_gp", ("--option", "penalty=1", "--option", "critic_steps=1")),
        ("diffusion", ("--option", "steps=2", "--option", "cascade=true")),
    ],
)
def test_train_and_generate(whorl, features, tmp_path, kind, options):
    model, made = tmp_path / "model.safetensors", tmp_path / "made.safetensors"
    small = ("--option", "channels=4", "--option", "device=cpu", "--epochs", 2)
    said = whorl("train", "generator", features, "--kind", kind, *small, *options, "-o", model)
    assert said.code == 0, said.err
    config = load_model(model).config()
    assert (config["kind"], config["channels"], config["shape"]) == (kind, 4, [8, 8, 2])
    said = whorl("generate", model, "--features", features, "--target", 0.5, "--samples", 3, "-o", made)
    assert said.code == 0, said.err
    assert load_features(made).features.shape == (3, 8, 8, 2)


def test_an_option_of_another_kind_is_named(whorl, features, tmp_path):
    said = whorl(
        "train", "generator", features, "--kind", "gan", "--beta", 1, "-o", tmp_path / "m.safetensors"
    )
    assert said.code == 2
    assert "no option '--beta'" in said.err and "--latent" in said.err
    said = whorl("train", "generator", features, "--kind", "wgan_pg", "-o", tmp_path / "m.safetensors")
    assert said.code == 2
    assert "Did you mean 'wgan_gp'" in said.err


def test_learned_channels_of_elements_are_settings_of_features(whorl, tmp_path, monkeypatch):
    monkeypatch.setattr("whorl.surrogates.element_channels._EPOCHS", 2)
    names = ["Li", "O", "Na", "Ti"]
    crystals = [
        bulk(a + b, "rocksalt", 4 + 0.1 * k) for a in names for b in names if a != b for k in range(5)
    ]
    for number, atoms in enumerate(crystals):
        atoms.info["y"] = float(number % 7)
    write(tmp_path / "crystals.extxyz", crystals)
    data, table, made = (
        tmp_path / name for name in ("data.safetensors", "table.yaml", "features.safetensors")
    )
    assert whorl("data", "read", tmp_path / "crystals.extxyz", "--property", "y", "-o", data).code == 0
    said = whorl("train", "embedding", data, "--channels", 3, "--option", "n_max=2", "-o", table)
    assert said.code == 0, said.err
    said = whorl("encode", data, "--settings", table, "-o", made)
    assert said.code == 0, said.err
    settings = load_features(made).representation
    assert set(settings["embedding"]) == set(names) and settings["n_max"] == 2
    assert [len(row) for row in settings["embedding"].values()] == [3] * 4
    said = whorl("encode", data, "--settings", table, "--kind", "ace", "-o", made)
    assert said.code == 2 and "--kind" in said.err and "--settings" in said.err
    for option, words in (
        (("--kind", "rows"), "rows, which has no embedding"),
        (("--option", "embedding=2"), "--channels"),
    ):
        said = whorl("train", "embedding", data, *option, "-o", table)
        assert said.code == 2 and words in said.err
    unlabelled = load_dataset(data)
    unlabelled.properties["y"][3] = torch.nan
    save_dataset(unlabelled, data)
    said = whorl("train", "embedding", data, "-o", table)
    assert said.code == 3 and "its y is not finite" in said.err
