import numpy as np
import pytest
import torch

from whorl.reconstruction.population.moves import Atoms, push_apart
from whorl.symmetry.groups import (
    SYMMETRIC_MOVES,
    symmetric_arrangement,
    symmetric_move,
)
from whorl.symmetry.space_groups import lattice_rotations, random_group, settings_of, space_groups

NUMBERS = np.array([22] * 4 + [8] * 8)


@pytest.mark.parametrize(
    "cell, order",
    [
        (np.eye(3) * 4, 48),
        (np.diag([4.0, 4.0, 5.0]), 16),
        (np.diag([4.0, 5.0, 6.0]), 8),
        (np.array([[4.0, 0, 0], [-2, 2 * 3**0.5, 0], [0, 0, 7]]), 24),
        (np.array([[4.0, 0, 0], [0.7, 5, 0], [0.3, 0.4, 6]]), 2),
        (np.array([[0.0, 2, 2], [2, 0, 2], [2, 2, 0]]), 48),
    ],
)
def test_lattices_have_their_holohedry(cell, order):
    rotations = lattice_rotations(cell)
    assert len(rotations) == order
    assert np.array_equal(rotations[0], np.eye(3))
    for w in rotations:
        turned = w.T @ cell @ cell.T @ w
        np.testing.assert_allclose(turned, cell @ cell.T, atol=1e-9)


def distances(fractional, cell):
    gap = fractional[:, None] - fractional
    return np.linalg.norm((gap - gap.round()) @ cell, axis=2)


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_closed_and_arrangements_have_them(seed):
    rng = np.random.default_rng(seed)
    cell = np.diag([5.0, 5.0, 7.0])
    group = random_group(cell, rng)
    known = {(*w.ravel(), *(t % 24)) for w, t in zip(group.rotations, group.translations, strict=True)}
    for w, t in zip(group.rotations, group.translations, strict=True):
        for v, s in zip(group.rotations, group.translations, strict=True):
            assert (*(v @ w).ravel(), *((v @ t + s) % 24)) in known
    found = symmetric_arrangement(NUMBERS, group, rng)
    if found is None:
        return
    permutation = group.permutation(found)
    assert permutation is not None
    assert (NUMBERS[permutation] == NUMBERS).all()
    for name in SYMMETRIC_MOVES:
        moved = symmetric_move(name, found, cell, NUMBERS, group, rng)
        if moved is not None:
            there = group.permutation(moved)
            assert there is not None, name
            # Atoms that an operation exchanges see the same distances.
            around = np.sort(distances(moved, cell), 1)
            for operation in there:
                np.testing.assert_allclose(around[operation], around, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")
def test_spglib_sees_the_symmetry():
    spglib = pytest.importorskip("spglib")
    rng = np.random.default_rng(3)
    cell = np.eye(3) * 6.0
    seen = 0
    for _ in range(40):
        group = random_group(cell, rng)
        found = symmetric_arrangement(NUMBERS, group, rng)
        if found is None or len(group) < 4 or np.sort(distances(found, cell), 1)[:, 1].min() < 0.5:
            continue
        symmetry = spglib.get_symmetry((cell, found, NUMBERS), symprec=1e-4)
        assert symmetry is not None and len(symmetry["rotations"]) % len(group) == 0
        seen += 1
    assert seen > 3


@pytest.mark.parametrize(
    "cell, own, not_in_it",
    [
        (np.array([[0.0, 2, 2], [2, 0, 2], [2, 2, 0]]), {216, 225, 227}, {221, 229}),
        (np.array([[-2.0, 2, 2], [2, -2, 2], [2, 2, -2]]), {217, 229, 230}, {221, 225}),
        (np.array([[2.5, 3.0, 0], [-2.5, 3.0, 0], [-2.0, 0, 7]]), {5, 8, 9, 12, 15}, {3, 14}),
    ],
)
def test_primitive_cells_have_the_groups_of_their_lattice(cell, own, not_in_it):
    groups = space_groups(cell)
    numbers = {number for number, _ in groups}
    assert own <= numbers and not numbers & not_in_it
    of_lattice = {w.tobytes() for w in lattice_rotations(cell)}
    for _, group in groups:
        assert all(w.tobytes() in of_lattice for w in group.rotations)
        identity = (group.rotations == np.eye(3)).all((1, 2))
        assert identity.sum() == 1  # centrings have become lattice vectors


def test_pushing_apart_keeps_the_symmetry_where_two_images_are_equally_near():
    rng = np.random.default_rng(0)
    cell = np.diag([5.0, 12.0, 12.0])  # atoms of an orbit are often half of 5 Å apart, and too near
    numbers = np.array([19] * 4 + [8] * 8)
    atoms = Atoms(
        torch.from_numpy(numbers), torch.ones(3, dtype=torch.bool), torch.ones(12, dtype=torch.bool)
    )
    for _ in range(20):
        group = settings_of(14, cell)[int(rng.integers(3))]
        found = symmetric_arrangement(numbers, group, rng)
        pushed = push_apart(
            torch.from_numpy(found @ cell)[None], torch.from_numpy(cell)[None], atoms, steps=30
        )
        assert group.permutation(pushed[0].numpy() @ np.linalg.inv(cell)) is not None
