"""Rows without padding and with shared prompts read the same as padded ones."""

from __future__ import annotations

import pytest
import torch
from conftest import adapted, grouped
from transformers import GPT2Config, GPT2LMHeadModel

from reft_lib import attention, fused, lora, models, ragged, rollout
from reft_lib.value import ValueHead

UNEVEN = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
NEED_BF16 = pytest.mark.skipif(not models.has_fast_bf16(), reason="autocast is off: no fast bf16")


@pytest.fixture
def policy(tokenizer):
    """A policy whose four heads share two groups of keys, as SmolLM2's do."""
    model = grouped(tokenizer)
    bias = torch.zeros(len(tokenizer))
    bias[tokenizer.eos_token_id] = 4.0  # so that many responses end early
    model.lm_head.bias = torch.nn.Parameter(bias)
    attention.use_attention(model)
    return adapted(model)


def sampled(policy, tokenizer, k=3, most=20):
    """Sample k responses to each of the uneven prompts."""
    generator = torch.Generator().manual_seed(0)
    return rollout.sample(
        policy, tokenizer, UNEVEN, most, generator=generator, samples_per_prompt=k
    )


def scored(policy, roll, padded=False, bf16=False, head=None):
    """Return log-probabilities, values, and the gradient of an uneven sum of both."""
    policy.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        if padded:
            patch.setattr(ragged, "suits", lambda model: False)
        with models.autocast("cpu", bf16):
            logp, values = rollout.score(policy, roll, head)
    weights = torch.rand(logp.shape, generator=torch.Generator().manual_seed(1))
    total = (logp * weights).sum()
    if values is not None:
        values = values * roll.response_mask
        total = total + (values * weights).sum()
    total.backward()
    grad = torch.cat([p.grad.flatten() for p in lora.trainable_parameters(policy)])
    return logp.detach(), values, grad


def same(policy, roll, head=None):
    """Hold the ragged reading to the padded one."""
    assert ragged.suits(policy)
    for x, y in zip(
        scored(policy, roll, head=head), scored(policy, roll, True, head=head), strict=True
    ):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_log_probabilities_values_and_gradients_are_the_padded_ones(policy, tokenizer, k):
    roll = sampled(policy, tokenizer, k)
    assert len(set(roll.lengths.tolist())) > 1
    same(policy, roll, ValueHead(32, std=1.0))


def test_rows_in_any_order_and_with_the_adapter_off(policy, tokenizer):
    roll = sampled(policy, tokenizer, 4)
    mixed = rollout.minibatch(roll, torch.tensor([7, 0, 11, 3, 2, 4]))
    same(policy, mixed)
    with lora.reference(policy):
        off = rollout.score(policy, mixed)[0].detach()
        with fused.plain():
            assert not ragged.suits(policy)
            torch.testing.assert_close(
                off, rollout.score(policy, mixed)[0].detach(), rtol=1e-4, atol=1e-5
            )
    assert not torch.allclose(off, rollout.score(policy, mixed)[0].detach(), atol=1e-2)


def test_responses_of_one_token(policy, tokenizer):
    same(policy, sampled(policy, tokenizer, most=1))
    roll = sampled(policy, tokenizer)
    shortest = rollout.minibatch(roll, roll.lengths.argsort()[:1])
    same(policy, shortest)


def test_activations_can_be_computed_anew(policy, tokenizer):
    roll = sampled(policy, tokenizer)
    expected = scored(policy, roll)[2]
    policy.get_base_model().gradient_checkpointing_enable()
    policy.train()
    seen = []
    first = policy.get_base_model().model.layers[0]
    first.mlp.register_forward_pre_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(scored(policy, roll)[2], expected, rtol=1e-4, atol=1e-6)
    assert len(seen) == 2  # forwards, and once more backwards


def test_each_prompt_is_read_once_and_no_padding_at_all(policy, tokenizer):
    roll = sampled(policy, tokenizer, 5)
    shapes = []
    layer = policy.get_base_model().model.layers[1].mlp
    layer.register_forward_hook(lambda _, given, __: shapes.append(given[0].shape))
    rollout.score(policy, roll)
    prompts = sum(map(len, UNEVEN))
    assert shapes == [(1, prompts + int(roll.lengths.sum()) - 15, 32)]


def test_the_layout_by_hand():
    """Rows: q1 q2 | a b c; q1 q2 | d; r | e f, padded to two and three columns."""
    laid = ragged.lay_out(
        torch.tensor([[1, 2, 11, 12, 13], [1, 2, 14, 9, 9], [9, 3, 15, 16, 9]]),
        torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]]),
        torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool),
    )
    # prompts in order of their tokens, padding (-1) first: r, then q1 q2; responses by length:
    # nothing, e, a b
    assert laid.tokens.tolist() == [3, 1, 2, 15, 11, 12]
    assert laid.position_ids.tolist() == [0, 0, 1, 1, 2, 3]
    assert laid.which.tolist() == [1, 1, 0]
    assert laid.before.tolist() == [[2, 4, 5], [2, 0, 0], [0, 3, 0]]


def test_some_rows_at_a_time_by_hand(monkeypatch):
    """The same two at a time: d and e f (one column), then a b c (two)."""
    monkeypatch.setattr(ragged, "ROWS", 2)
    laid = ragged.lay_out(
        torch.tensor([[1, 2, 11, 12, 13], [1, 2, 14, 9, 9], [9, 3, 15, 16, 9]]),
        torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]]),
        torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool),
    )
    assert laid.tokens.tolist() == [3, 1, 2, 15, 11, 12]
    assert laid.before.tolist() == [[2, 4, 5], [2, 0, 0], [0, 3, 0]]
    first, second = laid.responses
    assert first.which.tolist() == [1, 0] and second.which.tolist() == [1]
    assert first.read.mask.tolist() == [[False], [True]] and len(second.read) == 2
    # d's place looks at q1 q2 (and, being padding, at itself); e at r and itself
    assert first.seen[:, 0].tolist() == [[[True, True, True]], [[False, True, True]]]
    assert second.seen[0, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_prompt_that_holds_the_padding_token_is_another_one():
    """Padding and prompt share a token id in most models; masks tell them apart."""
    laid = ragged.lay_out(
        torch.tensor([[9, 1, 5], [9, 1, 5]]),
        torch.tensor([[0, 1, 1], [1, 1, 1]]),
        torch.ones(2, 1, dtype=torch.bool),
    )
    assert laid.tokens.tolist() == [1, 9, 1] and laid.which.tolist() == [0, 1]


@NEED_BF16
def test_in_bfloat16_it_is_as_near_to_float32_as_the_padded_reading(policy, tokenizer):
    roll = sampled(policy, tokenizer)
    exact, _, exact_grad = scored(policy, roll, padded=True)
    plain, _, plain_grad = scored(policy, roll, padded=True, bf16=True)
    found, _, grad = scored(policy, roll, bf16=True)
    assert (found - exact).norm() < 1.5 * (plain - exact).norm()
    assert (grad - exact_grad).norm() < 1.5 * (plain_grad - exact_grad).norm()


def test_other_models_read_padded_batches(new_model, tokenizer):
    assert not ragged.suits(new_model())  # transformers' own attention
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)
    other = GPT2LMHeadModel(config).eval()
    attention.use_attention(other)
    assert not ragged.suits(other)
    roll = sampled(other, tokenizer)
    assert torch.isfinite(rollout.score(other, roll)[0]).all()
