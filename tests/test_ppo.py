"""PPO as ReFT runs it: exact ratios, the reference, the options, one task it can learn."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from reft_lib import advantage, lora, ppo, rollout
from reft_lib.config import LoraSettings, PpoConfig, SampleConfig
from reft_lib.errors import NumericalError
from reft_lib.rewards import Graded

LORA = LoraSettings(rank=8, alpha=16)
CONFIG = PpoConfig(steps=2, batch_size=8, micro_batch=3, lr=1e-3)
SAMPLING = SampleConfig(max_new_tokens=8)


def grade(texts, examples):
    """Reward responses by their length, so that rewards differ."""
    return [Graded(len(t) % 3 / 2, t or None, len(t) % 3 == 2) for t in texts]


def experience(policy, tokenizer, examples, config=CONFIG, seed=0):
    """Sample, grade and gather one batch."""
    head = ppo.new_value_head(policy, config, seed)
    ids = rollout.encode(tokenizer, examples * 2, "ncot")
    generator = torch.Generator().manual_seed(seed)
    roll = rollout.sample(policy, tokenizer, ids, 8, generator=generator)
    return head, ppo.gather(policy, head, roll, grade(roll.texts, examples * 2), config)


def adapted(model, scale=0.1):
    """Put an adapter on that has moved away from the reference."""
    policy = lora.add_adapter(model, LORA)
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += scale * torch.randn(p.shape, generator=generator)
    return policy


@pytest.mark.parametrize("trunk", ["shared", "detached", "separate"])
def test_ratio_is_exactly_one_at_the_first_minibatch(new_model, tokenizer, examples, trunk):
    config = dataclasses.replace(CONFIG, value_trunk=trunk, lr=0.0)
    policy = adapted(new_model())
    head, exp = experience(policy, tokenizer, examples, config)
    for rows in ppo.split_rows(exp.rollout, 1)[0].split(config.micro_batch):
        part = rollout.minibatch(exp.rollout, rows)
        logp, values = ppo.read(policy, head, part, config)
        r = part.response_mask.shape[1]
        assert torch.equal(logp, exp.old_logp[rows, :r])  # so exp(difference) is exactly 1
        assert torch.equal(values, exp.old_values[rows, :r])
    optimizer = torch.optim.SGD(lora.trainable_parameters(policy), lr=0.0)
    rows = ppo.split_rows(exp.rollout, 1)[0]
    stats = ppo.update(policy, head, optimizer, exp, rows, config, 1)
    assert stats["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert stats["clip_fraction"] == 0 and stats["approx_kl"] == pytest.approx(0, abs=1e-7)


def test_reference_is_the_policy_before_reinforcement(new_model, tokenizer, examples):
    """A fresh adapter: policy and reference agree, so no KL reward anywhere."""
    policy = lora.add_adapter(new_model(), LORA)
    _, exp = experience(policy, tokenizer, examples)
    assert torch.equal(exp.old_logp, exp.ref_logp)
    scores = torch.tensor([g.reward for g in exp.graded])
    terminal = advantage.terminal_rewards(scores, exp.rollout.response_mask)
    assert torch.equal(exp.rewards, terminal)
    moved = adapted(new_model())
    _, exp = experience(moved, tokenizer, examples)
    assert (exp.old_logp - exp.ref_logp).abs().max() > 0.01


def test_experience_is_put_together_as_the_equations_say(new_model, tokenizer, examples):
    config = dataclasses.replace(CONFIG, beta=0.3, lam=0.9, gamma=0.97)
    _, exp = experience(adapted(new_model()), tokenizer, examples, config)
    mask = exp.rollout.response_mask
    for i in range(len(mask)):
        n = int(mask[i].sum())
        rewards = [-0.3 * float(exp.old_logp[i, t] - exp.ref_logp[i, t]) for t in range(n)]
        rewards[-1] += exp.graded[i].reward
        value = [float(v) for v in exp.old_values[i, :n]] + [0.0]
        running = 0.0
        for t in reversed(range(n)):
            running = rewards[t] + 0.97 * value[t + 1] - value[t] + 0.97 * 0.9 * running
            assert float(exp.raw_advantages[i, t]) == pytest.approx(running, abs=1e-5)
            assert float(exp.returns[i, t]) == pytest.approx(running + value[t], abs=1e-5)
    tokens = exp.advantages[mask].double()
    assert float(tokens.mean()) == pytest.approx(0, abs=1e-5)
    assert float(tokens.var(correction=0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_micro_batches_add_up_to_the_whole(new_model, tokenizer, examples, per):
    grads = []
    for micro in (8, 3, 1):
        config = dataclasses.replace(CONFIG, micro_batch=micro, mean_per=per, grad_clip=1e9)
        policy = adapted(new_model())
        head, exp = experience(policy, tokenizer, examples, config)
        exp.old_logp = exp.old_logp + 0.1  # away from ratio 1
        optimizer = torch.optim.SGD([*lora.trainable_parameters(policy), *head.parameters()], 0.0)
        ppo.update(policy, head, optimizer, exp, torch.arange(8), config, 1)
        grads.append([p.grad.clone() for p in lora.trainable_parameters(policy)])
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def value_gradients(new_model, tokenizer, examples, trunk):
    """Gradients of the value loss alone, by parameter name."""
    config = dataclasses.replace(CONFIG, value_trunk=trunk, value_coef=1.0)
    policy = adapted(new_model())
    head, exp = experience(policy, tokenizer, examples, config)
    exp.advantages = torch.zeros_like(exp.advantages)  # no policy gradient
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([*parameters, *head.parameters()], 0.0)
    ppo.update(policy, head, optimizer, exp, torch.arange(8), config, 1)
    assert head.linear.weight.grad.abs().max() > 0
    return {
        n: 0.0 if p.grad is None else float(p.grad.abs().max())
        for n, p in policy.named_parameters()
        if p.requires_grad
    }


def test_value_gradient_goes_where_the_option_says(new_model, tokenizer, examples):
    shared = value_gradients(new_model, tokenizer, examples, "shared")
    detached = value_gradients(new_model, tokenizer, examples, "detached")
    separate = value_gradients(new_model, tokenizer, examples, "separate")
    assert max(shared.values()) > 0
    assert max(detached.values()) == 0
    assert max(v for n, v in separate.items() if ".default." in n) == 0
    assert max(v for n, v in separate.items() if ".value." in n) > 0


def test_a_value_adapter_of_its_own_is_on_the_same_layers(new_model):
    for targets in ("all-linear", ".*q_proj"):
        policy = lora.add_adapter(new_model(), dataclasses.replace(LORA, targets=targets))
        ppo.begin(policy, dataclasses.replace(CONFIG, value_trunk="separate"))
        own, value = (lora.adapter_parameters(policy, n) for n in ("default", "value"))
        assert [p.shape for p in own] == [p.shape for p in value]


def test_base_weights_never_move_and_base_stays_to_the_bit(new_model, tokenizer, examples):
    policy = lora.add_adapter(new_model(), LORA)
    before = new_model()(input_ids=torch.tensor([[5, 6, 7]])).logits
    list(ppo.ppo(policy, tokenizer, examples, "ncot", grade, CONFIG, SAMPLING))
    with lora.reference(policy), torch.no_grad():
        assert torch.equal(policy(input_ids=torch.tensor([[5, 6, 7]])).logits, before)
    with torch.no_grad():
        assert not torch.equal(policy(input_ids=torch.tensor([[5, 6, 7]])).logits, before)


@pytest.mark.parametrize("trunk", ["shared", "detached", "separate"])
def test_it_learns_what_is_rewarded(new_model, tokenizer, examples, trunk):
    """Responses with an "e" in them: some have one by chance, in the end nearly all."""
    policy = lora.add_adapter(new_model(), LORA)

    def reward(texts, examples):
        return [Graded(float("e" in t), t, "e" in t) for t in texts]

    config = PpoConfig(steps=25, batch_size=64, lr=1e-2, beta=0.0, value_trunk=trunk)
    history = list(ppo.ppo(policy, tokenizer, examples, "ncot", reward, config, SAMPLING))
    assert history[0]["accuracy"] < 0.7 and history[-1]["accuracy"] > 0.9


def test_beta_holds_the_policy_back(new_model, tokenizer, examples):
    def kl_after(beta):
        policy = lora.add_adapter(new_model(), LORA)
        config = PpoConfig(steps=12, batch_size=32, lr=5e-3, beta=beta)
        reward = lambda texts, _: [Graded(float("e" in t), t, False) for t in texts]  # noqa: E731
        *_, last = ppo.ppo(policy, tokenizer, examples, "ncot", reward, config, SAMPLING)
        return last["kl_k3"]

    assert kl_after(1.0) < 0.5 * kl_after(0.0)


def test_same_seed_same_run_and_evaluation_between_steps_changes_nothing(
    new_model, tokenizer, examples
):
    def run(seed, disturb=False):
        policy = lora.add_adapter(new_model(), LORA)
        steps = []
        for m in ppo.ppo(policy, tokenizer, examples, "ncot", grade, CONFIG, SAMPLING, seed):
            m.pop("step_seconds")
            steps.append(m)
            if disturb:
                torch.rand(7)
                random.random()
        return steps

    first, second, other = run(1), run(1, disturb=True), run(2)
    assert repr(first) == repr(second) != repr(other)


def test_reward_and_accuracy_are_logged_apart(new_model, tokenizer, examples):
    policy = lora.add_adapter(new_model(), LORA)
    reward = lambda texts, _: [Graded(0.1, "5", False) for _ in texts]  # noqa: E731
    first = next(ppo.ppo(policy, tokenizer, examples, "ncot", reward, CONFIG, SAMPLING))
    assert first["reward"] == pytest.approx(0.1) and first["accuracy"] == 0.0
    assert first["extracted"] == 1.0 and 0 <= first["ended"] <= 1 and first["length"] <= 8


def test_minibatches_hold_every_row_once(new_model, tokenizer, examples):
    _, exp = experience(lora.add_adapter(new_model(), LORA), tokenizer, examples)
    parts = ppo.split_rows(exp.rollout, 3)
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    assert [len(p) for p in parts] == [3, 3, 2]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_policy(new_model, tokenizer, examples):
    policy = lora.add_adapter(new_model(), LORA)
    before = [p.clone() for p in lora.trainable_parameters(policy)]
    reward = lambda texts, _: [Graded(float("inf"), "1", False) for _ in texts]  # noqa: E731
    with pytest.raises(NumericalError, match=r"PPO step 1: loss is .*; lower ppo\.lr"):
        next(ppo.ppo(policy, tokenizer, examples, "ncot", reward, CONFIG, SAMPLING))
    for a, b in zip(before, lora.trainable_parameters(policy), strict=True):
        assert torch.equal(a, b)
