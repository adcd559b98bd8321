import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.datasets import farthest_point_sampling, split
from whorl.errors import InputError


def slow(features, count, start):
    rows = features.tolist()
    chosen = [start]
    while len(chosen) < count:
        best, best_distance = -1, -1.0
        for i, x in enumerate(rows):
            if i in chosen:
                continue
            nearest = min(sum((a - b) ** 2 for a, b in zip(x, rows[j], strict=True)) for j in chosen)
            if nearest > best_distance:
                best, best_distance = i, nearest
        chosen.append(best)
    return chosen


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 25), f=st.integers(1, 6), double=st.booleans())
def test_chooses_what_a_slow_loop_chooses(seed, n, f, double):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(n, f, generator=rng, dtype=torch.float64) * 10 + 100
    count, start = 1 + seed % n, seed % n
    assert farthest_point_sampling(features, count, seed=0, start=start).tolist() == slow(
        features, count, start
    )
    if not double:
        single = farthest_point_sampling(features.float(), count, seed=0, start=start)
        assert len(set(single.tolist())) == count


@pytest.mark.parametrize("rank", [3, 40, 60])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_many_features_take_the_short_cut_to_the_same_choice(rank, scale):
    rng = torch.Generator().manual_seed(rank)
    features = torch.randn(300, rank, generator=rng, dtype=torch.float64)
    features = features @ torch.randn(rank, 60, generator=rng, dtype=torch.float64)
    features = scale * (features * torch.logspace(-3, 2, 60, dtype=torch.float64) + 1000)
    features[150:160] = features[:10]  # twice
    nearest, expected = torch.full((300,), torch.inf, dtype=torch.float64), [7]
    for _ in range(99):
        nearest = torch.minimum(nearest, (features - features[expected[-1]]).norm(dim=1))
        expected.append(int(nearest.argmax()))
    assert farthest_point_sampling(features, 100, seed=0, start=7).tolist() == expected
    every = farthest_point_sampling(features, 300, seed=0).tolist()
    assert sorted(every) == list(range(300))


def test_equals_are_taken_in_order_and_last():
    features = torch.tensor([[0.0], [1.0], [-1.0], [0.0], [1.0]], dtype=torch.float64)
    # 1 and 4 and 2 are equally far from 0; then 2; what is there twice comes at the end.
    assert farthest_point_sampling(features, 5, seed=0, start=0).tolist() == [0, 1, 2, 3, 4]
    same = torch.ones(4, 3, dtype=torch.float64)
    assert farthest_point_sampling(same, 4, seed=0, start=2).tolist() == [2, 0, 1, 3]


def test_the_seed_draws_the_first_row():
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    firsts = {int(farthest_point_sampling(features, 1, seed=seed)[0]) for seed in range(20)}
    assert len(firsts) > 5
    a, b = (farthest_point_sampling(features, 20, seed=7) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(
        farthest_point_sampling(features, 8, seed=7), a[:8]
    )  # a smaller choice is its beginning


def test_spreads_wider_than_chance():
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen = features[farthest_point_sampling(features, 20, seed=0)]
    assert float(torch.pdist(chosen).min()) > 3 * float(torch.pdist(features[:20]).min())


@pytest.mark.parametrize("count", [0, -1, 6])
def test_more_than_there_are(count):
    with pytest.raises(InputError, match="expected 1 to 5"):
        farthest_point_sampling(torch.zeros(5, 2), count, seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value):
    features = torch.zeros(5, 2)
    features[3, 1] = value
    with pytest.raises(InputError, match="first: row 3"):
        farthest_point_sampling(features, 2, seed=0)


def test_a_first_row_that_is_not_there():
    with pytest.raises(InputError, match="start 5"):
        farthest_point_sampling(torch.zeros(5, 2), 2, seed=0, start=5)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_a_split_is_whole_and_without_overlap(n, fraction, seed):
    train, validation = split(n, fraction=fraction, seed=seed)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(n))
    assert abs(len(train) - n * fraction) <= 1
    if n >= 2:
        assert len(train) and len(validation)
    again, _ = split(n, fraction=fraction, seed=seed)
    assert torch.equal(train, again)


def test_splits_differ_by_seed():
    assert len({tuple(split(100, seed=seed)[1].tolist()) for seed in range(10)}) == 10
    assert len(split(100, seed=0)[0]) == 80


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 80.0])
def test_fractions_without_meaning(fraction):
    with pytest.raises(InputError, match="fraction"):
        split(10, fraction=fraction, seed=0)


def test_far_more_features_than_rows_are_sampled_as_a_slow_loop_does():
    """100,000 features: the square of that many would take 80 GB."""
    features = torch.randn(12, 100_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    features *= torch.arange(1.0, 13.0)[:, None]
    nearest, expected = torch.full((12,), torch.inf, dtype=torch.float64), [2]
    while len(expected) < 6:
        nearest = torch.minimum(nearest, (features - features[expected[-1]]).norm(dim=1))
        expected.append(int(nearest.argmax()))
    assert farthest_point_sampling(features, 6, seed=0, start=2).tolist() == expected
