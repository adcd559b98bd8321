"""Structures that are farther apart are taken, others stay."""

import pytest
import torch
from ase import Atoms

from whorl.evaluation.samples import Reference, Samples
from whorl.refinement.spread import Spread
from whorl.structures import from_ase

ROWS = torch.tensor([[-2.0], [-1.0], [1.0], [2.0], [30.0]], dtype=torch.float64)


def spread(fraction):
    """Return a bound by training rows; features are the place along x of the only atom."""
    return Spread(
        fraction=fraction,
        representation=lambda batch: batch.positions[:, :1],
        reference=Reference(
            name="y",
            unit="",
            properties=torch.tensor([1.0, 1.0, 1.0, 1.0, 9.0], dtype=torch.float64),
            features=ROWS,
            training_rows=torch.arange(5),
        ),
        tolerance=0.1,
    )


def refined(places, statuses=None, targets=None, moved=None):
    count = len(places)
    return Samples(
        ids=tuple(map(str, range(count))),
        targets=torch.tensor(targets or [1.0] * count, dtype=torch.float64),
        structures=from_ase([Atoms("Pt", [[x, 0, 0]]) for x in places]),
        rows=torch.arange(count),
        refinement=statuses or ("reached",) * count,
        displacement=torch.tensor(moved or [0.1] * count, dtype=torch.float64),
    )


def test_the_bound_is_that_of_the_rows_around_the_target():
    pairs = [abs(float(a - b)) for i, a in enumerate(ROWS) for b in ROWS[:i]]
    scale = float(ROWS.std(correction=0))
    assert spread(0.5).bound(1.0) == pytest.approx(0.5 * sum(pairs) / len(pairs) / scale)  # five at least


def test_structures_are_measured_by_their_mean_distance():
    near, far = refined([0, 0.1, 0.2]), refined([-20, 0, 20])
    index = torch.arange(3)
    assert spread(0.5).too_near(near, index) == [1.0] and spread(0.5).too_near(far, index) == []
    assert spread(0.5).too_near(refined([-20, 0, 20, 0.1]), torch.tensor([1, 3])) == [1.0]


def test_farther_ones_are_taken():
    pool = refined([0.0, 0.1, 0.2, 20.0, -20.0])
    index = spread(0.9).select(pool, torch.arange(3))
    assert {3, 4} < set(index.tolist())
    assert [k for k in range(3) if int(index[k]) == k]  # who is taken and was there stays in its place


def test_only_what_has_reached_its_own_target_is_taken():
    statuses = ("reached", "reached", "unreached: x", "uncertain", "reached", "reached")
    pool = refined([0.0, 0.1, 0.2, 20.0, -20.0, 25.0], statuses, [1.0] * 5 + [2.0])
    index = spread(0.9).select(pool, torch.arange(3))
    assert index[2] == 2 and 3 not in index and 4 in index and 5 not in index


def test_structures_far_enough_apart_stay_and_least_moved_ones_go_first():
    index = torch.arange(3)
    pool = refined([-20.0, 0.0, 20.0, 90.0])
    assert spread(0.5).select(pool, index).tolist() == [0, 1, 2]
    pool = refined([0.0, 0.1, 0.2, 40.0, -40.0], moved=[0.1, 0.1, 0.1, 0.1, 9.0])
    taken = spread(0.3).select(pool, index).tolist()
    assert 3 in taken and 4 not in taken
