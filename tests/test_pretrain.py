"""Pretraining the nano model: tokenizer, schedule, files, repeatability, interruption."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from reft_lib import corpus, pretrain
from reft_lib.config import PretrainConfig
from reft_lib.data import PROBLEMS
from reft_lib.errors import NumericalError, UserError

NANO = PROBLEMS.parent / "nano"
TINY = PretrainConfig(
    hidden=32, layers=1, heads=2, mlp=48, context=64, vocab=400, window=32, batch=4, steps=12,
    checkpoint_every=5,
)  # fmt: skip


@cache
def some_documents(seed: int) -> tuple[str, ...]:
    """The first documents of the true text: enough for these tests."""
    return tuple(itertools.islice(REAL_DOCUMENTS(seed), 1500))


REAL_DOCUMENTS = corpus.documents


@pytest.fixture
def small_web(monkeypatch):
    monkeypatch.setattr(corpus, "documents", lambda seed: iter(some_documents(seed)))


@pytest.fixture(scope="module")
def tokenizer():
    return pretrain.train_tokenizer(list(some_documents(7)), 400)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- tokenizer


@given(st.text(max_size=200))
@example("Tom has 12 apples.\n\n    return 3 * (4 - 1)\n")
@example("  two  spaces,\ttabs\r\nand 1234567890.5 ÷ ½ — ’quotes’ 数学 🍎\x00")
@example("")
@settings(max_examples=300, deadline=None)
def test_every_text_comes_back_from_the_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_digits_are_tokens_of_their_own(tokenizer):
    tokens = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    assert set("0123456789") <= set(tokens)
    with_digit = [token for token in tokens if any(c.isdigit() and c.isascii() for c in token)]
    assert all(token.strip() in "0123456789" for token in with_digit), with_digit
    ids = tokenizer("207 + 36 = 243", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([i]).strip() for i in ids] == list("207+36=243")


def test_the_end_token_ends_and_pads_and_is_never_made_from_text_of_the_web(tokenizer):
    assert tokenizer.eos_token == tokenizer.pad_token == pretrain.END
    assert tokenizer.padding_side == "left"
    for text in some_documents(7)[:100]:
        assert tokenizer.eos_token_id not in tokenizer(text)["input_ids"]


def test_the_same_text_makes_the_same_tokenizer(tokenizer):
    again = pretrain.train_tokenizer(list(some_documents(7)), 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) <= 400


def test_the_stream_is_the_documents_in_order_with_ends_between_them(tokenizer, small_web):
    stream = pretrain.token_stream(tokenizer, 7, 900)
    assert stream.shape == (900,) and stream.dtype == torch.int64
    pieces = tokenizer.decode(stream).split(pretrain.END)
    assert len(pieces) > 3
    assert pieces[:-1] == list(some_documents(7)[: len(pieces) - 1])
    assert some_documents(7)[len(pieces) - 1].startswith(pieces[-1].rstrip("\ufffd"))


# ---------------------------------------------------------------- schedule and loss


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth():
    config = PretrainConfig(steps=1000, lr=2.0)
    rates = [pretrain.learning_rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 / 100)
    assert max(rates) == pytest.approx(2.0, rel=0.03) and rates.index(max(rates)) == 99
    assert rates[500] == pytest.approx(2.0 * 0.55), "half way of a cosine from 1 to a tenth"
    assert rates[-1] == pytest.approx(0.2, rel=0.01)
    assert sorted(rates[99:], reverse=True) == rates[99:]


def test_a_fresh_model_knows_nothing(tokenizer):
    model = pretrain.new_model(TINY, len(tokenizer), tokenizer.eos_token_id).eval()
    windows = torch.randint(len(tokenizer), (4, 32))
    assert pretrain.evaluate_loss(model, windows) == pytest.approx(
        math.log(len(tokenizer)), rel=0.02
    )


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def weights(small_web, tmp_path):
    """Make a model in a new folder; returns the hash of its weights."""

    def make(name: str, config: PretrainConfig = TINY, **options) -> str:
        folder = pretrain.pretrain(tmp_path / name, config, **options)
        return sha256(folder / "model.safetensors")

    return make


def test_a_run_leaves_a_model_that_loads_and_its_card(small_web, tmp_path):
    folder = tmp_path / "new" / "nano"
    assert pretrain.pretrain(folder, TINY) == folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 1)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer) <= TINY.vocab
    assert model.config.max_position_embeddings == tokenizer.model_max_length == TINY.context
    text = some_documents(7)[0]
    ids = tokenizer(text, return_tensors="pt").input_ids[:, : TINY.context]
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert torch.isfinite(model(ids).logits).all()

    card = json.loads((folder / "card.json").read_text())
    assert card["config"] == asdict(TINY)
    assert card["sha256"] == {
        name: sha256(folder / name) for name in ("model.safetensors", "tokenizer.json")
    }
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert card["text"]["documents"] == corpus.SHARES
    assert card["text"]["wrong_solutions"] == corpus.WRONG_SHARE
    assert card["text"]["tokens"] == 12 * 4 * 32
    assert [step for step, _ in card["loss_curve"]] == [0, 11]
    # held-out text, 64 windows of it: the loss in the card is that of the model in the folder
    held_out = pretrain.token_stream(tokenizer, TINY.seed + 1, 64 * 32).view(64, 32)
    assert card["held_out_loss"] == pytest.approx(
        pretrain.evaluate_loss(model.eval(), held_out), abs=1e-3
    )
    names = {path.name for path in folder.iterdir()}
    assert not {name for name in names if name.startswith(("checkpoint", ".writable"))}


def test_training_lowers_the_loss(small_web, tmp_path):
    config = replace(TINY, steps=60, lr=2e-2)
    folder = pretrain.pretrain(tmp_path, config)
    card = json.loads((folder / "card.json").read_text())
    first, last = card["loss_curve"][0][1], card["loss_curve"][-1][1]
    assert last < first - 1 and card["held_out_loss"] < first - 1


def test_one_seed_makes_one_model(weights):
    first = weights("a")
    assert weights("b") == first
    assert weights("c", replace(TINY, seed=8)) != first


def test_an_interrupted_run_goes_on_to_the_same_model(weights, tmp_path, monkeypatch):
    whole = weights("whole")
    true_rate, asked = pretrain.learning_rate, []

    def stop_at_step_8(step, config):
        asked.append(step)
        if step == 8:
            raise KeyboardInterrupt
        return true_rate(step, config)

    monkeypatch.setattr(pretrain, "learning_rate", stop_at_step_8)
    with pytest.raises(KeyboardInterrupt):
        weights("cut")
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"checkpoint.pt"}

    asked.clear()
    monkeypatch.setattr(pretrain, "learning_rate", lambda s, c: asked.append(s) or true_rate(s, c))
    assert weights("cut") == whole
    assert asked == [5, 6, 7, 8, 9, 10, 11], "on from the last checkpoint, after step 5"
    curves = [
        json.loads((tmp_path / name / "card.json").read_text())["loss_curve"]
        for name in ("whole", "cut")
    ]
    assert curves[0] == curves[1]


def test_a_checkpoint_of_another_configuration_is_not_taken(weights, tmp_path, monkeypatch):
    true_rate = pretrain.learning_rate

    def stop(step, config):
        if step == 6:
            raise KeyboardInterrupt
        return true_rate(step, config)

    monkeypatch.setattr(pretrain, "learning_rate", stop)
    with pytest.raises(KeyboardInterrupt):
        weights("cut", replace(TINY, lr=1e-2))
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    monkeypatch.setattr(pretrain, "learning_rate", true_rate)
    assert weights("cut") == weights("whole")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write into .*below: .*; choose --out") as error:
        pretrain.pretrain(tmp_path / "file" / "below", TINY)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_stops_the_run(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "learning_rate", lambda step, config: math.nan)
    with pytest.raises(NumericalError, match=r"pretraining step \d+: loss is nan; lower --lr"):
        weights("nan")
    assert not (tmp_path / "nan" / "model.safetensors").exists()


# ---------------------------------------------------------------- the model that is shipped


@pytest.fixture(scope="module")
def card() -> dict:
    if not (NANO / "card.json").exists():
        pytest.skip("data/nano is not there; python -m reft_lib pretrain-nano makes it")
    return json.loads((NANO / "card.json").read_text())


def test_the_shipped_files_are_those_of_the_card(card):
    for name, digest in card["sha256"].items():
        assert sha256(NANO / name) == digest, name


def test_the_shipped_model_is_small_and_of_the_default_configuration(card):
    model = AutoModelForCausalLM.from_pretrained(NANO)
    assert sum(p.numel() for p in model.parameters()) == card["parameters"] <= 2_000_000
    default = asdict(PretrainConfig())
    shared = card["config"].keys() & default.keys()
    assert {k: card["config"][k] for k in shared} == {k: default[k] for k in shared}
    assert card["minutes"] <= 20
    assert card["held_out_loss"] < card["loss_curve"][0][1] / 2


def test_the_shipped_tokenizer_comes_from_the_present_text(card):
    """A change to the text without pretraining again would be found here."""
    sample = list(itertools.islice(REAL_DOCUMENTS(card["config"]["seed"]), 20_000))
    again = pretrain.train_tokenizer(sample, card["config"]["vocab"])
    shipped = AutoTokenizer.from_pretrained(NANO)
    assert again.get_vocab() == shipped.get_vocab()
