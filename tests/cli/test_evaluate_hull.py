"""``whorl evaluate --hull``: where the reference phases come from, and what is refused."""

import csv
import json

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from whorl.datasets.fetch import BENCHMARKS
from whorl.evaluation.hull.reading import MP2019_SHA256

OWN = "formula,energy_per_atom,scheme\nCu,-0.005,emt\nAu,0.0,emt\nCuAu,-0.02,emt\n"


def alloy():
    atoms = bulk("Cu", "fcc", a=3.85, cubic=True)
    atoms.symbols = "Au2Cu2"
    return atoms


@pytest.fixture
def structures(tmp_path):
    """An alloy, a metal, and a crystal with an element that no reference has."""
    path = tmp_path / "set.extxyz"
    write(path, [alloy(), bulk("Cu", a=3.6), Atoms("Pt", cell=bulk("Pt").cell, pbc=True)])
    return path


def rows(folder):
    with (folder / "structures.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_hull_of_your_own(whorl, structures, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(OWN, encoding="utf-8")
    said = whorl("evaluate", structures, "--potential", "emt", "--hull", f"own={own}", "-o", tmp_path / "out")
    assert said.code in (0, 3), said.err
    first, second, third = rows(tmp_path / "out")
    assert float(first["energy_above_hull"]) == pytest.approx(float(first["energy_per_atom"]) + 0.02)
    assert first["competing"] == "1 AuCu" and float(second["formation_energy"]) > -0.01
    assert third["energy_above_hull"] == "" and "no phase of Pt" in third["reason"]
    hull = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["hull"]
    assert hull["source"] == "own.csv" and hull["scheme"] == "emt" and hull["entries"] == 3
    diagrams = json.loads((tmp_path / "out" / "phase_diagrams.json").read_text(encoding="utf-8"))
    assert [d["system"] for d in diagrams] == ["Au-Cu", "Cu"]


def test_a_hull_by_the_same_potential(whorl, tmp_path):
    write(tmp_path / "copper.extxyz", [bulk("Cu", a=3.6), bulk("Cu", "bcc", a=2.9)])
    arguments = ("--potential", "emt", "--relax", "--hull", "potential", "-o", tmp_path / "out")
    said = whorl("evaluate", tmp_path / "copper.extxyz", *arguments)
    assert said.code == 0, said.err
    first, second = rows(tmp_path / "out")
    assert float(first["energy_above_hull"]) == pytest.approx(0.0, abs=2e-3)
    assert float(second["energy_above_hull"]) > -2e-3
    hull = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["hull"]
    assert hull["potential"] == "emt" and "1 element relaxed by emt" in hull["source"]


def test_crystals_of_the_reference_in_these_systems_are_phases(whorl, tmp_path):
    write(tmp_path / "copper.extxyz", [bulk("Cu", a=3.6)])
    write(tmp_path / "known.extxyz", [bulk("Cu", "hcp", a=2.55), bulk("Pt"), alloy()])
    arguments = ("--potential", "emt", "--hull", "potential", "--reference", tmp_path / "known.extxyz")
    said = whorl("evaluate", tmp_path / "copper.extxyz", *arguments, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    hull = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["hull"]
    assert hull["source"] == "1 structure and 1 element relaxed by emt"  # not the alloy, nor platinum


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        (OWN.replace("emt", "mp2020"), "own={}", "'emt'"),
        (OWN.replace("emt", "matpes-pbe"), "own={}", "--hull potential"),
        (OWN.replace("emt", "mp2021"), "own={}", "unknown energy scheme"),
        (OWN, "mp2019={}", "SHA-256"),
        ("formula,energy_per_atom,scheme\n", "own={}", "no entries"),
    ],
)
def test_hulls_that_cannot_be_used_are_refused_before_anything_is_computed(
    whorl, structures, tmp_path, text, spec, message
):
    own = tmp_path / "own.csv"
    own.write_text(text, encoding="utf-8")
    arguments = ("--potential", "emt", "--relax", "--hull", spec.format(own), "-o", tmp_path / "out")
    said = whorl("evaluate", structures, *arguments)
    assert said.code == 1 and message in said.err
    assert not (tmp_path / "out" / "structures.csv").exists()


def test_another_word_is_wrong_usage(whorl, structures, tmp_path):
    said = whorl("evaluate", structures, "--potential", "emt", "--hull", "mp=x", "-o", tmp_path / "out")
    assert said.code == 2 and "mp2019=FILE" in said.err


def test_an_ase_calculator_without_a_scheme_is_said_how_to_state_one(whorl, structures, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(OWN.replace("emt", "pbe+u"), encoding="utf-8")
    arguments = ("--potential", "ase.calculators.emt:EMT", "--hull", f"own={own}", "-o", tmp_path / "out")
    said = whorl("evaluate", structures, *arguments)
    assert said.code == 1 and "--option scheme=NAME" in said.err
    said = whorl("evaluate", structures, *arguments, "--option", "scheme=pbe+u")
    assert said.code in (0, 3), said.err


def test_the_table_that_is_fetched_is_the_one_that_is_read():
    assert BENCHMARKS["hull_mp2019"].sha256 == {"mp_e_form.csv": MP2019_SHA256}
