"""Attention of a ragged batch in one function is rotation and attention, one after another."""

from __future__ import annotations

import pytest
import torch

from reft_lib import ragged, ragged_attention
from reft_lib.elementwise import Rotated

HEADS, GROUPS, D = 4, 2, 8


def batch(prompts, which, lengths):
    """Return a padded batch: prompts of these lengths, and of each row its prompt and length."""
    width, most = max(prompts), max(lengths)
    sequences = torch.zeros(len(which), width + most, dtype=torch.int64)
    attention = torch.zeros_like(sequences)
    for i, (p, n) in enumerate(zip(which, lengths, strict=True)):
        sequences[i, width - prompts[p] : width] = 10 * (p + 1) + torch.arange(prompts[p])
        sequences[i, width : width + n] = 100 + 20 * i + torch.arange(n)
        attention[i, width - prompts[p] : width + n] = 1
    return ragged.lay_out(sequences, attention, attention[:, width:] == 1)


BATCHES = {
    "groups of uneven rows": batch([3, 5], [0, 0, 0, 1, 1], [4, 2, 6, 1, 3]),
    "a prompt of its own each": batch([2, 4, 3], [2, 0, 1], [3, 5, 2]),
    "more rows than attend at once": batch([3, 4], [0, 1] * 10, [2 + i % 7 for i in range(20)]),
    "responses of one token": batch([3, 2], [0, 1, 1], [1, 1, 1]),
    "one row": batch([4], [0], [5]),
}


def exact(q, k, v, seen):
    """Attend, with everything repeated and in memory."""
    k, v = (x.repeat_interleave(HEADS // GROUPS, dim=1) for x in (k, v))
    scores = (q @ k.mT * 0.3).masked_fill(~seen, torch.finfo(q.dtype).min)
    return (scores.softmax(-1) @ v).transpose(1, 2), None


def one_by_one(x, cos, sin, laid):
    """Rotate, then let :meth:`Ragged.attend` put rows together."""
    turned, v = x.split([HEADS + GROUPS, GROUPS], dim=1)
    q, k = Rotated.apply(turned[None], cos, sin)[0].split([HEADS, GROUPS], dim=1)
    return laid.attend(exact, *(part.transpose(0, 1)[None] for part in (q, k, v)))[0]


def given(laid, dtype=torch.float32):
    """Return queries, keys and values of all tokens, and the angles of their places."""
    torch.manual_seed(0)
    x = torch.randn(len(laid.tokens), HEADS + 2 * GROUPS, D).to(dtype).requires_grad_()
    angles = laid.position_ids[:, None] * torch.logspace(0, -1, D // 2)
    angles = torch.cat([angles, angles], dim=1)[None]
    return x, angles.cos(), angles.sin()


@pytest.mark.parametrize("name", BATCHES)
def test_outputs_and_gradients_are_the_same(name):
    laid = BATCHES[name]
    x, cos, sin = given(laid)
    out = laid.attend_at_once(x, (cos, sin), HEADS, 0.3)
    expected = one_by_one(x, cos, sin, laid)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(out)
    (ours,), (theirs,) = (torch.autograd.grad((y * weights).sum(), x) for y in (out, expected))
    assert theirs.flatten(1).norm(dim=1).min() > 0  # every token counts
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_as_near_to_float32():
    laid = BATCHES["more rows than attend at once"]
    found = []
    for dtype, how in (
        (torch.bfloat16, "ours"), (torch.bfloat16, "theirs"), (torch.float32, "theirs")
    ):  # fmt: skip
        laid.layout = None
        x, cos, sin = given(laid, dtype)
        if how == "ours":
            out = laid.attend_at_once(x, (cos, sin), HEADS, 0.3)
        else:
            out = one_by_one(x, cos, sin, laid)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        grad = torch.autograd.grad((out * weights).sum(), x)[0]
        found.append([out.detach().float(), grad.float()])
    laid.layout = None
    for ours, theirs, right in zip(*found, strict=True):
        assert not torch.equal(ours, theirs)
        assert (ours - right).norm() < 1.5 * (theirs - right).norm()


def test_places_are_found_once_for_all_layers():
    laid = BATCHES["one row"]
    one = ragged_attention.layout(laid, HEADS, GROUPS, torch.float32)
    assert ragged_attention.layout(laid, HEADS, GROUPS, torch.float32) is one
