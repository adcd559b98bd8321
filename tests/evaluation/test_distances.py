import math

import pytest
import torch

from whorl.evaluation import (
    count_distinct,
    distances,
    mean_pairwise_distance,
    nearest_distances,
    nearest_neighbour_distances,
    standardized,
)


@pytest.fixture(params=[4_000_000, 7])
def any_block_size(request, monkeypatch):
    monkeypatch.setattr(distances, "_PAIRS_AT_ONCE", request.param)


def random_rows(n, f=4, seed=0):
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


@pytest.mark.usefixtures("any_block_size")
class TestAgainstLoops:
    def test_nearest_distances(self):
        a, b = random_rows(9), random_rows(5, seed=1)
        expected = [min(loop_distance(x, y) for y in b) for x in a]
        assert nearest_distances(a, b).tolist() == pytest.approx(expected)

    def test_nearest_neighbour_distances_leave_the_row_itself_out(self):
        a = random_rows(9)
        expected = [min(loop_distance(a[i], a[j]) for j in range(9) if j != i) for i in range(9)]
        assert nearest_neighbour_distances(a).tolist() == pytest.approx(expected)

    def test_mean_pairwise_distance(self):
        a = random_rows(9)
        pairs = [(i, j) for i in range(9) for j in range(i)]
        expected = sum(loop_distance(a[i], a[j]) for i, j in pairs) / len(pairs)
        assert mean_pairwise_distance(a) == pytest.approx(expected)

    def test_count_distinct_joins_chains(self):
        rows = torch.tensor([[0.0], [5.0], [0.09], [0.18], [5.0], [9.0]])
        assert count_distinct(rows, 0.1) == 3


def test_standardized_uses_the_reference_and_ignores_what_does_not_vary_there():
    reference = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    rows = standardized(torch.tensor([[3.0, 8.0]]), reference)
    assert rows.tolist() == [[2.0, 0.0]]
    assert rows.dtype == torch.float64


def test_empty_sets():
    none = torch.zeros(0, 3)
    assert nearest_distances(none, random_rows(4, 3)).shape == (0,)
    assert nearest_distances(random_rows(2, 3), none).tolist() == [math.inf, math.inf]
    assert nearest_neighbour_distances(random_rows(1, 3)).tolist() == [math.inf]
    assert count_distinct(none, 1.0) == 0
    assert math.isnan(mean_pairwise_distance(random_rows(1)))


def test_mean_pairwise_distance_of_many_rows_hardly_changes_when_thinned():
    rows = random_rows(2000)
    assert mean_pairwise_distance(rows, at_most=700) == pytest.approx(mean_pairwise_distance(rows), rel=0.03)


def test_a_feature_that_hardly_varies_does_not_decide_distances():
    reference = torch.tensor([[0.0, 0.0], [1.0, 1e-31], [2.0, 0.0]], dtype=torch.float64)
    rows = standardized(torch.tensor([[1.0, 1.0]], dtype=torch.float64), reference)
    assert rows.abs().max() == 0
