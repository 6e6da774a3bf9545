"""PPO's relatives GRPO, RLOO and REINFORCE: reinforcement learning without a value head.

They sample, grade and step as :mod:`reft_lib.ppo` does, and differ from it in three places. Below,
r is the score of a response, and mean and std are taken over the scores named.

========= ================================ ========================= ==========================
method    advantage                        loss                      KL to the warm-up policy
========= ================================ ========================= ==========================
PPO       of a token: GAE, a value head    clipped ratio of a token  in each token's reward
GRPO      (r - mean) / std of its group    clipped ratio of a token  in the loss, k3 of a token
RLOO      r - mean of the group's others   -A log pi of a response   in the response's score
REINFORCE r - mean of the batch            -A log pi of a response   in the response's score
========= ================================ ========================= ==========================

A group is ``group_size`` responses to one question. Where all of them are worth the same, GRPO and
RLOO learn nothing from that question but the KL penalty: ``flat_groups`` counts such groups.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import kl, lora, models, parallel, ppo, relative_losses, rollout
from reft_lib.config import Format, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError
from reft_lib.loop import Loop, new_loop
from reft_lib.method_settings import RelativesConfig
from reft_lib.rewards import Graded, RewardFn
from reft_lib.rollout import Rollout
from reft_lib.shared_rollout import sample_and_grade


@dataclass
class Experience:
    """What one rollout batch teaches: B responses, those to the same question side by side."""

    rollout: Rollout
    graded: list[Graded]
    old_logp: Tensor
    """(B, R): log-probabilities in nats under the policy that sampled; 0 under padding. Where
    GRPO takes one step a batch its ratios are 1, and these are what sampling gave."""
    ref_logp: Tensor
    """(B, R): the same under the warm-up policy."""
    scores: Tensor
    """(B,): the grades; for RLOO and REINFORCE less the KL penalty."""
    advantages: Tensor
    """(B,): one for each response, which all its tokens share."""


def begin(policy: Any, config: RelativesConfig, seed: int = 0) -> Loop:
    """Return the state of a new loop of :func:`train`."""
    return new_loop(lora.trainable_parameters(policy), config.lr, seed, policy.device)


def train(
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    reward: RewardFn,
    config: RelativesConfig,
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
    config : RelativesConfig
    sampling : SampleConfig
        Its ``max_new_tokens`` cuts responses off.
    seed : int
        Seed of question order and sampling.
    bf16 : bool
        Run matrix products in bfloat16.
    loop : Loop, optional
        What :func:`begin` made, perhaps restored: training goes on from its step.

    Yields
    ------
    dict
        ``step`` (from 1), the metrics of :func:`summarise`, and those of :func:`update` in the
        step's last update. What is called as in :func:`reft_lib.ppo.ppo` means the same.

    Raises
    ------
    NumericalError
        If a loss is not finite; the policy keeps its last finite state.
    """
    loop = loop or begin(policy, config, seed)
    while loop.step < config.steps:
        started, loop.step = time.monotonic(), loop.step + 1
        batch = [examples[i] for i in loop.draw(len(examples), config.questions, whole=True)]
        sampled, graded = sample_groups(
            policy, tokenizer, batch, fmt, reward, config.group_size, sampling, loop.generator, bf16
        )
        with models.autocast(policy.device, bf16):
            experience = gather(policy, sampled, graded, config)
            metrics = summarise(experience, config.group_size)
            for _ in range(config.update_epochs):
                for rows in ppo.split_rows(sampled, config.minibatches):
                    stats = update(policy, loop, experience, rows, config)
        seconds = time.monotonic() - started
        yield {"step": loop.step, **metrics, **stats, "step_seconds": seconds}


def sample_groups(
    policy: Any,
    tokenizer: Any,
    batch: Sequence[Example],
    fmt: Format,
    reward: RewardFn,
    group_size: int,
    sampling: SampleConfig,
    generator: torch.Generator,
    bf16: bool = False,
) -> tuple[Rollout, list[Graded]]:
    """Sample ``group_size`` responses to each question, side by side, and grade them."""
    room = models.context_length(policy) - sampling.max_new_tokens
    prompt_ids = rollout.encode(tokenizer, batch, fmt, room)
    return sample_and_grade(
        policy, tokenizer, prompt_ids, batch, reward, sampling.max_new_tokens, generator,
        samples_per_prompt=group_size, bf16=bf16,
    )  # fmt: skip


@torch.no_grad()
def gather(
    policy: Any, sampled: Rollout, graded: list[Graded], config: RelativesConfig
) -> Experience:
    """Turn a graded rollout into advantages (B,)."""
    mask = sampled.response_mask
    old_logp, ref_logp = torch.zeros_like(sampled.logprobs), torch.zeros_like(sampled.logprobs)
    for minibatch_rows in ppo.split_rows(sampled, config.minibatches):
        for rows in parallel.micro_batches(minibatch_rows, config.micro_batch):
            part = rollout.minibatch(sampled, rows)
            r = part.response_mask.shape[1]
            if not _one_step(config):
                old_logp[rows, :r], _ = rollout.score(policy, part)
            with lora.reference(policy):
                ref_logp[rows, :r], _ = rollout.score(policy, part)
    parallel.sum_tensors(old_logp, ref_logp)  # 0 in the rows that others have read
    if _one_step(config):
        old_logp = sampled.logprobs.clone()
    for x in (old_logp, ref_logp):
        x.mul_(mask)  # what was read under padding means nothing
    scores = torch.tensor([g.reward for g in graded], device=mask.device)
    if config.kind != "grpo":
        scores = scores + kl.kl_rewards(old_logp, ref_logp, mask, config.beta).sum(dim=1)
    if config.kind == "grpo":
        advantages = relative_losses.group_advantages(scores, config.group_size)
    elif config.kind == "rloo":
        advantages = relative_losses.leave_one_out_advantages(scores, config.group_size)
    else:
        advantages = relative_losses.batch_advantages(scores)
    return Experience(sampled, graded, old_logp, ref_logp, scores, advantages)


def _one_step(config: RelativesConfig) -> bool:
    """Return whether GRPO sees its samples once, so that their ratios need not be read before."""
    return config.kind == "grpo" and config.update_epochs * config.minibatches == 1


def backward(
    policy: Any, experience: Experience, rows: Tensor, config: RelativesConfig, step: int = 0
) -> dict[str, float]:
    """Add the gradient of the loss on the given rows to the parameters' own; no step is taken.

    Several processes deal the rows out: each adds its part of the gradient.
    The rows go through the model in micro-batches whose gradients add up to those of all rows.

    Returns
    -------
    dict
        The statistics of the loss, see :mod:`reft_lib.relative_losses`.

    Raises
    ------
    NumericalError
        If the loss is not finite.
    """
    total: dict[str, float] = {}
    lengths = experience.rollout.lengths
    for some in parallel.micro_batches(rows, config.micro_batch):
        part = rollout.minibatch(experience.rollout, some)
        mask = part.response_mask
        logp, _ = rollout.score(policy, part)
        old_logp = experience.old_logp[some, : mask.shape[1]]
        if _one_step(config):
            old_logp = logp.detach()  # to the bit, which another reading of them would not be
        advantages, share = experience.advantages[some], len(some) / len(rows)
        tokens = float(lengths[some].sum() / lengths[rows].sum())
        if config.kind == "grpo":
            ref_logp = experience.ref_logp[some, : mask.shape[1]]
            loss, stats = relative_losses.grpo_loss(
                logp, old_logp, ref_logp, advantages, mask,
                config.clip, config.beta, config.mean_per,
            )  # fmt: skip
            if config.mean_per == "token":
                share = tokens
        else:
            loss, stats = relative_losses.reinforce_loss(logp, old_logp, advantages, mask)
        if not torch.isfinite(loss):
            where = f"{config.kind.upper()} step {step}"
            raise NumericalError(f"{where}: loss is {loss.item()}; lower relatives.lr")
        (loss * share).backward()
        for name, x in stats.items():
            weight = share if name.endswith("_loss") else tokens  # the others: means over tokens
            total[name] = total.get(name, 0.0) + weight * x
    return total


def update(
    policy: Any, loop: Loop, experience: Experience, rows: Tensor, config: RelativesConfig
) -> dict[str, float]:
    """Take one optimiser step on the given rows.

    Returns
    -------
    dict
        What :func:`backward` returns, and ``grad_norm`` before it is clipped.
    """
    loop.optimizer.zero_grad()
    stats = backward(policy, experience, rows, config, loop.step)
    parameters = lora.trainable_parameters(policy)
    stats = parallel.sum_gradients(parameters, stats)
    stats["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))
    loop.optimizer.step()
    return stats


def summarise(experience: Experience, group_size: int) -> dict[str, float]:
    """Return what a rollout batch shows, before its updates.

    Returns
    -------
    dict
        PPO's metrics (:func:`reft_lib.ppo.summarise`), and ``flat_groups``, the share of groups
        in which all grades are equal.
    """
    sampled, mask = experience.rollout, experience.rollout.response_mask
    grades = torch.tensor([g.reward for g in experience.graded]).view(-1, group_size)
    old_logp, ref_logp, n = experience.old_logp, experience.ref_logp, len(mask)
    return {
        **ppo.rollout_metrics(sampled, experience.graded, sampled.logprobs),
        "kl": float((kl.k1(old_logp, ref_logp) * mask).sum() / n),
        "kl_k3": float((kl.k3(old_logp, ref_logp) * mask).sum() / n),
        "flat_groups": float((grades == grades[:, :1]).all(dim=1).float().mean()),
    }
