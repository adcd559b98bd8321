"""Pairs and triplets against ASE's neighbour list, on cells of every kind."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.errors import InputError
from whorl.structures import from_ase
from whorl.structures.neighbors import neighbor_list


def random_structure(rng: np.random.Generator) -> Atoms:
    """Any cell: tiny, large, skewed, left-handed; any pbc; atoms anywhere."""
    n = int(rng.integers(1, 5))
    cell = np.eye(3) + rng.uniform(-0.6, 0.6, (3, 3))
    if rng.random() < 0.3:
        cell[0] += rng.integers(-3, 4) * cell[1]
    if rng.random() < 0.5:
        cell = cell[[1, 0, 2]]
    cell *= rng.uniform(2.2, 6.0) / abs(np.linalg.det(cell)) ** (1 / 3)
    if 1 / np.linalg.norm(np.linalg.inv(cell), axis=0).max() < 0.4:  # ASE would take minutes
        return random_structure(rng)
    pbc = rng.random(3) < 0.7
    if rng.random() < 0.3:
        cell[~pbc] = 0.0
    return Atoms(["Pt"] * n, positions=rng.normal(size=(n, 3)) * 6, cell=cell, pbc=pbc)


def as_set(first, second, shift) -> set:
    return set(map(tuple, np.column_stack([first, second, shift]).tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_all_images_equal_ase_on_thousands_of_cells(seed):
    rng = np.random.default_rng(seed)
    atoms = [random_structure(rng) for _ in range(500)]
    structures = from_ase(atoms)
    pairs = neighbor_list(structures, cutoff=3.0)
    owner = structures.structure_index[pairs.first]
    assert bool((pairs.first[1:] >= pairs.first[:-1]).all())
    bounds = torch.searchsorted(owner, torch.arange(len(atoms) + 1)).tolist()
    for one, offset, (start, stop) in zip(
        atoms, structures.first_atom.tolist(), itertools.pairwise(bounds), strict=True
    ):
        first, second, shift = (x[start:stop].numpy() for x in (pairs.first, pairs.second, pairs.shift))
        i, j, expected = ase_neighbor_list("ijS", one, 3.0, self_interaction=False)
        assert as_set(first - offset, second - offset, shift) == as_set(i, j, expected), one
        assert stop - start == len(i)


def test_vectors_equal_ase():
    atoms = bulk("Si").repeat((1, 2, 1))
    atoms.rattle(0.1, seed=0)
    structures = from_ase(atoms)
    pairs = neighbor_list(structures, cutoff=4.0)
    ours = pairs.vectors(structures).norm(dim=1).sort().values.numpy()
    np.testing.assert_allclose(ours, np.sort(ase_neighbor_list("d", atoms, 4.0)), rtol=1e-12)


def test_both_directions_share_their_number():
    structures = from_ase([bulk("Cu"), Atoms("Pt3", positions=np.eye(3) * 2)])
    pairs = neighbor_list(structures, cutoff=4.0)
    forward, backward = pairs.directions.unbind(1)
    assert torch.equal(pairs.first[forward], pairs.second[backward])
    assert torch.equal(pairs.shift[forward], -pairs.shift[backward])
    assert torch.equal(pairs.undirected[forward], torch.arange(len(pairs) // 2))
    assert torch.equal(pairs.undirected[backward], torch.arange(len(pairs) // 2))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_minimum_image_is_the_nearest_of_all_images(seed):
    rng = np.random.default_rng(seed)
    atoms = random_structure(rng)
    structures = from_ase(atoms)
    pairs = neighbor_list(structures, cutoff=60.0, images="minimum")
    assert len(pairs) == len(atoms) * (len(atoms) - 1)
    lengths = pairs.vectors(structures).norm(dim=1).tolist()
    # Brute force over many images; the lattice of a reduced cell has its nearest among them.
    around = [range(-12, 13) if periodic else [0] for periodic in atoms.pbc]
    images = np.array(list(itertools.product(*around))) @ atoms.cell.array
    for i, j, length in zip(pairs.first.tolist(), pairs.second.tolist(), lengths, strict=True):
        nearest = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + images, axis=1).min()
        assert length <= nearest + 1e-9
        if np.abs(np.linalg.norm(atoms.positions, axis=1)).max() < 12:
            assert length >= 0.0


def test_minimum_image_equals_ase_in_three_dimensions():
    rng = np.random.default_rng(5)
    for _ in range(30):
        atoms = random_structure(rng)
        atoms.pbc = True
        if abs(atoms.cell.volume) < 1:
            continue
        structures = from_ase(atoms)
        pairs = neighbor_list(structures, cutoff=60.0, images="minimum")
        expected = atoms.get_all_distances(mic=True)[pairs.first.numpy(), pairs.second.numpy()]
        np.testing.assert_allclose(pairs.vectors(structures).norm(dim=1).numpy(), expected, atol=1e-9)


def test_triplets_are_all_unordered_pairs_of_neighbours():
    structures = from_ase([bulk("Cu"), Atoms("Pt4", positions=np.random.default_rng(0).normal(size=(4, 3)))])
    pairs = neighbor_list(structures, cutoff=3.0)
    triplets = pairs.triplets(len(structures.positions))
    first = pairs.first.tolist()
    expected = [(p, q) for p in range(len(first)) for q in range(p + 1, len(first)) if first[p] == first[q]]
    assert sorted(map(tuple, triplets.tolist())) == expected


def test_vectors_are_differentiable_in_positions_and_cell():
    structures = from_ase(bulk("NaCl", "rocksalt", 4.0))
    pairs = neighbor_list(structures, cutoff=4.5)

    def vectors(positions, cells):
        return pairs.vectors(structures.replace(positions=positions, cells=cells))

    inputs = (
        structures.positions.clone().requires_grad_(True),
        structures.cells.clone().requires_grad_(True),
    )
    assert torch.autograd.gradcheck(vectors, inputs)


def test_search_in_pieces_gives_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    structures = from_ase([random_structure(rng) for _ in range(30)])
    for images in ("all", "minimum"):
        whole = neighbor_list(structures, cutoff=4.0, images=images)
        monkeypatch.setattr("whorl.structures.neighbors._CANDIDATES_AT_ONCE", 7)
        pieces = neighbor_list(structures, cutoff=4.0, images=images)
        monkeypatch.undo()
        assert as_set(whole.first, whole.second, whole.shift) == as_set(
            pieces.first, pieces.second, pieces.shift
        )


def test_mistakes_are_told_in_plain_words():
    atoms = from_ase(Atoms("Pt2", positions=[[0, 0, 0], [2, 0, 0]]))
    with pytest.raises(InputError, match="positive distance"):
        neighbor_list(atoms, cutoff=0.0)
    with pytest.raises(InputError, match="Did you mean 'minimum'"):
        neighbor_list(atoms, cutoff=1.0, images="minimun")
    flat = from_ase(Atoms("Pt", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True))
    with pytest.raises(InputError, match="no volume"):
        neighbor_list(flat, cutoff=1.0)
    empty = from_ase(Atoms("Pt", pbc=True))
    with pytest.raises(InputError, match="no volume"):
        neighbor_list(empty, cutoff=1.0)


@pytest.mark.parametrize(
    "atoms, reason",
    [
        (Atoms("Pt", cell=[5, 5, 1e-6], pbc=True), "structure 1: its cell is 1e-06 Å thin"),
        (Atoms("Pt", cell=[0.02, 0.02, 0.02], pbc=True), "structure 1: its cell is 0.02 Å thin"),
        (Atoms("Pt20000", cell=[5, 5, 5], pbc=True), "structure 1: its 20000 atoms have about"),
    ],
)
def test_more_neighbours_than_memory_holds_are_refused(atoms, reason):
    with pytest.raises(InputError, match=reason):
        neighbor_list(from_ase([molecule("H2"), atoms]), cutoff=6.0)
