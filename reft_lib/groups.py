"""What the size of a group costs and buys, read off many responses to each of some questions.

A group is k responses to one question. Where all its scores are equal the group is *flat*: methods
that hold a response to its group learn nothing from it. Where they differ, the mean of the others
is a baseline that knows how hard the question is, and the better the larger the group.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from reft_lib.errors import UserError


class Left(NamedTuple):
    """The variance of scores that a baseline leaves in the advantages."""

    others: float
    """By the mean of the group's other responses: RLOO."""
    batch: float
    """By the mean of a large batch, the same for all questions: REINFORCE."""


def flat_share(scores: Tensor, k: int) -> float:
    """Return the expected share of flat groups, were a question asked k times.

        mean over questions of sum_v C(n_v, k) / C(n, k)      n_v of the n responses score v

    These are the subsets of k responses whose scores are all equal, hence unbiased for k new
    responses. With two scores, right with probability p, it estimates p^k + (1 - p)^k.

    Parameters
    ----------
    scores : Tensor (Q, n)
        n responses to each of Q questions.
    k : int
        From 1 to n.

    Raises
    ------
    UserError
        If there are no k responses to a question.
    """
    n = _responses(scores, k, least=1)
    counts = [torch.unique(row, return_counts=True)[1].tolist() for row in scores]
    flat = [sum(math.comb(c, k) for c in row) / math.comb(n, k) for row in counts]
    return sum(flat) / len(flat)


def variance_left(scores: Tensor, k: int) -> Left:
    """Return what is left of the scores' variance by two baselines.

        others = W k / (k - 1)       W: variance among responses to one question, on average
        batch  = W + B               B: variance of the questions' own means

    The others' mean knows the question but is itself noisy, by W / (k - 1); the batch's mean is
    hardly noisy but takes easy and hard questions for one. The group wins where B > W / (k - 1).

    Parameters
    ----------
    scores : Tensor (Q, n)
        At least two responses to each of at least two questions.
    k : int
        At least 2.

    Raises
    ------
    UserError
        If there are fewer questions or responses, or k is 1.
    """
    n = _responses(scores, k, least=2)
    if len(scores) < 2:
        raise UserError(f"variance_left: {len(scores)} question; wanted at least 2")
    within = float(scores.double().var(dim=1).mean())
    between = float(scores.double().mean(dim=1).var()) - within / n  # a mean of n is noisy, too
    return Left(within * k / (k - 1), within + max(0.0, between))


def _responses(scores: Tensor, k: int, least: int) -> int:
    """Return n, once there are questions and ``least`` <= k <= n."""
    if scores.ndim != 2 or not len(scores) or not least <= k <= scores.shape[1]:
        raise UserError(
            f"scores of shape {tuple(scores.shape)} and groups of {k}; wanted (questions, "
            f"responses) and groups of {least} to as many as there are responses"
        )
    return scores.shape[1]
