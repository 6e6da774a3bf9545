"""Intervals, against printed tables, other implementations and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from reft_lib.errors import UserError
from reft_lib.stats import mean_interval, paired_bootstrap, paired_interval, wilson


@pytest.mark.parametrize(
    "k, n, lo, hi",
    [
        (0, 10, 0.0, 0.2775),  # z^2 / (n + z^2) = 3.8415 / 13.8415
        (10, 10, 0.7225, 1.0),
        (15, 148, 0.0624, 0.1605),  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),  # the same
        (0, 20, 0.0, 0.1611),  # the same
        (1, 29, 0.0061, 0.1718),  # the same
    ],
)
def test_wilson_known_values(k, n, lo, hi):
    assert wilson(k, n) == pytest.approx((lo, hi), abs=6e-5)


@pytest.mark.parametrize("conf", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (3, 7), (500, 1000), (999, 1000)])
def test_wilson_equals_scipy(k, n, conf):
    expected = binomtest(k, n).proportion_ci(conf, method="wilson")
    assert wilson(k, n, conf) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_ends_are_exact():
    assert all(wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0 for n in range(1, 300))


@pytest.mark.parametrize("k, n", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(UserError, match="wanted 0 <= k <= n"):
        wilson(k, n)


@pytest.mark.parametrize("n, t", [(2, 12.706), (3, 4.303), (5, 2.776), (6, 2.571), (31, 2.042)])
def test_mean_interval_uses_the_t_of_the_printed_tables(n, t):
    """Mean 0 and standard error 1 by construction, so that the half width is t itself."""
    x = np.arange(n) - (n - 1) / 2
    x = x / (x.std(ddof=1) / math.sqrt(n))
    mean, lo, hi = mean_interval(x)
    assert (mean, lo, hi) == pytest.approx((0, -t, t), abs=6e-4)


def test_mean_interval_hand_worked():
    """1, 2, 3: mean 2, s = 1, half width 4.3027 / sqrt(3) = 2.4841."""
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-4)


def test_mean_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        _, lo, hi = mean_interval(rng.normal(3, 2, size=5))
        hits += lo <= 3 <= hi
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_no_interval():
    mean, lo, hi = mean_interval([0.7])
    assert mean == 0.7 and math.isnan(lo) and math.isnan(hi)


@pytest.mark.parametrize("x", [[], [[1.0, 2.0]]])
def test_mean_interval_wants_one_number_for_each_seed(x):
    with pytest.raises(UserError, match="one number for each seed"):
        mean_interval(x)


def test_pairing_cancels_what_both_share():
    luck = np.array([0.1, 0.5, 0.9, 0.3])
    reft, sft = luck + [0.10, 0.12, 0.11, 0.11], luck
    mean, lo, hi = paired_interval(reft, sft)
    assert mean == pytest.approx(0.11) and lo > 0.09 and hi < 0.13
    assert mean_interval(reft).lo < mean_interval(sft).hi  # unpaired, they overlap


@pytest.mark.parametrize("paired", [paired_interval, paired_bootstrap])
def test_pairs_must_be_pairs(paired):
    with pytest.raises(UserError, match="differ in shape"):
        paired([1.0, 2.0, 3.0], [1.0])


def test_bootstrap_of_one_in_two_questions():
    """Differences 0 and 1, half each: the mean of n draws is binomial, known exactly."""
    n = 100
    a, b = np.ones(n), np.arange(n) % 2
    mean, lo, hi = paired_bootstrap(a, b)
    assert mean == 0.5
    assert (lo, hi) == pytest.approx((0.40, 0.60), abs=0.011)  # binomial(100, 1/2) quantiles


def test_bootstrap_agrees_with_the_normal_interval_on_many_questions():
    rng = np.random.default_rng(1)
    a, b = rng.random(1000) < 0.7, rng.random(1000) < 0.6
    mean, lo, hi = paired_bootstrap(a, b)
    difference = a.astype(float) - b
    half = 1.96 * difference.std() / math.sqrt(1000)
    assert (mean, lo, hi) == pytest.approx((mean, mean - half, mean + half), abs=0.003)


def test_bootstrap_is_repeatable_and_without_difference_is_a_point():
    a, b = np.array([1, 0, 1, 1, 0, 1, 0]), np.array([0, 0, 1, 0, 1, 1, 0])
    assert paired_bootstrap(a, b, seed=4) == paired_bootstrap(a, b, seed=4)
    assert paired_bootstrap(a, a) == (0.0, 0.0, 0.0)


def test_bootstrap_averages_seeds_before_it_draws_questions():
    a, b = np.array([[1, 0, 1, 1], [1, 1, 0, 1]]), np.array([[0, 0, 1, 0], [1, 0, 0, 0]])
    assert paired_bootstrap(a, b) == paired_bootstrap(a.mean(0), b.mean(0))
    with pytest.raises(UserError, match="score per question"):
        paired_bootstrap([], [])


@pytest.mark.parametrize("conf", [0, 1, 95])
def test_confidence_is_a_fraction(conf):
    with pytest.raises(UserError, match="between 0 and 1"):
        wilson(1, 2, conf)
