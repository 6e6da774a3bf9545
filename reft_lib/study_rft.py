"""Reinforcement fine-tuning with graders, from few examples and from many.

A common *delivered* model stands for one that somebody else trained: SFT on ``WARM`` questions that
no arm sees again. From it, merged and with a fresh adapter, SFT and RFT go on with the same N
examples. SFT reads their annotations; RFT reads their answers, through a grader. Which N examples
they are is drawn by seed, the smaller sets lie in the larger ones, and both methods keep their best
checkpoint on validation. In no more time than RFT takes, SFT tries two learning rates: of few
examples the preset's is too much.

The reinforcement loop is PPO with preset nano's numbers, which were chosen with ReFT's reward. So
what tells the arm ``rft`` from ReFT is its grader alone.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reft_lib import data, ppo, sft
from reft_lib.bench import Bench
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.rft_data import GraderReward, reward_from
from reft_lib.rft_graders import PARTIAL, alike, read_answer
from reft_lib.study import Study

WARM = 320
"""Questions that the delivered model was trained on."""
SIZES = (16, 64, 256, 1024)
"""Numbers of examples."""
EPOCHS = {16: 36, 64: 18, 256: 6, 1024: 2}
"""Of SFT with each learning rate, at most, by the number of examples."""
RATES = (5e-4, 2e-3)
"""Learning rates that SFT tries; the second is the preset's."""
STEPS = 15
"""Rollout batches of RFT, at most, whatever the number of examples."""
VALIDATIONS = 3
"""Of SFT with each learning rate, after the one before its first step."""


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fine-tune by one method on some examples; test the checkpoint that is best on validation.

    Returns
    -------
    dict
        ``delivered`` and ``validation`` (greedy accuracies on validation before the first step and
        at the best one), ``best_step``, ``test``, ``hard``; of SFT ``lr``, the better one;
        ``labels``, annotated solutions that were read, those of the warm-up among them;
        ``answers``, questions whose answer alone was read; ``graded``, responses that a grader saw;
        ``sampled_tokens`` and ``trained_tokens``, the latter with the warm-up's; and of RFT
        ``last`` (accuracy on validation after the last step), ``error_rate`` of its grader,
        ``reward_first``, ``reward_last`` (in training) and ``validation_reward``.
    """
    warm, examples = chosen(bench, settings["examples"])
    policy, tokenizer = bench.warm_policy(warm)
    if settings["method"] == "none":
        found = bench.fit(policy, tokenizer, iter(()), 0, 1)
        figures: dict[str, Any] = {"labels": len(warm), "answers": 0, "graded": 0}
        tokens, learnt = {"sampled_tokens": 0}, 0
    elif settings["method"] == "sft":
        policy, found = best_sft(bench, policy, tokenizer, examples, settings)
        figures = {"labels": len(warm) + len(examples), "answers": 0, "graded": 0}
        tokens = {"sampled_tokens": 0}
        learnt = len(settings["lrs"]) * settings["epochs"] * targets(bench, tokenizer, examples)
    else:
        reward = reward_of(settings["grader"], bench)
        rl = replace(bench.config.ppo, steps=settings["steps"], beta=bench.config.beta)
        loop = ppo.ppo(
            policy, tokenizer, examples, bench.fmt, reward, rl, bench.config.sample, bench.seed,
            bench.bf16,
        )  # fmt: skip
        found = bench.fit(policy, tokenizer, graded(loop, reward), rl.steps, rl.eval_every)
        found |= rewards_of(bench, policy, tokenizer, reward)
        labelled = len(examples) if settings["grader"] == "alike" else 0
        labels = {e.id for e in warm} | {e.id for e in examples[:labelled]}
        answers = {e.id for e in examples} - labels
        figures = {"labels": len(labels), "answers": len(answers)}
        figures["graded"] = rl.steps * rl.batch_size
        lengths = [x["length"] for x in bench.lines if x["split"] == "train"]
        learnt = round(rl.batch_size * sum(lengths))
        tokens = {"sampled_tokens": learnt}
        learnt *= rl.ppo_epochs
        figures["last"] = validations(bench)[-1]
    before = bench.config.warmup_epochs * targets(bench, tokenizer, warm)
    found |= {"delivered": validations(bench)[0], **bench.test(policy, tokenizer)}
    return {**found, **figures, **tokens, "trained_tokens": round(before + learnt)}


def best_sft(
    bench: Bench,
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: Mapping[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Go on with SFT from a policy, with each learning rate; return the better one's policy.

    Returns
    -------
    policy, dict
        What :meth:`reft_lib.bench.Bench.fit` returns of it, and ``lr``.
    """
    tries = []
    for lr in settings["lrs"]:
        mine = copy.deepcopy(policy)
        config = replace(bench.config.sft, epochs=settings["epochs"], lr=lr)
        per_epoch = sft.steps_per_epoch(len(examples), config)
        steps = sft.sft_steps(mine, tokenizer, examples, bench.fmt, config, bench.seed, bench.bf16)
        every = per_epoch * max(1, config.epochs // VALIDATIONS)
        found = bench.fit(
            mine, tokenizer, steps, config.epochs * per_epoch, every, phase=f"lr {lr:g}"
        )
        tries.append((mine, {**found, "lr": lr}))
    return max(tries, key=lambda one: one[1]["validation"])


def chosen(bench: Bench, n: int) -> tuple[list[Example], list[Example]]:
    """Return the delivered model's questions, and ``n`` others drawn by the bench's seed.

    The first ``n`` of the same order, whatever ``n`` is. With ``n`` 0 both are the preset's
    training questions: the standard warm-up, and ReFT's second phase.
    """
    if n == 0:
        return bench.splits["train"], bench.splits["train"]
    rows = data.load(bench.config.dataset, "train")
    warm = data.subset(rows, min(WARM, len(rows) // 2))
    known = {e.question for e in warm}
    rest = [e for e in rows if e.question not in known]
    if n > len(rest):
        raise UserError(f"{n} examples are wanted; beside the warm-up's there are {len(rest)}")
    random.Random(bench.seed).shuffle(rest)
    return warm, rest[:n]


def reward_of(name: str, bench: Bench) -> GraderReward:
    """Return a grader as a reward: ``partial``, of answers, or ``alike``, of whole responses."""
    if name == "alike":
        return reward_from(alike(field=bench.fmt))
    return reward_from(PARTIAL, read=read_answer(bench.fmt))


def graded(steps: Iterator[dict[str, float]], reward: GraderReward) -> Iterator[dict[str, float]]:
    """Add to every step what the grader reports of its batch."""
    for metrics in steps:
        yield {**metrics, **reward.history[-1]}


def rewards_of(bench: Bench, policy: Any, tokenizer: Any, reward: GraderReward) -> dict[str, float]:
    """Return the grader's figures over a training, and of greedy answers to validation."""
    history = list(reward.history)
    asked = bench.splits["validation"]
    texts = [group[0] for group in bench.answers(policy, tokenizer, asked).texts]
    mean = sum(g.reward for g in reward(texts, asked)) / len(asked)
    return {
        "error_rate": sum(m["error_rate"] for m in history) / len(history),
        "reward_first": history[0]["reward_mean"],
        "reward_last": history[-1]["reward_mean"],
        "validation_reward": mean,
    }


def validations(bench: Bench) -> list[float]:
    """Return the accuracies on validation, in order."""
    return [x["accuracy"] for x in bench.lines if x["split"] == "validation"]


def targets(bench: Bench, tokenizer: Any, rows: Sequence[Example]) -> int:
    """Count the tokens that SFT learns from these rows in an epoch."""
    return sum(len(target) for _, target in sft.encode(tokenizer, rows, bench.fmt))


ARMS: dict[str, dict[str, Any]] = {
    "delivered": {"method": "none", "examples": SIZES[0]},
    **{
        f"sft-{n}": {"method": "sft", "examples": n, "epochs": EPOCHS[n], "lrs": list(RATES)}
        for n in SIZES
    },
    **{
        f"rft-{n}": {"method": "rft", "examples": n, "steps": STEPS, "grader": "partial"}
        for n in SIZES
    },
    # a reward that asks for likeness, with as many examples and steps as one of the others
    "alike-256": {"method": "rft", "examples": 256, "steps": STEPS, "grader": "alike"},
    # for the scoreboard: ReFT's warm-up, questions and steps, another grader
    "rft": {"method": "rft", "examples": 0, "steps": 35, "grader": "partial"},
}

STUDY = Study(
    name="rft",
    about="fine-tuning with a grader: how many examples does it take, and what does the grader do?",
    arms=ARMS,
    run=run,
)
