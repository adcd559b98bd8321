import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.cell import Cell
from ase.geometry import find_mic, minkowski_reduce, wrap_positions
from hypothesis import assume, given, settings

from whorl.errors import InputError
from whorl.structures import from_ase
from whorl.structures.cells import (
    cell_parameters,
    cells_from_parameters,
    complete_cells,
    fractional_coordinates,
    heights,
    minimum_image,
    strained,
    volumes,
    with_fractional_coordinates,
    wrap,
)


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


GRID = torch.cartesian_prod(*[torch.arange(-4, 5, dtype=torch.float64)] * 3)
lengths = st.floats(1, 20)
pbcs = st.tuples(st.booleans(), st.booleans(), st.booleans())


@st.composite
def cells(draw, *, smallest=0.05):
    cell = np.array(draw(st.lists(st.floats(-8, 8), min_size=9, max_size=9))).reshape(3, 3)
    norms = np.linalg.norm(cell, axis=1)
    assume(norms.min() > 0.5 and abs(np.linalg.det(cell)) > smallest * norms.prod())
    return cell


@given(cells())
def test_parameters_agree_with_ase(cell):
    np.testing.assert_allclose(cell_parameters(tensor(cell)[None])[0], Cell(cell).cellpar(), atol=1e-8)


@given(st.tuples(lengths, lengths, lengths), st.tuples(*[st.floats(40, 130)] * 3))
def test_cells_from_parameters_agree_with_ase(abc, angles):
    assume(sum(angles) < 350 and 2 * max(angles) < sum(angles) - 5)
    parameters = tensor([*abc, *angles])[None]
    made = cells_from_parameters(parameters)
    np.testing.assert_allclose(made[0], Cell.fromcellpar([*abc, *angles]).array, atol=1e-9)
    np.testing.assert_allclose(cell_parameters(made), parameters, atol=1e-8)


def test_parameters_of_missing_vectors_have_right_angles():
    assert cell_parameters(torch.zeros(1, 3, 3)).tolist() == [[0, 0, 0, 90, 90, 90]]


@pytest.mark.parametrize(
    "parameters",
    [[3, 3, 0, 90, 90, 90], [3, 3, 3, 20, 30, 90], [3, 3, 3, 130, 130, 130], [3, 3, 3, 90, 90, 0]],
)
def test_impossible_parameters_are_refused(parameters):
    good = [1.0, 1, 1, 90, 90, 90]
    with pytest.raises(InputError, match="cell parameters 1: got"):
        cells_from_parameters(tensor([good, parameters]))


@given(cells())
def test_volumes_and_heights(cell):
    volume = volumes(tensor(cell)[None])
    np.testing.assert_allclose(volume, Cell(cell).volume)
    for k, height in enumerate(heights(tensor(cell)[None])[0]):
        area = np.linalg.norm(np.cross(cell[k - 2], cell[k - 1]))
        np.testing.assert_allclose(height, Cell(cell).volume / area)
    assert heights(torch.zeros(1, 3, 3)).tolist() == [[0, 0, 0]]


@given(cells(), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_completed_cells_add_orthogonal_unit_vectors(cell, present):
    present = np.array(present)
    cell = cell * present[:, None]
    complete = complete_cells(tensor(cell)[None])[0].numpy()
    np.testing.assert_array_equal(complete[present], cell[present])
    added = complete[~present]
    np.testing.assert_allclose(added @ added.T, np.eye(len(added)), atol=1e-12)
    np.testing.assert_allclose(added @ cell[present].T, 0, atol=1e-10)
    if not present.all():
        assert np.linalg.det(complete) > 0


@given(cells(), pbcs, st.integers(0, 99))
def test_fractional_coordinates_and_wrapping_agree_with_ase(cell, pbc, seed):
    atoms = Atoms("H4", np.random.default_rng(seed).uniform(-20, 20, (4, 3)), cell=cell, pbc=pbc)
    batch = from_ase(atoms)
    fractional = fractional_coordinates(batch)
    np.testing.assert_allclose(fractional, atoms.get_scaled_positions(wrap=False), atol=1e-8)
    np.testing.assert_allclose(
        with_fractional_coordinates(batch, fractional).positions, atoms.positions, atol=1e-8
    )
    wrapped = wrap(batch)
    near_an_edge = (fractional - fractional.round()).abs().min() < 1e-6
    if not near_an_edge:
        expected = wrap_positions(atoms.positions, cell, pbc, eps=0)
        np.testing.assert_allclose(wrapped.positions, expected, atol=1e-8)


def test_a_cluster_has_its_positions_for_fractional_coordinates():
    batch = from_ase(Atoms("H2", [[0, 0, 0], [1, 2, 3]]))
    assert torch.equal(fractional_coordinates(batch), batch.positions)
    assert torch.equal(wrap(batch).positions, batch.positions)


def test_flat_cells_are_refused():
    flat = from_ase(Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True))
    absent = from_ase(Atoms("H", pbc=True))
    for batch in (flat, absent):
        with pytest.raises(InputError, match="structure 0: its cell has no volume"):
            fractional_coordinates(batch)
        with pytest.raises(InputError, match="no volume"):
            minimum_image(batch.positions, batch, batch.structure_index)


@settings(deadline=None)
@given(cells(), st.integers(0, 99))
def test_strain_keeps_fractional_coordinates(cell, seed):
    rng = np.random.default_rng(seed)
    batch = from_ase(Atoms("H3", rng.uniform(-5, 5, (3, 3)), cell=cell, pbc=True))
    strain = tensor(rng.uniform(-0.1, 0.1, (1, 3, 3)))
    after = strained(batch, strain)
    np.testing.assert_allclose(fractional_coordinates(after), fractional_coordinates(batch), atol=1e-8)
    np.testing.assert_allclose(after.cells[0], cell @ (np.eye(3) + strain[0].numpy()))


def images(vectors, cell, pbc):
    batch = from_ase(Atoms("H", cell=cell, pbc=pbc))
    return minimum_image(tensor(vectors), batch, torch.zeros(len(vectors), dtype=torch.int64))


@settings(deadline=None, max_examples=40)
@given(cells(smallest=0.005), st.integers(0, 99))
def test_minimum_images_in_skewed_cells(cell, seed):
    vectors = np.random.default_rng(seed).uniform(-20, 20, (5, 3))
    ours = images(vectors, cell, True)
    moved = np.linalg.solve(cell.T, (ours.numpy() - vectors).T).T
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-6)
    # ASE's own minimum image is not always the shortest one in such cells, but never shorter.
    _, theirs = find_mic(vectors, cell, True)
    assert (ours.norm(dim=1).numpy() <= theirs + 1e-8).all()
    reduced, _ = minkowski_reduce(cell)
    slow = (ours[:, None] + GRID @ tensor(reduced)).norm(dim=-1).amin(1)
    torch.testing.assert_close(ours.norm(dim=1), slow)


def test_minimum_image_where_ases_is_not_the_shortest():
    cell = [[5.75, 5.75, 5.0], [5.5, 4.625, 5.75], [3.5, 4.625, 0.0]]
    vectors = np.random.default_rng(2).uniform(-20, 20, (5, 3))
    ours = images(vectors, np.array(cell), True).norm(dim=1)
    assert ours[0].item() == pytest.approx(0.7603217440715578)  # ASE: 2.048


@settings(deadline=None)
@given(cells(smallest=0.1), pbcs, st.integers(0, 99))
def test_minimum_images_agree_with_a_search(cell, pbc, seed):
    vectors = np.random.default_rng(seed).uniform(-3, 3, (3, 3))
    ours = images(vectors, cell, pbc)
    moved = np.linalg.solve(cell.T, (ours.numpy() - vectors).T).T
    np.testing.assert_allclose(moved, np.round(moved) * pbc, atol=1e-6)
    slow = (ours[:, None] + (GRID * torch.tensor(pbc)) @ tensor(cell)).norm(dim=-1).amin(1)
    torch.testing.assert_close(ours.norm(dim=1), slow)


def test_minimum_images_of_several_structures():
    batch = from_ase([Atoms("H"), Atoms("H", cell=[4, 4, 4], pbc=True), Atoms("H", cell=[9, 9, 9], pbc=True)])
    found = minimum_image(tensor([[5, 0, 0]] * 3), batch, torch.tensor([2, 1, 0]))
    assert found.tolist() == [[-4, 0, 0], [1, 0, 0], [5, 0, 0]]


def test_derivatives():
    rng = torch.Generator().manual_seed(0)
    cell = torch.eye(3, dtype=torch.float64) * 4 + torch.rand(2, 3, 3, generator=rng, dtype=torch.float64)
    cell.requires_grad_(True)
    assert torch.autograd.gradcheck(cell_parameters, cell)
    assert torch.autograd.gradcheck(volumes, cell)
    assert torch.autograd.gradcheck(heights, cell)
    assert torch.autograd.gradcheck(lambda c: cells_from_parameters(cell_parameters(c)), cell)
    slab = torch.cat([cell[:, :2].detach(), torch.zeros(2, 1, 3, dtype=torch.float64)], 1)
    assert torch.autograd.gradcheck(
        lambda c: complete_cells(torch.cat([c, slab[:, 2:]], 1)), slab[:, :2].clone().requires_grad_(True)
    )
    vectors = (torch.rand(2, 3, generator=rng, dtype=torch.float64) * 9).requires_grad_(True)
    batch = from_ase([Atoms(pbc=True)] * 2)
    both = torch.tensor([0, 1])
    assert torch.autograd.gradcheck(
        lambda v, c: minimum_image(v, batch.replace(cells=c), both), (vectors, cell)
    )
