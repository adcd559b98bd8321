"""``whorl data crystals`` and ``whorl data fetch``: crystals without a download, and with one."""

import pytest

from whorl.datasets import fetch, load_dataset
from whorl.datasets.fetch import Benchmark


def test_both_commands_have_help(whorl):
    for command in ("crystals", "fetch"):
        said = whorl("data", command, "--help")
        assert said.code == 0 and "Usage: " in said.out


def test_prototypes_become_a_data_set(whorl, tmp_path):
    pytest.importorskip("smact")
    output = tmp_path / "crystals.safetensors"
    arguments = ("data", "crystals", "--prototypes", "--count", 5, "--elements", "Li,Fe,O", "--max-atoms", 6)
    said = whorl(*arguments, "--processes", 1, "-o", output)
    assert said.code == 0 and said.out == f"{output}\n"
    dataset = load_dataset(output)
    assert len(dataset) == 5 and set(dataset.structures.atomic_numbers.tolist()) <= {3, 8, 26}
    assert output.with_suffix(".extxyz").exists()
    shown = whorl("data", "show", output)
    assert shown.code == 0 and "5" in shown.out


def test_wrong_elements_are_one_line(whorl, tmp_path):
    pytest.importorskip("smact")
    said = whorl("data", "crystals", "--count", 5, "--elements", "Lo", "-o", tmp_path / "x.safetensors")
    assert said.code == 1 and "unknown element 'Lo'" in said.err


def test_fetch_says_what_there_is(whorl, tmp_path):
    said = whorl("data", "fetch", "perov5", "-o", tmp_path)
    assert said.code == 1 and "Did you mean 'perov_5'" in said.err


def test_fetch_lists_its_files(whorl, tmp_path, monkeypatch):
    monkeypatch.setitem(
        fetch.BENCHMARKS,
        "here",
        Benchmark(address="http://127.0.0.1:1/here", sha256={"val.csv": None}, licence="MIT"),
    )
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "val.csv").write_text("material_id,cif\n", encoding="utf-8")
    said = whorl("data", "fetch", "here", "-o", tmp_path)
    assert said.code == 0 and said.out == f"{tmp_path / 'here' / 'val.csv'}\n"
