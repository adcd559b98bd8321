"""`whorl evaluate STRUCTURES`: a row for each structure that came in, whatever it is."""

import csv
import dataclasses
import json
import math
import warnings
import zipfile

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

from whorl.axes import PROTOCOLS
from whorl.errors import InputError
from whorl.evaluation.structure_set import RelaxationSettings, StructureSet
from whorl.potentials import make_potential
from whorl.potentials.settings import CalculatorSettings
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages.dft import write_inputs
from whorl.workflow.structure_evaluation import COLUMNS, StructureEvaluation, evaluate_structures

EMT = CalculatorSettings(name="emt")


@pytest.fixture
def folder(tmp_path):
    """CIF files, among them one that cannot be read, one that cannot be, and one that EMT does not know."""
    place = tmp_path / "structures"
    place.mkdir()
    for number, (name, a) in enumerate([("Cu", 3.6), ("Cu", 3.65), ("Au", 4.1), ("Na", 4.2)]):
        write(place / f"{number}.cif", bulk(name, "fcc", a=a, cubic=True))
    (place / "4.cif").write_text("data_x\nnothing")
    same = bulk("Cu", "fcc", a=3.6, cubic=True)
    same.positions[1] = same.positions[0]
    write(place / "5.cif", same)
    write(place / "6.cif", bulk("Pt", "fcc", a=3.9))
    return place


def evaluated(path, output, **settings):
    """Return the rows of structures.csv and metrics.json."""
    monitor = Monitor()
    written = evaluate_structures(
        path, settings=StructureEvaluation(**settings), output=output, monitor=monitor
    )
    with (output / "structures.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads(written.read_text()), monitor


def test_there_is_a_row_for_each_structure_in_order_with_status_and_reason(folder, tmp_path):
    rows, metrics, monitor = evaluated(folder, tmp_path / "out", calculator=EMT)
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert [row["file"] for row in rows] == [f"{k}.cif" for k in range(7)]
    assert [row["index"] for row in rows] == [str(k) for k in range(7)]
    assert [row["status"] for row in rows] == [
        *("evaluated", "evaluated", "evaluated", "failed", "unreadable", "unphysical", "evaluated")
    ]
    assert all(bool(row["reason"]) == (row["status"] != "evaluated") for row in rows)
    assert "Na" in rows[3]["reason"] and "at one place" in rows[5]["reason"]
    assert [row["unique"] for row in rows] == ["True", "False", "True", "", "", "", "True"]
    assert [row["valid"] for row in rows] == ["True"] * 4 + ["", "False", "True"]
    assert float(rows[0]["energy_per_atom"]) == pytest.approx(-0.0066888, abs=1e-6)
    assert rows[3]["energy_per_atom"] == rows[0]["converged"] == ""
    assert metrics["format"] == "whorl evaluation 1"
    assert metrics["input"] == {"path": str(folder), "structures": 7, "read": 6, "skipped": 3}
    assert metrics["counts"] == {"evaluated": 4, "failed": 1, "unreadable": 1, "unphysical": 1}
    assert metrics["potential"] == {"name": "emt", "scheme": "emt"}
    assert len(monitor.skipped) == 3
    frames = read(tmp_path / "out" / "generated.extxyz", ":")
    assert [frame.info["row"] for frame in frames] == [0, 1, 2, 3, 5, 6]


def test_candidates_are_valid_unique_and_new_the_most_stable_first(folder, tmp_path):
    own = tmp_path / "hull.csv"
    own.write_text("formula,energy_per_atom,scheme\nCu,-0.5,emt\nAu,-0.2,emt\nPt,-0.4,emt\n")
    write(folder / "7.cif", bulk("CuAu", "cesiumchloride", a=3.2))
    settings = {"calculator": EMT, "hull": f"own={own}", "relaxation": RelaxationSettings()}
    rows, _, _ = evaluated(folder, tmp_path / "out", **settings)
    frames = read(tmp_path / "out" / "candidates.extxyz", ":")
    assert sorted(frame.info["file"] for frame in frames) == ["0.cif", "2.cif", "6.cif", "7.cif"]
    energies = [frame.info["energy_above_hull"] for frame in frames]
    assert energies == sorted(energies) and len(set(energies)) == 4
    for frame in frames:
        row = rows[frame.info["row"]]
        assert row["file"] == frame.info["file"]
        assert float(row["energy_above_hull"]) == pytest.approx(frame.info["energy_above_hull"])
        assert float(row["volume_per_atom"]) == pytest.approx(frame.get_volume() / len(frame))  # relaxed
    write(tmp_path / "known.extxyz", bulk("Au", "fcc", a=4.1))
    evaluated(folder, tmp_path / "out", reference=tmp_path / "known.extxyz", **settings)
    new = read(tmp_path / "out" / "candidates.extxyz", ":")
    assert sorted(frame.info["file"] for frame in new) == ["0.cif", "6.cif", "7.cif"]
    assert [row["in_hull"] for row in rows] == [*["True"] * 3, "", "", "", "True", "False"]
    write_inputs(
        tmp_path / "out" / "candidates.extxyz",
        tmp_path / "vasp",
        options={"kind": "vasp"},
        cell="primitive",
        refined=False,
        symprec=0.01,
        monitor=Monitor(),
        count=1,
    )
    written = json.loads((tmp_path / "vasp" / "dft.json").read_text())["structures"]
    assert [one["id"] for one in written] == [new[0].info["file"]]
    evaluated(folder / "5.cif", tmp_path / "out", calculator=EMT)
    assert not (tmp_path / "out" / "candidates.extxyz").exists()


def test_archives_are_read_in_their_order_with_a_reason_for_what_is_not(folder, tmp_path):
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("6.cif", "4.cif", "0.cif"):
            archive.write(folder / name, f"made/{name}")
        archive.writestr("made/README.md", "text")
        archive.writestr("__MACOSX/._0.cif", "text")
        archive.writestr("made/more.extxyz", "1\n\nCu 0 0 0")
    rows, _, _ = evaluated(path, tmp_path / "out")
    assert [row["file"] for row in rows] == ["made/6.cif", "made/4.cif", "made/0.cif", "made/more.extxyz"]
    assert [row["status"] for row in rows] == ["evaluated", "unreadable", "evaluated", "unreadable"]
    with pytest.raises(InputError, match="holds no CIF or POSCAR file"):
        with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
            pass
        evaluated(tmp_path / "empty.zip", tmp_path / "out")
    (tmp_path / "torn.zip").write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read as a zip archive"):
        evaluated(tmp_path / "torn.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["set.extxyz", "set.db", "table.csv", "poscars"])
def test_all_formats_of_structures_are_read(name, tmp_path):
    made = [bulk("Cu", "fcc", a=3.6), bulk("Au", "fcc", a=4.1, cubic=True)]
    path = tmp_path / name
    if name == "poscars":
        path.mkdir()
        for number, atoms in enumerate(made):
            write(path / f"POSCAR_{number}", atoms, format="vasp")
    elif name == "table.csv":
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["material_id", "cif"])
            for number, atoms in enumerate(made):
                write(tmp_path / "one.cif", atoms)
                table.writerow([number, (tmp_path / "one.cif").read_text()])
    else:
        from ase.db import connect

        if name == "set.db":
            with connect(path) as database:
                for atoms in made:
                    database.write(atoms)
        else:
            write(path, made)
    rows, _, _ = evaluated(path, tmp_path / "out", calculator=EMT)
    assert [(row["formula"], row["n_atoms"], row["status"]) for row in rows] == [
        ("Cu", "1", "evaluated"),
        ("Au4", "4", "evaluated"),
    ]


def test_molecules_have_energies_and_are_not_compared_as_crystals(tmp_path):
    write(tmp_path / "m.extxyz", [molecule("CO"), bulk("Cu")])
    rows, _, _ = evaluated(tmp_path / "m.extxyz", tmp_path / "out", calculator=EMT)
    assert [row["status"] for row in rows] == ["evaluated", "evaluated"]
    assert [row["unique"] for row in rows] == ["", "True"]


def test_settings_that_do_not_go_together_are_refused_before_anything_is_read(folder, tmp_path):
    for settings, message in (
        ({"hull": "mp2019=x"}, "--hull needs an energy method"),
        ({"protocols": ("matergen",)}, "Did you mean 'mattergen'"),
    ):
        with pytest.raises(InputError, match=message):
            evaluated(folder, tmp_path / "out", **settings)
    for output in (folder, folder / "results"):
        with pytest.raises(InputError, match="results would be read as structures"):
            evaluated(folder, output)
    with pytest.raises(InputError, match="everything would be novel"):
        write(tmp_path / "empty.extxyz", bulk("Cu"))
        (tmp_path / "reference").mkdir()
        (tmp_path / "reference" / "0.cif").write_text("nothing")
        evaluated(folder, tmp_path / "out", reference=tmp_path / "reference")


def test_files_that_change_meanwhile_are_said(folder, tmp_path, monkeypatch):
    inside = StructureSet.checked

    def changing(self, *args):
        (folder / "0.cif").write_text("changed")
        return inside(self, *args)

    monkeypatch.setattr(StructureSet, "checked", changing)
    _, metrics, monitor = evaluated(folder, tmp_path / "out")
    assert any("changed while it was evaluated" in warning for warning in metrics["warnings"])
    assert metrics["warnings"] == monitor.warnings


def test_finished_parts_are_used_again_and_bound_to_contents_and_settings(folder, tmp_path, monkeypatch):
    from whorl.potentials import emt

    calls = []
    inside = emt.EMT.__call__

    def counting(self, structures):
        calls.append(len(structures))
        return inside(self, structures)

    monkeypatch.setattr(emt.EMT, "__call__", counting)
    first, _, _ = evaluated(folder, tmp_path / "out", calculator=EMT)
    made = len(calls)
    again, _, _ = evaluated(folder, tmp_path / "out", calculator=EMT, protocols=("mattergen",))
    assert len(calls) == made
    assert [row["energy_per_atom"] for row in again] == [row["energy_per_atom"] for row in first]
    write(folder / "0.cif", bulk("Cu", "fcc", a=3.7, cubic=True))
    changed, _, _ = evaluated(folder, tmp_path / "out", calculator=EMT)
    assert len(calls) > made
    assert changed[0]["energy_per_atom"] != first[0]["energy_per_atom"]


def test_what_was_read_is_read_again_only_where_files_changed(folder, tmp_path, monkeypatch):
    from whorl.workflow import structure_input

    settings = {"reference": folder / "0.cif"}
    first = evaluated(folder, tmp_path / "out", **settings)[:2]
    for name in ("read_entries", "read_dataset"):
        monkeypatch.setattr(structure_input, name, lambda *_, **__: pytest.fail("read again"))
    assert evaluated(folder, tmp_path / "out", **settings)[:2] == first
    monkeypatch.undo()
    (folder / "7.cif").write_text("data_y\nnothing")
    rows, _, _ = evaluated(folder, tmp_path / "out", **settings)
    assert len(rows) == 8 and [row["novel"] for row in rows][:3] == ["False", "False", "True"]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_results_do_not_depend_on_the_executor(folder, tmp_path, kind):
    from whorl.executors.base import executing
    from whorl.executors.settings import ExecutorSettings
    from whorl.settings import settings_from

    settings = {"calculator": EMT, "protocols": ("mattergen",), "reference": folder / "6.cif"}
    alone = evaluated(folder, tmp_path / "alone", **settings)[:2]
    with executing(settings_from(ExecutorSettings, {"kind": kind, "workers": 2}, source="a test")):
        assert evaluated(folder, tmp_path / kind, **settings)[:2] == alone


def test_without_any_structure_there_is_nothing_to_evaluate(tmp_path):
    (tmp_path / "empty.csv").write_text("id,cif\n")
    with pytest.raises(InputError, match="holds no structures"):
        evaluated(tmp_path / "empty.csv", tmp_path / "out")


def test_a_folder_of_what_cannot_be_read_gives_a_table_all_the_same(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.cif").write_text("nothing")
    settings = {"calculator": EMT, "relaxation": RelaxationSettings(), "protocols": tuple(PROTOCOLS)}
    rows, metrics, _ = evaluated(tmp_path / "bad", tmp_path / "out", **settings)
    assert [row["status"] for row in rows] == ["unreadable"]
    assert metrics["protocols"]["mattergen"]["metrics"]["successful"]["value"] == 0.0
    assert (tmp_path / "out" / "report.html").is_file()


class NotANumber:
    """Energies that are not finite for gold, whatever is asked."""

    name, scheme = "nan", "emt"

    def __init__(self):
        self._emt = make_potential("emt")

    def __call__(self, structures):
        found = self._emt(structures)
        gold = structures.atomic_numbers[structures.first_atom] == 79
        energy = torch.where(gold, torch.nan, found.energy)
        return dataclasses.replace(found, energy=energy)


@pytest.mark.parametrize("relaxation", [None, RelaxationSettings(steps=30)])
def test_energies_that_are_no_numbers_cost_no_other_structure_anything(tmp_path, monkeypatch, relaxation):
    write(tmp_path / "set.extxyz", [bulk("Cu", a=3.7), bulk("Au", a=4.1), bulk("Cu", a=3.7), bulk("Pt")])
    settings = {"calculator": EMT, "relaxation": relaxation}
    alone, _, _ = evaluated(tmp_path / "set.extxyz", tmp_path / "alone", **settings)
    monkeypatch.setattr(CalculatorSettings, "potential", lambda self: NotANumber())
    rows, metrics, _ = evaluated(tmp_path / "set.extxyz", tmp_path / "out", **settings)
    assert rows[1]["status"] == "failed" and rows[1]["reason"] and rows[1]["energy_per_atom"] == ""
    assert [row["unique"] for row in rows] == ["True", "", "False", "True"]
    for k in (0, 2, 3):  # one-atom cells
        assert float(rows[k]["energy_per_atom"]) == pytest.approx(float(alone[k]["energy_per_atom"]))
    assert metrics["counts"]["failed"] == 1


def test_relaxed_structures_lead_to_their_rows(folder, tmp_path):
    rows, metrics, _ = evaluated(
        folder, tmp_path / "out", calculator=EMT, relaxation=RelaxationSettings(), protocols=("mattergen",)
    )
    frames = read(tmp_path / "out" / "relaxed.extxyz", ":")
    assert [row["status"] for row in rows][:3] == ["converged"] * 3
    for row in rows:
        if row["relaxed_frame"]:
            frame = frames[int(row["relaxed_frame"])]
            assert frame.info["row"] == int(row["index"])
            volume = frame.get_volume() / len(frame)
            assert volume == pytest.approx(float(row["volume_per_atom"]))
            assert abs(float(row["pressure_kbar"])) < 1.0
    assert rows[0]["same_as"] == rows[1]["same_as"] == "0"  # both relax to copper
    assert metrics["relaxation"]["steps"] == 500


def test_structures_without_atoms_elements_or_a_finite_cell_cost_no_other_anything(tmp_path):
    """Of each there are metrics of all protocols, a hull of the others' elements, and a page."""
    copper = bulk("Cu", "fcc", a=3.6)
    infinite = bulk("Au", "fcc", a=4.1)
    infinite.cell[0, 0] = math.inf
    nowhere = bulk("Pt", "fcc", a=3.9)
    nowhere.positions[0, 1] = math.nan
    path, output = tmp_path / "made.extxyz", tmp_path / "out"
    write(path, [copper, Atoms(), Atoms("X", cell=[3, 3, 3], pbc=True), infinite, nowhere])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        rows, metrics, monitor = evaluated(
            path,
            output,
            calculator=EMT,
            hull="potential",
            reference=path,
            protocols=tuple(PROTOCOLS),
        )
    assert [row["status"] for row in rows] == ["evaluated", *["unphysical"] * 4]
    starts = ("has no atoms", "atom 0 has atomic number 0", "its cell is [[inf", "atom 0 is at (0, nan")
    assert all(row["reason"].startswith(start) for row, start in zip(rows[1:], starts, strict=True))
    assert float(rows[0]["energy_above_hull"]) == pytest.approx(0, abs=0.01)
    assert metrics["hull"]["source"] == "1 structure and 1 element relaxed by emt"
    assert (output / "report.html").is_file()
    assert not any("report.html" in warning for warning in monitor.warnings)


def test_a_set_without_any_usable_structure_has_no_hull_but_its_rows(tmp_path):
    write(tmp_path / "made.extxyz", [Atoms(), Atoms("X", cell=[3, 3, 3], pbc=True)])
    rows, _, monitor = evaluated(tmp_path / "made.extxyz", tmp_path / "out", calculator=EMT, hull="potential")
    assert [row["status"] for row in rows] == ["unphysical", "unphysical"]
    assert any("no structure can be used" in warning for warning in monitor.warnings)


def test_cells_are_empty_where_nothing_was_measured_with_words_for_molecules(tmp_path):
    copper = bulk("Cu", "fcc", a=3.7)
    flat = Atoms("Cu", cell=[0, 0, 0], pbc=True)
    infinite = bulk("Cu", "fcc", a=3.6)
    infinite.cell[0, 0] = math.inf
    nowhere = bulk("Cu", "fcc", a=3.6)
    nowhere.positions[0, 1] = math.nan
    same = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0]], cell=[5, 5, 5], pbc=True)
    molecule_of_two = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.2]])
    path, output = tmp_path / "made.extxyz", tmp_path / "out"
    write(path, [copper, flat, infinite, nowhere, same, molecule_of_two])
    rows, _, _ = evaluated(path, output, calculator=EMT, relaxation=RelaxationSettings(), reference=path)
    assert [row["shortest_distance"] for row in rows[1:5]] == ["", "", "", "0.0"]
    assert float(rows[0]["shortest_distance"]) > 2.5 and float(rows[5]["shortest_distance"]) == 2.2
    assert [row["steps"] == "" for row in rows] == [False, True, True, True, True, False]
    assert rows[5]["unique"] == rows[5]["novel"] == "" and rows[5]["status"] == "converged"
    assert rows[5]["reason"] == "not periodic in three directions: not compared with crystals"


@pytest.mark.parametrize("relaxation", [None, RelaxationSettings()])
def test_frames_carry_total_energies_for_ase(tmp_path, relaxation):
    path, output = tmp_path / "made.extxyz", tmp_path / "out"
    write(path, [bulk("Cu", "fcc", a=3.7, cubic=True), Atoms("X", cell=[3, 3, 3], pbc=True)])
    rows, _, _ = evaluated(path, output, calculator=EMT, relaxation=relaxation)
    generated, unphysical = read(output / "generated.extxyz", ":")
    before = float(rows[0]["initial_energy_per_atom"])
    assert generated.get_potential_energy() == pytest.approx(4 * before, abs=1e-7)
    assert generated.info["energy_per_atom"] == pytest.approx(before)
    assert unphysical.calc is None
    if relaxation is not None:
        (frame,) = read(output / "relaxed.extxyz", ":")
        assert frame.get_potential_energy() == pytest.approx(float(rows[0]["energy"]), abs=1e-7)
        assert frame.get_potential_energy() < generated.get_potential_energy() - 0.01
        assert frame.info["row"] == 0
