import pytest
import torch

from whorl.linalg import principal_axes


@pytest.mark.parametrize(
    ("rows", "features", "rank"),
    [(40, 900, 40), (900, 40, 40), (1100, 1050, 3), (1050, 1100, 40), (5, 3, 1)],
)
def test_axes_are_the_singular_vectors_of_any_table(rows, features, rank):
    rng = torch.Generator().manual_seed(rows)
    left = torch.linalg.qr(torch.randn(rows, rank, generator=rng, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(features, rank, generator=rng, dtype=torch.float64)).Q
    singular = torch.logspace(2, 0, rank, dtype=torch.float64)
    axes, found = principal_axes(left * singular @ right.T, 8)
    known = min(8, rank)
    torch.testing.assert_close(found[:known], singular[:known], rtol=1e-9, atol=0)
    assert float(found[known:].sum()) < 1e-5
    overlap = (axes[:known] * right.T[:known]).sum(1).abs()
    torch.testing.assert_close(overlap, torch.ones(known, dtype=torch.float64), rtol=0, atol=1e-8)
    identity = torch.eye(len(axes), dtype=torch.float64)
    torch.testing.assert_close(axes @ axes.T, identity, rtol=0, atol=1e-9)


def test_a_table_of_zeros_has_axes_too():
    axes, singular = principal_axes(torch.zeros(3, 5), 2)
    assert torch.isfinite(axes).all() and singular.tolist() == [0.0, 0.0]


def test_few_rows_of_very_many_features_need_no_square_of_the_features():
    """200,000 features: their covariance would take 320 GB."""
    rows = torch.zeros(3, 200_000, dtype=torch.float64)
    rows[0, 7], rows[1, 150_000] = 2.0, 1.0
    axes, singular = principal_axes(rows, 2)
    assert singular.tolist() == pytest.approx([2.0, 1.0])
    assert axes.abs().argmax(1).tolist() == [7, 150_000]
