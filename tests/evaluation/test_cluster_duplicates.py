"""Clusters that are the same, whatever their place, turn, order of atoms and hand."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from evaluating import evaluated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from whorl.evaluation import Reference, Samples
from whorl.evaluation.clusters import distinct_clusters, known_clusters
from whorl.structures import from_ase


def cluster(seed, atoms=7, symbols="Pt"):
    rng = np.random.default_rng(seed)
    return Atoms(f"{symbols}{atoms}", 2.0 * rng.normal(size=(atoms, 3)))


def disguised(atoms, seed, noise=0.02):
    """Turned, mirrored, moved, in another order, and shaken a little."""
    rng = np.random.default_rng(seed)
    positions = atoms.positions @ Rotation.random(random_state=seed).as_matrix() * [1, 1, -1]
    order = rng.permutation(len(atoms))
    positions = positions + rng.normal(size=3) + noise * rng.normal(size=positions.shape)
    return Atoms(atoms.numbers[order], positions[order])


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_disguised_cluster_is_the_same_and_a_changed_one_is_not(seed):
    one, other = cluster(seed), cluster(seed + 1)
    changed = one.copy()
    changed.positions[0] += 1.0
    made = from_ase([one, other, disguised(one, seed), changed, disguised(other, seed)])
    assert distinct_clusters(made) == [[0, 2], [1, 4], [3]]
    assert known_clusters(made, from_ase([disguised(other, seed + 2)])).tolist() == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_compositions_are_kept_apart_and_order_of_the_groups_is_that_of_first_members():
    made = from_ase([molecule("H2O"), cluster(0), molecule("CH4"), molecule("H2O"), Atoms("Pt"), Atoms("Pt")])
    assert distinct_clusters(made) == [[0, 3], [1], [2], [4, 5]]
    assert known_clusters(made, from_ase([molecule("CH4"), molecule("C2H6")])).tolist() == [
        False, False, True, False, False, False,
    ]  # fmt: skip


def test_what_is_not_finite_is_in_no_group():
    broken = cluster(0)
    broken.positions[0] = np.nan
    made = from_ase([broken, cluster(0)])
    assert distinct_clusters(made) == [[1]]
    assert known_clusters(made, made).tolist() == [False, True]
    assert distinct_clusters(made[[]]) == [] and known_clusters(made[[]], made).tolist() == []


def test_evaluators_know_clusters_too():
    made = from_ase([cluster(0), disguised(cluster(0), 1), cluster(2), cluster(4)])
    zeros = torch.zeros(4, dtype=torch.float64)
    samples = Samples(ids=("a", "b", "c", "d"), targets=zeros, structures=made, rows=torch.arange(4))
    real = from_ase([disguised(cluster(2), 3), cluster(4)])
    reference = Reference(
        name="y",
        unit="",
        properties=zeros[:2],
        features=zeros[:2, None],
        structures=real,
        training_rows=torch.tensor([1]),
    )
    metrics = evaluated(samples, reference, kinds=("uniqueness", "novelty")).metrics
    assert metrics["uniqueness"].per_structure == {"unique": [True, False, True, True], "group": [0, 0, 1, 2]}
    assert metrics["novelty"].per_structure["novel"] == [True, True, False, False]
    assert metrics["novelty"].per_structure["copy"] == [False, False, False, True]  # of a training row
    assert metrics["novelty"].overall["percent_novel"] == pytest.approx(100 / 3)
