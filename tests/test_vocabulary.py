"""Log-probabilities in blocks of rows are those of log_softmax, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from reft_lib import fused, losses, vocabulary


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Two rows at a time, so that seven rows are four blocks, the last one shorter."""
    monkeypatch.setattr(vocabulary, "BLOCK", 2 * 50)


def drawn(dtype):
    """Return logits (7, 50), tokens (7,) and weights of the seven log-probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 50, generator=generator)).to(dtype).requires_grad_()
    tokens = torch.randint(50, (7,), generator=generator)
    return logits, tokens, torch.randn(7, generator=generator)


def both(dtype):
    """Return log-probabilities and gradients, in blocks and plainly."""
    logits, tokens, weights = drawn(dtype)
    found = []
    for plain in (False, True):
        if plain:
            with fused.plain():
                logp = losses.token_logprobs(logits, tokens)
        else:
            logp = losses.token_logprobs(logits, tokens)
        (grad,) = torch.autograd.grad((logp * weights).sum(), logits)
        found += [logp.detach(), grad]
    return found


def test_in_float32_values_and_gradients_are_the_plain_ones():
    logp, grad, expected, expected_grad = both(torch.float32)
    torch.testing.assert_close(logp, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_logits_in_bfloat16_are_summed_in_float32():
    logp, grad, expected, expected_grad = both(torch.bfloat16)
    assert logp.dtype == torch.float32 and grad.dtype == torch.bfloat16
    torch.testing.assert_close(logp, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-2, atol=1e-6)


def test_the_gradient_by_finite_differences():
    logits, tokens, _ = drawn(torch.float32)
    with torch.no_grad():
        moved = logits.detach().clone()
        moved[3, tokens[3]] += 1e-2
        rise = losses.token_logprobs(moved, tokens)[3] - losses.token_logprobs(logits, tokens)[3]
    (grad,) = torch.autograd.grad(losses.token_logprobs(logits, tokens)[3], logits)
    assert float(rise / 1e-2) == pytest.approx(float(grad[3, tokens[3]]), abs=2e-3)
    assert not grad[[0, 1, 2, 4, 5, 6]].any()


def test_nothing_in_float32_is_kept_but_a_number_a_row():
    kept = []

    def note(x):
        kept.append((x.dtype, tuple(x.shape)))
        return x

    logits, tokens, _ = drawn(torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        losses.token_logprobs(logits, tokens)
    assert sorted(kept, key=str) == [
        (torch.bfloat16, (7, 50)), (torch.float32, (7,)), (torch.int64, (7,)),
    ]  # fmt: skip


def test_no_row_at_all():
    assert losses.token_logprobs(torch.zeros(0, 50), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
    )
