"""Record of ReFT's training under the lens: some responses of one run, token by token.

The run is ReFT of preset ``nano`` with programs, to the bit: the same warm-up, the same loop as
:func:`reft_lib.ppo.ppo`, the same dice. Every training question is answered once in each pass over
them, so that a question is met again and again by a policy that changes; what PPO makes of a few
such answers is kept: nothing here is sampled beside the training, and so the advantages and ratios
are those by which the policy was really trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from reft_lib import data, lens_log, models, ppo, rollout, runlog
from reft_lib.bench import Bench, one_thread
from reft_lib.config import Format, PpoConfig, RunConfig, SampleConfig, preset, to_dict
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.lens_log import Sighting
from reft_lib.rewards import AnswerReward, RewardFn

KEPT = 2
"""Questions whose answers are kept."""
METRICS = ("reward", "accuracy", "kl", "grad_norm")
"""Of each step, by which the run can be known again in its own run log."""
LONGEST = 24
"""Tokens that such an answer may have, so that it can be read at a glance."""
FEWEST = 8
"""Tokens that it must have, so that there is something to see."""


@dataclass(frozen=True)
class Watched:
    """One step of PPO: its rollout batch, and how the updates moved it."""

    step: int
    rows: list[int]
    """Positions of the batch's questions among the training questions."""
    experience: ppo.Experience
    turn: Tensor
    """float32 (B, R): log-probabilities just before the optimiser step on a row's minibatch; with
    several passes over the batch, in the last of them."""
    after: Tensor
    """float32 (B, R): log-probabilities after all optimiser steps."""
    metrics: dict[str, float]
    """What :func:`reft_lib.ppo.ppo` yields, without the seconds."""


def watch(
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    reward: RewardFn,
    config: PpoConfig,
    sampling: SampleConfig,
    seed: int = 0,
    bf16: bool = False,
) -> Iterator[Watched]:
    """Train as :func:`reft_lib.ppo.ppo` does, and yield every step's rollout batch.

    Parameters are those of :func:`reft_lib.ppo.ppo`. What is read in between changes nothing.
    """
    loop = ppo.begin(policy, config, seed)
    head, room = loop.head, models.context_length(policy) - sampling.max_new_tokens
    assert head is not None
    while loop.step < config.steps:
        loop.step += 1
        drawn = loop.draw(len(examples), config.batch_size, whole=True)
        batch = [examples[i] for i in drawn]
        prompt_ids = rollout.encode(tokenizer, batch, fmt, room)
        with models.autocast(policy.device, bf16):
            sampled = rollout.sample(
                policy, tokenizer, prompt_ids, sampling.max_new_tokens, generator=loop.generator
            )
        graded = reward(sampled.texts, batch)
        with models.autocast(policy.device, bf16):
            seen = ppo.gather(policy, head, sampled, graded, config)
            metrics = ppo.summarise(seen)
            turn, after = torch.zeros_like(seen.old_logp), torch.zeros_like(seen.old_logp)
            for _ in range(config.ppo_epochs):
                for rows in ppo.split_rows(sampled, config.minibatches):
                    _read(policy, head, seen, rows, config, turn)
                    stats = ppo.update(policy, head, loop.optimizer, seen, rows, config, loop.step)
            for rows in ppo.split_rows(sampled, config.minibatches):
                _read(policy, head, seen, rows, config, after)
        yield Watched(loop.step, drawn, seen, turn, after, {**metrics, **stats})


@torch.no_grad()
def _read(
    policy: Any, head: Any, seen: ppo.Experience, rows: Tensor, config: PpoConfig, into: Tensor
) -> None:
    """Write the present log-probabilities of some rows into a tensor (B, R)."""
    for some in rows.split(config.micro_batch):
        part = rollout.minibatch(seen.rollout, some)
        r = part.response_mask.shape[1]
        into[some, :r] = ppo.read(policy, head, part, config)[0] * part.response_mask


def record(
    out: Path = lens_log.RECORD, seed: int = 0, config: RunConfig | None = None
) -> list[Sighting]:
    """Train once, and write the record.

    Parameters
    ----------
    out : path
        Folder of the record, a run log: lines of split ``train`` are some of the training's
        metrics, those of split ``lens`` one sighting each, and one line of split ``batch`` is the
        rollout batch in which the first of the questions was met for the last time.
    seed : int
    config : RunConfig, optional
        Preset ``nano`` with programs, unless given.

    Returns
    -------
    list of Sighting
        What was kept.

    Raises
    ------
    UserError
        If the folder cannot be written or holds a run, or no question was met twice.
    """
    config = dataclasses.replace(config or preset("nano", fmt="pcot"), seed=seed)
    settings = dataclasses.replace(config.ppo, beta=config.beta)
    card = {"method": "lens", "preset": config.name, "fmt": config.fmt, "seed": seed}
    card |= {"config": to_dict(dataclasses.replace(config, ppo=settings))}
    with one_thread(), runlog.RunLog(out, card) as log:
        bench = Bench(seed, config.fmt, config=config)
        train = bench.splits["train"]
        log.card |= {"data": {"train": data.fingerprint(train)}, "bf16": bench.bf16}
        policy, tokenizer = bench.warm_policy()
        steps = watch(
            policy, tokenizer, train, config.fmt,
            AnswerReward(config.fmt, partial=settings.partial_reward),
            settings, config.sample, seed, bench.bf16,
        )  # fmt: skip
        watched: list[Watched] = []
        for seen in tqdm(steps, desc="reft", total=settings.steps, leave=False, mininterval=1):
            log.log(step=seen.step, split="train", **{k: seen.metrics[k] for k in METRICS})
            watched.append(seen)
        met = meetings(watched, train, tokenizer, settings)
        kept = telling(met)
        for s in (s for i in kept for s in met[i]):
            log.log(step=s.step, split="lens", **lens_log.line(s))
        last = watched[met[kept[0]][-1].step - 1]
        row = last.rows.index(kept[0])
        batch = lens_log.batch_of(last.experience, row, tokenizer, last.step)
        log.log(step=last.step, split="batch", **lens_log.line(batch))
        log.finish(cpu_minutes=round(bench.minutes, 3), questions=[train[i].id for i in kept])
    return [s for i in kept for s in met[i]]


def meetings(
    watched: Sequence[Watched], train: Sequence[Example], tokenizer: Any, config: PpoConfig
) -> dict[int, list[Sighting]]:
    """Return the answers to each question, by its position, in the order in which they came."""
    met: dict[int, list[Sighting]] = {}
    for seen in watched:
        for row, i in enumerate(seen.rows):
            found = lens_log.sight(
                seen.experience, row, tokenizer, train[i], config, seen.step, seen.turn, seen.after
            )
            met.setdefault(i, []).append(found)
    return met


def telling(met: dict[int, list[Sighting]], keep: int = KEPT) -> list[int]:
    """Choose the questions to keep, by what their answers show.

    Those whose answers are short but not too short, were most often met, earned the most different
    rewards, and ended right after they had begun wrong; of equals the first ones. They are chosen
    to show what can happen, and not to be typical.

    Raises
    ------
    UserError
        If no question was met twice.
    """

    def rank(i: int) -> tuple[float, ...]:
        seen = met[i]
        fits = all(FEWEST <= len(s.tokens) <= LONGEST for s in seen)
        learnt = seen[-1].score - seen[0].score
        return (-len(seen), not fits, -len({s.score for s in seen}), -learnt, i)

    order = [i for i in sorted(met, key=rank) if len(met[i]) > 1]
    if not order:
        raise UserError("no question was met twice; train for more steps")
    return order[:keep]
