"""Attention by plain products is PyTorch's own; a layer that uses it is transformers' own."""

from __future__ import annotations

import pytest
import torch
from conftest import adapted, grouped

from reft_lib import attention, fused


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention_is_that_of_sdpa(groups, mask):
    torch.manual_seed(0)
    batch, heads, t, d = 3, 4, 7, 8
    q = torch.randn(batch, heads, t, d)
    k, v = torch.randn(2, batch, groups, t, d)
    seen = torch.ones(batch, 1, t, t, dtype=torch.bool).tril()
    seen[1, :, :, :2] = False  # a row with two columns of padding, which see nothing
    least = torch.finfo(torch.float32).min
    given = {"none": None, "bool": seen, "float": (~seen) * least}[mask]
    layer = torch.nn.Module()
    layer.num_key_value_groups, layer.is_causal = heads // groups, True
    low = (x.bfloat16() for x in (q, k, v))
    found, _ = attention.attend(layer, *low, given, scaling=d**-0.5)
    repeated = (x.repeat_interleave(heads // groups, dim=1) for x in (k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, *repeated, attn_mask=torch.ones(t, t, dtype=torch.bool).tril() if given is None else seen
    ).transpose(1, 2)
    real = slice(None) if given is None else slice(2, None)
    torch.testing.assert_close(found[1, real].float(), expected[1, real], rtol=0.05, atol=0.03)
    torch.testing.assert_close(found[0].float(), expected[0], rtol=0.05, atol=0.03)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("option", [{"dropout": 0.5}, {"position_bias": torch.ones(1, 2, 5, 5)}])
def test_unusual_attention_is_left_to_transformers(option, monkeypatch):
    from transformers.integrations import sdpa_attention

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", lambda *_, **given: given)
    q, k, v = torch.zeros(3, 1, 2, 5, 4).bfloat16()
    layer = torch.nn.Module()
    assert attention.attend(layer, q, k, v, None, **option) == option
    assert isinstance(attention.attend(layer, q, k, v, None, dropout=0.0)[0], torch.Tensor)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients_are_those_of_autograd(groups):
    """In double precision, with padding that nobody looks at."""
    batch, heads, t, d = 2, 4, 5, 6
    drawn = torch.Generator().manual_seed(0)
    q = torch.randn(batch, heads, t, d, generator=drawn).double().requires_grad_()
    k, v = (
        torch.randn(batch, groups, t + 2, d, generator=drawn).double().requires_grad_()
        for _ in range(2)
    )
    seen = torch.ones(batch, 1, t, t + 2, dtype=torch.bool).tril(2)
    seen[1, ..., 0] = False
    mask = torch.zeros(seen.shape).double().masked_fill(~seen, -1e30)
    found = attention.Attend.apply(q, k, v, mask, 0.3)
    keys, values = (x.repeat_interleave(heads // groups, dim=1) for x in (k, v))
    expected = torch.softmax(0.3 * q @ keys.mT + mask, dim=-1) @ values
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=drawn).double()
    ours, theirs = (torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert (ours[1][1, :, 0] == 0).all()  # a key that nobody sees


def test_inputs_are_not_changed():
    q, k, v = torch.randn(3, 1, 2, 4, 6).unbind(0)
    before = [x.clone() for x in (q, k, v)]
    attention.Attend.apply(q, k, v, torch.zeros(1, 1, 4, 4), 0.5)
    for x, y in zip((q, k, v), before, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("cached", [False, True])
def test_a_fused_layer_is_the_plain_one(tokenizer, cached):
    """Four heads that share two groups of keys; with a cache it is transformers' own."""
    model = grouped(tokenizer)
    attention.use_attention(model)
    policy = adapted(model)
    kinds = {type(m).__name__ for m in policy.modules()}
    assert "FusedAttention" in kinds
    ids = torch.tensor([[5, 6, 7, 8, 9], [0, 0, 10, 11, 12]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    found = policy(input_ids=ids, attention_mask=mask, use_cache=cached).logits
    with fused.plain():
        expected = policy(input_ids=ids, attention_mask=mask, use_cache=cached).logits
    real = mask.bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-4)
