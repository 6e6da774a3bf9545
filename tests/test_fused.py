"""Fused layers compute what peft's and transformers' own do: outputs, gradients, files."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import adapted

from reft_lib import adapter_files, attention, fused, lora, models, rollout
from reft_lib.config import LoraSettings

RAGGED = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
NEED_BF16 = pytest.mark.skipif(not models.has_fast_bf16(), reason="autocast is off: no fast bf16")


def scored(policy, roll, bf16):
    """Return log-probabilities and the gradient of their sum by all trainable parameters."""
    policy.zero_grad()
    with models.autocast("cpu", bf16):
        logp, _ = rollout.score(policy, roll)
    logp.sum().backward()
    grad = torch.cat([p.grad.flatten() for p in lora.trainable_parameters(policy)])
    return logp.detach(), grad


@pytest.fixture
def policy(new_model):
    """A policy whose layers are fused, with its model's own attention registered."""
    model = new_model()
    attention.use_attention(model)
    return adapted(model)


@pytest.fixture
def roll(policy, tokenizer):
    """Ragged prompts with responses of unequal length."""
    generator = torch.Generator().manual_seed(0)
    return rollout.sample(policy, tokenizer, RAGGED, 20, generator=generator)


def kinds(policy):
    """Count the classes of its layers."""
    return [type(m).__name__ for m in policy.modules()]


def test_an_adapter_brings_fused_layers(policy):
    assert kinds(policy).count("FusedLinear") == 14  # seven in each of two layers
    assert kinds(policy).count("FusedLlamaRMSNorm") == 4  # two in each layer; not the last one
    assert policy.get_base_model().config._attn_implementation == attention.ATTENTION


@NEED_BF16
def test_the_head_gets_float32(policy):
    """From a view in bfloat16 it would multiply row by row, with a copy of its weights for each."""
    seen = []
    head = policy.get_base_model().lm_head
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.no_grad(), models.autocast("cpu"):
        policy(input_ids=torch.tensor(RAGGED[:1]), logits_to_keep=1)
    assert seen == [torch.float32]


def test_in_float32_they_equal_the_plain_ones(policy, roll):
    logp, grad = scored(policy, roll, bf16=False)
    with fused.plain():
        expected, expected_grad = scored(policy, roll, bf16=False)
    torch.testing.assert_close(logp, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


@NEED_BF16
def test_in_bfloat16_they_are_as_near_to_float32_as_the_plain_ones(policy, roll):
    with fused.plain():
        exact, exact_grad = scored(policy, roll, bf16=False)
        plain, plain_grad = scored(policy, roll, bf16=True)
    logp, grad = scored(policy, roll, bf16=True)
    assert not torch.equal(logp, plain)  # the fused path was taken
    assert (logp - exact).norm() < 1.5 * (plain - exact).norm()
    assert (grad - exact_grad).norm() < 2 * (plain_grad - exact_grad).norm()


def test_the_reference_and_a_second_adapter_are_respected(policy, roll):
    plain = copy.deepcopy(policy)
    with lora.reference(policy):
        off, _ = rollout.score(policy, roll)
    bare, _ = rollout.score(plain.unload(), roll)
    torch.testing.assert_close(off, bare, rtol=0, atol=0)
    before, _ = rollout.score(policy, roll)
    lora.add_adapter(policy, LoraSettings(rank=2, alpha=4), seed=5, name="value")
    with torch.no_grad():
        for p in lora.adapter_parameters(policy, "value"):
            torch.nn.init.normal_(p, std=0.3)
    with lora.active(policy, "value"):
        other, _ = rollout.score(policy, roll)
        with fused.plain():
            expected, _ = rollout.score(policy, roll)
    torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other, before)


@NEED_BF16
def test_a_changed_weight_is_converted_again(policy, roll):
    """Merging changes frozen weights in place; a converted copy of the old ones must not stay."""
    before, _ = scored(policy, roll, bf16=True)
    with torch.no_grad():
        for module in policy.modules():
            if type(module).__name__ == "FusedLinear":
                module.base_layer.weight.mul_(1.5)
    after, _ = scored(policy, roll, bf16=True)
    with fused.plain():
        expected, _ = scored(policy, roll, bf16=True)
    assert (after - expected).norm() < 0.2 * (after - before).norm()


def test_merged_and_loaded_adapters_are_the_same_numbers(
    policy, roll, tokenizer, new_model, tmp_path
):
    expected, _ = rollout.score(policy, roll)
    adapter_files.save_adapter(policy, tmp_path / "adapter")
    loaded = adapter_files.load_adapter(new_model(), tmp_path / "adapter")
    assert "FusedLinear" in kinds(loaded)
    torch.testing.assert_close(rollout.score(loaded, roll)[0], expected, rtol=1e-5, atol=1e-6)
    merged = lora.merge(policy)
    torch.testing.assert_close(rollout.score(merged, roll)[0], expected, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_fused_is_left_to_peft(new_model, roll):
    """Dropout, and weights that are trained."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)
    policy = fused.fuse(get_peft_model(new_model(), config)).train()
    torch.manual_seed(0)
    one = rollout.before_responses(policy, roll)
    torch.manual_seed(0)
    with fused.plain():
        two = rollout.before_responses(policy, roll)
    torch.testing.assert_close(one, two, rtol=0, atol=0)  # the same units dropped
    policy = adapted(new_model())
    for p in policy.parameters():
        p.requires_grad_(True)
    rollout.score(policy, roll)[0].sum().backward()
    assert all(p.grad is not None for n, p in policy.named_parameters() if "proj" in n)
