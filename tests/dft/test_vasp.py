"""VASP: input files, the scripts with a program in VASP's place, and results in any state."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read as ase_read
from typer.testing import CliRunner

from whorl.cli import commands
from whorl.datasets.computed_files import read_computed
from whorl.datasets.extxyz import write_extxyz
from whorl.datasets.readers import read_dataset
from whorl.datasets.store import Dataset
from whorl.dft import read_calculations, write_calculations, write_results
from whorl.dft.folder import names
from whorl.dft.vasp import VASP
from whorl.errors import InputError
from whorl.settings import settings_from
from whorl.structures.convert import from_ase

HERE = Path(__file__).parent
REAL = Path(ase.__file__).parent / "test" / "testdata" / "vasp"


def run(*arguments, code=0):
    result = CliRunner().invoke(commands(), [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def crystals():
    """Cu3Au-like with interleaved elements, and fcc Cu in a cubic cell, strained."""
    ordered = bulk("Cu", cubic=True)
    ordered.symbols[1] = "Au"
    ordered.set_cell(ordered.cell * 1.04, scale_atoms=True)
    copper = bulk("Cu", a=3.5, cubic=True)
    return [ordered, copper]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "crystals.extxyz"
    write_extxyz(from_ase(crystals()), path, ids=["first", "second"])
    return path


def compute(folder, trouble="", arguments=()):
    pots = folder.parent / "potentials"
    for symbol in ("Cu_pv", "Au"):
        (pots / symbol).mkdir(parents=True, exist_ok=True)
        (pots / symbol / "POTCAR").write_text(f"{symbol}\n")
    environment = {
        **os.environ,
        "VASP_PP_PATH": str(pots),
        "VASP_COMMAND": f"{sys.executable} {HERE / 'fake_vasp.py'}",
        "FAKE_VASP": trouble,
    }
    return subprocess.run(
        ["bash", folder / "run.sh", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def table(folder):
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def tags(path):
    return dict(line.replace(" ", "").split("=") for line in path.read_text().splitlines())


def test_the_input_is_that_of_the_paper(source, tmp_path):
    out = tmp_path / "vasp"
    run("dft", "write", source, out)
    stage = out / "00001_AuCu3" / "relax_1"
    assert tags(stage / "INCAR") == {
        "GGA": "PS",
        "ENCUT": "400.0",
        "ISMEAR": "0",
        "SIGMA": "0.1",
        "IBRION": "2",
        "ISIF": "3",
        "EDIFF": "1e-06",
        "EDIFFG": "1e-05",
        "NSW": "100",
        "LWAVE": "False",
        "LCHARG": "False",
    }
    assert (stage / "KPOINTS").read_text().split()[-4:] == ["Gamma", "3", "3", "3"]
    written = ase_read(stage / "POSCAR", format="vasp")
    elements = list(dict.fromkeys(written.get_chemical_symbols()))
    assert [s.split("_")[0] for s in (stage / "POTCAR.spec").read_text().split()] == elements
    assert len(ase_read(out / "00002_Cu" / "relax_1" / "POSCAR", format="vasp")) == 1  # primitive
    assert sorted(path.name for path in stage.parent.iterdir()) == [f"relax_{i}" for i in range(1, 5)]
    assert not (stage.parent / "relax_2" / "POSCAR").exists()


def test_four_relaxations_by_a_program_in_the_place_of_vasp(source, tmp_path):
    out = tmp_path / "vasp"
    run("dft", "write", source, out)
    done = compute(out)
    assert done.returncode == 0, done.stderr
    run("dft", "read", out)
    ordered, copper = table(out)
    assert (ordered["id"], ordered["status"]) == ("first", "converged")
    assert list(copper)[6:15] == ["E0", "E1", "E2", "E3", "E4", "P1", "P2", "P3", "P4"]
    assert (
        float(copper["E0"]) > float(copper["E4"]) and abs(float(copper["P4"])) < abs(float(copper["P1"])) + 1
    )
    # The same by ASE itself, and by the words of OUTCAR.
    from ase.calculators.emt import EMT

    start = ase_read(out / "00002_Cu" / "relax_1" / "POSCAR", format="vasp")
    start.calc = EMT()
    assert float(copper["E0"]) == pytest.approx(start.get_potential_energy(), abs=1e-6)
    words = (out / "00002_Cu" / "relax_4" / "OUTCAR").read_text().split("external pressure =")[-1].split()[0]
    assert float(copper["P4"]) == pytest.approx(float(words), abs=0.01)
    # A second stage starts where the first one ended.
    ends = ase_read(out / "00001_AuCu3" / "relax_1" / "CONTCAR", format="vasp")
    begins = ase_read(out / "00001_AuCu3" / "relax_2" / "POSCAR", format="vasp")
    np.testing.assert_allclose(ends.positions, begins.positions)
    (calculation,) = read_calculations(out / "00001_AuCu3")  # without dft.json
    assert calculation.row()["E4"] == pytest.approx(float(ordered["E4"])) and len(calculation.results) == 4
    relaxed = read_dataset(out / "relaxed.extxyz", property="energy_per_atom")
    assert relaxed.forces is not None and relaxed.stresses is not None and len(relaxed) == 2
    assert float(relaxed.properties["energy_per_atom"][1]) == pytest.approx(float(copper["E4"]), abs=1e-6)
    # A stage that is missing is named.
    for name in ("OUTCAR", "vasprun.xml", "vasp.out"):
        (out / "00001_AuCu3" / "relax_4" / name).unlink()
    run("dft", "read", out, code=3)
    row = table(out)[0]
    assert row["status"] == "missing" and row["reason"].startswith("relax_4: ")
    assert row["E3"] and not row["E4"]


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        ("killed:2", "killed", "relax_2: OUTCAR stops"),
        ("time:2", "out of time", "DUE TO TIME LIMIT"),
        ("error:2", "failed", "relax_2: VERY BAD NEWS"),
    ],
)
def test_a_run_that_stops_is_a_status_and_goes_on_after_it(source, tmp_path, trouble, status, words):
    out = tmp_path / "vasp"
    run("dft", "write", source, out, "--stages", "2")
    stopped = compute(out, trouble, ["00002_Cu"])
    assert stopped.returncode == 1 and "00002_Cu/relax_2" in stopped.stderr
    said = run("dft", "read", out, code=3)
    first, second = table(out)
    assert first["status"] == "missing" and first["E0"] == "" and "first: missing" in said
    assert second["status"] == status and words in second["reason"] and words in said
    if status == "killed":  # the log of the job that ran all of them
        (out / "slurm-17.out").write_text("slurmstepd: error: *** JOB 17 CANCELLED DUE TO TIME LIMIT ***\n")
        run("dft", "read", out, code=3)
        assert table(out)[1]["status"] == "out of time"
    assert second["E0"] and second["E1"] and not second["E2"] and not second["P2"]
    if status != "killed":
        return
    kept = (out / "00002_Cu" / "relax_1" / "OUTCAR").stat().st_mtime_ns
    assert compute(out, "", ["00002_Cu"]).returncode == 0
    assert (out / "00002_Cu" / "relax_1" / "OUTCAR").stat().st_mtime_ns == kept
    run("dft", "read", out, code=3)
    assert table(out)[1]["status"] == "converged"


def test_ions_that_are_not_converged_are_a_status(source, tmp_path):
    out = tmp_path / "vasp"
    run("dft", "write", source, out, "--stages", "1")
    compute(out, "unconverged:1")
    run("dft", "read", out, code=3)
    assert table(out)[0]["status"] == "not converged"
    assert "not converged after" in table(out)[0]["reason"]


def test_labels_answer_an_active_round(tmp_path, source):
    """The first ionic step is the structure itself, in another order of the atoms."""
    out = tmp_path / "vasp"
    run("dft", "write", source, out, "--cell", "as_is", "--stages", "1")
    compute(out)
    run("dft", "read", out, "--output", tmp_path / "round" / "results")
    (tmp_path / "round" / "results" / "steps.extxyz").unlink()
    (tmp_path / "round" / "results" / "relaxed.extxyz").unlink()
    chosen = Dataset(structures=from_ase(crystals()), ids=("first", "second"))
    results = read_computed(chosen, tmp_path / "round", property="energy_per_atom")
    assert sorted(results.good) == ["first", "second"] and not results.refused
    from whorl.potentials import make_potential

    expected = make_potential("emt")(chosen.structures)
    assert results.good["first"].energy == pytest.approx(float(expected.energy[0]), abs=1e-5)
    torch.testing.assert_close(results.good["first"].forces, expected.forces[:4], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("file", "name", "energy", "kbar"),
    [
        ("vasprun_pstress.xml", "vasprun.xml", None, -166.0),
        ("vasprun_dfpt.xml", "vasprun.xml", None, 36.09),
        ("OUTCAR_example_1", "OUTCAR", -68.22868532, -4.46),
    ],
)
def test_output_of_vasp_itself(tmp_path, file, name, energy, kbar):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).write_bytes((REAL / file).read_bytes())
    (calculation,) = read_calculations(tmp_path)
    row = calculation.row()
    assert row["id"] == "one" and row["E0"] is not None, row
    if energy is not None:
        assert row["E1"] == pytest.approx(energy, abs=1e-6)
    assert row["P1"] == pytest.approx(kbar, abs=0.05)


def test_energies_are_those_of_the_ionic_step(tmp_path):
    """With DFPT the last electronic step has another energy; under PSTRESS the ionic step has an enthalpy."""
    for name in ("dfpt", "pstress"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vasprun.xml").write_bytes((REAL / f"vasprun_{name}.xml").read_bytes())
    rows = {calculation.id: calculation.row() for calculation in read_calculations(tmp_path)}
    assert rows["dfpt"]["E1"] == pytest.approx(-6.74587304, abs=1e-6)
    assert rows["pstress"]["E1"] == pytest.approx(-20.24695937, abs=1e-6)
    assert {row["status"] for row in rows.values()} == {"converged"}
    packed = gzip.compress((tmp_path / "dfpt" / "vasprun.xml").read_bytes())
    (tmp_path / "dfpt" / "vasprun.xml.gz").write_bytes(packed)
    (tmp_path / "dfpt" / "vasprun.xml").unlink()
    assert read_calculations(tmp_path)[0].row() == rows["dfpt"]


@pytest.mark.parametrize("electrons", ["n_y", "y_n", "y_y"])
def test_unconverged_electrons_of_vasp_itself(tmp_path, electrons):
    text = (REAL / "OUTCAR_example_1").read_text()
    loop = (REAL / f"convergence_OUTCAR_{electrons}").read_text()
    head, _, tail = text.rpartition("------------------------ aborting loop because EDIFF is reached")
    (tmp_path / "OUTCAR").write_text(head + loop + tail)
    (calculation,) = read_calculations(tmp_path)
    reached = "because EDIFF is reached" in loop.splitlines()[-1]
    assert calculation.status == ("converged" if reached else "not converged")
    assert ("electrons" in calculation.reason) != reached


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.98])
def test_output_that_is_cut_off_anywhere_is_a_status(tmp_path, share):
    for source, name in (("OUTCAR_example_1", "OUTCAR"), ("vasprun_dfpt.xml", "vasprun.xml")):
        folder = tmp_path / name
        folder.mkdir()
        data = (REAL / source).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)] + b"\n")
    for calculation in read_calculations(tmp_path):
        assert calculation.status == "killed", calculation.reason
    write_results(read_calculations(tmp_path), tmp_path)
    assert [row["status"] for row in table(tmp_path)] == ["killed", "killed"]


def test_structures_that_vasp_cannot_compute_are_skipped(tmp_path):
    structures = [molecule("H2O"), bulk("Po", "sc", a=3.3), bulk("Cu"), Atoms("No", cell=[4] * 3, pbc=True)]
    write_extxyz(from_ase(structures), tmp_path / "some.extxyz")
    said = run("dft", "write", tmp_path / "some.extxyz", tmp_path / "out", code=3)
    assert "not periodic" in said and "no potential of No" in said
    index = json.loads((tmp_path / "out" / "dft.json").read_text())
    assert "Cu" in [entry["formula"] for entry in index["structures"]]
    assert "already" in run("dft", "write", tmp_path / "some.extxyz", tmp_path / "out", code=1)
    write_extxyz(from_ase([molecule("H2O")]), tmp_path / "none.extxyz")
    assert "none of 1" in run("dft", "write", tmp_path / "none.extxyz", tmp_path / "other", code=1)


def test_folders_that_cannot_be_read_are_errors(tmp_path):
    assert "no such folder" in run("dft", "read", tmp_path / "absent", code=1)
    assert "no output" in run("dft", "read", tmp_path, code=1)
    (tmp_path / "dft.json").write_text('{"format": "whorl dft 1"}')
    assert "damaged" in run("dft", "read", tmp_path, code=1)
    (tmp_path / "dft.json").write_text('{"format": "another"}')
    assert "expected 'whorl dft 1'" in run("dft", "read", tmp_path, code=1)


def test_presets_and_tags(tmp_path, source):
    data = read_dataset(source, property=None)
    with pytest.raises(InputError, match="preset"):
        run_settings(preset="mp_relaxed")
    code = VASP(run_settings(preset="mp_relax", incar={"ENCUT": 600}, kpoints=[2, 2, 2]))
    write_calculations(data, tmp_path / "mp", code)
    stage = tmp_path / "mp" / "00001_AuCu3" / "relax_1"
    assert tags(stage / "INCAR")["ENCUT"] == "600.0" and tags(stage / "INCAR")["ISPIN"] == "2"
    assert (stage / "KPOINTS").read_text().split()[-3:] == ["2", "2", "2"]
    write_calculations(data, tmp_path / "matpes", VASP(run_settings(preset="matpes_static")))
    stage = tmp_path / "matpes" / "00001_AuCu3" / "relax_1"
    assert "KSPACING" in tags(stage / "INCAR") and not (stage / "KPOINTS").exists()


def run_settings(**options):
    return settings_from(VASP.Settings, options, source="test", lines={})


def test_crystals_of_an_evaluation_keep_the_names_of_their_files():
    crystals = [bulk("Cu"), bulk("Au")]
    for atoms, name in zip(crystals, ("a.cif", "b.cif"), strict=True):
        atoms.info.update(file=name, row=7)
    data = Dataset(structures=crystals, ids=("relaxed.extxyz@0", "relaxed.extxyz@1"))
    assert names(data) == ["a.cif", "b.cif"]
    crystals[1].info["file"] = "a.cif"
    assert names(Dataset(structures=crystals, ids=("x@0", "x@1"))) == ["x@0", "x@1"]
