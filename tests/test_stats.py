"""Intervals, pass@k and AUC, against tables, enumeration, other formulas and simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binomtest

from reft_lib.errors import UserError
from reft_lib.stats import auc, mean_interval, paired_bootstrap, paired_interval, pass_at_k, wilson


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


def test_pass_at_k_equals_trying_every_subset():
    for n in range(1, 8):
        for c in range(n + 1):
            responses = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(responses, k))
                share = sum(any(s) for s in subsets) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-15)


def test_pass_at_k_is_unbiased():
    """Averaged over what n responses can bring, it is the chance of k fresh ones, exactly."""
    n, p = 9, Fraction(2, 7)
    for k in range(1, n + 1):
        mean = sum(
            math.comb(n, c) * p**c * (1 - p) ** (n - c) * Fraction(pass_at_k(n, c, k))
            for c in range(n + 1)
        )
        assert float(mean) == pytest.approx(float(1 - (1 - p) ** k), abs=1e-14)
        obvious = sum(
            math.comb(n, c) * p**c * (1 - p) ** (n - c) * (1 - (1 - Fraction(c, n)) ** k)
            for c in range(n + 1)
        )
        assert k == 1 or float(obvious) < float(mean) - 1e-3


@pytest.mark.parametrize("n, c, k", [(100, 1, 100), (1000, 3, 16), (1000, 990, 5), (20000, 7, 999)])
def test_pass_at_k_of_many_responses_as_a_product(n, c, k):
    """Chen et al. multiply 1 - k/i for i from n - c + 1 to n."""
    product = 1.0
    for i in range(n - c + 1, n + 1):
        product *= max(0.0, 1 - k / i)
    assert pass_at_k(n, c, k) == pytest.approx(1 - product, rel=1e-12)


def test_pass_at_k_rises_with_k_and_with_c():
    table = np.array([[pass_at_k(16, c, k) for k in range(1, 17)] for c in range(17)])
    assert (np.diff(table, axis=0) >= 0).all() and (np.diff(table, axis=1) >= 0).all()
    assert table[:, 0] == pytest.approx(np.arange(17) / 16) and (table[1:, 15] == 1).all()
    assert (table[0] == 0).all()


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be_known(n, c, k):
    with pytest.raises(UserError, match=f"pass@{k}: {c} right of {n}; wanted 0 <= c <= n"):
        pass_at_k(n, c, k)


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=60).astype(float)  # with ties
    right, groups = rng.random(60) < 0.3, rng.integers(0, 5, size=60)

    def by_pairs(allowed):
        wins, pairs = 0.0, 0
        for i, j in itertools.product(range(60), repeat=2):
            if right[i] and not right[j] and allowed(i, j):
                wins += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
                pairs += 1
        return wins / pairs

    assert auc(scores, right) == pytest.approx(by_pairs(lambda i, j: True), abs=1e-12)
    within = by_pairs(lambda i, j: groups[i] == groups[j])
    assert auc(scores, right, groups) == pytest.approx(within, abs=1e-12)
    assert auc(scores, right, [f"q{g}" for g in groups]) == pytest.approx(within, abs=1e-12)


def test_auc_of_the_extremes():
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([4, 3, 2, 1], [False, False, True, True]) == 0.0
    assert auc([5, 5, 5], [True, False, False]) == 0.5
    assert math.isnan(auc([1, 2], [True, True])) and math.isnan(auc([], []))
    # knowing only which question is hard ranks all responses, but not those of one question
    assert auc([9, 9, 9, 1, 1, 1], [True, True, False, True, False, False]) > 0.6
    assert auc([9, 9, 9, 1, 1, 1], [1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1]) == 0.5


@pytest.mark.parametrize("scores, right", [([1.0], [True, False]), ([math.nan, 1], [True, False])])
def test_auc_wants_a_score_for_each(scores, right):
    with pytest.raises(UserError, match="wanted one for each"):
        auc(scores, right)
