"""The noise of gradients, beside a covariance matrix, a gradient by hand, and known properties."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from reft_lib import gradient_noise, lora, ppo
from reft_lib.config import LoraSettings, PpoConfig, SampleConfig
from reft_lib.errors import UserError
from reft_lib.gradient_noise import Noise, Spread, batches, measure, of_ppo, of_relative
from reft_lib.method_settings import RelativesConfig
from reft_lib.rewards import Graded

SAMPLING = SampleConfig(max_new_tokens=5)
RLOO = RelativesConfig("rloo", group_size=4, batch_size=8, micro_batch=5, beta=0.0)


def with_e(texts, examples):
    return [Graded(float("e" in t), t or None, "e" in t) for t in texts]


@pytest.fixture
def policy(new_model):
    policy = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return policy


def test_trace_and_signal_are_those_of_the_covariance_matrix():
    vectors = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) + 2.0
    spread = Spread()
    for x in vectors:
        spread.add(x)
    found = spread.noise()
    covariance = np.cov(vectors.double().numpy(), rowvar=False)
    mean = vectors.double().mean(dim=0).numpy()
    assert found.batches == 9
    assert found.trace == pytest.approx(np.trace(covariance))
    assert found.signal == pytest.approx(mean @ mean - np.trace(covariance) / 9)
    assert found.ratio == pytest.approx(found.trace / found.signal)


def test_the_signal_is_not_biased_by_the_noise():
    """Few noisy vectors, many times: on average the true squared length, here 4."""
    generator = torch.Generator().manual_seed(1)
    signals, traces = [], []
    for _ in range(400):
        spread = Spread()
        for x in torch.randn(3, 4, generator=generator):
            spread.add(x + 1.0)
        noise = spread.noise()
        signals.append(noise.signal)
        traces.append(noise.trace)
    assert np.mean(signals) == pytest.approx(4.0, abs=4 * np.std(signals) / 20)
    assert np.mean(traces) == pytest.approx(4.0, abs=4 * np.std(traces) / 20)


def test_too_few_batches_and_no_signal():
    with pytest.raises(UserError, match="0 given, at least 2"):
        measure([], {"any": lambda *_: torch.zeros(1)})
    with pytest.raises(UserError, match="1 given"):
        measure([(None, None)], {"any": lambda *_: torch.zeros(1)})
    assert math.isnan(Noise(2, 1.0, -0.1).ratio)


def test_batches_ask_what_they_should(policy, tokenizer, examples):
    asked = []

    def reward(texts, batch):
        asked.append([e.id for e in batch])
        return with_e(texts, batch)

    given = (policy, tokenizer, examples, "ncot", reward, 2, SAMPLING)
    first, second = batches(*given, count=2)
    everything = [f"made-{i // 2}" for i in range(8)]
    assert asked == [everything, everything] and first[0].texts != second[0].texts
    asked.clear()
    list(batches(*given, count=5, questions=2))
    assert all(len(ids) == 4 and len(set(ids)) == 2 for ids in asked)
    assert len({tuple(ids) for ids in asked}) > 1
    assert next(batches(*given, count=1))[0].texts == first[0].texts


def test_the_gradient_is_that_of_the_equation(policy, tokenizer, examples):
    """RLOO, row by row without padding, through the model's own logits."""
    ((sampled, graded),) = batches(
        policy, tokenizer, examples[:2], "ncot", with_e, 4, SAMPLING, count=1
    )
    found = of_relative(policy, RLOO)(sampled, graded)
    rewards = [g.reward for g in graded]
    assert len(set(rewards[:4])) == 2
    loss, parameters = 0.0, lora.trainable_parameters(policy)
    for i in range(8):
        group = rewards[i // 4 * 4 : i // 4 * 4 + 4]
        advantage = rewards[i] - (sum(group) - rewards[i]) / 3
        row = sampled.sequences[i][sampled.attention_mask[i].bool()]
        n = int(sampled.lengths[i])
        logp = torch.log_softmax(policy(input_ids=row[None]).logits[0], dim=1)
        chosen = [logp[t - 1, row[t]] for t in range(len(row) - n, len(row))]
        loss = loss - advantage * sum(chosen) / 8
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    assert all(p.grad is None or not p.grad.any() for p in parameters)  # nothing is left behind


def test_baselines_take_out_what_all_responses_share(policy, tokenizer, examples):
    """Rewards of 5 and 6: without a baseline the 5 is noise. RLOO does not see it at all."""

    def shifted(texts, batch):
        return [dataclasses.replace(g, reward=g.reward + 5) for g in with_e(texts, batch)]

    rloo, single = of_relative(policy, RLOO), dataclasses.replace(RLOO, kind="reinforce")
    estimators = {
        "none": of_relative(policy, single, baseline=False),
        "reinforce": of_relative(policy, single),
        "rloo": rloo,
    }
    found = {}
    for reward in (with_e, shifted):
        rollouts = batches(policy, tokenizer, examples[:2], "ncot", reward, 4, SAMPLING, count=6)
        found[reward] = measure(rollouts, estimators)
    for name in ("rloo", "reinforce"):
        assert found[shifted][name].trace == pytest.approx(found[with_e][name].trace, rel=1e-3)
        assert found[shifted]["none"].trace > 10 * found[shifted][name].trace


def test_ppo_is_measured_on_the_same_rollouts(policy, tokenizer, examples):
    """With lambda 1 and a value of 0, PPO is REINFORCE with whitened scores."""
    config = PpoConfig(beta=0.0, lam=1.0, micro_batch=5, mean_per="token", value_trunk="detached")
    head = ppo.new_value_head(policy, config, seed=0)
    for p in head.parameters():
        p.data.zero_()
    before = [p.clone() for p in policy.parameters()]
    ((sampled, graded),) = batches(
        policy, tokenizer, examples[:2], "ncot", with_e, 4, SAMPLING, count=1
    )
    found = of_ppo(policy, head, config)(sampled, graded)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert all(p.grad is None for p in head.parameters())

    bare = of_relative(policy, dataclasses.replace(RLOO, kind="reinforce"), baseline=False)
    n, rewards = sampled.lengths.double(), [g.reward for g in graded]
    tokens = torch.tensor(rewards).double().repeat_interleave(sampled.lengths)
    whitened = [
        dataclasses.replace(g, reward=float((g.reward - tokens.mean()) / tokens.std(correction=0)))
        for g in graded
    ]
    wanted = bare(sampled, whitened) * 8 / float(n.sum())  # mean over tokens, not responses
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_a_parameter_without_gradient_counts_as_zero():
    layer = torch.nn.Linear(2, 1)
    (3 * layer.weight.sum()).backward()
    assert gradient_noise.take_gradient(layer).tolist() == [3, 3, 0]
    assert layer.weight.grad is None
