"""Structures for another program and its results: files of the field, matched by id and by the atoms."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from whorl.datasets import Dataset
from whorl.datasets.computed_files import match, read_computed, write_to_compute
from whorl.structures import from_ase

VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <kpoints>
  <varray name="kpointlist"><v>0 0 0</v></varray>
  <varray name="weights"><v>1</v></varray>
 </kpoints>
 <parameters><separator name="ionic"><i name="NSW">0</i></separator></parameters>
 <atominfo>
  <array name="atoms"><set>{elements}</set></array>
 </atominfo>
 <structure name="initialpos">
  <crystal><varray name="basis">{cell}</varray></crystal>
  <varray name="positions">{positions}</varray>
 </structure>
 <calculation>
  <scstep><energy><i name="e_fr_energy">{energy}</i><i name="e_0_energy">{energy}</i></energy></scstep>
  <structure>
   <crystal><varray name="basis">{cell}</varray></crystal>
   <varray name="positions">{positions}</varray>
  </structure>
  <varray name="forces">{forces}</varray>
  <energy><i name="e_fr_energy">{energy}</i><i name="e_0_energy">{energy}</i></energy>
 </calculation>
</modeling>
"""


def crystal() -> Atoms:
    """Return an alloy whose elements alternate, in a left-handed cell."""
    rng = np.random.default_rng(0)
    places = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    atoms = Atoms("CuAuCuAu", scaled_positions=places, cell=[[0, 3.9, 0], [3.8, 0, 0], [0, 0, 4.1]], pbc=True)
    atoms.positions += rng.normal(0, 0.1, (4, 3))
    return atoms


def chosen(*atoms: Atoms) -> Dataset:
    return Dataset(structures=from_ase(list(atoms)), ids=tuple(f"one-{i}" for i in range(len(atoms))))


def rows(values) -> str:
    return "".join(f"<v>{' '.join(f'{x:.10f}' for x in row)}</v>" for row in values)


def vasprun(atoms: Atoms) -> str:
    return VASPRUN.format(
        elements="".join(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in atoms.symbols),
        cell=rows(atoms.cell),
        positions=rows(atoms.get_scaled_positions()),
        forces=rows(atoms.get_forces()),
        energy=f"{atoms.get_potential_energy():.8f}",
    )


def test_a_program_that_sorts_atoms_gives_the_forces_of_the_right_ones(tmp_path):
    atoms = crystal()
    write_to_compute(chosen(atoms), tmp_path)
    place = tmp_path / "to_compute" / "one-0"
    computed = read(place / "POSCAR")
    assert str(computed.symbols) == "Cu2Au2"
    computed.calc = EMT()
    (place / "vasprun.xml").write_text(vasprun(computed), encoding="utf-8")
    results = read_computed(chosen(atoms), tmp_path, property="formation_energy")
    assert not results.refused and not results.doubts
    atoms.calc = EMT()
    result = results.good["one-0"]
    assert result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert torch.allclose(result.forces, torch.from_numpy(atoms.get_forces()), atol=1e-6)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    atoms = crystal()
    write_to_compute(chosen(atoms), tmp_path)
    atoms.calc = EMT()
    text = vasprun(atoms)
    (tmp_path / "results" / "one-0").mkdir()
    (tmp_path / "results" / "one-0" / "vasprun.xml").write_text(text[: len(text) // 2], encoding="utf-8")
    results = read_computed(chosen(atoms), tmp_path, property="y")
    assert not results.good and "finite energy" in results.refused["one-0"]


def test_forces_that_are_no_numbers_are_left_out_with_a_doubt(tmp_path):
    atoms = crystal()
    write_to_compute(chosen(atoms), tmp_path)
    forces = np.zeros((4, 3))
    forces[0, 0] = np.nan
    atoms.info["id"] = "one-0"
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=forces)
    write(tmp_path / "results" / "a.extxyz", atoms)
    results = read_computed(chosen(atoms), tmp_path, property="y")
    assert results.good["one-0"].energy == 1.0
    assert not bool(results.good["one-0"].forces.isfinite().any())
    assert "forces" in results.doubts[0][1]


def test_folders_of_other_structures_go_unless_something_was_added(tmp_path):
    write_to_compute(chosen(crystal(), crystal(), crystal()), tmp_path)
    (tmp_path / "to_compute" / "one-2" / "OUTCAR").write_text("mine")
    write_to_compute(chosen(crystal()), tmp_path)
    assert sorted(path.name for path in (tmp_path / "to_compute").iterdir()) == ["one-0", "one-2"]


def changed(**changes) -> Atoms:
    atoms = crystal()
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def test_the_same_crystal_in_other_words_is_the_same():
    atoms, other = crystal(), crystal()[[2, 3, 1, 0]]
    other.positions += [0.3, -0.2, 5.0]
    other.set_cell(np.array([[1, 1, 0], [0, -1, 0], [0, 0, 1]]) @ other.cell.array)
    other.wrap()
    order, reason = match(from_ase([other]), from_ase([atoms]))
    assert reason == "" and order.tolist() == [3, 2, 0, 1]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(symbols="CuAuCuCu"), "other atoms"),
        (changed(cell=crystal().cell * 1.05), "another cell"),
        (changed(positions=crystal().positions + 0.1 * np.eye(4, 3)), "Å away"),
        (crystal() * (2, 1, 1), "other atoms"),
    ],
)
def test_another_crystal_is_another(other, words):
    order, reason = match(from_ase([other]), from_ase([crystal()]))
    assert order is None and words in reason
