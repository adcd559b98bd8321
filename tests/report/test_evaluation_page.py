import base64
import csv
import gzip
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from evaluated_folders import crystals, make_folder, metrics

from whorl.datasets import write_extxyz
from whorl.errors import InputError
from whorl.report import evaluation
from whorl.report.evaluated_figures import (
    distribution,
    draw_distribution,
    phase_diagram,
    successive_pressures,
)
from whorl.report.evaluated_set import EvaluatedSet
from whorl.report.evaluation import Metric, evaluation_page, is_share_of, script_json

EVIL = "<script>alert(1)</script>&\"'"


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    """The program of the viewer, 1.3 MB, is in no page but where a test wants it."""
    monkeypatch.setattr("whorl.report.viewer._program", lambda: None)
    monkeypatch.setattr(evaluation, "_MOST_PICTURES", 2)


def page(folder):
    return evaluation_page(folder).read_text(encoding="utf-8")


def table(html):
    """The data of the table, as the script of the page reads them."""
    return json.loads(re.search(r'id="all-data">(.*?)</script>', html, re.S)[1])


def structures(html):
    packed = re.search(r'id="packed-data">(.*?)</script>', html, re.S)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))["structures"]


def test_page_is_in_the_folder_and_asks_nothing_of_the_network(tmp_path):
    folder = make_folder(tmp_path / "out")
    assert evaluation_page(folder) == folder / "report.html"
    html = page(folder)
    assert not re.search(r'(src|href)="(https?:)?//', html)
    assert set(re.findall(r'href="([^"#]+)"', html)) == {
        "structures.csv",
        "metrics.json",
        "generated.extxyz",
        "relaxed.extxyz",
        "phase_diagrams.json",
    }


def test_metrics_stand_with_intervals_settings_and_departures(tmp_path):
    html = page(make_folder(tmp_path / "out", 12))
    for text in (
        "25.0 %",  # 3 of 12
        "20.0 – 30.0 %",
        "3 of 12",
        "0.213 Å",
        "0.180 – 0.250 Å",
        "stable, unique and novel",
        "Ordered matcher only.",
        "matcher.ltol",
        "The hull has no entry with Xe.",
    ):
        assert text in html


def test_origins_of_the_energies_stand_there(tmp_path):
    html = page(make_folder(tmp_path / "out"))
    for text in ("chgnet", "mp2020", "3f" * 32, "2019-04-01", "132752", "training.csv", "fire", "0.05 eV/Å"):
        assert text in html
    assert "a median of 26 meV/atom" in html
    content = metrics(12, 1)
    content["hull"]["potential"] = "chgnet"
    (tmp_path / "out" / "metrics.json").write_text(json.dumps(content))
    assert "error against DFT" not in page(tmp_path / "out")


def test_structures_that_are_stable_unique_and_novel_are_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_PICTURES", 8)
    folder = make_folder(tmp_path / "out", 8, unreadable=0)
    with (folder / "structures.csv").open(newline="", encoding="utf-8") as file:
        marked = [row["mattergen_sun"] == "True" for row in csv.DictReader(file)]
    captions = re.findall(r"<figure><img[^>]*>(.*?)<br><code>(\d+)\.cif", page(folder))
    assert {int(k): "S.U.N." in caption for caption, k in captions} == dict(enumerate(marked))
    assert len(set(marked)) == 2


def test_metrics_without_a_value_and_many_departures_are_folded_away(tmp_path):
    folder = make_folder(tmp_path / "out")
    content = metrics(12, 1)
    content["protocols"]["mattergen"]["metrics"]["sun"] |= {"value": None, "text": "Not computed: no hull."}
    content["protocols"]["mattergen"]["departures"] = [f"departure {k}." for k in range(9)]
    (folder / "metrics.json").write_text(json.dumps(content))
    html = page(folder)
    assert re.search(
        r"1 metric was not computed</summary>\s*<dl.*S.U.N.</dt><dd>Not computed: no hull.", html
    )
    assert "3 more</summary>" in html
    assert 'class="what">S.U.N.' not in html


def test_what_was_not_given_is_said(tmp_path):
    folder = make_folder(tmp_path / "out")
    without = {**metrics(12, 1), "potential": None, "relaxation": None, "hull": None, "reference": None}
    (folder / "metrics.json").write_text(json.dumps(without))
    html = page(folder)
    for text in ("No potential was given", "were not relaxed", "No hull was given", "No reference was given"):
        assert text in html


def test_reasons_are_counted_with_their_files(tmp_path):
    html = page(make_folder(tmp_path / "out", 5, unreadable=9, reason="not a CIF file"))
    assert re.search(r"<strong>9</strong> × not a CIF file.*5\.cif, 6\.cif.* and 3 more", html)


def test_table_has_each_row_as_it_is_and_the_most_stable_first(tmp_path):
    folder = make_folder(tmp_path / "out", 40, unreadable=2)
    data = table(page(folder))
    with (folder / "structures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [column["name"] for column in data["columns"]]
    shown = [dict(zip(names, row, strict=True)) for row in data["rows"]]
    assert sorted(shown, key=lambda row: int(row["index"])) == [
        {name: row[name] for name in names} for row in rows
    ]
    energies = [float(row["energy_above_hull"] or "inf") for row in shown]
    assert energies == sorted(energies)
    kinds = {column["name"]: (column["numeric"], column["flag"]) for column in data["columns"]}
    assert kinds["energy_above_hull"] == (True, False)
    assert kinds["valid"] == (False, True)
    assert kinds["formula"] == (False, False)


def test_each_row_leads_to_its_own_structure(tmp_path):
    data = table(html := page(make_folder(tmp_path / "out", 20, unreadable=3)))
    atoms = [column["name"] for column in data["columns"]].index("n_atoms")
    embedded = structures(html)
    assert len(embedded) == 20
    for row, place in zip(data["rows"], data["place"], strict=True):
        assert (place < 0) == (row[atoms] == "")
        if place >= 0:
            assert len(embedded[place]["names"]) == int(row[atoms])


def test_relaxed_structures_are_shown_and_the_original_where_there_is_none(tmp_path):
    folder = make_folder(tmp_path / "out", 6)
    relaxed = crystals(6)[:2]
    relaxed = relaxed.replace(positions=relaxed.positions + 5.0, info=({"row": 4}, {"row": 1}))
    write_extxyz(relaxed, folder / "relaxed.extxyz")
    found = EvaluatedSet.read(folder).structures
    for row, number in ((4, 0), (1, 1)):
        np.testing.assert_allclose(found[row].positions, relaxed[number].positions, atol=1e-7)
    np.testing.assert_allclose(found[0].positions, crystals(6)[0].positions, atol=1e-7)


def test_frames_without_a_row_are_in_order_of_those_that_were_read(tmp_path):
    folder = make_folder(tmp_path / "out", 6, unreadable=2)
    (folder / "relaxed.extxyz").unlink()
    write_extxyz(crystals(6), folder / "generated.extxyz")
    found = EvaluatedSet.read(folder).structures
    assert list(found) == [0, 1, 2, 3, 4, 5]
    write_extxyz(crystals(5), folder / "generated.extxyz")  # which of the six, nobody knows
    assert not EvaluatedSet.read(folder).structures


def test_names_and_reasons_cannot_bring_code_along(tmp_path):
    folder = make_folder(tmp_path / "out", 8, name=EVIL + "{k}", reason=EVIL)
    content = metrics(8, 1)
    content["input"]["path"] = content["hull"]["source"] = EVIL
    content["warnings"] = [EVIL]
    protocol = content["protocols"].pop("mattergen")
    protocol |= {"summary": EVIL, "departures": [EVIL], "settings": {EVIL: EVIL}}
    protocol["metrics"]["sun"]["text"] = protocol["metrics"]["rmsd"]["unit"] = EVIL
    content["protocols"][EVIL] = protocol
    content["counts"] = {EVIL: 3}
    (folder / "metrics.json").write_text(json.dumps(content))
    diagram = json.loads((folder / "phase_diagrams.json").read_text())
    diagram[0] |= {"system": EVIL}
    diagram[0]["points"][2]["formula"] = EVIL
    (folder / "phase_diagrams.json").write_text(json.dumps(diagram))
    html = page(folder)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert any(EVIL in text for row in table(html)["rows"] for text in row)


def test_an_input_without_structures_makes_a_page(tmp_path):
    html = page(make_folder(tmp_path / "out", 0, unreadable=0))
    assert "There are no structures in the input." in html
    assert "Phase diagrams" not in html
    empty = make_folder(tmp_path / "empty", 0, unreadable=0)
    (empty / "structures.csv").write_text("")
    assert "There are no structures in the input." in page(empty)


def test_successive_relaxations_are_drawn_where_there_are_some(tmp_path):
    words = "External pressure after each relaxation"
    assert words in page(make_folder(tmp_path / "out", 6))
    assert words not in page(make_folder(tmp_path / "few", 6, without=("crystens2024_P1",)))


def test_pressures_without_a_value_are_counted():
    plot = successive_pressures(np.array([[1.0, -30.0, np.nan], [0.0, 5.0, 1.0]]))
    assert plot.note == "median in red; 1 without values"


@pytest.mark.parametrize(
    "without",
    [
        ("energy_above_hull", "formation_energy"),
        ("file", "index", "formula", "status", "reason"),
        ("valid", "unique", "novel", "converged"),
        ("n_atoms", "energy_per_atom", "max_force", "pressure_kbar", "rmsd_to_relaxed"),
    ],
)
def test_missing_columns_leave_the_rest(tmp_path, without):
    folder = make_folder(tmp_path / "out", 6, without=without)
    data = table(page(folder))
    assert len(data["rows"]) == 7
    assert not {column["name"] for column in data["columns"]} & {*without}


def test_the_tables_alone_are_enough(tmp_path):
    folder = make_folder(tmp_path / "out", 5)
    for name in ("generated.extxyz", "relaxed.extxyz", "phase_diagrams.json"):
        (folder / name).unlink()
    (folder / "metrics.json").write_text("{}")
    html = page(folder)
    assert len(table(html)["rows"]) == 6
    assert "Most stable structures" not in html
    assert 'id="gallery"' not in html


def test_a_damaged_file_is_said_and_the_rest_shown(tmp_path):
    folder = make_folder(tmp_path / "out", 5)
    (folder / "phase_diagrams.json").write_text("[{")
    (folder / "relaxed.extxyz").write_text("nonsense")
    html = page(folder)
    assert "phase_diagrams.json" in re.search(r'id="warnings".*?</section>', html, re.S)[0]
    assert len(structures(html)) == 5  # as they came in


def test_a_row_that_was_cut_off_keeps_what_it_has(tmp_path):
    folder = make_folder(tmp_path / "out", 3, unreadable=0)
    path = folder / "structures.csv"
    path.write_text(path.read_text()[:-60])
    assert len(table(page(folder))["rows"]) == 3


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no metrics.json.*whorl evaluate"):
        evaluation_page(tmp_path)
    folder = make_folder(tmp_path / "out", 1)
    (folder / "metrics.json").write_text("[]")
    with pytest.raises(InputError, match="expected an object, got list"):
        evaluation_page(folder)


def test_energies_that_are_no_numbers_are_without_a_value(tmp_path):
    folder = make_folder(tmp_path / "out", 3, unreadable=0)
    text = "file,index,formula,energy_above_hull\na,0,NaCl,nan\nb,1,NaCl,inf\nc,2,NaCl,0.5\n"
    (folder / "structures.csv").write_text(text)
    found = EvaluatedSet.read(folder)
    assert found.by_stability[0] == 2
    html = page(folder)
    assert "1 of 1 with" not in html
    assert "0 of 1 with an energy above hull" in html


def test_many_structures_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_EMBEDDED", 30)
    monkeypatch.setattr(evaluation, "_MOST_ROWS", 50)
    monkeypatch.setattr(evaluation, "_MOST_PICTURES", 24)
    html = page(make_folder(tmp_path / "out", 80))
    assert len(structures(html)) == 30
    assert len(table(html)["rows"]) == 50
    assert "31 further rows are in structures.csv" in html
    assert html.count('loading="lazy"') == 24


def test_page_of_a_thousand_structures_is_below_eight_megabytes(tmp_path, monkeypatch):
    monkeypatch.undo()
    assert len(page(make_folder(tmp_path / "out", 1000))) < 8e6


def test_viewer_is_there_with_the_energies(tmp_path, monkeypatch):
    monkeypatch.undo()
    html = page(make_folder(tmp_path / "out", 5))
    assert 'id="packed-program"' in html
    packed = re.search(r'id="packed-data">(.*?)</script>', html, re.S)[1]
    data = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert data["settings"]["map"]["y"]["property"] == "energy above hull"
    places = [int(place) for place in re.findall(r'class="open" data-place="(\d+)"', html)]
    assert places == [0, 1, 2, 3, 4]  # pictures and structures of the viewer have one order
    assert html.count('id="packed-data"') == 1


def test_shares_and_other_numbers_are_told_apart():
    assert is_share_of({"value": 0.25, "count": 1, "of": 4, "unit": ""})
    assert not is_share_of({"value": 0.3, "count": 4, "of": 4, "unit": ""})
    assert not is_share_of({"value": 0.25, "count": 1, "of": 4, "unit": "Å"})
    assert not is_share_of({"value": 0.25})
    assert Metric.of_json("rmsd", {"value": None, "count": 0, "of": 4}).value == "–"
    assert Metric.of_json("a", {"value": -0.5, "unit": "eV"}).value == "−0.500 eV"


def test_json_in_a_script_cannot_end_it():
    text = script_json({"a": "</script><!--\u2028"})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--\u2028"}


def test_distribution_says_what_it_does_not_show():
    plot = distribution({"": np.array([*np.linspace(0, 1, 99), 50.0, np.nan])}, label="x", title="")
    assert plot.note == "1 above the axis (up to 50), 1 without a value"
    few = distribution({"": np.array([*np.linspace(0, 1, 20), 1.9, 2.4])}, label="x", title="")
    assert few.note == ""
    many = distribution({"": np.array([*np.linspace(0, 1, 98), -5.0, 2.4])}, label="x", title="")
    assert many.note == "1 below the axis (down to -5), 1 above the axis (up to 2.4)"
    assert distribution({"": np.array([np.nan])}, label="x", title="").note == "1 without a value"
    assert distribution({"": np.array([0.3])}, label="x", title="").note == ""


def point(fractions, energy, kind="reference", above=0.0):
    formula = "".join(f"{element}" for element in fractions)
    return {
        "formula": formula,
        "fractions": fractions,
        "formation_energy": energy,
        "energy_above_hull": above,
        "kind": kind,
    }


def test_phase_diagrams_of_two_and_three_elements_are_drawn_and_no_others():
    two = {"elements": ["Na", "Cl"], "points": [point({"Na": 0.5, "Cl": 0.5}, -1.0)]}
    three = {"elements": ["Na", "Cl", "O"], "points": [point({"Na": 0.4, "Cl": 0.4, "O": 0.2}, -1.0)]}
    four = {"elements": ["Na", "Cl", "O", "H"], "points": three["points"]}
    assert "<svg" in phase_diagram(two).svg
    assert "<svg" in phase_diagram(three).svg
    assert phase_diagram(four) is None
    assert phase_diagram({"elements": ["Na"], "points": two["points"]}) is None
    assert phase_diagram({"elements": ["Na", "Cl"], "points": [{"formula": "NaCl"}]}) is None
    assert phase_diagram({}) is None


def test_structures_far_above_the_hull_are_counted_and_not_drawn():
    shares = {"Na": 0.5, "Cl": 0.5}
    points = [
        point(shares, -1.0),
        point(shares, -0.9, "structure", 0.1),
        point(shares, 3.0, "structure", 4.0),
    ]
    plot = phase_diagram({"elements": ["Na", "Cl"], "points": points})
    assert plot.note == "1 structure higher up not drawn"


def test_three_elements_without_compounds_are_a_bare_triangle():
    pure = [point({element: 1.0}, 0.0) for element in ("Na", "Cl", "O")]
    assert "<svg" in phase_diagram({"elements": ["Na", "Cl", "O"], "points": pure}).svg


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_table_sorts_filters_and_writes_cifs(tmp_path):
    """The page's own script, in a browser: what it shows is written into the page and read back."""
    from io import StringIO

    from ase.io import read

    folder = make_folder(tmp_path / "out", 30, unreadable=2, name=EVIL + "{k}.cif")
    path = evaluation_page(folder)
    probe = """<pre id="probe"></pre><script>(async () => {
      const rows = () => [...document.querySelectorAll("#all-table tbody tr")];
      const names = () => rows().map((row) => row.cells[0].textContent);
      const change = (id, value) => {
        const box = document.getElementById(id);
        box.value = value;
        box.dispatchEvent(new Event("input", { bubbles: true }));
      };
      const found = { start: names(), cells: [...new Set(rows().map((row) => row.cells.length))] };
      whorlTable.sort("n_atoms"); found.up = whorlTable.selected();
      whorlTable.sort("n_atoms"); found.down = whorlTable.selected();
      change("all-hull", "0.1"); found.hull = names().length; change("all-hull", "");
      change("all-text", "UNREAD not"); found.text = names().length; change("all-text", "");
      document.querySelector(".all-flag").click(); found.valid = names().length;
      found.cif = await whorlTable.cif(3);
      document.getElementById("probe").textContent = JSON.stringify(found);
    })();</script>"""
    path.write_text(path.read_text().replace("</main>", probe + "</main>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    dom = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    import html

    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.S)[1]))
    data = table(path.read_text())
    names = [column["name"] for column in data["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in data["rows"]]
    assert found["start"] == [row["file"] for row in rows]
    assert len(found["cells"]) == 1  # rows without a structure have as many cells as the others
    atoms = [int(rows[k]["n_atoms"] or 0) for k in found["up"]]
    assert atoms == [*sorted(atoms[:30]), 0, 0]
    atoms = [int(rows[k]["n_atoms"] or 0) for k in found["down"]]
    assert atoms == [*sorted(atoms[:30], reverse=True), 0, 0]
    assert found["hull"] == sum(float(row["energy_above_hull"] or "inf") <= 0.1 for row in rows)
    assert found["text"] == 2
    assert found["valid"] == sum(row["valid"] == "True" for row in rows)
    crystal = read(StringIO(found["cif"]), format="cif")
    original = EvaluatedSet.read(folder).structures[int(rows[3]["index"])]
    np.testing.assert_allclose(crystal.get_volume(), abs(np.linalg.det(original.cells[0])), rtol=1e-5)
    expected = original.positions - original.positions[:1]
    distances = np.linalg.norm(expected.numpy(), axis=1)
    np.testing.assert_allclose(
        np.linalg.norm(crystal.positions - crystal.positions[0], axis=1), distances, atol=1e-3
    )


def test_bins_begin_at_round_numbers_and_far_outliers_do_not_flatten_the_rest():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    values = np.array([*np.linspace(0.02, 0.6, 50), 40.0, 900.0])
    low, high = draw_distribution(axes, {"": values}, label="x")
    assert (low, high) == (0.0, pytest.approx(1.4))
    assert len(axes.patches) > 10
