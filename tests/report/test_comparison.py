import io
import math

import pytest
import torch
from ase.build import bulk, molecule
from PIL import Image

from whorl.report.comparison import Comparison, draw_fingerprints, summary, write_comparison
from whorl.report.spheres import render_structure
from whorl.structures import from_ase


def comparison(number=0, atoms=None, **changes):
    one = from_ase([atoms or molecule("H2O")])
    given = {
        "number": number,
        "name": f"<water>@{number}",
        "formula": "H2O",
        "status": "converged",
        "recovered": True,
        "loss": 1e-12,
        "rmsd": 1e-9,
        "seconds": 0.5,
        "evaluations": 100.0,
        "infeasibility": 0.0,
        "advice": "The structure was recovered.",
        "representation": "fung2022 (max, min; 4 features)",
        "original": one,
        "found": one,
        "alternatives": one[[]],
        "wanted": torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64),
        "reached": torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64),
    }
    return Comparison(**{**given, **changes})


def test_the_sentence_counts_what_came_of_it():
    targets = [
        comparison(),
        comparison(recovered=False, rmsd=0.6),
        comparison(recovered=False, rmsd=math.inf, status="budget_spent"),
    ]
    assert [target.outcome for target in targets] == ["recovered", "other structure", "not found"]
    said = summary(targets)
    assert said == "1 of 3 recovered, 1 as another structure with the same fingerprint, 1 not found"


def test_the_page_holds_everything_and_escapes_names(tmp_path):
    targets = [comparison(), comparison(1, bulk("NaCl", "rocksalt", a=5.6), recovered=False, rmsd=math.inf)]
    write_comparison(
        tmp_path / "page.html",
        targets,
        title="my <structures>",
        settings={"solver": "whorl"},
        skipped=[("a.cif", "has no atoms")],
        provenance={"whorl_version": "1", "seed": 3},
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert "my &lt;structures&gt;" in page and "&lt;water&gt;@1" in page
    assert "no match" in page and "a.cif: has no atoms" in page and "solver: whorl" in page
    assert "http" not in page


def test_of_many_targets_those_that_failed_are_drawn_first(tmp_path, monkeypatch):
    monkeypatch.setattr("whorl.report.comparison._MOST_SHOWN", 2)
    targets = [comparison(k, recovered=k != 3) for k in range(4)]
    write_comparison(tmp_path / "page.html", targets, title="t", settings={}, provenance={})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<h2>0 ·") == page.count("<h2>3 ·") == 1
    assert "<h2>1 ·" not in page and "2 more targets" in page


@pytest.mark.parametrize("value", [0.0, math.nan, 1e30])
def test_fingerprints_are_drawn_whatever_they_are(value):
    wanted = torch.zeros(5, dtype=torch.float64)
    picture = Image.open(io.BytesIO(draw_fingerprints(wanted, wanted + value)))
    assert picture.format == "PNG" and picture.width > 300


def test_two_structures_are_seen_from_one_viewpoint():
    water = molecule("H2O")
    turned = water.copy()
    turned.rotate(90, "z")
    one, other = from_ase([water]), from_ase([turned])
    assert render_structure(one, pixels=60) == render_structure(one, pixels=60, seen_as=one)
    assert render_structure(other, pixels=60) != render_structure(other, pixels=60, seen_as=one)
