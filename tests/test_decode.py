"""Choosing tokens by the inverse of the cumulative distribution, by hand and by frequency."""

from __future__ import annotations

import math

import pytest
import torch

from reft_lib.decode import choose

LOGITS = torch.tensor([[0.0, 0.0, -torch.inf, 0.0]]).log_softmax(-1)  # a third each, and nothing
LARGEST = 1 - 2**-24
"""The largest number that torch.rand returns in float32."""


@pytest.mark.parametrize(
    ("number", "token"), [(0.0, 0), (0.33, 0), (0.34, 1), (0.66, 1), (0.67, 3), (LARGEST, 3)]
)
def test_a_token_is_chosen_by_the_part_that_its_number_falls_on(number, token):
    tokens, logp = choose(LOGITS, 1.0, torch.tensor([number]))
    assert tokens.tolist() == [token]
    assert logp.item() == pytest.approx(-math.log(3), abs=1e-6)


def test_a_token_without_probability_is_never_chosen():
    """Not even at both ends of the interval, with such tokens first and last."""
    none = -torch.inf
    logits = torch.tensor([[none, 1.0, none, 2.0, none]]).expand(4, -1)
    tokens, _ = choose(logits, 1.0, torch.tensor([0.0, 2**-24, 0.5, LARGEST]))
    assert set(tokens.tolist()) <= {1, 3} and tokens[0] == 1 and tokens[-1] == 3


def test_rounding_never_leads_beyond_the_last_token():
    """The sum of many rounded probabilities is seldom 1; the largest number still finds a token."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 4096, generator=generator)
    tokens, logp = choose(logits, 1.0, torch.full((500,), LARGEST))
    assert tokens.max() < 4096 and torch.isfinite(logp).all()


def test_temperature_is_applied_before_choosing_and_to_the_logprobs():
    logits = torch.tensor([[0.0, 1.0]])
    _, logp = choose(logits, 0.5, torch.tensor([0.9]))
    assert logp.item() == pytest.approx(-math.log(1 + math.exp(-2)))
    tokens, logp = choose(logits, 0, None)
    assert tokens.tolist() == [1]
    assert logp.item() == pytest.approx(-math.log(1 + math.exp(-1)))
