"""Quantum ESPRESSO and GPAW: input files, and results in any state."""

import os
import subprocess
import sys

import pytest
from ase.build import bulk
from ase.io import read as ase_read

from whorl.datasets.store import Dataset
from whorl.dft import read_calculations, write_calculations
from whorl.dft.espresso import Espresso
from whorl.dft.gpaw import GPAW
from whorl.structures.convert import from_ase

FAKE_GPAW = """
from ase.calculators.emt import EMT
def GPAW(*, mode, xc, kpts, occupations, convergence, txt):
    assert mode == 400.0 and kpts["size"] == (3, 3, 3)
    return EMT()
PW = FermiDirac = float
"""


@pytest.fixture
def copper():
    return Dataset(structures=from_ase([bulk("Cu", a=3.5, cubic=True)]), ids=("copper",))


def test_gpaw_by_its_script(copper, tmp_path):
    out = tmp_path / "gpaw"
    write_calculations(copper, out, GPAW(GPAW.Settings(stages=2)), refined=True)
    (tmp_path / "gpaw.py").write_text(FAKE_GPAW)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GPAW_COMMAND": sys.executable}
    assert read_calculations(out)[0].status == "missing"
    (tmp_path / "gpaw.py").write_text("raise ImportError('no libxc')")
    assert subprocess.run(["bash", out / "run.sh"], env=environment, check=False).returncode == 1
    failed = read_calculations(out)[0]
    assert failed.status == "failed" and failed.reason == "relax_1: ImportError: no libxc"
    (tmp_path / "gpaw.py").write_text(FAKE_GPAW)
    subprocess.run(["bash", out / "run.sh"], env=environment, check=True)
    (calculation,) = read_calculations(out)
    row = calculation.row()
    assert row["status"] == "converged" and row["E2"] <= row["E1"] < row["E0"] and abs(row["P2"]) < 10
    (out / "00001_Cu" / "relax_2" / "ended.json").unlink()
    assert read_calculations(out)[0].status == "killed"


def test_espresso(copper, tmp_path):
    out = tmp_path / "qe"
    write_calculations(copper, out, Espresso(Espresso.Settings(input={"nspin": 2})))
    path = out / "00001_Cu" / "relax_1" / "espresso.pwi"
    assert len(ase_read(path, format="espresso-in")) == 1
    words = path.read_text().split()
    for expected in ("'vc-relax'", "'pbesol'", "Cu.UPF", "nspin", "3"):
        assert expected in words
    output = path.with_name("espresso.pwo")
    assert read_calculations(out)[0].status == "missing"
    output.write_text("     Program PWSCF v.7.2 starts\n     Error in routine readpp (1):\n")
    failed = read_calculations(out)[0]
    assert failed.status == "failed" and "readpp" in failed.reason
    output.write_text("     Program PWSCF v.7.2 starts\n")
    assert read_calculations(out)[0].status == "killed"
    output.write_text("     Program PWSCF v.7.2 starts\n   JOB DONE.\n")
    assert read_calculations(out)[0].status == "unreadable"
