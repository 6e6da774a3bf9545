"""Autoregressive language modelling: every token of the text, packed into windows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from reft_lib import language_modelling as lm
from reft_lib import lora
from reft_lib.config import LoraSettings
from reft_lib.errors import NumericalError, UserError

TINY = lm.TextConfig(steps=4, window=16, batch_size=2, lr=1e-2, lr_warmup_steps=1)
TEXTS = ["Tom has 12 apples.", "Tom buys 5 more apples. How many apples does Tom have now?"] * 6


@pytest.fixture
def model(new_model):
    return lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))


def test_windows_join_documents_and_lose_only_the_rest(tokenizer):
    rows = lm.windows(tokenizer, TEXTS, 16)
    ids = [i for text in TEXTS for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert [i for row in rows for i in row] == ids[: 16 * len(rows)]
    assert {len(row) for row in rows} == {16} and len(ids) - 16 * len(rows) < 16


@pytest.mark.parametrize("texts", [[], ["Tom"]])
def test_too_little_text_is_refused_in_one_line(tokenizer, texts):
    with pytest.raises(UserError, match="wanted at least one window of 16"):
        lm.windows(tokenizer, texts, 16)


def test_loss_is_that_of_transformers_on_every_token(model, tokenizer):
    rows = lm.windows(tokenizer, TEXTS, 16)[:2]
    metrics = next(lm.train(model, tokenizer, rows, replace(TINY, lr=0.0, embeddings=False)))
    ids = torch.tensor(rows)
    with torch.no_grad():
        theirs = model(input_ids=ids, labels=ids).loss
    assert metrics["loss"] == pytest.approx(float(theirs), rel=1e-5)
    assert metrics["tokens"] == 2 * 15


def test_perplexity_by_hand_and_of_an_even_guess(new_model, tokenizer):
    plain = new_model()
    rows = lm.windows(tokenizer, TEXTS, 16)[:3]
    with torch.no_grad():
        logp = plain(input_ids=torch.tensor(rows)).logits.double().log_softmax(-1)
    picked = [float(logp[i, t, rows[i][t + 1]]) for i in range(3) for t in range(15)]
    assert lm.perplexity(plain, rows, batch_size=2) == pytest.approx(
        math.exp(-sum(picked) / len(picked)), rel=1e-4
    )
    with torch.no_grad():
        plain.get_input_embeddings().weight.zero_()  # tied: all logits are 0
    assert lm.perplexity(plain, rows) == pytest.approx(len(tokenizer), rel=1e-5)


@pytest.mark.parametrize("embeddings", [False, True])
def test_gradients_reach_adapter_and_embeddings_only(new_model, tokenizer, embeddings):
    model = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rows = lm.windows(tokenizer, TEXTS, 16)
    for _ in lm.train(model, tokenizer, rows, replace(TINY, embeddings=embeddings)):
        pass
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    adapter = {n for n in moved if ".lora_" in n}
    assert adapter and (moved - adapter == {n for n in before if "embed_tokens" in n}) == embeddings
    assert embeddings or moved == adapter


def test_one_batch_can_be_overfitted(model, tokenizer):
    rows = lm.windows(tokenizer, TEXTS, 16)[:2]
    losses = [m["loss"] for m in lm.train(model, tokenizer, rows, replace(TINY, steps=60))]
    assert losses[-1] < 0.3 * losses[0]


def test_merged_the_model_is_the_trained_one(model, tokenizer):
    rows = lm.windows(tokenizer, TEXTS, 16)
    for _ in lm.train(model, tokenizer, rows, TINY):
        pass
    trained = lm.perplexity(model, rows)
    assert lm.perplexity(lora.merge(model), rows) == pytest.approx(trained, rel=1e-3)


def test_the_same_seed_trains_the_same(new_model, tokenizer):
    rows = lm.windows(tokenizer, TEXTS, 16)

    def losses(seed):
        model = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
        return [m["loss"] for m in lm.train(model, tokenizer, rows, TINY, seed)]

    assert losses(0) == losses(0) != losses(1)


def test_a_loss_that_is_not_finite_is_named(model, tokenizer):
    rows = lm.windows(tokenizer, TEXTS, 16)
    with torch.no_grad():
        lora.adapter_parameters(model)[0].fill_(float("nan"))
    with pytest.raises(NumericalError, match="text step 0: loss is nan; lower lr"):
        next(lm.train(model, tokenizer, rows, TINY))


def test_settings_that_cannot_run_are_refused():
    with pytest.raises(UserError, match="window is 0"):
        lm.TextConfig(window=0)
