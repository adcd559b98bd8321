import pytest
import torch

from whorl.reconstruction.population import moves
from whorl.reconstruction.population.moves import Atoms, move, nearest_vectors, push_apart, signature

CELL = torch.tensor([[6.0, 0, 0], [1.0, 6.0, 0], [0, 0.5, 7.0]], dtype=torch.float64)


def atoms(n=6, *, periodic=False, free=None, free_cell=False):
    numbers = torch.tensor([11, 17] * n)[:n]
    free = torch.ones(n, dtype=torch.bool) if free is None else free
    return Atoms(numbers, torch.tensor([periodic] * 3), free, free_cell)


def arrangements(n=6, count=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    cells = CELL.expand(count, 3, 3)
    return 6 * torch.rand(count, n, 3, generator=rng, dtype=torch.float64), cells, rng


@pytest.mark.parametrize("name", ["shake", "relocate", "swap"])
@pytest.mark.parametrize("periodic", [False, True])
def test_moves_change_every_arrangement_and_leave_frozen_atoms(name, periodic):
    free = torch.tensor([True, True, True, True, True, False])
    positions, cells, rng = arrangements()
    before = positions.clone()
    moved, moved_cells = move(name, positions, cells, atoms(periodic=periodic, free=free), rng)
    assert torch.equal(positions, before) and torch.equal(moved_cells, cells)
    assert bool(torch.isfinite(moved).all())
    changed = (moved - positions).abs().amax((1, 2)) > 0
    assert bool(changed.all())
    assert torch.equal(moved[:, ~free], positions[:, ~free])
    again, _ = move(name, positions, cells, atoms(periodic=periodic, free=free), arrangements()[2])
    assert again.shape == moved.shape


def test_swap_exchanges_unlike_atoms_only():
    positions = torch.tensor([[[0.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]]], dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)
    for _ in range(10):
        moved, _ = move("swap", positions, CELL[None], atoms(4), rng)
        changed = ((moved - positions).abs().sum(2) > 0)[0].nonzero().flatten().tolist()
        assert len(changed) == 2 and sum(changed) % 2 == 1
        assert torch.equal(moved[0, changed[0]], positions[0, changed[1]])


def test_shaking_a_free_cell_strains_it_symmetrically():
    positions, cells, rng = arrangements()
    _, moved_cells = move("shake", positions, cells, atoms(periodic=True, free_cell=True), rng)
    deformation = torch.linalg.solve(cells, moved_cells)
    torch.testing.assert_close(deformation, deformation.transpose(1, 2))
    assert not torch.allclose(moved_cells, cells)


def test_atoms_are_pushed_apart_across_the_boundary():
    positions = torch.tensor([[[0.1, 0, 0], [5.9, 0, 0]]], dtype=torch.float64)
    pair = atoms(2, periodic=True)
    cell = 6 * torch.eye(3, dtype=torch.float64)[None]
    apart = push_apart(positions, cell, pair, closest=0.7, steps=50)
    distance = nearest_vectors(apart, cell, pair.pbc)[0, 0, 1].norm()
    assert float(distance) > 0.69 * float(pair.contacts[0, 1])


def test_signature_is_that_of_the_arrangement():
    positions, cells, rng = arrangements(count=1)
    six = atoms()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))[0]
    order = torch.tensor([2, 5, 4, 1, 0, 3])  # like atoms among themselves
    same = (positions @ turn + 3.0)[:, order]
    torch.testing.assert_close(signature(same, cells, six), signature(positions, cells, six))
    other = positions.clone()
    other[0, 0] += 0.5
    assert not torch.allclose(signature(other, cells, six), signature(positions, cells, six), atol=1e-2)


def test_moves_that_make_sense():
    assert (
        "swap"
        not in Atoms(torch.tensor([78] * 6), torch.zeros(3, dtype=torch.bool), torch.ones(6).bool()).moves
    )
    assert "swap" in atoms().moves


@pytest.mark.parametrize("work", [lambda *some: push_apart(*some, closest=1.2), signature])
def test_few_pairs_of_atoms_are_held_at_once_and_the_result_is_the_same(work, monkeypatch):
    positions, cells, _ = arrangements(n=7, count=11)
    whole = work(positions, cells, atoms(7, periodic=True))
    held = []
    gaps = moves._gaps

    def watched(some, *rest):
        held.append(len(some) * some.shape[1] ** 2)
        return gaps(some, *rest)

    monkeypatch.setattr(moves, "_gaps", watched)
    monkeypatch.setattr(moves, "_PAIRS_AT_ONCE", 3 * 7**2)
    torch.testing.assert_close(work(positions, cells, atoms(7, periodic=True)), whole, rtol=1e-12, atol=0)
    assert max(held) <= 3 * 7**2 and len(held) >= 4
