"""Adversarial fine-tuning: a generator learns to write what a discriminator takes for real.

The generator is the policy; what it needs to see is text, without labels. The discriminator reads a
prompt with a continuation and gives the log-odds that a real author wrote it. One learns to tell,
the other to be taken for real (Goodfellow et al. 2014):

    min_G max_D   E_{y ~ real} log D(x, y) + E_{y ~ G} log (1 - D(x, y)),     D = s(logit)

Text is made of discrete choices, through which no gradient flows back, so the generator learns by
reinforcement from the discriminator's opinion (SeqGAN, Yu et al. 2017). A discriminator that has
nothing left to learn knows logit = log p_real(y) - log p_G(y), and the mean of that over generated
texts is -KL(G || real). To write only one half of what is real costs ln 2 nats there, and no more;
under maximum likelihood, which is KL(real || G), a real text that is never written costs ever so
much. A discriminator is also late: until it has seen that one text comes too often, that text is
well paid. Both pull towards few texts, mode collapse, so diversity is measured in every round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import (
    discriminator,
    diversity,
    kl,
    lora,
    losses,
    models,
    ppo,
    relative_losses,
    rollout,
    sft,
)
from reft_lib.config import LoraSettings, SampleConfig
from reft_lib.discriminator import Discriminator, Text, encode, move, score, told_right
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop, new_loop
from reft_lib.method_settings_adversarial import AdversarialConfig
from reft_lib.rollout import Rollout
from reft_lib.scorer import Row


@dataclass
class Players:
    """Both players between two rounds."""

    generator: Loop
    discriminator: Discriminator


Watch = Callable[[Rollout, Sequence[Text], Tensor], Mapping[str, float]]
"""What the caller measures on a batch: the rollout, the B texts begun, the B log-odds of real."""


def rewards(logits: Tensor, kind: str) -> Tensor:
    """Return the generator's reward for texts with these log-odds of being real.

    The probability hardly differs between texts that are all found out; the log-odds still do.
    """
    return logits.sigmoid() if kind == "probability" else logits


def begin(
    policy: Any, tokenizer: Any, config: AdversarialConfig, settings: LoraSettings, seed: int = 0
) -> Players:
    """Return both players before the first round; the policy gets the discriminator's adapter."""
    own = lora.adapter_parameters(policy, policy.active_adapter)
    judge = discriminator.attach(policy, tokenizer, config, settings, seed)
    return Players(new_loop(own, config.lr, seed, policy.device), judge)


def warm_up(
    policy: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    config: AdversarialConfig,
    steps: int,
    seed: int = 0,
    bf16: bool = False,
) -> Iterator[dict[str, float]]:
    """Teach the generator real texts by maximum likelihood, as SeqGAN begins; yields every step.

    Without it a discriminator may find everything out at once, and no text is better than another.
    What is learnt belongs below the reference: merge it and put a fresh adapter on.

    Yields
    ------
    dict
        ``likelihood_loss``, nats a token.
    """
    rows = encode(tokenizer, texts, models.context_length(policy))
    loop = new_loop(lora.trainable_parameters(policy), config.lr, seed, policy.device)
    for _ in range(steps):
        with models.autocast(policy.device, bf16):
            yield learn_by_heart(policy, tokenizer, loop, rows, config)


def train(
    policy: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    held: Sequence[Text],
    config: AdversarialConfig,
    settings: LoraSettings,
    sampling: SampleConfig,
    seed: int = 0,
    bf16: bool = False,
    watch: Watch = lambda sampled, texts, logits: {},
    players: Players | None = None,
) -> Iterator[dict[str, float]]:
    """Train generator and discriminator in turn, in place; yields after every round.

    Parameters
    ----------
    policy : peft.PeftModel
        The generator. With its adapter off it is the reference, and the discriminator's trunk.
    tokenizer : tokenizer
    texts, held : sequences of Text
        Real texts to learn from, and others on which both players are measured.
    config : AdversarialConfig
    settings : LoraSettings
        The discriminator's adapter.
    sampling : SampleConfig
        Its ``max_new_tokens`` cuts continuations off.
    seed : int
        Seed of adapter, head, order and sampling.
    bf16 : bool
        Run matrix products in bfloat16, but for those of sampling.
    watch : callable
        Measures every batch of generated texts, too.
    players : Players, optional
        What :func:`begin` made: training goes on from there.

    Yields
    ------
    dict
        ``step`` (from 1); the metrics of :func:`measure`, on texts that the discriminator has not
        learnt from; means over the round's updates: ``discriminator_loss``, ``policy_loss``,
        ``likelihood_loss``, where there are such; ``step_seconds``.

    Raises
    ------
    UserError
        If there are too few texts, or one does not fit the context.
    NumericalError
        If a loss is not finite.
    """
    room = models.context_length(policy) - 1
    rows, apart = (encode(tokenizer, some, room) for some in (texts, held[: config.measured]))
    if len(rows) < config.batch_size or not apart:
        raise UserError(f"{len(rows)} real texts and {len(apart)} held out; give a batch of each")
    players = players or begin(policy, tokenizer, config, settings, seed)
    loop, judge = players.generator, players.discriminator
    while loop.step < config.steps:
        started, loop.step = time.monotonic(), loop.step + 1
        chosen = loop.draw(len(rows), config.batch_size, whole=True)
        real = [rows[i] for i in chosen]
        sampled = rollout.sample(
            policy, tokenizer, [p for p, _ in real], sampling.max_new_tokens,
            generator=loop.generator,
        )  # fmt: skip
        fake = written(sampled, real)
        ref_logp = reference_logp(policy, sampled, config)  # in float32, as sampling is
        with models.autocast(policy.device, bf16):
            logits = score(judge, fake, config)  # before the judge learns from them
            metrics = measure(policy, judge, sampled, logits, ref_logp, real, apart, config)
            metrics |= watch(sampled, [texts[i] for i in chosen], logits)
            metrics |= discriminator.learn(judge, real, fake, config, loop.step)
            if loop.step > config.head_start:
                if config.reward != "none":
                    metrics |= learn_to_please(policy, loop, sampled, logits, ref_logp, config)
                if config.forcing:
                    metrics |= learn_by_heart(policy, tokenizer, loop, rows, config)
        yield {"step": loop.step, **metrics, "step_seconds": time.monotonic() - started}


def written(sampled: Rollout, real: Sequence[Row]) -> list[Row]:
    """Return what was generated as the discriminator reads it: the very tokens, EOS if it came."""
    return [
        (prompt, ids[:n].tolist())
        for (prompt, _), ids, n in zip(real, sampled.responses, sampled.lengths, strict=True)
    ]


@torch.no_grad()
def reference_logp(policy: Any, sampled: Rollout, config: AdversarialConfig) -> Tensor:
    """Return the sampled tokens' log-probabilities under the reference, (B, R), 0 under padding."""
    found = torch.zeros_like(sampled.logprobs)
    with lora.reference(policy):
        for rows in torch.arange(len(found), device=found.device).split(config.micro_batch):
            part = rollout.minibatch(sampled, rows)
            found[rows, : part.response_mask.shape[1]] = rollout.score(policy, part)[0]
    return found * sampled.response_mask


def measure(
    policy: Any,
    judge: Discriminator,
    sampled: Rollout,
    logits: Tensor,
    ref_logp: Tensor,
    real: Sequence[Row],
    held: Sequence[Row],
    config: AdversarialConfig,
) -> dict[str, float]:
    """Return how both players stand, before they learn from this round's texts.

    Returns
    -------
    dict
        Generator: ``reward``, the mean probability of being real that its texts are given;
        ``log_odds``, the mean logit; ``kl`` and ``kl_k3`` to the reference (nats a text);
        ``entropy`` (nats a token); ``length``, ``ended``; ``held_nll``, its loss in nats a token on
        held-out real texts; those of :func:`reft_lib.diversity.summary`.
        Discriminator: shares told rightly, ``fake_right`` of new generated texts, ``real_right`` of
        held-out real ones, ``real_known`` of real ones that it may have learnt from; ``right``, the
        mean of the first two.
    """
    mask, n = sampled.response_mask, len(logits)
    fake_right, real_right = told_right(-logits), told_right(score(judge, held, config))
    batch = sft.collate(held, judge.tokenizer.eos_token_id, policy.device)
    with torch.no_grad():
        held_nll = sft.loss(policy, batch).item()
    return {
        "reward": logits.sigmoid().mean().item(),
        "log_odds": logits.mean().item(),
        "fake_right": fake_right,
        "real_right": real_right,
        "right": (fake_right + real_right) / 2,
        "real_known": told_right(score(judge, real, config)),
        "kl": float((kl.k1(sampled.logprobs, ref_logp) * mask).sum() / n),
        "kl_k3": float((kl.k3(sampled.logprobs, ref_logp) * mask).sum() / n),
        "entropy": float(-losses.masked_mean(sampled.logprobs, mask, "token")),
        "length": float(sampled.lengths.float().mean()),
        "ended": float(sampled.ended.float().mean()),
        "held_nll": held_nll,
        **diversity.summary(sampled.texts),
    }


def learn_to_please(
    policy: Any,
    loop: Loop,
    sampled: Rollout,
    logits: Tensor,
    ref_logp: Tensor,
    config: AdversarialConfig,
) -> dict[str, float]:
    """Take the generator's steps of REINFORCE on a round's texts; returns its mean loss.

    The score of a text is its reward less the KL penalty, its advantage is over the batch's mean.
    """
    penalty = kl.kl_rewards(sampled.logprobs, ref_logp, sampled.response_mask, config.beta)
    scores = rewards(logits, config.reward) + penalty.sum(dim=1)
    advantages, total = relative_losses.batch_advantages(scores), 0.0
    for rows in ppo.split_rows(sampled, config.minibatches):
        loop.optimizer.zero_grad()
        for some in rows.split(config.micro_batch):
            part, share = rollout.minibatch(sampled, some), len(some) / len(rows)
            logp, _ = rollout.score(policy, part)
            loss, _ = relative_losses.reinforce_loss(
                logp, part.logprobs, advantages[some], part.response_mask
            )
            if not torch.isfinite(loss):
                raise NumericalError(f"generator, round {loop.step}: loss is {loss.item()}")
            (loss * share).backward()
            total += loss.item() * share / config.minibatches
        move(loop, config)
    return {"policy_loss": total}


def learn_by_heart(
    policy: Any, tokenizer: Any, loop: Loop, rows: Sequence[Row], config: AdversarialConfig
) -> dict[str, float]:
    """Take the generator's steps of maximum likelihood on real texts; returns their mean loss.

    A step reads as many texts as one of the generator's other steps. There is at least one.
    """
    size, steps, total = config.batch_size // config.minibatches, max(1, config.forcing), 0.0
    for _ in range(steps):
        loop.optimizer.zero_grad()
        batch = [rows[i] for i in loop.draw(len(rows), size, whole=True)]
        for part, share in sft.micro_batches(batch, config.micro_batch):
            loss = sft.loss(policy, sft.collate(part, tokenizer.eos_token_id, policy.device))
            if not torch.isfinite(loss):
                raise NumericalError(f"likelihood, round {loop.step}: loss is {loss.item()}")
            (loss * share).backward()
            total += loss.item() * share / steps
        move(loop, config)
    return {"likelihood_loss": total}
