"""Best-of-n against every subset, and its KL against the sum that defines it."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from reft_lib import best_of
from reft_lib.errors import UserError


@pytest.mark.parametrize("n", range(1, 8))
def test_it_is_the_mean_over_all_subsets(n):
    dice = random.Random(n)
    scores, worth = ([dice.gauss(0, 1) for _ in range(7)] for _ in range(2))
    chosen = [max(some, key=scores.__getitem__) for some in itertools.combinations(range(7), n)]
    for figures in (scores, worth):
        by_hand = sum(figures[i] for i in chosen) / len(chosen)
        assert best_of.expected(scores, figures, n) == pytest.approx(by_hand)


def test_one_of_three_by_hand():
    """Subsets of two of (1, 2, 3): the best is 2 once and 3 twice."""
    assert best_of.expected([1, 2, 3], [10, 20, 30], 2) == pytest.approx((20 + 2 * 30) / 3)
    assert best_of.expected([3, 2, 1], [10, 20, 30], 3) == 10


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_kl_is_that_of_the_best_of_many_equally_likely_responses(n):
    """Response i of m is the best of n with probability ``(i**n - (i - 1)**n) / m**n``."""
    m = 20_000
    p = [(i**n - (i - 1) ** n) / m**n for i in range(1, m + 1)]
    exact = sum(x * math.log(x * m) for x in p if x > 0)
    assert best_of.kl(n) == pytest.approx(exact, abs=1e-3)


def test_a_proxy_that_is_the_gold_never_falls_and_one_that_is_its_opposite_does():
    dice = random.Random(0)
    gold = [[dice.gauss(0, 1) for _ in range(8)] for _ in range(50)]
    same = best_of.curve(gold, gold, (1, 2, 4, 8))
    assert [row.n for row in same] == [1, 2, 4, 8] and same[0].kl == 0.0
    assert all(a.gold < b.gold for a, b in itertools.pairwise(same))
    assert [row.proxy for row in same] == [row.gold for row in same]
    against = best_of.curve([[-x for x in group] for group in gold], gold, (1, 8))
    assert against[1].proxy > against[0].proxy and against[1].gold < against[0].gold
    assert against[0].gold == pytest.approx(same[0].gold)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: best_of.kl(0), "best of 0: n must be at least 1"),
        (lambda: best_of.expected([1.0], [1.0], 2), "best of 2: 1 scores of 1 responses"),
        (lambda: best_of.expected([1.0], [], 1), "best of 1: 1 scores of 0 responses"),
        (lambda: best_of.curve([], [], [1]), "best-of-n: 0 questions of 0; wanted some"),
    ],
)
def test_what_cannot_be_chosen_from_is_one_line(call, match):
    with pytest.raises(UserError, match=match):
        call()
