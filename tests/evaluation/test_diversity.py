import math

import pytest
import torch

from whorl.evaluation import copy_distance, coverage, percent_copies, principal_components, spread_ratio


def random_rows(n, f=5, seed=0):
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_copy_distance_is_a_fraction_of_the_median_nearest_neighbour_distance():
    training = torch.tensor([[0.0], [1.0], [3.0]])  # nearest neighbours at 1, 1, 2
    assert copy_distance(training) == pytest.approx(0.1)
    assert copy_distance(training, fraction=0.5) == pytest.approx(0.5)


def test_copy_distance_without_neighbours_is_zero():
    assert copy_distance(torch.zeros(1, 3)) == 0.0


def test_percent_copies_finds_planted_copies():
    training = random_rows(50)
    generated = random_rows(10, seed=1)
    generated[:3] = training[:3] + 1e-6
    assert percent_copies(generated, training, distance=copy_distance(training)) == pytest.approx(30.0)
    assert math.isnan(percent_copies(generated[:0], training, distance=1.0))


def test_spread_ratio_scales_with_the_spread():
    real = random_rows(60)
    ratio, reason = spread_ratio(0.5 * real, real)
    assert ratio == pytest.approx(0.5)
    assert reason is None


@pytest.mark.parametrize(
    ("generated", "real", "words"),
    [
        (3, 0, "0 real structures in the window"),
        (3, 1, "1 real structure in the window"),
        (1, 3, "1 generated sample,"),
    ],
)
def test_spread_ratio_says_why_there_is_none(generated, real, words):
    ratio, reason = spread_ratio(random_rows(generated), random_rows(real))
    assert ratio is None
    assert words in reason


def test_spread_ratio_of_identical_real_structures():
    assert spread_ratio(random_rows(3), torch.ones(4, 5))[0] is None


def test_principal_components_match_scikit_learn():
    from sklearn.decomposition import PCA

    rows = random_rows(200) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.1])
    rows = rows - rows.mean(0)
    directions, shares = principal_components(rows, count=2)
    theirs = PCA(2).fit(rows.numpy())
    overlap = (directions * torch.as_tensor(theirs.components_)).sum(1).abs()
    assert overlap.tolist() == pytest.approx([1.0, 1.0])
    assert shares.tolist() == pytest.approx(theirs.explained_variance_ratio_.tolist())
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()


def test_principal_components_of_one_row_are_finite():
    directions, shares = principal_components(torch.zeros(1, 3))
    assert torch.isfinite(directions).all()
    assert shares.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("rows", "features"), [(30, 400), (400, 30), (2, 1), (3, 3)])
def test_principal_components_are_those_of_the_covariance_whatever_is_more(rows, features):
    data = random_rows(rows, features) * torch.linspace(3.0, 1.0, features, dtype=torch.float64)
    data = data - data.mean(0)
    directions, shares = principal_components(data, count=2)
    values, vectors = torch.linalg.eigh(data.T @ data)
    for k in range(min(2, rows - 1, features)):
        expected = vectors[:, -1 - k]
        expected = expected * expected[expected.abs().argmax()].sign()
        torch.testing.assert_close(directions[k], expected, rtol=0, atol=1e-8)
        assert float(shares[k]) == pytest.approx(float(values[-1 - k] / values.sum()), abs=1e-10)
    assert directions.shape == (2, features) and shares.shape == (2,)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_coverage_agrees_with_a_slow_loop(neighbours):
    real, generated = random_rows(30), 0.5 * random_rows(8)
    covered = 0
    for i, row in enumerate(real):
        others = sorted(float((row - other).norm()) for j, other in enumerate(real) if j != i)
        covered += any(float((row - new).norm()) <= others[neighbours - 1] for new in generated)
    assert 0 < covered < 30
    assert coverage(generated, real, neighbours=neighbours) == pytest.approx(covered / 30)


def test_real_structures_cover_themselves_and_one_mode_does_not_cover_two():
    real = random_rows(20)
    assert coverage(real, real) == 1.0
    assert coverage(real, torch.cat([real, real + 100.0])) == 0.5
    assert coverage(random_rows(0), real) is None and coverage(real, random_rows(5)) is None
