"""The fast decoder says what the plain one says: the same tokens from the same random numbers."""

from __future__ import annotations

import pytest
import torch
from conftest import adapted, grouped
from transformers import GPT2Config, GPT2LMHeadModel

from reft_lib import fused, llama_decode, lora, models, projection, rollout
from reft_lib.decode import CachedDecoder
from reft_lib.llama_decode import LlamaDecoder

RAGGED = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def sampled(model, tokenizer, **options):
    """Sample with a fixed seed."""
    options = {"samples_per_prompt": 4, "generator": torch.Generator().manual_seed(0)} | options
    return rollout.sample(model, tokenizer, RAGGED, 24, **options)


def same(model, tokenizer, **options):
    """Hold the fast decoder to the plain one; returns what it sampled."""
    assert type(llama_decode.decoder(model, 4)) is LlamaDecoder
    fast = sampled(model, tokenizer, **options)
    options.pop("generator", None)
    with fused.plain():
        assert type(llama_decode.decoder(model, 4)) is CachedDecoder
        slow = sampled(model, tokenizer, **options)
    assert fast.texts == slow.texts
    torch.testing.assert_close(fast.logprobs, slow.logprobs, rtol=1e-4, atol=1e-5)
    assert torch.equal(fast.response_mask, slow.response_mask)
    return fast


def test_a_plain_model_and_rows_that_end_early(new_model, tokenizer):
    model = new_model()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = 3.0
    lengths = same(model, tokenizer, samples_per_prompt=30).lengths
    assert lengths.min() < 4 and lengths.max() > 10  # rows were dropped on the way


def test_an_adapter_is_merged_for_the_rollout_alone(new_model, tokenizer):
    policy = adapted(new_model())
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    with_adapter = same(policy, tokenizer)
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())
    with lora.reference(policy):
        assert same(policy, tokenizer).texts != with_adapter.texts


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_heads_that_share_keys(tokenizer, groups):
    same(adapted(grouped(tokenizer, groups=groups)), tokenizer)


def test_an_odd_head_size_and_another_base_of_rotation(tokenizer):
    rope = {"rope_type": "default", "rope_theta": 500.0}
    same(grouped(tokenizer, head_dim=12, rope_parameters=rope), tokenizer)


def test_greedy(new_model, tokenizer):
    same(new_model(), tokenizer, temperature=0.0, samples_per_prompt=1)


@pytest.mark.skipif(not models.has_fast_bf16(), reason="autocast is off: no fast bf16")
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bfloat16_stays_near_the_distribution_that_updates_see(tokenizer, monkeypatch, weights):
    monkeypatch.setattr(llama_decode, "WIDE", 32)
    policy = adapted(grouped(tokenizer).to(weights), std=0.03)
    with models.autocast("cpu"):
        assert llama_decode.decoder(policy, 4).dtype == torch.bfloat16
        roll = sampled(policy, tokenizer, samples_per_prompt=20)
        logp, _ = rollout.score(policy, roll)
    with fused.plain():
        exact, _ = rollout.score(policy.float(), roll)
    mask = roll.response_mask
    theirs = (logp - exact)[mask].pow(2).mean().sqrt()
    ours = (roll.logprobs - exact)[mask].pow(2).mean().sqrt()
    assert 0 < ours < 3 * theirs


def test_beside_bfloat16_weights_an_adapter_is_not_rounded_away(tokenizer):
    """Weights of 1 and -1, to each of which the adapter adds 1 / 1024: under half a last bit."""
    policy = adapted(grouped(tokenizer).to(torch.bfloat16))
    layer = models.unwrapped(policy).model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.dtype == torch.float32 and layer.scaling["default"] == 2
    with torch.no_grad():
        layer.base_layer.weight.fill_(1.0)[:, ::2] = -1.0
        a.fill_(2**-6)
        b.fill_(2**-7)  # with four of each: 2 * 4 * 2**-13
    weight = layer.base_layer.weight
    assert torch.equal((weight + layer.get_delta_weight("default")).to(torch.bfloat16), weight)
    x = torch.ones(1, 32, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        y = projection.Projection([layer], dtype).times(x.to(dtype))
        assert torch.equal(y, torch.full((1, 32), 32 / 1024, dtype=dtype))


@pytest.mark.parametrize("copy", [True, False])
def test_several_adapters_beside_weights(tokenizer, copy):
    """Exact in float64: joined layers, blocks of zeros between adapters, heads with pairs."""
    policy = adapted(grouped(tokenizer)).double()
    attn = models.unwrapped(policy).model.layers[0].self_attn
    layers = (attn.q_proj, attn.k_proj, attn.v_proj)
    x = torch.randn(3, 32, dtype=torch.float64)

    def wanted(heads):
        found = [layer(x) for layer in layers]
        return torch.cat(
            [projection.paired(y, 8, dim=1) if i < heads else y for i, y in enumerate(found)], dim=1
        )

    for heads in (0, 2):
        joined = projection.Projection(layers, torch.float64, heads, 8, copy)
        assert joined.b.shape == (64, 12)
        torch.testing.assert_close(joined.times(x), wanted(heads))
        with lora.reference(policy):
            off = projection.Projection(layers, torch.float64, heads, 8, copy)
            torch.testing.assert_close(off.times(x), wanted(heads))
            assert off.b.shape == (64, 0)


def test_large_weights_stay_where_they_are(tokenizer, monkeypatch):
    """And what is sampled with them is the same but for rounding."""
    policy = adapted(grouped(tokenizer).to(torch.bfloat16), std=0.03)
    whole = sampled(policy, tokenizer)
    assert llama_decode.LlamaDecoder(policy, 4).blocks[0].down.apart == ()
    monkeypatch.setattr(llama_decode, "COPIED", 2**10)
    weights = {p.data_ptr() for p in policy.parameters()}
    for block in llama_decode.LlamaDecoder(policy, 4).blocks:
        for part in (block.qkv, block.out, block.gate_up, block.down):
            assert part.apart and all(w.data_ptr() in weights for w in part.apart)
    roll = sampled(
        policy, tokenizer, uniforms=torch.rand(12, 24, generator=torch.Generator().manual_seed(0))
    )
    logp, _ = rollout.score(policy, roll)
    mask = roll.response_mask
    assert (roll.logprobs - logp)[mask].abs().mean() < 0.1
    assert whole.logprobs[whole.response_mask].abs().mean() > 1
    policy.float()  # these have to be merged, and so copied
    assert llama_decode.LlamaDecoder(policy, 4).blocks[0].down.apart == ()


def test_other_models_are_left_to_transformers(tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    assert not llama_decode.suits(GPT2LMHeadModel(config))
    scaled = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    for other in (
        grouped(tokenizer, rope_parameters=scaled),
        grouped(tokenizer, attention_bias=True),
    ):
        assert not llama_decode.suits(other)
        assert type(llama_decode.decoder(other, 4)) is CachedDecoder


def test_variants_of_lora_are_left_to_peft(tokenizer):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", use_dora=True)
    policy = fused.fuse(get_peft_model(grouped(tokenizer), config)).eval()
    assert not llama_decode.suits(policy)
    roll = sampled(policy, tokenizer)
    logp, _ = rollout.score(policy, roll)
    mask = roll.response_mask
    torch.testing.assert_close(logp[mask], roll.logprobs[mask], rtol=1e-4, atol=1e-5)
