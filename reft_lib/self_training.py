"""Self-training: learning by imitation from the policy's own right responses.

The baselines that ReFT is held against (Luong et al. 2024, section 4.2). Both sample responses and
keep those whose answer is right, as reinforcement learning does; but what is kept is imitated, each
token alike, and what is thrown away teaches nothing.

- *Offline* (:func:`collect`): sample once from the warm-up policy, add the right responses to the
  annotated ones, and run :func:`reft_lib.sft.sft` on both from the base model. Known as rejection
  sampling fine-tuning (Yuan et al. 2023); one round of STaR (Zelikman et al. 2022) without hints.
- *Online* (:func:`online`): sample from the policy as it is now, take a step, sample again: PPO's
  loop, its rollouts included, without advantages, clipping, value head and KL penalty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from reft_lib import answers, evaluate, lora, models, parallel, ppo, rollout, sft
from reft_lib.config import Format, SampleConfig, SelfTrainConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError
from reft_lib.evaluate import Answers
from reft_lib.loop import Loop, new_loop
from reft_lib.resume import Memo
from reft_lib.rewards import Graded, RewardFn
from reft_lib.rollout import Rollout
from reft_lib.shared_rollout import sample_and_grade

Pair = tuple[list[int], list[int]]
"""Prompt ids and target ids."""


def collect(
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    config: SelfTrainConfig,
    sample: SampleConfig,
    seed: int = 0,
    memo: Memo | None = None,
) -> list[Example]:
    """Sample from a policy, keep what is right: the data of offline self-training.

    Parameters
    ----------
    policy, tokenizer : the warm-up policy
    examples : sequence of Example
        Training questions with their annotations.
    fmt : {"ncot", "pcot"}
    config : SelfTrainConfig
        Its ``samples`` and ``keep``.
    sample : SampleConfig
        Its ``batch_size`` bounds the memory: so many responses are generated side by side.
    seed : int
        Seed of the sampling.
    memo : Memo, optional
        Keeps what is sampled, and gives back what was sampled before a stop.

    Returns
    -------
    list of Example
        See :func:`keep`.
    """
    result = evaluate.answer(
        policy, tokenizer, examples, fmt, sample, config.samples, seed, "self-training", memo
    )
    return keep(result, examples, fmt, config.keep)


def keep(result: Answers, examples: Sequence[Example], fmt: Format, most: int) -> list[Example]:
    """Keep the annotated path of each question, and up to ``most`` others that came out right.

    Two responses are the same path if they compute the same (:func:`reft_lib.evaluate.reasoning`);
    the first one sampled stands for all. Kept are responses that ended by themselves: one that was
    cut off is no example of where to stop.

    Parameters
    ----------
    result : Answers
        The policy's responses to the examples.
    examples : sequence of Example
        Each with an annotation in the format.
    fmt : {"ncot", "pcot"}
    most : int
        Sampled paths kept for a question.

    Returns
    -------
    list of Example
        For each question its example as it is, then one for each path kept: the same question and
        answer, ``+1``, ``+2``, ... behind its id, the path as its only annotation.

    Raises
    ------
    UserError
        If an example has no annotation in the format.
    """
    kept: list[Example] = []
    for e, texts, right, ended in zip(
        examples, result.texts, result.right, result.ended, strict=True
    ):
        found = {evaluate.reasoning(e.cot(fmt), fmt): e}
        for text, is_right, has_ended in zip(texts, right, ended, strict=True):
            cot = _path(text, fmt) if is_right and has_ended else ""
            path = evaluate.reasoning(cot, fmt)
            if cot and path not in found and len(found) <= most:
                found[path] = _with_path(e, cot, fmt, len(found))
        kept += found.values()
    return kept


def _path(response: str, fmt: Format) -> str:
    """Return the path of a right response; empty if it has none that should be taught."""
    if fmt == "pcot":
        return response.rstrip()
    cot, _ = answers.split_answer(response)  # prompts.target puts trigger and answer back
    once = answers.split_answer(cot)[1] is None  # nor should a response conclude twice
    return cot.rstrip() if once else ""


def _with_path(e: Example, cot: str, fmt: Format, number: int) -> Example:
    """Return the example with another path; the annotation in the other format tells the old."""
    ncot, pcot = (cot, None) if fmt == "ncot" else (None, cot)
    meta = {**e.meta, "path": "sampled"}
    return replace(e, id=f"{e.id}+{number}", ncot=ncot, pcot=pcot, meta=meta)


def begin(policy: Any, config: SelfTrainConfig, seed: int = 0) -> Loop:
    """Return the state of a new loop of :func:`online`."""
    return new_loop(lora.trainable_parameters(policy), config.lr, seed, policy.device)


def online(
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    reward: RewardFn,
    config: SelfTrainConfig,
    sampling: SampleConfig,
    seed: int = 0,
    bf16: bool = False,
    loop: Loop | None = None,
) -> Iterator[dict[str, float]]:
    """Train the policy's adapter in place; yields after every rollout batch.

    Steps, questions and random numbers are those of :func:`reft_lib.ppo.ppo`: with the same sizes
    and seed both meet the same questions in the same order, and begin with the same responses.

    Parameters
    ----------
    policy : peft.PeftModel
        The merged warm-up policy with a fresh adapter.
    tokenizer : tokenizer
    examples : sequence of Example
        Each with an annotation in the format.
    fmt : {"ncot", "pcot"}
    reward : RewardFn
        Tells which responses are right; how much they are worth is only logged.
    config : SelfTrainConfig
        Its fields for online training.
    sampling : SampleConfig
        Its ``max_new_tokens`` cuts responses off.
    seed : int
        Seed of question order and sampling.
    bf16 : bool
        Run the matrix products of updates in bfloat16.
    loop : Loop, optional
        What :func:`begin` made, perhaps restored: training goes on from its step.

    Yields
    ------
    dict
        ``step`` (from 1), the metrics of :func:`reft_lib.ppo.rollout_metrics`, and those of
        :func:`update` in the step's last update.

    Raises
    ------
    UserError
        If an example has no annotation in the format.
    NumericalError
        If a loss is not finite; the policy keeps its last finite state.
    """
    loop, context = loop or begin(policy, config, seed), models.context_length(policy)
    while loop.step < config.steps:
        started, loop.step = time.monotonic(), loop.step + 1
        batch = [examples[i] for i in loop.draw(len(examples), config.batch_size, whole=True)]
        prompt_ids = rollout.encode(tokenizer, batch, fmt, context - sampling.max_new_tokens)
        sampled, graded = sample_and_grade(
            policy, tokenizer, prompt_ids, batch, reward, sampling.max_new_tokens, loop.generator,
            bf16=bf16,
        )  # fmt: skip
        own = right_pairs(sampled, prompt_ids, graded)
        annotated = sft.encode(tokenizer, batch, fmt, context)
        with models.autocast(policy.device, bf16):
            for _ in range(config.update_epochs):
                for rows in ppo.split_rows(sampled, config.minibatches):
                    halves = (
                        [own[i] for i in rows.tolist() if i in own],
                        [annotated[i] for i in rows.tolist()],
                    )
                    stats = update(policy, loop, halves, tokenizer.eos_token_id, config)
        seconds = time.monotonic() - started
        metrics = ppo.rollout_metrics(sampled, graded, sampled.logprobs)
        yield {"step": loop.step, **metrics, **stats, "step_seconds": seconds}


def right_pairs(
    sampled: Rollout, prompt_ids: Sequence[list[int]], graded: Sequence[Graded]
) -> dict[int, Pair]:
    """Return row -> (prompt ids, response ids) of the right responses, token by token as sampled.

    The ids are not made from the text again: a tokenizer may write one text in several ways, and
    what should become likelier is what the policy did.
    """
    return {
        i: (list(prompt_ids[i]), sampled.responses[i][sampled.response_mask[i]].tolist())
        for i, g in enumerate(graded)
        if g.correct
    }


def update(
    policy: Any,
    loop: Loop,
    halves: tuple[list[Pair], list[Pair]],
    pad: int,
    config: SelfTrainConfig,
) -> dict[str, float]:
    """Take one optimiser step on sampled and annotated responses.

        L = 1/2 CE(right samples) + 1/2 CE(annotated)

    Each CE is a mean over the tokens of its own half, so a few right samples weigh as much as all
    annotations. Where no sample is right the weights are 0 and 1/2: the annotated half stays as it
    is and is not doubled (as in the authors' code, which adds the first term only if there is one).

    Parameters
    ----------
    policy : peft.PeftModel
    loop : Loop
    halves : two lists of (prompt ids, target ids)
        The right samples, and the annotations of all questions of the minibatch.
    pad : int
        Any id, for padding.
    config : SelfTrainConfig

    Returns
    -------
    dict
        ``loss``; ``sampled_loss`` (NaN if no sample is right) and ``annotated_loss``, the two CEs
        before they are weighted (nats a token); ``grad_norm``.
    """
    loop.optimizer.zero_grad()
    ce = []
    for pairs in halves:
        tokens, mean = sft.n_targets(pairs), 0.0
        pairs = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))  # little padding
        own = parallel.deal(pairs)
        for at in range(0, len(own), config.micro_batch):
            part = own[at : at + config.micro_batch]
            share = sft.n_targets(part) / tokens
            loss = sft.loss(policy, sft.collate(part, pad, policy.device)) * share
            if not torch.isfinite(loss):
                where = f"online self-training step {loop.step}"
                raise NumericalError(f"{where}: loss is {loss.item()}; lower self_train.lr")
            (0.5 * loss).backward()
            mean += loss.item()
        ce.append(mean if pairs else math.nan)
    parameters = lora.trainable_parameters(policy)
    sums = parallel.sum_gradients(parameters, {"sampled": ce[0], "annotated": ce[1]})
    ce = [sums["sampled"], sums["annotated"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))
    loop.optimizer.step()
    loss_now = 0.5 * sum(x for x in ce if not math.isnan(x))
    return {"loss": loss_now, "sampled_loss": ce[0], "annotated_loss": ce[1], "grad_norm": norm}
