"""Flat groups and variances: counted by hand, enumerated, and against what training computes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from reft_lib import groups
from reft_lib.errors import UserError
from reft_lib.relative_losses import batch_advantages, leave_one_out_advantages

SCORES = torch.tensor([[1.0, 1.0, 0.1, 1.0, 0.0], [0.0] * 5, [1.0, 0.1, 0.1, 1.0, 0.1]])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_flat_share_is_that_of_all_subsets(k):
    flat = [
        len({float(row[i]) for i in some}) == 1
        for row in SCORES
        for some in itertools.combinations(range(5), k)
    ]
    assert groups.flat_share(SCORES, k) == pytest.approx(np.mean(flat))


def test_flat_share_of_a_hand_worked_example():
    # three right of four: C(3, 2) = 3 of the C(4, 2) = 6 pairs are both right
    assert groups.flat_share(torch.tensor([[1.0, 1.0, 0.0, 1.0]]), 2) == 0.5


def test_variances_are_those_of_the_advantages_in_training():
    """Many groups of k from questions that are right with probability 0.2 or 0.9."""
    generator, k = torch.Generator().manual_seed(0), 4
    p = torch.tensor([0.2, 0.9]).repeat(20_000)[:, None].expand(-1, k)
    scores = torch.bernoulli(p, generator=generator)
    flat = scores.flatten()
    found = groups.variance_left(scores, k)
    rloo, batch = leave_one_out_advantages(flat, k), batch_advantages_of(flat)
    assert found.others == pytest.approx(float(rloo.square().mean()), rel=0.02)
    assert found.batch == pytest.approx(float(batch.square().mean()), rel=0.02)
    within = (0.2 * 0.8 + 0.9 * 0.1) / 2  # by hand
    assert found.others == pytest.approx(within * 4 / 3, rel=0.02)
    assert found.batch == pytest.approx(within + 0.35**2, rel=0.02)


def batch_advantages_of(flat):
    """In batches of 2,000, as all differences of 160,000 would not fit."""
    return torch.cat([batch_advantages(part) for part in flat.split(2_000)])


def test_questions_alike_have_nothing_between_them():
    found = groups.variance_left(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 2)
    assert found.others == pytest.approx(1.0)  # twice the variance 1/2 of two responses
    assert found.batch == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: groups.flat_share(SCORES, 6), "groups of 6; wanted"),
        (lambda: groups.flat_share(SCORES[0], 1), r"shape \(5,\)"),
        (lambda: groups.variance_left(SCORES, 1), "groups of 2 to"),
        (lambda: groups.variance_left(SCORES[:1], 2), "1 question; wanted at least 2"),
    ],
)
def test_bad_input_is_told_in_one_line(call, part):
    with pytest.raises(UserError, match=part) as caught:
        call()
    assert "\n" not in str(caught.value)
