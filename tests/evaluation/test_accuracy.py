import math

import pytest
import torch

from whorl.evaluation import count_failed, mean_absolute_error, percent_within

NAN = float("nan")


def test_mean_absolute_error_is_the_mean_over_what_could_be_judged():
    values = torch.tensor([1.0, 2.5, NAN, float("inf")])
    assert mean_absolute_error(values, 2.0) == pytest.approx((1.0 + 0.5) / 2)


def test_mean_absolute_error_takes_one_target_per_sample():
    assert mean_absolute_error(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.5])) == pytest.approx(0.75)


@pytest.mark.parametrize("values", [torch.zeros(0), torch.tensor([NAN, NAN])])
def test_mean_absolute_error_of_nothing_is_undefined(values):
    assert math.isnan(mean_absolute_error(values, 1.0))


def test_percent_within_counts_failures_as_misses():
    assert percent_within(torch.tensor([1.9, NAN, 5.0, 1.95]), 1.9, 0.1) == 50.0


def test_percent_within_includes_the_limit_despite_rounding():
    for target in (1.9, 2.2, 2.8, 3.7):
        edge = torch.tensor([target + 0.1, target - 0.1], dtype=torch.float64)
        assert percent_within(edge, target, 0.1) == 100.0
    assert percent_within(torch.tensor([2.0001], dtype=torch.float64), 1.9, 0.1) == 0.0


def test_percent_within_of_nothing_is_undefined():
    assert math.isnan(percent_within(torch.zeros(0), 1.0))


def test_count_failed():
    assert count_failed(torch.tensor([1.0, NAN, float("-inf")])) == 2
