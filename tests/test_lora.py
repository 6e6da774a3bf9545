"""The adapter's promises: off is the base to the bit, and only it learns."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reft_lib import adapter_files, lora
from reft_lib.config import LoraSettings
from reft_lib.errors import NumericalError, UserError

SETTINGS = LoraSettings(rank=4, alpha=8)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])


def base(layers: int = 2, hidden: int = 32) -> LlamaForCausalLM:
    """Return a small model, the same one each time."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits.clone()


def train(model, parameters, steps: int = 5) -> None:
    """Let the parameters learn the sequences by heart for a few steps."""
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimiser.step()


def test_new_adapter_and_adapter_off_equal_base_to_the_bit():
    expected = logits(base())
    model = lora.add_adapter(base(), SETTINGS, seed=3)
    assert torch.equal(logits(model), expected)  # B is zero at first
    train(model, lora.trainable_parameters(model))
    assert (logits(model) - expected).abs().max() > 1e-2
    with lora.reference(model):
        assert torch.equal(logits(model), expected)
    assert (logits(model) - expected).abs().max() > 1e-2  # on again


def test_adapter_is_on_every_linear_layer_but_the_head():
    model = lora.add_adapter(base(layers=2), SETTINGS)
    keys = [key for key, p in model.named_parameters() if p.requires_grad]
    kinds = {key.split(".lora_")[0].split(".")[-1] for key in keys}
    assert kinds == set("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
    assert len(keys) == 2 * 2 * 7  # A and B, layers, kinds
    # rank * (in + out) of each layer: 4 of 32x32, 3 between 32 and 48
    by_hand = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 48))
    trainable, total = lora.count_parameters(model)
    assert (trainable, total) == (by_hand, by_hand + sum(p.numel() for p in base().parameters()))


def test_output_is_the_formula_of_the_paper():
    model = lora.add_adapter(base(), SETTINGS, seed=3)
    train(model, lora.trainable_parameters(model))
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(5, 32)
    weight = layer.base_layer.weight.double()
    a, b = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    expected = x.double() @ (weight + 8 / 4 * b @ a).T
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_reach_only_the_adapter():
    model = lora.add_adapter(base(), SETTINGS)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(input_ids=IDS, labels=IDS).loss.backward()
    with_gradient = {k for k, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {k for k, _ in model.named_parameters() if ".lora_" in k}
    train(model, lora.trainable_parameters(model))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(".lora_" in k for k in changed)


def test_merge_then_new_adapter_off_is_the_merged_model_to_the_bit():
    model = lora.add_adapter(base(), SETTINGS)
    train(model, lora.trainable_parameters(model))
    adapted = logits(model)
    merged = lora.merge(model)
    assert not any("lora" in key for key, _ in merged.named_parameters())
    assert lora.count_parameters(merged)[0] == lora.count_parameters(base())[1]
    expected = logits(merged)
    torch.testing.assert_close(expected, adapted, rtol=1e-5, atol=1e-5)
    second = lora.add_adapter(merged, SETTINGS, seed=7)
    assert torch.equal(logits(second), expected)
    train(second, lora.trainable_parameters(second))
    with lora.reference(second):
        assert torch.equal(logits(second), expected)
    assert not torch.equal(logits(second), expected)


def test_a_kept_reference_stays_while_the_policy_moves():
    model = lora.add_adapter(base(), SETTINGS)
    train(model, lora.trainable_parameters(model))
    warm, n = logits(model), len(lora.trainable_parameters(model))
    model = lora.keep_reference(model)
    assert torch.equal(logits(model), warm) and len(lora.trainable_parameters(model)) == n
    train(model, lora.trainable_parameters(model))
    assert (logits(model) - warm).abs().max() > 1e-3
    with lora.reference(model):
        assert torch.equal(logits(model), warm)
    assert (logits(model) - warm).abs().max() > 1e-3 and model.active_adapter == "default"


def test_a_merge_into_bfloat16_rounds_what_a_kept_reference_does_not():
    model = lora.add_adapter(base().to(torch.bfloat16), SETTINGS)
    with torch.no_grad():
        for name, x in model.named_parameters():
            if ".lora_B." in name:
                x.normal_(std=0.003, generator=torch.Generator().manual_seed(0))
    warm = logits(model)
    with lora.reference(lora.keep_reference(model)):
        assert torch.equal(logits(model), warm)
    assert not torch.equal(logits(lora.merge(model)), warm)


@pytest.mark.filterwarnings("error")
def test_merge_leaves_nothing_that_makes_peft_warn():
    lora.add_adapter(lora.merge(lora.add_adapter(base(), SETTINGS)), SETTINGS)


def test_merge_refuses_an_adapter_that_is_not_finite():
    model = lora.add_adapter(base(), SETTINGS)
    with torch.no_grad():
        lora.trainable_parameters(model)[3][0, 0] = float("nan")
    with pytest.raises(NumericalError, match="not finite"):
        lora.merge(model)


def test_seed_alone_decides_the_adapter():
    plain = [base() for _ in range(4)]
    adapted = []
    for state, (model, seed) in enumerate(zip(plain, (11, 11, 12, 0), strict=True)):
        torch.manual_seed(state)  # the adapter must not depend on this
        adapted.append(lora.adapter_parameters(lora.add_adapter(model, SETTINGS, seed)))
        drawn = torch.rand(3)
        torch.manual_seed(state)
        assert torch.equal(torch.rand(3), drawn)
    one, same, other, _ = adapted
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_global_state_is_untouched_by_every_function(tmp_path):
    plain, target = base(), base()
    state = torch.get_rng_state()
    model = lora.add_adapter(plain, SETTINGS, 1)
    lora.add_adapter(model, SETTINGS, 2, name="value")
    adapter_files.save_adapter(model, tmp_path)
    adapter_files.load_adapter(target, tmp_path)
    lora.merge(model)
    assert torch.equal(state, torch.get_rng_state())


def two() -> tuple:
    model = lora.add_adapter(base(), SETTINGS, seed=0)
    model = lora.add_adapter(model, SETTINGS, seed=1, name="value")
    return model, lora.adapter_parameters(model, "default"), lora.adapter_parameters(model, "value")


def test_two_adapters_are_apart_and_both_trainable():
    model, policy, value = two()
    assert model.active_adapter == "default"
    assert len(policy) == len(value) == 28
    assert len(lora.trainable_parameters(model)) == 56
    expected = logits(base())
    train(model, policy)
    trained = logits(model)
    assert not torch.equal(trained, expected)
    with lora.active(model, "value"):
        assert model.active_adapter == "value"
        assert torch.equal(logits(model), expected)  # this one has learnt nothing yet
        train(model, value)
        assert not torch.equal(logits(model), expected)
    assert model.active_adapter == "default"
    assert torch.equal(logits(model), trained)  # and its learning did not touch the policy
    with lora.reference(model):
        assert torch.equal(logits(model), expected)
    assert len(lora.trainable_parameters(model)) == 56


def test_pending_gradients_survive_a_switch():
    """A policy loss may be taken before the reference or value pass and backward after it."""
    model, policy, value = two()
    model(input_ids=IDS, labels=IDS).loss.backward()
    expected = [p.grad.clone() for p in policy]
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    with lora.reference(model):
        logits(model)
    with lora.active(model, "value"):
        value_loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()  # while another adapter is active
    value_loss.backward()
    for parameter, gradient in zip(policy, expected, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert all(p.grad is not None for p in value)


def test_an_error_inside_a_switch_undoes_it():
    model, _, _ = two()
    with pytest.raises(KeyError), lora.reference(model):
        raise KeyError
    with pytest.raises(KeyError), lora.active(model, "value"):
        raise KeyError
    assert model.active_adapter == "default"
    train(model, lora.adapter_parameters(model, "default"))
    assert not torch.equal(logits(model), logits(base()))


@pytest.mark.parametrize("name", ["default", "value"])
def test_save_and_load_round_trip(tmp_path, name):
    model, _, _ = two()
    with lora.active(model, name):
        train(model, lora.adapter_parameters(model, name))
        expected = logits(model)
        folder = adapter_files.save_adapter(model, tmp_path / "a" / "b", name)
    assert {f.name for f in folder.iterdir()} == {"adapter_config.json", adapter_files.WEIGHTS_FILE}
    loaded = adapter_files.load_adapter(base(), folder)
    assert torch.equal(logits(loaded), expected)
    assert len(lora.trainable_parameters(loaded)) == 28
    frozen = adapter_files.load_adapter(base(), folder, trainable=False)
    assert torch.equal(logits(frozen), expected) and not lora.trainable_parameters(frozen)
    third = adapter_files.load_adapter(model, folder, name="third")
    assert third is model and model.active_adapter == "default"
    with lora.active(model, "third"):
        assert torch.equal(logits(model), expected)
    assert len(lora.trainable_parameters(model)) == 84


def test_peft_itself_reads_what_we_save(tmp_path):
    from peft import PeftModel

    plain = base()
    plain.name_or_path = "nano"
    model = lora.add_adapter(plain, SETTINGS)
    train(model, lora.trainable_parameters(model))
    adapter_files.save_adapter(model, tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base(), str(tmp_path))), logits(model))
    config = json.loads((tmp_path / adapter_files.CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.0)
    assert config["base_model_name_or_path"] == "nano" and config["inference_mode"] is True
    assert config["target_modules"] == sorted(config["target_modules"])


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        adapter_files.save_adapter(lora.add_adapter(base(), SETTINGS, seed=4), tmp_path / folder)
    for file in (adapter_files.CONFIG_FILE, adapter_files.WEIGHTS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def one_line(info) -> str:
    text = str(info.value)
    assert "\n" not in text
    return text


def test_bad_settings_are_named():
    with pytest.raises(UserError) as info:
        lora.add_adapter(base(), LoraSettings(targets="no_such_layer"))
    assert "no_such_layer" in one_line(info)
    model, _, _ = two()
    with pytest.raises(UserError) as info:
        lora.add_adapter(model, LoraSettings(targets="no_such_layer"), name="third")
    assert "no_such_layer" in one_line(info)
    with pytest.raises(UserError) as info:
        lora.add_adapter(model, SETTINGS, name="value")
    assert "'value' is there already" in one_line(info)


def test_targets_can_be_a_regular_expression():
    model = lora.add_adapter(base(), LoraSettings(rank=2, targets=r".*\.(q|v)_proj"))
    assert len(lora.trainable_parameters(model)) == 2 * 2 * 2


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(UserError) as info:
        adapter_files.load_adapter(base(), tmp_path / "none")
    assert "adapter_config.json" in one_line(info) and str(tmp_path / "none") in one_line(info)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError) as info:
        adapter_files.save_adapter(lora.add_adapter(base(), SETTINGS), file / "adapter")
    assert "cannot be written" in one_line(info)


@pytest.mark.parametrize("other", [{"hidden": 64}, {"layers": 1}])
def test_an_adapter_of_another_model_is_refused(tmp_path, other):
    adapter_files.save_adapter(lora.add_adapter(base(), SETTINGS), tmp_path)
    with pytest.raises(UserError) as info:
        adapter_files.load_adapter(base(**other), tmp_path)
    assert "does not fit the model" in one_line(info)


def test_a_damaged_adapter_file_is_refused(tmp_path):
    adapter_files.save_adapter(lora.add_adapter(base(), SETTINGS), tmp_path)
    (tmp_path / adapter_files.WEIGHTS_FILE).write_bytes(b"not safetensors")
    with pytest.raises(UserError) as info:
        adapter_files.load_adapter(base(), tmp_path)
    assert str(tmp_path) in one_line(info)
