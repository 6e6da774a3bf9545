"""The verifier: what it is trained on, its scores, and whether its probabilities mean something."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch

from reft_lib import evaluate, lora, models, prompts, verifier
from reft_lib import samples as samples_of
from reft_lib.config import LoraSettings, VerifierConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError, UserError

LORA = LoraSettings(rank=4, alpha=8)
CONFIG = VerifierConfig(epochs=2, batch_size=8, lr=3e-3)
END = "\nTherefore, the answer is: "


def toy(n, rights, wrongs):
    """Make n questions; right responses end their reasoning with "buying", wrong ones do not."""
    found = []
    for i in range(n):
        e = Example(f"toy-{i}", f"How many are {i} and 7?", str(i + 7), None, None, {})
        for j in range(rights):
            found.append(
                samples_of.Sample(e, f"{i} + 7 = {i + 7} after {j} buying.{END}{i + 7}", True)
            )
        for j in range(wrongs):
            found.append(
                samples_of.Sample(e, f"{i} + 7 = {i + 7} after {j} apples.{END}{i + 7}", False)
            )
    return found


def new(policy, tokenizer, samples, config=CONFIG, seed=0):
    """Put an untrained verifier on whose adapter already does something."""
    judge, loop = verifier.begin(policy, tokenizer, samples, "ncot", config, LORA, seed)
    generator = torch.Generator().manual_seed(5)
    for p in lora.adapter_parameters(judge.model, verifier.ADAPTER):
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    judge.head.linear.weight.data *= 30
    return judge, loop


def logits_alone(judge, example, text):
    """Read one response by itself, without padding: a logit after each token of the response."""
    prompt = judge.tokenizer(prompts.prompt(example, judge.fmt))["input_ids"]
    ids = judge.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, judge.tokenizer.eos_token_id]
    with lora.active(judge.model, verifier.ADAPTER), torch.no_grad():
        out = judge.model(input_ids=torch.tensor([prompt + ids]), output_hidden_states=True)
    hidden = out.hidden_states[-1][0, len(prompt) :].double()  # after the final norm
    w, b = (p.detach().double() for p in judge.head.linear.parameters())
    return hidden @ w[0] + b


def test_every_response_counts_once(examples):
    texts = [[f"a{END}17", f"b{END}5", f"a{END}17", "?", f"c{END}17"], [f"a{END}17"], [], []]
    found = samples_of.distinct(evaluate.judge(texts, examples, "ncot"), examples)
    assert [(s.example.id, s.text[0], s.right) for s in found] == [
        ("made-0", "a", True),
        ("made-0", "b", False),
        ("made-0", "?", False),
        ("made-0", "c", True),
        ("made-1", "a", False),
    ]


def test_held_out_questions_are_whole_questions():
    samples = toy(20, 2, 3)
    training, held = samples_of.split(samples, 0.1, seed=4)
    assert len({s.example.id for s in held}) == 2 and len(held) == 10
    assert not {s.example.id for s in held} & {s.example.id for s in training}
    assert len(training + held) == 100 and all(s in training or s in held for s in samples)
    assert samples_of.split(samples, 0.1, seed=4) == (training, held)
    assert samples_of.split(samples, 0.1, seed=5) != (training, held)
    assert len({s.example.id for s in samples_of.split(samples, 0.001, 0)[1]}) == 1


@pytest.mark.parametrize("micro", [1, 3, 64])
def test_a_score_is_read_after_the_last_token(new_model, tokenizer, examples, micro):
    config = dataclasses.replace(CONFIG, micro_batch=micro)
    judge, _ = new(new_model(), tokenizer, toy(3, 2, 1), config)
    texts = [["12 + 5 = 17", "12", "12 + 5 = 17"], ["3"], [], ["", "20 + 7 = 27 after buying."]]
    scores = verifier.score(judge, examples, texts)
    assert [len(group) for group in scores] == [3, 1, 0, 2]
    assert judge.log_odds == pytest.approx(math.log(2))
    for e, group, found in zip(examples, texts, scores, strict=True):
        for text, p in zip(group, found, strict=True):
            logit = logits_alone(judge, e, text)[-1].item() + math.log(2)
            assert p == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)
    assert scores[0][0] == scores[0][2] != scores[0][1]
    assert len({round(p, 4) for group in scores for p in group}) == 5


def test_it_begins_as_a_policy_that_could_not_be_merged(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    for p in lora.adapter_parameters(policy):
        p.data += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        warm = policy(input_ids=tokens).logits
        policy = lora.keep_reference(policy)
        judge, _ = verifier.begin(policy, tokenizer, toy(3, 1, 1), "ncot", CONFIG, LORA)
        with lora.active(judge.model, verifier.ADAPTER):
            assert torch.equal(judge.model(input_ids=tokens).logits, warm)


@pytest.mark.parametrize("label", ["every", "last"])
@pytest.mark.parametrize("micro", [1, 2, 8])
def test_the_loss_by_hand(new_model, tokenizer, label, micro):
    """Classes weigh the same in all, every response of a class the same, whatever its length."""
    samples = toy(1, 3, 1) + toy(2, 1, 0)[1:]  # four right, one wrong
    config = dataclasses.replace(CONFIG, label=label, micro_batch=micro, grad_clip=1e9)
    judge, loop = new(new_model(), tokenizer, samples, config)
    expected = 0.0
    for s in samples:
        logits = logits_alone(judge, s.example, s.text)
        if label == "last":
            logits = logits[-1:]
        p = torch.sigmoid(logits if s.right else -logits)
        expected += (5 / 8 if s.right else 5 / 2) * -torch.log(p).mean().item() / 5
    loop.optimizer = torch.optim.SGD(loop.optimizer.param_groups, lr=0.0)
    judge.config = dataclasses.replace(config, epochs=1, lr=0.0)
    (loss,) = verifier.train_steps(judge, loop, samples)
    assert loss == pytest.approx(expected, rel=1e-4)
    grads = [p.grad.clone() for p in lora.adapter_parameters(judge.model)]
    assert judge.head.linear.weight.grad.abs().max() > 0 and max(g.abs().max() for g in grads) > 0
    if micro == 1:
        return
    again, loop = new(new_model(), tokenizer, samples, dataclasses.replace(config, micro_batch=1))
    pairs = verifier.encode(again, [(s.example, s.text) for s in samples])
    weights = [5 / 8 if s.right else 5 / 2 for s in samples]
    rows = list(zip(pairs, [s.right for s in samples], weights, strict=True))
    verifier.update(again, torch.optim.SGD(loop.optimizer.param_groups, lr=0.0), rows)
    for a, p in zip(grads, lora.adapter_parameters(again.model), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("label", ["every", "last"])
def test_it_learns_to_tell_right_from_wrong(new_model, tokenizer, label):
    """Questions it has not seen: every right response above every wrong one, and reranking."""
    config = VerifierConfig(epochs=5, batch_size=8, lr=1e-2, held_out=0.2, label=label)
    judge = verifier.train(new_model(), tokenizer, toy(14, 2, 4), "ncot", config, LORA)
    kept = judge.history[judge.epoch - 1]
    assert kept["held_auc"] == kept["held_auc_within"] == 1.0
    assert kept["held_accuracy"] > kept["held_rate"] == pytest.approx(1 / 3)
    assert judge.history[-1]["loss"] < judge.history[0]["loss"]

    fresh = [s for s in toy(18, 1, 3) if int(s.example.id.split("-")[1]) >= 14]
    asked = list(dict.fromkeys(s.example.id for s in fresh))
    rows = [next(s.example for s in fresh if s.example.id == name) for name in asked]
    texts = [[s.text for s in fresh if s.example.id == name][::-1] for name in asked]
    scores = verifier.score(judge, rows, texts)
    result = evaluate.Answers(
        texts, [["x"] * 4] * 4, [], [], [[False, False, False, True]] * 4
    )  # the right one last
    assert evaluate.rerank(result, scores).correct == [True] * 4
    assert evaluate.majority(result).correct == [False] * 4


def test_probabilities_are_those_of_the_samples(new_model, tokenizer):
    """One text, one time in five right: 0.2 is the best guess, although classes weigh the same."""
    (one,) = toy(1, 1, 0)
    samples = [
        dataclasses.replace(
            one, example=dataclasses.replace(one.example, id=str(i)), right=i % 5 == 0
        )
        for i in range(50)
    ]
    config = VerifierConfig(epochs=6, batch_size=50, lr=1e-2, lr_warmup_steps=0)
    judge, loop = verifier.begin(new_model(), tokenizer, samples, "ncot", config, LORA)
    losses = list(verifier.train_steps(judge, loop, samples))
    ((p,),) = verifier.score(judge, [one.example], [[one.text]])
    assert p == pytest.approx(0.2, abs=0.03)
    assert losses[-1] == pytest.approx(math.log(2), abs=0.01)  # nothing to learn


def test_the_policy_stays_as_it_is(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA, seed=1)
    for p in lora.trainable_parameters(policy):
        torch.nn.init.normal_(p, std=0.1)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = policy(input_ids=ids).logits
    judge = verifier.train(policy, tokenizer, toy(4, 1, 1), "ncot", CONFIG, LORA)
    verifier.score(judge, [toy(1, 1, 0)[0].example], [["12"]])
    assert judge.model is policy and policy.active_adapter == "default"
    with torch.no_grad():
        assert torch.equal(policy(input_ids=ids).logits, before)
    assert all(p.requires_grad for p in lora.adapter_parameters(policy, "default"))
    assert all(p.grad is None for p in lora.adapter_parameters(policy, "default"))


def test_the_best_epoch_on_held_out_questions_is_kept(new_model, tokenizer):
    """Labels at random: it learns them by heart, and held-out questions get worse."""
    coin = random.Random(1)
    samples = [dataclasses.replace(s, right=coin.random() < 0.5) for s in toy(30, 1, 0)]
    config = VerifierConfig(epochs=6, batch_size=4, lr=1e-2, held_out=0.3)
    judge = verifier.train(new_model(), tokenizer, samples, "ncot", config, LORA, seed=2)
    held_losses = [m["held_loss"] for m in judge.history]
    assert [m["epoch"] for m in judge.history] == [1, 2, 3, 4, 5, 6]
    assert judge.epoch == 1 + held_losses.index(min(held_losses)) < 6
    _, held = samples_of.split(samples, 0.3, seed=2)
    now = verifier.validate(judge, held)
    assert now["held_loss"] == pytest.approx(min(held_losses), rel=1e-6)
    p = [verifier.score(judge, [s.example], [[s.text]])[0][0] for s in held]
    by_hand = -sum(math.log(x if s.right else 1 - x) for x, s in zip(p, held, strict=True))
    assert now["held_loss"] == pytest.approx(by_hand / len(held), rel=1e-4)
    guessed = sum((x > 0.5) == s.right for x, s in zip(p, held, strict=True)) / len(held)
    assert now["held_accuracy"] == guessed


def test_same_seed_same_verifier(new_model, tokenizer):
    def run(seed):
        judge = verifier.train(
            new_model(), tokenizer, toy(6, 1, 1), "ncot", CONFIG, LORA, seed=seed
        )
        history = [{k: v for k, v in m.items() if k != "step_seconds"} for m in judge.history]
        return repr((history, verifier.score(judge, [toy(1, 1, 0)[0].example], [["12 + 5"]])))

    torch.manual_seed(9)
    first = run(1)
    torch.manual_seed(10)
    assert first == run(1) != run(2)


def test_a_response_beyond_the_context_is_cut_before_its_end(new_model, tokenizer, examples):
    judge, _ = new(new_model(context=64), tokenizer, toy(2, 1, 1))
    pairs = verifier.encode(judge, [(examples[1], "12 + 5 " * 40), (examples[1], "12")])
    assert models.context_length(judge.model) == 64 == sum(map(len, pairs[0]))
    assert pairs[0][1][-1] == tokenizer.eos_token_id
    assert pairs[1][1] == [*tokenizer("12")["input_ids"], tokenizer.eos_token_id]
    assert 0 < verifier.score(judge, [examples[1]], [["12 + 5 " * 40]])[0][0] < 1


@pytest.mark.parametrize("rights, wrongs", [(2, 0), (0, 2)])
def test_both_kinds_are_needed(new_model, tokenizer, rights, wrongs):
    with pytest.raises(UserError, match=r"verifier: \d of 6 training responses are right"):
        verifier.train(new_model(), tokenizer, toy(4, rights, wrongs), "ncot", CONFIG, LORA)


def test_what_is_not_finite_stops_with_one_line(new_model, tokenizer, examples):
    judge, loop = new(new_model(), tokenizer, toy(2, 1, 1))
    judge.head.linear.bias.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"loss is nan; lower verifier\.lr"):
        next(verifier.train_steps(judge, loop, toy(2, 1, 1)))
    with pytest.raises(NumericalError, match="score is not finite"):
        verifier.score(judge, examples[:1], [["12"]])
