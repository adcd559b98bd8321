"""Space groups, standardized cells, and crystals refined to their symmetry."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.spacegroup import crystal

from whorl.errors import InputError
from whorl.structures import from_ase
from whorl.symmetry.detection import refine, space_group_numbers, standardized

RUTILE = crystal(
    ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.95, 90, 90, 90]
)


def shaken(atoms, amount, seed=0):
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + 0.2 * amount * rng.normal(size=(3, 3)) / 4), scale_atoms=True
    )
    atoms.positions += amount * rng.normal(size=atoms.positions.shape)
    return atoms


def test_numbers():
    batch = from_ase([RUTILE, bulk("Fe"), bulk("Si"), shaken(RUTILE, 0.2)])
    assert space_group_numbers(batch).tolist() == [136, 229, 227, 1]
    assert space_group_numbers(batch[:0]).tolist() == []


def test_refinement_undoes_a_shake():
    silicon = bulk("Si", cubic=True)
    batch = from_ase([shaken(RUTILE, 0.03), shaken(silicon, 0.03), RUTILE])
    found = refine(batch, expected=[136.3, 227.0, 136.0], expected_error=[0.5, 0.5, 0.0])
    assert found.space_group.tolist() == [136, 227, 136]
    assert space_group_numbers(found.structures, symprec=1e-4).tolist() == [136, 227, 136]
    assert (found.displacement[:2] > 0.01).all() and (found.displacement[:2] < 0.15).all()
    assert found.displacement[2] < 1e-6 and found.strain[2] < 1e-6 and found.symprec[2] == 0.001
    assert torch.equal(found.structures.atomic_numbers, batch.atomic_numbers)
    moved = (found.structures.positions - batch.positions).norm(dim=1)
    assert moved.max() < 0.3


def test_the_expected_group_decides():
    # BaTiO3: titanium is a little off the centre of a cubic cell.
    polar = crystal(
        ["Ba", "Ti", "O", "O"],
        [(0, 0, 0), (0.5, 0.5, 0.515), (0.5, 0.5, 0), (0.5, 0, 0.5)],
        spacegroup=99,
        cellpar=[4.0, 4.0, 4.0, 90, 90, 90],
    )
    batch = from_ase([polar, polar])
    found = refine(batch, expected=[99.0, 221.0])
    assert found.space_group.tolist() == [99, 221]
    assert found.displacement[0] < 1e-6 < found.displacement[1]
    assert refine(batch).space_group.tolist() == [221, 221]
    assert refine(batch, most=0.01).space_group.tolist() == [99, 99]
    assert refine(batch, most=torch.tensor([0.01, 0.6])).space_group.tolist() == [99, 221]


def test_what_has_no_symmetry_stays():
    batch = from_ase(shaken(RUTILE, 0.4))
    found = refine(batch, tolerances=[0.001])
    assert found.space_group.tolist() == [1]
    torch.testing.assert_close(found.structures.positions, batch.positions, rtol=0, atol=1e-9)


@pytest.mark.parametrize("raises", ["0", "1"])  # ASE makes spglib raise, for the whole process
def test_atoms_on_top_of_each_other_are_no_crash(monkeypatch, raises):
    monkeypatch.setenv("SPGLIB_OLD_ERROR_HANDLING", raises)
    twice = bulk("Fe") + bulk("Fe")
    found = refine(from_ase([twice, RUTILE]))
    assert found.space_group.tolist() == [1, 136]
    assert found.symprec[0].isnan() and found.displacement[0] == 0.0
    assert len(standardized(from_ase(twice), cell="primitive").atomic_numbers) == 2


def test_standardized_cells():
    batch = from_ase([bulk("NaCl", "rocksalt", 5.64, cubic=True), bulk("NaCl", "rocksalt", 5.64)])
    assert standardized(batch, cell="primitive").n_atoms.tolist() == [2, 2]
    assert standardized(batch, cell="niggli").n_atoms.tolist() == [2, 2]
    conventional = standardized(batch, cell="conventional")
    assert conventional.n_atoms.tolist() == [8, 8]
    torch.testing.assert_close(conventional.cells[1], 5.64 * torch.eye(3).double(), rtol=0, atol=1e-9)
    assert standardized(batch, cell="as_is") is batch


def test_wrong_options():
    with pytest.raises(InputError, match="Did you mean 'niggli'"):
        standardized(from_ase(RUTILE), cell="nigli")
    with pytest.raises(InputError, match="greater than 0"):
        refine(from_ase(RUTILE), tolerances=[])
