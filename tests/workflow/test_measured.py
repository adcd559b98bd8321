"""Structures from measured pair distribution functions, from the file to the results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read

from whorl.datasets.gr_files import read_gr
from whorl.errors import InputError
from whorl.reconstruction.measured import refine_to_curve, simplest
from whorl.representations.pdf import PDF
from whorl.representations.settings import RepresentationSettings
from whorl.settings import settings_from
from whorl.structures import from_ase
from whorl.workflow.measured import invert_measured
from whorl.workflow.monitor import Monitor

HEADER = """\
[PDF]
mode = {mode}
composition = {composition}
qmax = 20.0

#### start data
#S 1
#L r({unit})  G
"""


def write(path: Path, atoms: Atoms, *, mode="xray", composition="Cu", unit="A", scale=0.7, noise=0.0) -> Path:
    pdf = PDF(r_min=0.1, r_max=16.0, r_step=0.05, q_max=20.0, width=0.12, q_damp=0.04, broadening=())
    with torch.no_grad():
        curve = scale * pdf.curve([atoms])[0].numpy()
    curve += noise * np.abs(curve).max() * np.random.default_rng(0).standard_normal(len(curve))
    factor = 0.1 if unit == "nm" else 1.0
    lines = [f"{factor * r:.6g} {g / factor**2:.8g}" for r, g in zip(pdf.r, curve, strict=True)]
    path.write_text(HEADER.format(mode=mode, composition=composition, unit=unit) + "\n".join(lines) + "\n")
    return path


def test_a_measured_curve_gives_its_crystal(tmp_path):
    path = write(tmp_path / "copper.gr", bulk("Cu", cubic=True), noise=0.01)
    monitor = Monitor()
    fit = invert_measured(
        path,
        formula="Cu4",
        cell=(3.63, 3.63, 3.63, 90.0, 90.0, 90.0),
        output=tmp_path / "out",
        monitor=monitor,
        budget_evaluations=600,
    )
    assert fit.space_group == 225 and fit.r_w < 0.05
    assert float(fit.structure.cells[0, 0, 0]) == pytest.approx(3.61, abs=0.003)
    assert fit.representation.width == pytest.approx(0.12, abs=0.01)
    record = json.loads((tmp_path / "out/result.json").read_text())
    assert record["space_group"] == "Fm-3m" and record["r_w"] == fit.r_w and not monitor.doubts
    assert len(read(tmp_path / "out/solution.cif")) == 4
    table = np.loadtxt(tmp_path / "out/curve.csv", delimiter=",", skiprows=1)
    assert np.allclose(table[:, 1] - table[:, 2], table[:, 3], atol=1e-6)
    assert "Fm-3m" in (tmp_path / "out/report.html").read_text()


def test_nanometres_are_converted_and_said(tmp_path):
    angstrom = read_gr(write(tmp_path / "a.gr", bulk("Cu")))
    nm = read_gr(write(tmp_path / "b.gr", bulk("Cu"), unit="nm"))
    assert np.allclose(angstrom.r, nm.r) and np.allclose(angstrom.g, nm.g, rtol=1e-5)
    assert any("nm" in doubt for doubt in nm.doubts) and not angstrom.doubts
    assert nm.q_max == 20.0 and nm.scattering == "xray"


def test_a_file_without_header_is_doubted(tmp_path):
    path = write(tmp_path / "a.gr", bulk("Cu"))
    rows = path.read_text().split("G\n")[1]
    path.write_text(rows)
    measured = read_gr(path)
    assert measured.q_max is None
    assert any("qmax" in doubt for doubt in measured.doubts)
    assert any("radiation" in doubt for doubt in measured.doubts)


@pytest.mark.parametrize("stated", ["200", "20.0 1/A"])
def test_a_qmax_that_is_no_number_of_reciprocal_angstrom_is_doubted(tmp_path, stated):
    path = write(tmp_path / "a.gr", bulk("Cu"))
    path.write_text(path.read_text().replace("qmax = 20.0", f"qmax = {stated}"))
    measured = read_gr(path)
    assert measured.q_max is None
    assert any(f"qmax '{stated}'" in doubt for doubt in measured.doubts)


def test_a_curve_that_begins_late_is_used_from_there(tmp_path):
    path = write(tmp_path / "a.gr", bulk("Cu"))
    header, rows = path.read_text().split("G\n")
    path.write_text(header + "G\n" + "\n".join(rows.splitlines()[43:]) + "\n")  # from 2.25 Å
    options = {
        "formula": "Cu",
        "cell": (2.55, 2.55, 2.55, 60.0, 60.0, 60.0),
        "output": tmp_path / "out",
        "monitor": Monitor(),
        "budget_evaluations": 5,
    }
    fit = invert_measured(path, **options)
    assert fit.representation.config()["r_min"] == 2.3 and fit.r_w < 0.2
    early = settings_from(RepresentationSettings, {"kind": "pdf", "r_min": 1.0}, source="test")
    with pytest.raises(InputError, match=r"from 2\.25 to .* larger r_min"):
        invert_measured(path, **options, settings=early)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows[:30], "1.6 nan", *rows[31:]], "line 39.*finite"),
        (lambda rows: [f"-{row}" for row in rows[:40]] + rows, "below 0"),
        (lambda rows: rows[::-1], "must increase"),
        (lambda rows: rows[:5], "expected 20 or more"),
        (lambda rows: rows[:60], "at least 4"),
        (lambda rows: rows[::6], "peaks fall between"),
        (lambda rows: [row.replace(".", ",") for row in rows], "line 9.*decimal points"),
    ],
    ids=["nan", "negative r", "order", "short", "range", "coarse", "decimal commas"],
)
def test_bad_curves_are_refused_by_reason(tmp_path, change, message):
    path = write(tmp_path / "a.gr", bulk("Cu"))
    header, rows = path.read_text().split("G\n")
    path.write_text(header + "G\n" + "\n".join(change(rows.splitlines())) + "\n")
    with pytest.raises(InputError, match=message):
        read_gr(path)


def test_other_ways_to_write_a_curve_give_the_same(tmp_path):
    path = write(tmp_path / "a.gr", bulk("Cu"))
    text, curve = path.read_text(), read_gr(path)
    header, rows = text.split("G\n")
    commented = rows.replace("\n", "\n# a remark\n", 40)
    for other in (
        f"{header}G\n{commented}# end of data\n".encode(),
        text.replace("\n", "\r\n").encode(),
        f"{header}G\n{rows.replace(' ', ',')}".encode(),
        f"{header}G\n{rows.replace(' ', ', ')}".encode(),
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
    ):
        path.write_bytes(other)
        same = read_gr(path)
        assert np.array_equal(same.r, curve.r) and np.array_equal(same.g, curve.g) and same.q_max == 20.0


@pytest.mark.parametrize("scale", [0.0, 1e200])
def test_a_curve_without_peaks_is_refused(tmp_path, scale):
    path = write(tmp_path / "a.gr", bulk("Cu"), scale=scale)
    with pytest.raises(InputError, match="got a largest value"):
        invert_measured(path, formula="Cu", output=tmp_path / "out", monitor=Monitor())


@pytest.mark.parametrize("formula", ["Cu0", "Cu999999999"])
def test_a_formula_of_no_or_too_many_atoms_is_refused(tmp_path, formula):
    path = write(tmp_path / "a.gr", bulk("Cu"))
    with pytest.raises(InputError, match=r"composition.*expected"):
        invert_measured(path, formula=formula, output=tmp_path / "out", monitor=Monitor())


def test_settings_of_the_curve_replace_those_of_the_file(tmp_path):
    settings = settings_from(
        RepresentationSettings, {"kind": "pdf", "r_max": 6.0, "q_max": None}, source="test"
    )
    fit = invert_measured(
        write(tmp_path / "a.gr", bulk("Cu")),
        formula="Cu",
        cell=(2.55, 2.55, 2.55, 60.0, 60.0, 60.0),
        output=tmp_path / "out",
        monitor=Monitor(),
        settings=settings,
        budget_evaluations=5,
    )
    used = fit.representation.config()
    assert (used["r_max"], used["q_max"], used["r_min"]) == (6.0, None, 2.0)


def test_a_formula_that_does_not_fit_is_said(tmp_path):
    path = write(tmp_path / "a.gr", bulk("Cu", cubic=True), composition="Ni")
    monitor = Monitor()
    invert_measured(
        path,
        formula="Cu",
        cell=(4.5, 4.5, 4.5, 90.0, 90.0, 90.0),
        output=tmp_path / "out",
        monitor=monitor,
        budget_evaluations=20,
    )
    assert any("states the composition Ni" in doubt for _, doubt in monitor.doubts)
    assert any("Å³ per atom" in warning for warning in monitor.warnings)
    assert any("R_w" in warning for warning in monitor.warnings)


def test_a_cell_too_small_for_its_atoms_is_refused(tmp_path):
    path = write(tmp_path / "a.gr", bulk("Cu"))
    cell = (3.6, 3.6, 3.6, 90.0, 90.0, 90.0)
    with pytest.raises(InputError, match=r"Cu40 .* 1\.2 Å³ per atom.*usual are 5 to 60"):
        invert_measured(path, formula="Cu40", cell=cell, output=tmp_path / "out", monitor=Monitor())


def test_a_refinement_finds_width_cell_and_symmetry():
    atoms = bulk("Si", cubic=True)
    pdf = PDF(q_max=25.0)
    true = PDF.from_config({**pdf.config(), "width": 0.13, "q_damp": 0.03, "delta2": 2.0})
    with torch.no_grad():
        measured = 2.0 * true.curve([atoms])[0].numpy()
    moved = atoms.copy()
    moved.set_cell(atoms.cell * 1.004, scale_atoms=True)
    moved.rattle(0.05, seed=0)
    fit = simplest(refine_to_curve(from_ase(moved), pdf, measured))
    assert (fit.space_group, fit.parameters) == (227, 4)
    assert fit.r_w < 5e-3 and fit.scale == pytest.approx(2.0, rel=1e-3)
    assert fit.representation.width == pytest.approx(0.13, abs=1e-3)
    assert float(fit.structure.cells[0].norm(dim=1)[0]) == pytest.approx(atoms.cell.lengths()[0], rel=1e-4)
