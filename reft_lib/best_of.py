"""Best-of-n: the simplest way to follow a reward, without any training.

Sample n responses to a question and take the one with the highest reward. The choice is a policy of
its own, whose distance from the sampling policy is known without measuring it; so it shows what
more and more optimisation of a learned reward is worth (Gao et al. 2023, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from reft_lib.errors import UserError


def kl(n: int) -> float:
    """Return the KL divergence of best-of-n from the policy that samples, in nats.

        KL = log n - (n - 1) / n

    It is exact in the limit of ever rarer responses; where some are frequent, the best is often one
    that was likely anyway, and this is an upper bound (Beirami et al. 2024, theorem 1).

    Raises
    ------
    UserError
        If n is below 1.

    Notes
    -----
    Stiennon et al. 2020, "Learning to summarize from human feedback", appendix G.3. Best-of-n has
    density ``n F**(n - 1)`` relative to the policy, F being the score's distribution function,
    which is uniform on 0 to 1: KL is the mean of ``log(n u**(n - 1))`` under density
    ``n u**(n - 1)``.
    """
    if n < 1:
        raise UserError(f"best of {n}: n must be at least 1")
    return math.log(n) - (n - 1) / n


def expected(scores: Sequence[float], worth: Sequence[float], n: int) -> float:
    """Return what the best of n responses is worth on average, of k that were sampled.

        E = sum_i C(i - 1, n - 1) / C(k, n) worth_i,    i = 1 .. k from the lowest score up

    The i-th is the best of those subsets of size n that hold it and n - 1 of the i - 1 below it. So
    all subsets are counted once, and none has to be drawn.

    Parameters
    ----------
    scores : k numbers
        By which the best is chosen; of equal ones, the later.
    worth : k numbers
        What is averaged: the scores themselves, or the worth by another measure.
    n : int
        From 1 to k.

    Raises
    ------
    UserError
        If there are not as many scores as worths, or fewer than n.

    Notes
    -----
    Nakano et al. 2021 (arXiv 2112.09332), appendix I.
    """
    k = len(scores)
    if k != len(worth) or not 1 <= n <= k:
        raise UserError(f"best of {n}: {k} scores of {len(worth)} responses; wanted n to k of both")
    order = sorted(range(k), key=lambda i: scores[i])  # stable
    total = math.comb(k, n)
    return sum(math.comb(i, n - 1) / total * worth[j] for i, j in enumerate(order))


class Chosen(NamedTuple):
    """Best-of-n over some questions: means."""

    n: int
    kl: float
    """Nats; see :func:`kl`."""
    proxy: float
    """Of the score that chose."""
    gold: float
    """Of the other one."""


def curve(
    proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], ns: Iterable[int]
) -> list[Chosen]:
    """Say how proxy and gold rise, or fall, with n: one row for each n.

    Parameters
    ----------
    proxy, gold : N sequences of k
        Scores of k responses to each question, by the reward that chooses and by the one that is
        wanted.
    ns : iterable of int
        Each from 1 to k.

    Raises
    ------
    UserError
        If there is no question, or as in :func:`expected`.
    """
    if not proxy or len(proxy) != len(gold):
        raise UserError(f"best-of-n: {len(proxy)} questions of {len(gold)}; wanted some of both")
    rows = []
    for n in ns:
        means = [
            sum(expected(p, worth, n) for p, worth in zip(proxy, other, strict=True)) / len(proxy)
            for other in (proxy, gold)
        ]
        rows.append(Chosen(n, kl(n), *means))
    return rows
