import csv
import io
import json

import pytest
from evaluated_folders import make_folder
from PIL import Image

from whorl.errors import InputError
from whorl.report.evaluated_comparison import compare_sets
from whorl.report.evaluated_set import EvaluatedSet


@pytest.fixture
def folders(tmp_path):
    means = {"gan": 0.9, "wgan": 0.3, "diffusion": 0.06}
    return [
        make_folder(tmp_path / name, 40, seed=k, mean=mean) for k, (name, mean) in enumerate(means.items())
    ]


def page(folder):
    return (folder / "comparison.html").read_text(encoding="utf-8")


def change(folder, part, **values):
    content = json.loads((folder / "metrics.json").read_text())
    content[part] = {**(content[part] or {}), **values}
    (folder / "metrics.json").write_text(json.dumps(content))


def test_metrics_stand_side_by_side_and_in_a_table(folders, tmp_path):
    rows = compare_sets(folders, tmp_path / "out", names=["GAN", None, "DDPM"])
    html = page(tmp_path / "out")
    for text in ("GAN", "wgan", "DDPM", "protocol mattergen", "S.U.N.", "20.0 – 30.0 %"):
        assert text in html
    (sun,) = [row for row in rows if row.name == "sun"]
    assert [of["count"] for of in sun.contents] == [10, 10, 10]
    text = (tmp_path / "out" / "comparison.csv").read_text()
    table = list(csv.DictReader(io.StringIO(text)))
    (one,) = [row for row in table if row["metric"] == "sun" and row["set"] == "DDPM"]
    assert (one["protocol"], float(one["value"]), one["count"], one["of"]) == ("mattergen", 0.25, "10", "40")


def test_shares_of_the_tables_are_those_of_the_rows(folders, tmp_path):
    rows = {row.name: row.contents for row in compare_sets(folders, tmp_path / "out")}
    for k, folder in enumerate(folders):
        energies = [float(text) for text in EvaluatedSet.read(folder).texts("energy_above_hull") if text]
        near = rows["above hull ≤ 0.1 eV/atom"][k]
        assert (near["count"], near["of"]) == (sum(e <= 0.1 for e in energies), len(energies))
        assert near["low"] < near["value"] < near["high"]
        mean = rows["energy above hull, mean"][k]
        assert mean["value"] == pytest.approx(sum(energies) / len(energies))


def test_picture_is_there(folders, tmp_path):
    compare_sets(folders, tmp_path / "out")
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert image.size[0] > 1000


def test_sets_evaluated_alike_have_no_differences(folders, tmp_path):
    change(folders[0], "hull", source="elsewhere/mp2019")  # the same file: its checksum is the same
    compare_sets(folders, tmp_path / "out")
    assert "Evaluated differently" not in page(tmp_path / "out")


def test_another_hull_potential_or_protocol_is_said(folders, tmp_path):
    change(folders[0], "hull", scheme="pbe+u", sha256="aa" * 32)
    change(folders[1], "potential", name="emt")
    change(folders[2], "protocols", mattergen={"settings": {"stable": 0.2}, "metrics": {}})
    change(folders[2], "protocols", lemat={"settings": {}, "metrics": {}})
    compare_sets(folders, tmp_path / "out")
    html = page(tmp_path / "out")
    for text in (
        "hull, scheme: pbe+u (gan); mp2020 (wgan, diffusion)",
        "hull, sha256: aaaaaaaaaaaa… (gan)",
        "potential, name: chgnet (gan, diffusion); emt (wgan)",
        "protocol mattergen, stable: 0.1 (gan, wgan); 0.2 (diffusion)",
        "protocol lemat: only of diffusion",
    ):
        assert text in html


def test_sets_without_energies_or_structures_are_compared_by_what_they_have(tmp_path):
    few = make_folder(tmp_path / "few", 5, without=("energy_above_hull", "formation_energy"))
    none = make_folder(tmp_path / "none", 0, unreadable=0)
    compare_sets([few, none], tmp_path / "out")
    html = page(tmp_path / "out")
    assert "RMSD to relaxed, mean" in html
    assert "energy above hull, mean" not in html


def test_names_cannot_bring_code_along(folders, tmp_path):
    compare_sets(folders, tmp_path / "out", names=["<script>alert(1)</script>"])
    assert "<script>alert" not in page(tmp_path / "out")


def test_one_folder_and_equal_names_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="Got 1 folder, expected two or more"):
        compare_sets(folders[:1], tmp_path / "out")
    with pytest.raises(InputError, match="Two sets are called 'gan': give them as NAME=FOLDER"):
        compare_sets([folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(InputError, match=r"there is no metrics.json"):
        compare_sets([folders[0], tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
