"""Memory estimates, held against counting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reft_lib import attention, decode, fused, lora, memory, models, rollout
from reft_lib.config import PRESETS, LoraSettings, RunConfig, preset
from reft_lib.errors import UserError

# Neither is a shape that the coefficients were fitted to.
OTHERS = [memory.Shape(3, 192, 640, 6, 2, 64), memory.Shape(2, 320, 832, 5, 5, 64)]


def build(shape, dtype):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
    )
    return LlamaForCausalLM(config).to(dtype)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", OTHERS, ids=["grouped", "plain"])
def test_what_a_forward_pass_keeps(shape, weights, monkeypatch):
    for module in (attention, fused):  # on a CPU layers are joined, and less is kept
        monkeypatch.setattr(module, "joined", lambda x, layers: None)
    model = lora.add_adapter(build(shape, getattr(torch, weights)), LoraSettings(rank=8))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), x)  # held, so that it is not reused
        return x

    tokens = torch.zeros(2, 48, dtype=torch.long)
    mask = torch.ones_like(tokens)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        rollout.last_hidden(model, tokens, mask, decode.positions(mask))
    counted = sum(size for size, _ in kept.values())
    assert memory.kept_bytes(shape, tokens.numel(), 8, weights) == pytest.approx(counted, rel=0.03)


def test_parameters_and_adapter_are_counted_exactly():
    nano, _ = models.load("nano")
    shape = memory.SHAPES["nano"]
    assert shape.parameters == sum(p.numel() for p in nano.parameters())
    policy = lora.add_adapter(nano, LoraSettings(rank=16))
    assert shape.adapter(16) == sum(p.numel() for p in lora.adapter_parameters(policy))
    untied = memory.Shape(2, 64, 96, 4, 2, 50, tied=False)
    assert untied.parameters == sum(p.numel() for p in build(untied, torch.float32).parameters())


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # as the models' own cards give them
        ("smollm2-135m-instruct", 0.1345),
        ("HuggingFaceTB/SmolLM2-1.7B", 1.711),
        ("Qwen/Qwen2.5-0.5B", 0.494),
        ("Qwen/Qwen2.5-1.5B", 1.544),
        ("codellama/CodeLlama-7b-hf", 6.739),
    ],
)
def test_shapes_have_the_sizes_of_the_models(name, billions):
    assert memory.SHAPES[name].parameters / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_an_estimate(name):
    found = memory.estimate(preset(name))
    assert 78 > found["total"] > found["weights"] > 0, "a preset fits one data-centre GPU"
    fixed = found["weights"] + found["adapter"] + found.get("verifier", 0.0)
    assert ("verifier" in found) == preset(name).rerank
    assert found["total"] == pytest.approx(fixed + max(found["sampling"], found["update"]))


def test_more_of_anything_needs_more():
    small = memory.estimate(preset("nano"))
    wide = memory.estimate(preset("nano"), prompt_tokens=320)
    assert wide["sampling"] > small["sampling"] and wide["update"] > small["update"]
    apart = replace(preset("nano").ppo, value_trunk="separate")
    # a second adapter: itself, gradient and two moments, where the first has three copies more
    assert memory.estimate(preset("nano", ppo=apart))["adapter"] == pytest.approx(
        small["adapter"] * (4 + 7) / 7
    )
    judged = memory.estimate(preset("nano", rerank=True))
    assert judged["verifier"] == pytest.approx(small["weights"] + small["adapter"] * 4 / 7)


def test_an_unknown_model_is_named():
    with pytest.raises(UserError, match="the shape of 'gpt-x' is not known; there are: nano"):
        memory.estimate(RunConfig(model="gpt-x"))
