"""SFT: the loss covers the target alone, and it can learn one batch by heart."""

from __future__ import annotations

import pytest
import torch

from reft_lib import evaluate, lora, prompts, sft
from reft_lib.config import LoraSettings, SampleConfig, SftConfig
from reft_lib.errors import NumericalError, UserError

LORA = LoraSettings(rank=8, alpha=16)


def test_labels_decode_to_the_target_and_nothing_else(tokenizer, examples):
    for fmt in ("ncot", "pcot"):
        pairs = sft.encode(tokenizer, examples, fmt)
        batch = sft.collate(pairs, tokenizer.eos_token_id)
        for row, labels, e in zip(batch.tokens, batch.labels, examples, strict=True):
            learnt = labels[labels != sft.IGNORE]
            assert tokenizer.decode(learnt) == prompts.target(e, fmt) + tokenizer.eos_token
            assert torch.equal(row[labels != sft.IGNORE], learnt)
        assert batch.mask.sum() == sum(len(p) + len(t) for p, t in pairs)


def test_loss_is_the_mean_over_target_tokens(new_model, tokenizer, examples):
    """Against a float64 loop over single rows without padding."""
    model = new_model()
    pairs = sft.encode(tokenizer, examples, "ncot")
    total, n = 0.0, 0
    for prompt, target in pairs:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + target])).logits[0].double()
        for t, token in enumerate(target):
            total -= torch.log_softmax(logits[len(prompt) - 1 + t], -1)[token].item()
            n += 1
    loss = sft.loss(model, sft.collate(pairs, tokenizer.eos_token_id))
    assert loss.item() == pytest.approx(total / n, rel=1e-5)


def test_padding_and_prompt_do_not_change_the_loss(new_model, tokenizer, examples):
    model = new_model()
    pairs = sft.encode(tokenizer, examples[1:2], "ncot")
    alone = sft.collate(pairs, tokenizer.eos_token_id)
    longer = sft.collate(sft.encode(tokenizer, examples[:2], "ncot"), tokenizer.eos_token_id)
    padded = sft.Batch(longer.tokens[1:], longer.mask[1:], longer.labels[1:])
    assert padded.tokens.shape[1] > alone.tokens.shape[1]
    torch.testing.assert_close(sft.loss(model, padded), sft.loss(model, alone))


def test_one_batch_is_learnt_by_heart_through_the_adapter_alone(new_model, tokenizer, examples):
    plain = new_model()
    plain.model.norm.weight.data *= 3  # else its frozen head cannot be sure of any token
    model = lora.add_adapter(plain, LORA)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    config = SftConfig(epochs=80, batch_size=4, lr=1e-2)
    history = list(sft.sft(model, tokenizer, examples, "ncot", config))
    assert history[0]["loss"] > 2 and history[-1]["loss"] < 0.05
    for name, p in model.named_parameters():
        if name in frozen:
            assert torch.equal(p, frozen[name])
    result = evaluate.answer(
        model, tokenizer, examples, "ncot", SampleConfig(max_new_tokens=40, batch_size=3)
    )
    assert result.accuracy == 1.0


def test_same_seed_same_run(new_model, tokenizer, examples):
    def run(seed):
        model = lora.add_adapter(new_model(), LORA)
        config = SftConfig(epochs=3, batch_size=2, lr=1e-2)
        return [m["loss"] for m in sft.sft(model, tokenizer, examples, "pcot", config, seed)]

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_micro_batches_change_memory_and_not_the_result(new_model, tokenizer, examples, micro):
    def run(size):
        model = lora.add_adapter(new_model(), LORA)
        config = SftConfig(epochs=2, batch_size=4, micro_batch=size, lr=1e-2)
        losses = [m["loss"] for m in sft.sft(model, tokenizer, examples, "ncot", config, 1)]
        return torch.tensor(losses), torch.cat(
            [p.flatten() for p in lora.adapter_parameters(model)]
        )

    for whole, parts in zip(run(64), run(micro), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)


def test_the_shares_of_micro_batches_are_those_of_their_target_tokens():
    rows = [([1] * 9, [2] * 1), ([1], [2] * 4), ([1], [2] * 3)]  # unequal, and not sorted
    parts = list(sft.micro_batches(rows, 2))
    assert [[len(target) for _, target in part] for part, _ in parts] == [[3, 4], [1]]
    assert [share for _, share in parts] == [7 / 8, 1 / 8]
    ((part, share),) = sft.micro_batches(rows, 3)
    assert part == rows and share == 1.0


def test_an_epoch_is_the_mean_of_its_steps(new_model, tokenizer, examples):
    config = SftConfig(epochs=2, batch_size=3, lr=1e-2)

    def run(loop):
        model = lora.add_adapter(new_model(), LORA)
        return list(loop(model, tokenizer, examples, "ncot", config, 1))

    steps, epochs = run(sft.sft_steps), run(sft.sft)
    assert len(steps) == 4 and [e["epoch"] for e in epochs] == [1, 2]
    for epoch, (a, b) in zip(epochs, (steps[:2], steps[2:]), strict=True):
        assert epoch["loss"] == pytest.approx((a["loss"] + b["loss"]) / 2)
        assert epoch["grad_norm"] == pytest.approx((a["grad_norm"] + b["grad_norm"]) / 2)


def test_a_loss_that_is_not_finite_stops_with_one_line(new_model, tokenizer, examples):
    model = new_model()
    model.model.norm.weight.data.fill_(float("nan"))
    policy = lora.add_adapter(model, LORA)
    with pytest.raises(NumericalError, match=r"SFT epoch 1, step 0: loss is nan; lower sft\.lr"):
        next(sft.sft(policy, tokenizer, examples, "ncot", SftConfig()))


def test_an_example_beyond_the_context_is_named(new_model, tokenizer, examples):
    policy = lora.add_adapter(new_model(context=40), LORA)
    with pytest.raises(UserError, match="made-0 has .* tokens, more than the"):
        next(sft.sft(policy, tokenizer, examples, "ncot", SftConfig()))
