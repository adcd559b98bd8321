import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from whorl.errors import InputError
from whorl.evaluation.alignment import superimpose
from whorl.structures import from_ase

CRYSTAL = Atoms(
    "Ti2O4",
    scaled_positions=[
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [0.305, 0.305, 0],
        [0.695, 0.695, 0],
        [0.195, 0.805, 0.5],
        [0.8, 0.2, 0.5],
    ],
    cell=[4.6, 4.7, 2.96],
    pbc=True,
)


def apart(found, reference):
    """Return the largest distance between atoms of one index, to the nearest image."""
    cell = reference.cells[0].numpy()
    delta = (found.positions - reference.positions).numpy()
    if reference.pbc.all():
        fractional = delta @ np.linalg.inv(cell)
        delta = (fractional - np.round(fractional)) @ cell
    return np.linalg.norm(delta, axis=1).max()


@pytest.mark.parametrize("name", ["H2O", "CH3OH", "CH4", "C6H6"])
def test_molecules_come_back_to_their_place_and_order(name):
    original = molecule(name)
    rng = np.random.default_rng(0)
    turned = original[rng.permutation(len(original))]
    turned.rotate(70, (1, 2, 3))
    turned.positions = -turned.positions + [5.0, 0, 1]
    reference = from_ase([original])
    laid = superimpose(from_ase([turned]), reference)
    assert laid is not None
    assert torch.equal(laid.atomic_numbers, reference.atomic_numbers)
    assert apart(laid, reference) < 1e-6


def test_what_differs_is_moved_but_not_bent():
    original = molecule("CH3OH")
    other = original.copy()
    other.rotate(100, "z")
    other.positions[0] += [0.3, 0.1, 0]
    laid = superimpose(from_ase([other]), from_ase([original]))
    assert laid is not None
    before, after = np.sort(other.get_all_distances().ravel()), torch.cdist(laid.positions, laid.positions)
    np.testing.assert_allclose(np.sort(after.numpy().ravel()), before, atol=1e-6)
    assert 0.05 < apart(laid, from_ase([original])) < 0.4


@pytest.mark.parametrize("crystal", [CRYSTAL, bulk("NaCl", "rocksalt", a=5.64), bulk("Si")], ids=str)
def test_crystals_come_back_whatever_their_description(crystal):
    rng = np.random.default_rng(1)
    other = crystal[rng.permutation(len(crystal))]
    other.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ crystal.cell[:])
    other.positions += [0.3, 1.1, -2.0]
    other.rotate(50, (1, 0, 2), rotate_cell=True)
    reference = from_ase([crystal])
    laid = superimpose(from_ase([other]), reference)
    assert laid is not None
    assert torch.allclose(laid.cells, reference.cells, atol=1e-6)
    assert torch.equal(laid.atomic_numbers, reference.atomic_numbers)
    assert apart(laid, reference) < 1e-5


def test_nothing_where_they_cannot_be_laid_upon_one_another():
    water, slab = from_ase([molecule("H2O")]), from_ase([fcc111("Pt", (1, 1, 2), vacuum=5)])
    assert superimpose(water, from_ase([molecule("CH4")])) is None
    assert superimpose(slab, slab) is None
    large, small = from_ase([bulk("Cu", a=3.6)]), from_ase([bulk("Cu", a=7.2)])
    assert superimpose(large, small) is None
    lost = water.replace(positions=water.positions * torch.nan)
    assert superimpose(lost, water) is None
    with pytest.raises(InputError, match="expected one each"):
        superimpose(water[[0, 0]], water)
