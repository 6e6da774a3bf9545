"""Reported numbers, and their intervals: how far chance alone could have moved them.

Two sources of chance are kept apart. *Questions*: the test set is a sample of all questions
(:func:`wilson`, :func:`paired_bootstrap`). *Seeds*: training again would give another model
(:func:`mean_interval`, :func:`paired_interval`). To compare two methods, use the paired functions:
both methods met the same questions or seeds, and their common luck cancels in the difference.

Two numbers are made here because their obvious forms go wrong: :func:`pass_at_k` and :func:`auc`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

from reft_lib.errors import UserError


class Interval(NamedTuple):
    """A mean and its confidence interval, in the units of the data."""

    mean: float
    lo: float
    hi: float


def wilson(k: int, n: int, conf: float = 0.95) -> tuple[float, float]:
    """Interval of an accuracy: ``k`` right answers of ``n`` questions.

        centre = (p + z^2 / 2n) / (1 + z^2 / n)                                       p = k / n
        half   = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)

    Unlike p +- z sqrt(p (1 - p) / n) it stays within [0, 1] and does not shrink to a point at 0
    or n right answers.

    Returns
    -------
    lo, hi : float
        As fractions, 0 to 1.

    Raises
    ------
    UserError
        Unless 0 <= k <= n and n >= 1.

    Notes
    -----
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if n < 1 or not 0 <= k <= n:
        raise UserError(f"wilson: {k} right answers of {n}; wanted 0 <= k <= n and n >= 1")
    z = NormalDist().inv_cdf(0.5 + _conf(conf) / 2)
    p, shrink = k / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) / shrink
    # The bounds at k = 0 and k = n are exactly 0 and 1; rounding would miss them by a last bit.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def mean_interval(x: Sequence[float] | NDArray, conf: float = 0.95) -> Interval:
    """Mean over seeds, with Student's t interval.

        mean +- t s / sqrt(n)        s^2 = sum (x - mean)^2 / (n - 1),  t with n - 1 degrees

    Few seeds cannot know their own spread well, and t is the price: 12.7 for two of them, 2.8 for
    five, 1.96 for ever so many. It takes the seeds' results to be roughly normal.

    Parameters
    ----------
    x : (n,)
        One number per seed.

    Returns
    -------
    Interval
        One seed has a mean and no interval: ``lo`` and ``hi`` are NaN.

    Raises
    ------
    UserError
        If ``x`` is empty or not one-dimensional.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"mean_interval: shape {values.shape}; wanted one number for each seed")
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(mean, math.nan, math.nan)
    t = float(stdtrit(n - 1, 0.5 + _conf(conf) / 2))
    half = t * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def paired_interval(
    a: Sequence[float] | NDArray, b: Sequence[float] | NDArray, conf: float = 0.95
) -> Interval:
    """Student's t interval of the mean of ``a - b`` over seeds.

    Parameters
    ----------
    a, b : (n,)
        Results of two methods; ``a[i]`` and ``b[i]`` come from the same seed.

    Raises
    ------
    UserError
        If the shapes differ, or as in :func:`mean_interval`.
    """
    return mean_interval(_differences(a, b), conf)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, conf: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean of ``a - b`` over questions.

    Draws the test set anew from itself, with replacement, ``draws`` times; each draw keeps a
    question's two results together. The interval spans the middle ``conf`` of the means.

    Parameters
    ----------
    a, b : (n_questions,) or (n_seeds, n_questions)
        Score of each question, 1 right and 0 wrong, of two methods. With several seeds, a
        question's score is its mean over them: the interval then is for these very models, and
        says what other questions would change, not what other seeds would.
    seed : int
        Of the draws; the same seed gives the same interval.

    Raises
    ------
    UserError
        If the shapes differ, or there is no question.

    Notes
    -----
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    difference = _differences(a, b)
    if difference.ndim == 2:
        difference = difference.mean(axis=0)
    if difference.ndim != 1 or len(difference) == 0:
        raise UserError(f"paired_bootstrap: shape {difference.shape}; wanted a score per question")
    rng, n = np.random.default_rng(seed), len(difference)
    means = [difference[rng.integers(n, size=n)].mean() for _ in range(draws)]
    tail = (1 - _conf(conf)) / 2
    lo, hi = np.quantile(means, [tail, 1 - tail])
    return Interval(float(difference.mean()), float(lo), float(hi))


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of ``k`` responses is right, from ``n`` of which ``c`` are.

        pass@k = 1 - C(n - c, k) / C(n, k)

    This is the share of all k-subsets of the n responses that hold a right one, hence unbiased for
    k independent responses. The obvious 1 - (1 - c/n)^k draws with replacement and is too low.

    Parameters
    ----------
    n, c, k : int
        Responses, right ones among them, and those allowed.

    Returns
    -------
    float
        0 to 1. The binomials are exact integers, so nothing overflows and the one division is the
        only rounding, for any n.

    Raises
    ------
    UserError
        Unless 0 <= c <= n and 1 <= k <= n: from n responses nothing is known of more than n.

    Notes
    -----
    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise UserError(f"pass@{k}: {c} right of {n}; wanted 0 <= c <= n and 1 <= k <= n")
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets


def auc(scores: ArrayLike, right: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Probability that a right response scores above a wrong one; a tie counts half.

        AUC = (sum of the ranks of the right ones - r (r + 1) / 2) / (r w)      r right, w wrong

    1 ranks perfectly, 1/2 is chance. The scores' scale and the share of right ones do not matter.

    Parameters
    ----------
    scores : (n,)
    right : bool (n,)
    groups : (n,), optional
        Names of questions: then only pairs of responses to one question count, as when a verifier
        chooses among them. Otherwise a verifier that merely knows hard questions looks good too.

    Returns
    -------
    float
        0 to 1; NaN where there is no pair: all are right or all are wrong.

    Raises
    ------
    UserError
        If the shapes differ, or a score is no number.

    Notes
    -----
    The area under the receiver operating characteristic, by the statistic of Mann and Whitney 1947.
    """
    x, is_right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    names = np.zeros(len(x)) if groups is None else np.asarray(groups)
    if not x.shape == is_right.shape == names.shape == (len(x),) or np.isnan(x).any():
        raise UserError(f"auc: {x.shape} scores of {is_right.shape} verdicts; wanted one for each")
    wins, pairs = 0.0, 0
    for name in np.unique(names):
        here = is_right[names == name]
        r = int(here.sum())
        wins += rankdata(x[names == name])[here].sum() - r * (r + 1) / 2
        pairs += r * (len(here) - r)
    return float(wins / pairs) if pairs else math.nan


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute ``a - b`` where the two really are pairs; broadcasting would hide a mistake."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise UserError(f"paired results differ in shape: {x.shape} against {y.shape}")
    return x - y


def _conf(conf: float) -> float:
    if not 0 < conf < 1:
        raise UserError(f"confidence {conf}; wanted a number between 0 and 1, such as 0.95")
    return conf
