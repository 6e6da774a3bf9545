"""ReFT's reinforcement phase: PPO from the warm-up policy with an answer-checking reward.

Algorithm 1 of Luong et al. 2024, from top to bottom: sample one response for each question, grade
its answer, charge for leaving the warm-up policy, estimate advantages, improve the policy with
clipped steps, teach the value head. The reference policy is the same network with the adapter
switched off, so nothing is held in memory twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import advantage, kl, lora, losses, models, parallel, rollout
from reft_lib.config import Format, LoraSettings, PpoConfig, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError
from reft_lib.loop import Loop, new_loop
from reft_lib.rewards import Graded, RewardFn
from reft_lib.rollout import Rollout
from reft_lib.shared_rollout import sample_and_grade
from reft_lib.value import ValueHead

VALUE_ADAPTER = "value"


@dataclass
class Experience:
    """What one rollout batch teaches: everything that stays fixed during its updates.

    All tensors are (B, R), and 0 under padding.
    """

    rollout: Rollout
    graded: list[Graded]
    old_logp: Tensor
    """Log-probabilities in nats under the policy that sampled."""
    ref_logp: Tensor
    """Log-probabilities in nats under the warm-up policy."""
    old_values: Tensor
    rewards: Tensor
    """KL penalty on every token, plus the grade on the last."""
    raw_advantages: Tensor
    """Before whitening."""
    advantages: Tensor
    """Whitened."""
    returns: Tensor


def ppo(
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    reward: RewardFn,
    config: PpoConfig,
    sampling: SampleConfig,
    seed: int = 0,
    bf16: bool = False,
    loop: Loop | None = None,
) -> Iterator[dict[str, float]]:
    """Train the policy's adapter in place; yields after every rollout batch.

    Parameters
    ----------
    policy : peft.PeftModel
        The merged warm-up policy with a fresh adapter: with the adapter off it is the reference.
    tokenizer : tokenizer
    examples : sequence of Example
        Questions and answers; no annotation is read.
    fmt : {"ncot", "pcot"}
    reward : RewardFn
        Grades responses.
    config : PpoConfig
    sampling : SampleConfig
        Its ``max_new_tokens`` cuts responses off.
    seed : int
        Seed of question order, sampling, value head.
    bf16 : bool
        Run matrix products in bfloat16.
    loop : Loop, optional
        What :func:`begin` made, perhaps restored: training goes on from its step.

    Yields
    ------
    dict
        ``step`` (from 1) and the metrics of :func:`summarise` and of the update. Between two
        yields the caller may evaluate or stop.

    Raises
    ------
    NumericalError
        If a loss is not finite; the policy keeps its last finite state.
    """
    loop = loop or begin(policy, config, seed)
    head, optimizer = loop.head, loop.optimizer
    assert head is not None
    room = models.context_length(policy) - sampling.max_new_tokens
    while loop.step < config.steps:
        started, loop.step = time.monotonic(), loop.step + 1
        batch = [examples[i] for i in loop.draw(len(examples), config.batch_size, whole=True)]
        prompt_ids = rollout.encode(tokenizer, batch, fmt, room)
        sampled, graded = sample_and_grade(
            policy, tokenizer, prompt_ids, batch, reward, sampling.max_new_tokens, loop.generator,
            bf16=bf16,
        )  # fmt: skip
        with models.autocast(policy.device, bf16):
            experience = gather(policy, head, sampled, graded, config)
            metrics = summarise(experience)
            for _ in range(config.ppo_epochs):
                for rows in split_rows(sampled, config.minibatches):
                    stats = update(policy, head, optimizer, experience, rows, config, loop.step)
        seconds = time.monotonic() - started
        yield {"step": loop.step, **metrics, **stats, "step_seconds": seconds}


def begin(policy: Any, config: PpoConfig, seed: int = 0) -> Loop:
    """Return the state of a new loop: value head, optimiser, and sources of randomness.

    One optimiser trains the policy's adapter and the value head together.
    """
    head = new_value_head(policy, config, seed)
    parameters = [*lora.trainable_parameters(policy), *head.parameters()]
    return new_loop(parameters, config.lr, seed, policy.device, head)


def new_value_head(policy: Any, config: PpoConfig, seed: int) -> ValueHead:
    """Return a value head; for a separate value network also give the policy its second adapter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ValueHead(policy.config.hidden_size, detach=config.value_trunk == "detached")
    if config.value_trunk == "separate":
        policy_lora = policy.peft_config[policy.active_adapter]
        targets = policy_lora.target_modules  # peft writes "all-linear" out, as a set
        targets = targets if isinstance(targets, str) else LoraSettings.targets
        settings = LoraSettings(policy_lora.r, policy_lora.lora_alpha, targets)
        lora.add_adapter(policy, settings, seed, VALUE_ADAPTER)
    return head.to(policy.device)


@torch.no_grad()
def gather(
    policy: Any, head: ValueHead, sampled: Rollout, graded: list[Graded], config: PpoConfig
) -> Experience:
    """Turn a graded rollout into advantages and returns (all tensors (B, R))."""
    mask = sampled.response_mask
    old_logp, old_values = torch.zeros_like(sampled.logprobs), torch.zeros_like(sampled.logprobs)
    ref_logp = torch.zeros_like(sampled.logprobs)
    for minibatch_rows in split_rows(sampled, config.minibatches):
        for rows in parallel.micro_batches(minibatch_rows, config.micro_batch):
            part = rollout.minibatch(sampled, rows)
            r = part.response_mask.shape[1]
            old_logp[rows, :r], old_values[rows, :r] = read(policy, head, part, config)
            with lora.reference(policy):
                ref_logp[rows, :r], _ = rollout.score(policy, part)
    for x in (old_logp, ref_logp, old_values):
        x.mul_(mask)  # what was read under padding means nothing
    parallel.sum_tensors(old_logp, ref_logp, old_values)  # 0 in the rows that others have read
    scores = torch.tensor([g.reward for g in graded], device=mask.device)
    rewards = advantage.terminal_rewards(scores, mask)
    rewards = rewards + kl.kl_rewards(old_logp, ref_logp, mask, config.beta)
    raw, returns = advantage.gae(rewards, old_values, mask, config.gamma, config.lam)
    whitened = advantage.whiten(raw, mask)
    return Experience(
        sampled, graded, old_logp, ref_logp, old_values, rewards, raw, whitened, returns
    )


def read(policy: Any, head: ValueHead, part: Rollout, config: PpoConfig) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and values (b, r) of some rows under the present parameters."""
    if config.value_trunk != "separate":
        logp, values = rollout.score(policy, part, head)
        assert values is not None
        return logp, values
    logp, _ = rollout.score(policy, part)
    with lora.active(policy, VALUE_ADAPTER):
        hidden = rollout.last_hidden(policy, part.sequences, part.attention_mask, part.position_ids)
    return logp, head(hidden[:, part.prompt_width - 1 : -1])


def update(
    policy: Any,
    head: ValueHead,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    rows: Tensor,
    config: PpoConfig,
    step: int,
) -> dict[str, float]:
    """Take one optimiser step on the given rows; returns the statistics of the losses.

    The rows go through the model in micro-batches whose gradients add up to those of all rows.
    """
    optimizer.zero_grad()
    total: dict[str, float] = {}
    mask = experience.rollout.response_mask
    for some in parallel.micro_batches(rows, config.micro_batch):
        part = rollout.minibatch(experience.rollout, some)
        r = part.response_mask.shape[1]
        logp, values = read(policy, head, part, config)
        policy_loss, policy_stats = losses.policy_loss(
            logp,
            experience.old_logp[some, :r],
            experience.advantages[some, :r],
            part.response_mask,
            config.clip,
            config.mean_per,
        )
        value_loss, value_stats = losses.value_loss(
            values,
            experience.old_values[some, :r],
            experience.returns[some, :r],
            part.response_mask,
            config.value_clip,
            config.mean_per,
        )
        tokens = float(part.response_mask.sum() / mask[rows].sum())
        share = tokens if config.mean_per == "token" else len(some) / len(rows)
        loss = policy_loss + config.value_coef * value_loss
        if not torch.isfinite(loss):
            raise NumericalError(f"PPO step {step}: loss is {loss.item()}; lower ppo.lr")
        (loss * share).backward()
        stats = {"policy_loss": policy_loss.item(), "value_loss": value_loss.item()}
        for name, x in {**stats, **policy_stats, **value_stats}.items():
            weight = share if name in stats else tokens  # the others are means over tokens
            total[name] = total.get(name, 0.0) + weight * x
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    total = parallel.sum_gradients(parameters, total)
    total["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))
    optimizer.step()
    return total


def split_rows(sampled: Rollout, parts: int) -> list[Tensor]:
    """Return the rows of each minibatch (int64), rows of like length side by side.

    Every ``parts``-th row by length goes into the same minibatch, so that minibatches are alike
    while micro-batches within one hold little padding.
    """
    order = sampled.attention_mask.sum(dim=1).argsort(stable=True)
    return [order[i::parts] for i in range(parts)]


def summarise(experience: Experience) -> dict[str, float]:
    """Return what a rollout batch shows, before its updates.

    Returns
    -------
    dict
        ``reward`` and ``accuracy`` apart (0.1 for a wrong answer is no accuracy), ``extracted``
        (share with an answer), ``kl`` (k1, nats a response), ``kl_k3`` (the same, never
        negative), ``entropy`` (mean of -log p, nats a token), ``length`` (tokens), ``ended``.
    """
    sampled, mask = experience.rollout, experience.rollout.response_mask
    old_logp, ref_logp, n = experience.old_logp, experience.ref_logp, len(mask)
    return {
        **rollout_metrics(sampled, experience.graded, old_logp),
        "kl": float((kl.k1(old_logp, ref_logp) * mask).sum() / n),
        "kl_k3": float((kl.k3(old_logp, ref_logp) * mask).sum() / n),
    }


def rollout_metrics(sampled: Rollout, graded: Sequence[Graded], logp: Tensor) -> dict[str, float]:
    """Return what a graded rollout batch shows by itself; ``logp`` (B, R) is the policy's.

    These are the metrics of :func:`summarise` but for the KL.
    """
    n = len(graded)
    return {
        "reward": sum(g.reward for g in graded) / n,
        "accuracy": sum(g.correct for g in graded) / n,
        "extracted": sum(g.answer is not None for g in graded) / n,
        "entropy": float(-losses.masked_mean(logp, sampled.response_mask, "token")),
        "length": float(sampled.lengths.float().mean()),
        "ended": float(sampled.ended.float().mean()),
    }
