import math

import pytest
import torch

from whorl.evaluation import agreement

LABELS = torch.linspace(-1, 1, 41, dtype=torch.float64)
NOISE = torch.randn(41, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_numbers_are_those_of_a_plain_calculation():
    computed = 1.2 * LABELS + 3.0 + 0.1 * NOISE
    computed[3] = math.nan
    result = agreement("energy", computed, LABELS)
    pairs = [(float(c), float(y)) for c, y in zip(computed, LABELS, strict=True) if c == c]
    n = len(pairs)
    offset = sum(c - y for c, y in pairs) / n
    mean_c, mean_y = (sum(p[i] for p in pairs) / n for i in (0, 1))
    variance_y = sum((y - mean_y) ** 2 for _, y in pairs) / n
    variance_c = sum((c - mean_c) ** 2 for c, _ in pairs) / n
    covariance = sum((c - mean_c) * (y - mean_y) for c, y in pairs) / n
    assert result.count == n == 40
    assert result.offset == pytest.approx(offset)
    assert result.scatter == pytest.approx(math.sqrt(sum((c - y - offset) ** 2 for c, y in pairs) / n))
    assert result.spread == pytest.approx(math.sqrt(variance_y))
    assert result.slope == pytest.approx(covariance / variance_y)
    assert result.correlation == pytest.approx(covariance / math.sqrt(variance_y * variance_c))


@pytest.mark.parametrize(
    ("computed", "same", "shifted"),
    [
        (LABELS, True, True),
        (LABELS + 0.1 * NOISE, True, True),
        (LABELS + 0.05, True, True),
        (LABELS - 145.4, False, True),  # another zero of energy
        (LABELS * 10, False, False),  # of all atoms instead of one
        (LABELS / 27.2, False, False),  # another unit
        (-LABELS, False, False),
        (NOISE, False, False),
        (torch.zeros(41, dtype=torch.float64), False, False),
        (torch.full((41,), math.nan, dtype=torch.float64), False, False),
        (torch.where(torch.arange(41) < 4, LABELS, math.nan), False, False),  # too few to conclude from
    ],
)
def test_what_counts_as_the_same_quantity(computed, same, shifted):
    result = agreement("energy", computed, LABELS)
    assert (result.is_same, result.is_shifted) == (same, shifted)


def test_labels_without_any_spread_agree_only_with_themselves():
    labels = torch.full((10,), -3.0, dtype=torch.float64)
    assert agreement("energy", labels + 1e-12, labels).is_same
    assert not agreement("energy", labels + 0.01 * NOISE[:10], labels).is_shifted
    assert agreement("energy", labels - 100, labels).is_shifted
    assert not agreement("energy", labels - 100, labels).is_same
