"""Masked language modelling: who is chosen, how it is hidden, what is learnt."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from reft_lib import encoder as encoders
from reft_lib import language_modelling as lm
from reft_lib import masked
from reft_lib.config import LoraSettings
from reft_lib.errors import NumericalError, UserError
from reft_lib.pretrain import token_stream
from reft_lib.pretrain_encoder import HELD_OUT, pretrain_encoder
from reft_lib.sft import IGNORE

TINY = lm.TextConfig(steps=3, window=16, batch_size=4, lr=1e-2, lr_warmup_steps=1)
SHAPE = encoders.EncoderConfig(hidden=32, layers=2, heads=4, mlp=48, context=64)
TEXTS = ["Tom has 12 apples.", "Tom buys 5 more apples. How many apples does Tom have now?"] * 6


@pytest.fixture(scope="module")
def tok(tokenizer):
    return encoders.with_mask(tokenizer)


@pytest.fixture
def encoder(tok):
    return encoders.new_encoder(tok, SHAPE, seed=1)


def test_the_mask_is_one_token_more_and_takes_the_space(tok, tokenizer):
    assert len(tok) == len(tokenizer) + 1 and tokenizer.mask_token_id is None
    ids = tok("Tom has [MASK] apples")["input_ids"]
    spared = tok("Tom has 1 apples")["input_ids"]
    assert ids.count(tok.mask_token_id) == 1 and len(ids) == len(spared)
    plain = "Tom has 12 apples."
    assert tok(plain)["input_ids"] == tokenizer(plain)["input_ids"]


def many(tok, **options):
    """Hide a large batch, half of whose rows are padded."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(2, len(tok) - 1, (400, 100), generator=generator).tolist()
    rows = [[*row[: 50 + 50 * (i % 2)], tok.eos_token_id] for i, row in enumerate(words)]
    tokens, mask = masked.pad(rows, tok.pad_token_id)
    return tokens, mask, masked.hide(tokens, mask, tok, generator, **options)


def test_fifteen_percent_are_chosen_and_hidden_eighty_ten_ten(tok):
    tokens, mask, hidden = many(tok)
    chosen = hidden.labels != IGNORE
    special = torch.isin(tokens, torch.tensor(tok.all_special_ids))
    n, free = int(chosen.sum()), int(((mask == 1) & ~special).sum())
    assert not (chosen & ((mask == 0) | special)).any()
    assert abs(n / free - 0.15) < 3.5 * math.sqrt(0.15 * 0.85 / free)
    assert (hidden.labels[chosen] == tokens[chosen]).all()
    assert (hidden.tokens[~chosen] == tokens[~chosen]).all()
    seen = hidden.tokens[chosen]
    is_mask, kept = seen == tok.mask_token_id, seen == tokens[chosen]
    shares = [float(x.float().mean()) for x in (is_mask, kept, ~is_mask & ~kept)]
    for found, wanted in zip(shares, (0.8, 0.1, 0.1), strict=True):
        # a random token is the true one now and then
        assert abs(found - wanted) < 3.5 * math.sqrt(wanted * (1 - wanted) / n) + 1 / len(tok)
    assert not torch.isin(seen[~is_mask], torch.tensor(tok.all_special_ids)).any()


def test_for_measuring_all_that_is_chosen_is_masked(tok):
    _, _, hidden = many(tok, all_masked=True)
    assert (hidden.tokens[hidden.labels != IGNORE] == tok.mask_token_id).all()


def test_the_last_token_can_be_chosen_always(tok):
    rows = [tok("Tom has 12")["input_ids"], tok("Tom buys 5 more apples 7")["input_ids"]]
    tokens, mask = masked.pad(rows, tok.pad_token_id)
    hidden = masked.hide(tokens, mask, tok, torch.Generator().manual_seed(0), share=0.0, last=True)
    for i, row in enumerate(rows):
        assert (hidden.labels[i] != IGNORE).nonzero().tolist() == [[len(row) - 1]]
        assert hidden.labels[i, len(row) - 1] == row[-1]
        assert hidden.tokens[i, len(row) - 1] == tok.mask_token_id


def test_the_same_generator_hides_the_same(tok):
    tokens, mask = masked.pad(lm.windows(tok, TEXTS, 16), tok.pad_token_id)
    a, b, c = (masked.hide(tokens, mask, tok, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a.tokens, b.tokens) and not torch.equal(a.tokens, c.tokens)


def test_loss_is_that_of_transformers_whatever_the_padding(tok, encoder):
    rows = [tok(TEXTS[0])["input_ids"], tok(TEXTS[1])["input_ids"]]
    batch = masked.hide(*masked.pad(rows, tok.pad_token_id), tok, torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = encoder(input_ids=batch.tokens, attention_mask=batch.mask, labels=batch.labels)
        mine = masked.loss(encoder, batch)
        wider = masked.Hidden(
            functional.pad(batch.tokens, (0, 5), value=tok.pad_token_id),
            functional.pad(batch.mask, (0, 5)),
            functional.pad(batch.labels, (0, 5), value=IGNORE),
        )
        assert float(mine) == pytest.approx(float(out.loss), rel=1e-5)
        assert float(masked.loss(encoder, wider)) == pytest.approx(float(mine), rel=1e-5)


def test_only_chosen_tokens_are_learnt(tok, encoder):
    rows = [tok(TEXTS[0])["input_ids"]]
    tokens, mask = masked.pad(rows, tok.pad_token_id)
    labels = torch.full_like(tokens, IGNORE)
    with torch.no_grad():
        assert float(masked.loss(encoder, masked.Hidden(tokens, mask, labels))) == 0.0
    labels[0, 2] = tokens[0, 2]
    with torch.no_grad():
        logp = encoder(input_ids=tokens, attention_mask=mask).logits[0, 2].log_softmax(-1)
        assert float(masked.loss(encoder, masked.Hidden(tokens, mask, labels))) == pytest.approx(
            -float(logp[tokens[0, 2]]), rel=1e-5
        )


def test_the_encoder_sees_both_sides(tok, encoder):
    tokens, mask = masked.pad([tok("Tom has [MASK] more apples")["input_ids"]], tok.pad_token_id)
    at = int((tokens[0] == tok.mask_token_id).nonzero())
    labels = torch.full_like(tokens, IGNORE)
    labels[0, at] = tok.mask_token_id
    with torch.no_grad():
        first, _ = masked.logits(encoder, masked.Hidden(tokens, mask, labels))
        for side in (0, tokens.shape[1] - 1):
            other = tokens.clone()
            other[0, side] = tok.eos_token_id
            changed, _ = masked.logits(encoder, masked.Hidden(other, mask, labels))
            assert not torch.allclose(first, changed, atol=1e-6)


@pytest.mark.parametrize("embeddings", [False, True])
def test_gradients_reach_adapter_and_embeddings_only(tok, encoder, embeddings):
    model = encoders.add_adapter(encoder, LoraSettings(rank=4, alpha=8))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rows = lm.windows(tok, TEXTS, 16)
    config = lm.TextConfig(steps=3, batch_size=4, lr=1e-2, lr_warmup_steps=1, embeddings=embeddings)
    for _ in masked.train(model, tok, rows, config):
        pass
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    rest = {n for n in moved if ".lora_" not in n}
    assert rest == ({n for n in before if "word_embeddings" in n} if embeddings else set())
    assert {n.split(".")[-4] for n in moved - rest} == {"query", "key", "value", "dense"}


def test_one_text_can_be_overfitted(tok, encoder):
    rows = lm.windows(tok, TEXTS, 16)[:1] * 4
    before = masked.measure(encoder, tok, rows)
    losses = [m["loss"] for m in masked.train(encoder, tok, rows, replace(TINY, steps=50))]
    after = masked.measure(encoder, tok, rows)
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    assert after["perplexity"] < before["perplexity"] and after["accuracy"] > 0.8


def test_measure_by_hand(tok, encoder):
    rows = lm.windows(tok, TEXTS, 16)[:3]
    found = masked.measure(encoder, tok, rows, seed=5)
    batch = masked.hide(
        *masked.pad(rows, tok.pad_token_id), tok, torch.Generator().manual_seed(5), all_masked=True
    )
    with torch.no_grad():
        out = encoder(input_ids=batch.tokens, attention_mask=batch.mask, labels=batch.labels)
    wanted = batch.labels != IGNORE
    right = (out.logits.argmax(-1) == batch.labels)[wanted].float().mean()
    assert found["perplexity"] == pytest.approx(math.exp(float(out.loss)), rel=1e-4)
    assert found["accuracy"] == pytest.approx(float(right))


def test_pretraining_starts_from_nothing_and_repeats_itself(tok):
    rows = lm.windows(tok, TEXTS, TINY.window)

    def losses(seed):
        model = encoders.new_encoder(tok, SHAPE, seed)
        return [m["loss"] for m in masked.train(model, tok, rows, TINY, seed)]

    first = losses(0)
    assert len(first) == TINY.steps and first == losses(0) != losses(1)
    assert abs(first[0] - math.log(len(tok))) < 0.5  # it knows nothing yet


def test_masks_are_filled_most_probable_first(tok, encoder):
    text = "Tom has [MASK] apples. Tom [MASK] 5 more."
    (first, second) = masked.fill(encoder, tok, [text], k=4)[0]
    ids = torch.tensor([tok(text)["input_ids"]])
    with torch.no_grad():
        p = encoder(input_ids=ids).logits.softmax(-1)[0]
    at = (ids[0] == tok.mask_token_id).nonzero().squeeze(1).tolist()
    for found, position in zip((first, second), at, strict=True):
        best = p[position].topk(4)
        assert [word for word, _ in found] == tok.batch_decode([[i] for i in best.indices.tolist()])
        assert [x for _, x in found] == pytest.approx(best.values.tolist(), rel=1e-4)


def test_a_mask_can_be_filled_from_given_tokens_alone(tok, encoder):
    found = masked.fill(encoder, tok, ["Tom has [MASK]"], only=["1", "5"])[0][0]
    assert {word.strip() for word, _ in found} == {"1", "5"}
    assert sum(p for _, p in found) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("texts", "only", "said"),
    [(["Tom"], None, "there is no .MASK. in 'Tom'"), (["[MASK]"], ["zyzzyva"], "not one token")],
)
def test_what_cannot_be_filled_is_named(tok, encoder, texts, only, said):
    with pytest.raises(UserError, match=said):
        masked.fill(encoder, tok, texts, only)


def test_a_tokenizer_without_mask_is_refused(tokenizer):
    with pytest.raises(UserError, match="no mask token"):
        encoders.new_encoder(tokenizer, SHAPE)


def test_a_loss_that_is_not_finite_is_named(tok, encoder):
    with torch.no_grad():
        encoder.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="masked step 0: loss is nan"):
        next(masked.train(encoder, tok, lm.windows(tok, TEXTS, 16), TINY))


def test_the_stages_follow_each_other_and_the_card_tells_of_them(tok, tokenizer, tmp_path):
    short, long = TINY, replace(TINY, steps=2, window=32, batch_size=2)
    folder = pretrain_encoder(tmp_path / "made", (short, long), SHAPE, tokenizer)
    card = json.loads((folder / "card.json").read_text())
    assert [stage["window"] for stage in card["stages"]] == [16, 32]
    assert card["config"]["hidden"] == 32 and card["parameters"] > 0
    assert card["held_out_loss"] > 0 and card["loss_curve"][0][0] == 0
    weights = (folder / "model.safetensors").read_bytes()
    assert card["sha256"]["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    again = pretrain_encoder(tmp_path / "again", (short, long), SHAPE, tokenizer)
    assert (again / "model.safetensors").read_bytes() == weights
    shorter = pretrain_encoder(tmp_path / "shorter", (short,), SHAPE, tokenizer)
    assert (shorter / "model.safetensors").read_bytes() != weights


def test_no_encoder_in_a_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="pretrain-encoder"):
        encoders.load(tmp_path)


def test_loading_draws_no_progress_bar(capfd):
    encoders.load()
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def shipped():
    return encoders.load()


def test_the_shipped_encoder_is_that_of_its_card(shipped):
    model, tokenizer = shipped
    card = json.loads((encoders.ENCODER_FOLDER / "card.json").read_text())
    weights = (encoders.ENCODER_FOLDER / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]["model.safetensors"]
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    assert len(tokenizer) == model.config.vocab_size and not model.training
    width = card["stages"][-1]["window"]
    stream = token_stream(tokenizer, card["seed"] + 1, HELD_OUT * width)
    found = masked.measure(model, tokenizer, stream.view(-1, width).tolist())
    assert math.log(found["perplexity"]) == pytest.approx(card["held_out_loss"], abs=0.01)
    assert found["accuracy"] == pytest.approx(card["held_out_accuracy"], abs=0.01)


def test_the_shipped_encoder_looks_at_both_sides(shipped):
    begun = "Tom has 12 apples. Tom buys 5 more apples. How many apples [MASK]"
    (one,), (several,) = masked.fill(
        *shipped, [f"{begun} Tom have now?", f"{begun} they have now?"]
    )
    assert one[0][0].strip() == "does" and several[0][0].strip() == "do"
    assert min(one[0][1], several[0][1]) > 0.5  # frequency alone would say a full stop
