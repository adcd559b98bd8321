"""Shares and means with their confidence intervals."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from whorl.evaluation.estimates import mean, share, wilson


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (3, 10), (50, 100), (999, 1000), (10, 10)])
def test_wilson_solves_the_equation_of_the_normal_approximation(count, of):
    # The ends are the shares p from which the observed one is 1.96 standard errors away.
    def off(p):
        return (count / of - p) ** 2 * of - 1.959963984540054**2 * p * (1 - p)

    low, high = wilson(count, of)
    tiny = 1e-12
    assert low == pytest.approx(0 if count == 0 else brentq(off, tiny, count / of - tiny), abs=1e-9)
    assert high == pytest.approx(1 if count == of else brentq(off, count / of + tiny, 1 - tiny), abs=1e-9)


def test_shares_are_of_their_denominator():
    of = share(torch.tensor([True, False, True]), of=10, text="those")
    assert (of.value, of.count, of.of, of.text) == (0.2, 2, 10, "those")
    assert of.low < 0.2 < of.high
    assert share([]).value is None


def test_means_ignore_what_is_not_known_and_say_how_many_are():
    of = mean([1.0, 3.0, math.nan, math.inf], unit="eV")
    assert (of.value, of.count, of.of, of.unit) == (2.0, 2, 4, "eV")
    assert mean([math.nan]).value is None
    assert mean([5.0]).low is None


def test_bootstrap_intervals_are_those_of_the_standard_error_for_many_values():
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    of = mean(values.tolist())
    error = values.std() / math.sqrt(len(values))
    assert of.high - of.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert of == mean(values.tolist())
