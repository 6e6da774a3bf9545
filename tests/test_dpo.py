"""DPO: its loss by hand, ln 2 at first, the reference, and what it learns."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from reft_lib import dpo, lora, prompts, resume, reward_model
from reft_lib.config import LoraSettings
from reft_lib.data import Example
from reft_lib.errors import NumericalError, UserError
from reft_lib.method_settings_rlhf import DpoConfig
from reft_lib.preferences import Pair

LORA = LoraSettings(rank=8, alpha=16)
CONFIG = DpoConfig(epochs=2, batch_size=4, micro_batch=4, lr=3e-3, lr_warmup_steps=2)
END = "\nTherefore, the answer is: "


def toy(n, each=2, first=0):
    """Prefer responses whose reasoning ends with "buying" to those that end with "apples"."""
    pairs = []
    for i in range(first, first + n):
        e = Example(f"toy-{i}", f"How many are {i} and 7?", str(i + 7))
        for j in range(each):
            good, bad = (f"{i} + 7 = {i + 7} after {j} {w}." for w in ("buying", "apples"))
            pairs.append(Pair(e, f"{good}{END}{i + 7}", f"{bad}{END}{i + 7}"))
    return pairs


def adapted(model, scale=0.05):
    """Put an adapter on that has moved away from the reference."""
    policy = lora.add_adapter(model, LORA)
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += scale * torch.randn(p.shape, generator=generator)
    return policy


def logp_alone(model, tokenizer, example, text):
    """Read one response by itself, without padding, token by token in float64."""
    prompt = tokenizer(prompts.prompt(example, "ncot"))["input_ids"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].double()
    return sum(
        torch.log_softmax(logits[len(prompt) - 1 + t], -1)[token].item()
        for t, token in enumerate(ids)
    )


def steps(policy, tokenizer, pairs, config=CONFIG, seed=0, loop=None):
    """Train as the library does, on words."""
    return dpo.dpo_steps(policy, tokenizer, pairs, "ncot", config, seed, loop=loop)


def numbers(metrics):
    return {k: x for k, x in metrics.items() if k != "step_seconds"}


def test_the_loss_of_two_pairs_by_hand():
    """Chosen ones first: pair 1 is (-10, -12) against reference (-11, -11), pair 2 likewise."""
    logp, ref = (
        torch.tensor([-10.0, -20.0, -12.0, -15.0]),
        torch.tensor([-11.0, -18.0, -11.0, -16.0]),
    )
    loss, stats = dpo.dpo_loss(logp, ref, beta=0.5)
    # differences of rewards: 0.5 ((1) - (-1)) = 1 and 0.5 ((-2) - (1)) = -1.5
    assert loss.item() == pytest.approx((math.log(1 + math.e**-1) + math.log(1 + math.e**1.5)) / 2)
    assert stats == pytest.approx(
        {
            "accuracy": 0.5,
            "margin": -0.25,
            "chosen_reward": (0.5 - 1.0) / 2,
            "rejected_reward": (-0.5 + 0.5) / 2,
            "chosen_logp": -15.0,
            "rejected_logp": -13.5,
        }
    )


def test_the_gradient_is_that_of_the_paper():
    """-beta s(r_l - r_w) for the chosen log-probability, plus the same for the rejected one."""
    logp = torch.tensor([-3.0, -5.0, -4.0, -2.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-3.5, -4.0, -4.0, -3.0], dtype=torch.float64)
    dpo.dpo_loss(logp, ref, beta=0.3)[0].backward()
    expected = []
    for i in (0, 1):
        wrong = 0.3 * ((logp[2 + i] - ref[2 + i]) - (logp[i] - ref[i])).item()
        expected.append(0.3 / (1 + math.exp(-wrong)) / 2)
    assert logp.grad.tolist() == pytest.approx([-expected[0], -expected[1], *expected])


def test_log_probabilities_and_the_loss_of_a_batch_in_float64(new_model, tokenizer, examples):
    """Against single rows without padding, the reference being a model without any adapter."""
    pairs = [*toy(2, 1), Pair(examples[0], "12", ""), Pair(examples[1], "3 + 4 = 7", "9")]
    policy, plain = adapted(new_model()), new_model()
    expected = {"chosen_logp": 0.0, "rejected_logp": 0.0, "loss": 0.0, "margin": 0.0}
    for e, chosen, rejected in pairs:
        won, lost = (logp_alone(policy, tokenizer, e, text) for text in (chosen, rejected))
        ref_won, ref_lost = (logp_alone(plain, tokenizer, e, text) for text in (chosen, rejected))
        d = 0.4 * ((won - ref_won) - (lost - ref_lost))
        found = (won, lost, math.log(1 + math.exp(-d)), d)
        for name, x in zip(expected, found, strict=True):
            expected[name] += x / len(pairs)
    assert abs(expected["margin"]) > 0.05  # policy and reference differ
    for micro in (1, 3, 8):
        config = dataclasses.replace(CONFIG, beta=0.4, micro_batch=micro)
        found = dpo.validate(policy, tokenizer, pairs, "ncot", config)
        assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kept", [False, True])
def test_the_first_loss_is_ln_2(new_model, tokenizer, kept):
    """To the last bit of float32, however far the reference itself has been trained."""
    policy = lora.add_adapter(new_model(), LORA)
    if kept:
        policy = lora.keep_reference(adapted(new_model()))
    config = dataclasses.replace(CONFIG, lr_warmup_steps=0)
    first, second = (
        m for m, _ in zip(steps(policy, tokenizer, toy(4), config), "ab", strict=False)
    )
    assert first["loss"] == torch.tensor(2.0).log().item()
    assert (first["margin"], first["accuracy"]) == (0.0, 0.5)
    assert second["loss"] != first["loss"]


def test_gradients_reach_only_the_policys_adapter(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    reward_model.begin(policy, tokenizer, "ncot", reward_model.RewardConfig(), LORA)
    next(steps(policy, tokenizer, toy(4, 1)))
    moved = {n for n, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved and all(".lora_B.default." in name for name in moved)  # A's needs B above 0
    frozen = {n for n, p in policy.named_parameters() if not p.requires_grad}
    assert frozen and not any(".lora_" in name for name in frozen)


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_change_memory_and_not_the_result(new_model, tokenizer, micro):
    def run(size):
        policy = adapted(new_model())
        config = DpoConfig(epochs=1, batch_size=5, micro_batch=size, lr=1e-3, grad_clip=1e9)
        (metrics,) = steps(policy, tokenizer, toy(5, 1), config)
        return numbers(metrics), [p.grad for p in lora.trainable_parameters(policy)]

    (whole, grads), (parts, others) = run(5), run(micro)
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)
    for a, b in zip(grads, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_one_batch_is_learnt_by_heart_through_the_adapter_alone(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    frozen = {n: p.clone() for n, p in policy.named_parameters() if not p.requires_grad}
    pairs = [p if i % 3 else Pair(p.example, p.rejected, p.chosen) for i, p in enumerate(toy(6, 1))]
    config = DpoConfig(epochs=40, batch_size=6, lr=1e-2)
    history = list(steps(policy, tokenizer, pairs, config))
    assert history[-1]["loss"] < 0.02 and history[-1]["accuracy"] == 1.0
    assert history[-1]["margin"] > 3
    gap = history[-1]["chosen_reward"] - history[-1]["rejected_reward"]
    assert gap == pytest.approx(history[-1]["margin"], abs=1e-4)
    for name, p in policy.named_parameters():
        if name in frozen:
            assert torch.equal(p, frozen[name])


def test_a_rule_holds_for_questions_not_seen(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    config = DpoConfig(epochs=4, batch_size=8, lr=3e-3, lr_warmup_steps=2)
    fresh = toy(6, first=50)
    before = dpo.validate(policy, tokenizer, fresh, "ncot", config)
    assert before["loss"] == pytest.approx(math.log(2)) and before["accuracy"] == 0.5
    list(steps(policy, tokenizer, toy(12), config))
    after = dpo.validate(policy, tokenizer, fresh, "ncot", config)
    assert after["accuracy"] == 1.0 and after["loss"] < 0.5
    widened = after["chosen_logp"] - after["rejected_logp"]
    assert widened > before["chosen_logp"] - before["rejected_logp"] + 1


def test_measuring_changes_nothing(new_model, tokenizer):
    policy = adapted(new_model())
    before = [p.clone() for p in policy.parameters()]
    flags = [p.requires_grad for p in policy.parameters()]
    dpo.validate(policy, tokenizer, toy(3), "ncot", CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert flags == [p.requires_grad for p in policy.parameters()]
    assert all(p.grad is None for p in policy.parameters())


def test_same_seed_same_run(new_model, tokenizer):
    def run(seed):
        policy = lora.add_adapter(new_model(), LORA)
        return [numbers(m) for m in steps(policy, tokenizer, toy(5, 1), seed=seed)]

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_is_the_uninterrupted_one(new_model, tokenizer, tmp_path, cut):
    pairs = toy(5, 1)

    def fresh():
        policy = lora.add_adapter(new_model(), LORA)
        return policy, dpo.begin(policy, CONFIG, seed=4)

    policy, loop = fresh()
    whole = [numbers(m) for m in steps(policy, tokenizer, pairs, loop=loop)]
    assert len(whole) == 4 and loop.step == 4
    final = [p.clone() for p in lora.trainable_parameters(policy)]

    policy, loop = fresh()
    running = steps(policy, tokenizer, pairs, loop=loop)
    first = [numbers(next(running)) for _ in range(cut)]
    tensors, notes = loop.state()
    weights = {f"w{i}": p for i, p in enumerate(lora.trainable_parameters(policy))}
    resume.save(tmp_path, tensors | weights, copy.deepcopy(notes))

    policy, loop = fresh()
    tensors, notes = resume.load(tmp_path)
    for i, p in enumerate(lora.trainable_parameters(policy)):
        p.data.copy_(tensors.pop(f"w{i}"))
    loop.restore(tensors, notes)
    rest = [numbers(m) for m in steps(policy, tokenizer, pairs, loop=loop)]
    assert first + rest == whole
    for p, value in zip(lora.trainable_parameters(policy), final, strict=True):
        assert torch.equal(p, value)


def test_the_learning_rate_rises_over_the_first_steps(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    loop = dpo.begin(policy, CONFIG)
    rates = [
        loop.optimizer.param_groups[0]["lr"] for _ in steps(policy, tokenizer, toy(4), loop=loop)
    ]
    assert rates == pytest.approx([0.5 * CONFIG.lr, *[CONFIG.lr] * 3])


def test_what_cannot_be_learnt_is_one_line(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    with pytest.raises(UserError, match="DPO: there is no pair"):
        next(steps(policy, tokenizer, []))
    lora.trainable_parameters(policy)[0].data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="DPO step 1: loss is nan; lower lr"):
        next(steps(policy, tokenizer, toy(2)))
