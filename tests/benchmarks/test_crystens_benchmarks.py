"""The benchmarks of CrysTens run, and count rightly."""

import sys
from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import bulk

from whorl.structures import from_ase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of the package

from benchmarks.baselines.crystens_loop import ideal_share_of_elements
from benchmarks.crystens import canonical, codec


@pytest.fixture
def data(tmp_path):
    frames = [bulk("NaCl", "rocksalt", 5.64, cubic=True), bulk("Fe"), bulk("Si"), bulk("Ti")]
    for atoms, group in zip(frames, (225, 229, 227, 194), strict=True):
        atoms.info["spacegroup_number"] = group
    ase.io.write(tmp_path / "crystals.extxyz", frames)
    return tmp_path / "crystals.extxyz"


def test_codec(data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["codec", "--quick", "--data", str(data), "--noise", "0.01"])
    assert codec.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| none | 4 | 100.00% |") for line in lines)
    assert sum(line.startswith(("| number | 1%", "| periodic | 1%")) for line in lines) == 4
    assert any(line.startswith("| periodic | electronegativity | 100.0% |") for line in lines)
    assert any(line.startswith("| encode |") for line in lines)


def test_canonical(data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["canonical", "--quick", "--data", str(data)])
    assert canonical.main() == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| niggli")]
    assert rows[1][2] == "canonical" and rows[1][4:7] == ["100%", "100%", "100%"]


def test_without_data_they_say_so(monkeypatch, capsys, tmp_path):
    for module in (codec, canonical):
        monkeypatch.setattr(sys, "argv", ["name", "--data", str(tmp_path / "none.extxyz")])
        assert module.main() == 0
        assert "skipped" in capsys.readouterr().out


def test_distance_and_bound():
    batch = from_ase([bulk("Fe"), bulk("NaCl", "rocksalt", 5.64)])
    moved = batch.positions.clone()
    moved[2, 0] += 0.3
    found = codec.rmsd(batch.replace(positions=moved), batch)
    assert found.tolist() == pytest.approx([0.0, 0.3 / 2**0.5])
    assert codec.rmsd(batch[:1], batch[1]).isinf().all()
    # 0.5 of an atomic number is one standard error of the mean of eight
    assert ideal_share_of_elements({8: 1}, 0.5 / 100 * 8**0.5, 100.0) == pytest.approx(0.6827, abs=1e-3)
    rewritten = canonical.rewritten(batch)
    assert torch.allclose(rewritten.cells.det().abs(), batch.cells.det().abs())
