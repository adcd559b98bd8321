"""Positions from lists of distances that disagree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.representations import Rows
from whorl.representations.rows_fitting import _majorised, nearest
from whorl.structures.batch import StructureBatch


def cluster(n, seed=0):
    """Atoms at least 2.2 Å apart in a ball."""
    rng = np.random.default_rng(seed)
    atoms = []
    while len(atoms) < n:
        place = rng.uniform(-1, 1, 3) * 1.6 * n ** (1 / 3)
        if all(np.linalg.norm(place - other) > 2.2 for other in atoms):
            atoms.append(place)
    return np.array(atoms)


def lists_of(positions, blocks):
    apart = np.linalg.norm(positions[:, None] - positions, axis=2)
    return np.concatenate([np.sort(apart[:, block], 1) for block in blocks], 1)


def slow_cost(lists, blocks, positions):
    total = 0.0
    for i in range(len(positions)):
        for block in blocks:
            others = [j for j in range(block.start, block.stop) if j != i]
            now = sorted(np.linalg.norm(positions[i] - positions[j]) for j in others)
            wanted = lists[i, block][-len(others) :] if others else []
            total += sum((1 / d - 1 / w) ** 2 for d, w in zip(now, wanted, strict=True) if np.isfinite(w))
    return total


def apart(first, second):
    """Root mean square difference of all distances, atoms in order."""
    a, b = (np.linalg.norm(one[:, None] - one, axis=2) for one in (first, second))
    return float(np.sqrt(((a - b) ** 2).mean()))


@pytest.mark.parametrize("blocks", [[slice(0, 8)], [slice(0, 3), slice(3, 8)], [slice(0, 0), slice(0, 8)]])
def test_lists_that_agree_are_met_from_nearby(blocks):
    positions = cluster(8)
    start = positions + np.random.default_rng(1).normal(0, 0.05, positions.shape)
    assert apart(nearest(lists_of(positions, blocks), blocks, [start]), positions) < 1e-2


def test_atoms_that_were_exchanged_are_found():
    positions, blocks = cluster(8), [slice(0, 3), slice(3, 8)]
    start = positions[[1, 2, 0, 7, 4, 6, 5, 3]]
    assert apart(nearest(lists_of(positions, blocks), blocks, [start]), positions) < 1e-2


@given(seed=st.integers(0, 1000), noise=st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=20, deadline=None)
def test_the_cost_goes_down_whatever_the_start(seed, noise):
    rng = np.random.default_rng(seed)
    blocks = [slice(0, 2), slice(2, 6)]
    lists = lists_of(cluster(6, seed), blocks)
    lists = np.where(lists > 0, lists + noise * rng.uniform(0, 1, lists.shape), 0.1)  # the atom itself
    lists = np.concatenate([np.sort(lists[:, block], 1) for block in blocks], 1)
    start = 3 * rng.normal(size=(6, 3))
    before, after = (slow_cost(lists, blocks, one) for one in (start, _majorised(lists, blocks, start)))
    assert after < before
    assert slow_cost(lists, blocks, nearest(lists, blocks, [start])) <= after + 1e-9


def test_short_distances_weigh_more_than_long_ones():
    # Three atoms on a line, of which the ends are said to be nearer to each other than twice the bond.
    lists = np.array([[0.0, 2.5, 4.0], [0.0, 2.5, 2.5], [0.0, 2.5, 4.0]])
    positions = nearest(lists, [slice(0, 3)], [np.array([[0, 0, 0], [2.5, 0, 0], [4.9, 0.3, 0]])])
    assert np.linalg.norm(positions[0] - positions[2]) == pytest.approx(4.0, abs=1e-2)
    lists[0, 2] = lists[2, 2] = 6.0  # too long for the bonds: these hardly give way
    positions = nearest(lists, [slice(0, 3)], [np.array([[0, 0, 0], [2.5, 0, 0], [4.9, 0.3, 0]])])
    assert np.linalg.norm(positions[0] - positions[1]) == pytest.approx(2.55, abs=0.05)


def test_distances_that_are_not_known_do_not_count():
    positions, blocks = cluster(8), [slice(0, 8)]
    lists = lists_of(positions, blocks)
    lists[:, -1] = np.inf
    found = nearest(lists, blocks, [positions])
    assert apart(found, positions) < 0.02
    with np.errstate(all="raise"):
        assert np.isfinite(nearest(np.array([[0.0, np.inf], [0.0, np.inf]]), [slice(0, 2)])).all()


def test_rows_of_no_cluster_give_one_with_its_bonds():
    rows = Rows(species=["Pt"], max_atoms=8, shortest=2.0, cutoff=9.0, width=0.08)
    positions = torch.as_tensor(cluster(8))
    structure = StructureBatch(
        positions=positions,
        cells=torch.zeros(1, 3, 3).double(),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        atomic_numbers=torch.full((8,), 78),
        structure_index=torch.zeros(8, dtype=torch.int64),
    )
    tensor = rows(structure)
    noise = 0.15 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise[:, :, 0] = 0.0
    decoded = rows.decode((tensor + noise).clamp(min=0.0))
    assert float(decoded.loss) > 0.05
    bonds = [torch.pdist(one).sort().values for one in (decoded.structures.positions, positions)]
    assert (bonds[0] - bonds[1])[:12].abs().mean() < 0.25
