"""Benchmarks of refiners run."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.refinement import pt10_project


def test_the_projection_of_clusters_runs_and_is_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pt10_project", "--quick", "--directory", str(tmp_path)])
    pt10_project.main()
    first = capsys.readouterr().out
    assert "hits before" in first and first.count("\n2 |") == 2
    monkeypatch.setattr(pt10_project, "_of_seed", pytest.fail)
    pt10_project.main()
    assert capsys.readouterr().out == first
