"""Files of candidates: the table, CIF and extended XYZ, and nothing left of an earlier table."""

import csv

import ase.io
import pytest
import torch

from whorl.errors import InputError
from whorl.evaluation.candidates import COLUMNS, rank_candidates
from whorl.evaluation.metrics import Metrics
from whorl.evaluation.results import Evaluated
from whorl.evaluation.samples import Reference, Samples
from whorl.structures import from_ase
from whorl.workflow.candidates import TABLE, read_candidates, write_candidates

PROVENANCE = {"whorl_version": "0", "seed": 3, "recipe_hash": "abc", "nested": {"no": 1}}


def written(folder, atoms, values, valid):
    known = {
        "energy": Metrics(
            evaluator="energy",
            overall={"calculator": {"name": "emt"}},
            per_structure={"value": values},
        ),
        "validity": Metrics(evaluator="validity", per_structure={"valid": valid}),
    }
    of = Samples(
        ids=tuple(f"s{i}" for i in range(len(atoms))),
        targets=torch.ones(len(atoms), dtype=torch.float64),
        structures=from_ase(atoms),
        rows=torch.arange(len(atoms)),
        status=("converged",) * len(atoms),
    )
    reference = Reference(
        name="energy",
        unit="",
        properties=torch.zeros(1, dtype=torch.float64),
        features=torch.zeros(1, 1, dtype=torch.float64),
        training_rows=torch.zeros(1, dtype=torch.int64),
    )
    evaluated = {"n3": Evaluated(samples=of, reference=reference, metrics=known)}
    return write_candidates(rank_candidates(evaluated), evaluated, folder, provenance=PROVENANCE)


def cluster(distance):
    return ase.Atoms("Pt2", positions=[[0, 0, 0], [0, 0, distance]])


def salt():
    return ase.Atoms("NaCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4.1] * 3, pbc=True)


def test_the_table_names_a_file_of_each_structure(tmp_path):
    written(tmp_path, [cluster(2.3), salt(), cluster(0.1)], [1.5, 1.1, 1.0], [True, True, False])
    with (tmp_path / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["rank"], row["file"], row["valid"]) for row in rows] == [
        ("1", "0001-NaCl.cif", "True"),
        ("2", "0002-Pt2.xyz", "True"),
        ("", "invalid/0001-Pt2.xyz", "False"),
    ]
    assert {row["computed_by"] for row in rows} == {"emt"} and {row["generator"] for row in rows} == {"n3"}
    for row, atoms in zip(rows, [salt(), cluster(2.3), cluster(0.1)], strict=True):
        again = ase.io.read(tmp_path / row["file"])
        assert again.get_chemical_formula() == atoms.get_chemical_formula()
        assert again.get_distance(0, 1, mic=True) == pytest.approx(atoms.get_distance(0, 1, mic=True))


def test_each_file_says_where_it_comes_from(tmp_path):
    written(tmp_path, [cluster(2.3), salt()], [1.5, 1.1], [True, True])
    info = ase.io.read(tmp_path / "0002-Pt2.xyz").info
    assert (info["rank"], info["requested"], info["computed"], info["sample"]) == (2, 1.0, 1.5, "s0")
    assert (info["seed"], info["recipe_hash"]) == (3, "abc")
    text = (tmp_path / "0001-NaCl.cif").read_text(encoding="utf-8")
    assert "# computed: 1.1" in text and "# recipe_hash: abc" in text


def test_files_of_an_earlier_table_go_and_others_stay(tmp_path):
    written(tmp_path, [cluster(2.3), salt()], [1.5, 1.1], [True, False])
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    written(tmp_path, [cluster(2.4)], [1.0], [True])
    there = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert there == ["0001-Pt2.xyz", TABLE, "notes.txt"]


def test_a_table_that_was_changed_never_removes_what_lies_elsewhere(tmp_path):
    folder, other = tmp_path / "candidates", tmp_path / "precious.txt"
    other.write_text("mine", encoding="utf-8")
    written(folder, [cluster(2.3)], [1.5], [True])
    table = folder / TABLE
    table.write_text(
        table.read_text(encoding="utf-8").replace("0001-Pt2.xyz", "../precious.txt"), encoding="utf-8"
    )
    written(folder, [salt()], [1.5], [True])
    assert other.is_file()


def test_a_crystal_that_cif_cannot_hold_is_written_as_xyz(tmp_path):
    flat = ase.Atoms("Na", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], pbc=True)
    (candidate,) = written(tmp_path, [flat], [1.0], [False])
    assert candidate.file == "invalid/0001-Na.xyz" and (tmp_path / candidate.file).is_file()
    assert read_candidates(tmp_path / TABLE)[0]["file"] == candidate.file


def test_another_table_is_refused(tmp_path):
    (tmp_path / TABLE).write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="not a table of candidates"):
        read_candidates(tmp_path / TABLE)
