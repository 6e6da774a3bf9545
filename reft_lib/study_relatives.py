"""PPO beside its relatives: the same warm-up policy, questions, rewards and responses a step.

Every arm begins where ReFT begins on nano, and samples as many responses a step as ReFT does. PPO
and REINFORCE ask a question once in a step; GRPO and RLOO ask fewer questions, several times each.
One more arm trains nothing new: it measures how noisy the gradients of all methods are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from reft_lib import gradient_noise, models, ppo, relatives, sft
from reft_lib.bench import Bench
from reft_lib.config import PRESETS, PpoConfig, RunConfig
from reft_lib.gradient_noise import Estimator
from reft_lib.method_settings import RelativesConfig
from reft_lib.rewards import AnswerReward
from reft_lib.study import Study
from reft_lib.value import ValueHead

NANO = PRESETS["nano"].ppo
STEPS = NANO.steps
"""Rollout batches of the relatives: PPO's, for a step takes all methods about the same time."""
TUNED: dict[str, dict[str, Any]] = {
    "grpo": {"minibatches": 8, "lr": 1e-3},
    "rloo": {"minibatches": 8, "lr": 3e-4},
    "reinforce": {"minibatches": 8, "lr": 3e-4},
}
"""What was chosen on validation, with seed 0: optimiser steps a batch, and the learning rate.

Of 3e-4, 5e-4 and 1e-3 (GRPO also 2e-3), by the mean of three validations at steps 15, 20 and 25.
GRPO's gradient is a mean over a response's tokens, and smaller: it wants the larger step.
"""


def arm(kind: str, group_size: int) -> dict[str, Any]:
    """Return the settings of one of PPO's relatives."""
    return {"kind": kind, "group_size": group_size, "steps": STEPS, **TUNED[kind]}


METHODS: dict[str, dict[str, Any]] = {
    # the second phase of preset nano as it is, so that its minutes are counted as the others' are
    "ppo": {
        "kind": "ppo",
        "group_size": 1,
        "steps": NANO.steps,
        "minibatches": NANO.minibatches,
        "lr": NANO.lr,
    },
    "grpo": arm("grpo", 8),
    "rloo": arm("rloo", 8),
    "reinforce": arm("reinforce", 1),
}
"""The arms that stand for the methods."""
GROUPS = {f"grpo-{k}": arm("grpo", k) for k in (2, 4, 16)}
"""GRPO with groups of other sizes."""
NOISE = {"kind": "noise", "group_size": 8, "questions": 8, "batches": 24, "steps": 10}
"""Gradients on the same small rollout batches, after so many steps of PPO."""


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train the warm-up policy by one method, and test the checkpoint that is best on validation.

    Returns
    -------
    dict
        ``validation``, ``best_step``, ``test``, ``hard``; ``sampled_tokens`` of responses;
        ``trained_tokens``, those of the warm-up included; ``labels``, annotated questions (for the
        warm-up); ``graded``, responses that were rewarded. Of the arm ``noise`` see
        :func:`run_noise`.
    """
    if settings["kind"] == "noise":
        return run_noise(bench, settings)
    train, config = bench.splits["train"], bench.config
    policy, tokenizer = bench.warm_policy()
    bench.record(step=0, split="warm-up", minutes=bench.minutes)
    chosen = of_ppo(config, settings) if settings["kind"] == "ppo" else of(config, settings)
    steps = iterate(bench, policy, tokenizer, chosen)
    found = bench.fit(policy, tokenizer, timed(bench, steps), chosen.steps, chosen.eval_every)
    found |= bench.test(policy, tokenizer)
    lengths = [line["length"] for line in bench.lines if line["split"] == "train"]
    sampled = round(chosen.batch_size * sum(lengths))
    pairs = sft.encode(tokenizer, train, bench.fmt)
    warm = config.warmup_epochs * sum(len(target) for _, target in pairs)
    return {
        **found,
        "sampled_tokens": sampled,
        "trained_tokens": warm + sampled,  # a batch is passed through once
        "labels": len(train),
        "graded": chosen.batch_size * chosen.steps,
    }


def of_ppo(config: RunConfig, settings: Mapping[str, Any]) -> PpoConfig:
    """Return the PPO settings of an arm: the preset's, but for what the arm names."""
    named = {name: settings[name] for name in ("steps", "minibatches", "lr") if name in settings}
    return replace(config.ppo, beta=config.beta, **named)


def of(config: RunConfig, settings: Mapping[str, Any]) -> RelativesConfig:
    """Return the settings of one of PPO's relatives; what an arm does not name is PPO's."""
    names = {f.name for f in fields(RelativesConfig)} & {f.name for f in fields(PpoConfig)}
    same = {name: getattr(config.ppo, name) for name in names}
    return RelativesConfig(**{**same, "beta": config.beta, **settings})


def iterate(
    bench: Bench, policy: Any, tokenizer: Any, chosen: PpoConfig | RelativesConfig
) -> Iterator[dict[str, float]]:
    """Return the training loop of PPO or of one of its relatives."""
    given = (policy, tokenizer, bench.splits["train"], bench.fmt)
    reward = AnswerReward(bench.fmt, partial=chosen.partial_reward)
    rest = (bench.config.sample, bench.seed, bench.bf16)
    if isinstance(chosen, PpoConfig):
        return ppo.ppo(*given, reward, chosen, *rest)
    return relatives.train(*given, reward, chosen, *rest)


def timed(bench: Bench, steps: Iterator[dict[str, float]]) -> Iterator[dict[str, float]]:
    """Add to every step the processor minutes of the unit so far."""
    for metrics in steps:
        yield {**metrics, "minutes": bench.minutes}


def run_noise(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Measure how noisy each method's gradient is, on the same rollouts of one policy.

    The policy and its value head come from some steps of PPO: the head has learnt this policy's
    values, as it has whenever PPO uses it.

    Returns
    -------
    dict
        For each of :func:`estimators`, ``<name>_trace`` and ``<name>_signal``: noise and signal,
        see :mod:`reft_lib.gradient_noise`.
    """
    policy, tokenizer = bench.warm_policy()
    head = trained_head(bench, policy, tokenizer, settings["steps"])
    k, count = settings["group_size"], settings["batches"]
    reward = AnswerReward(bench.fmt, partial=bench.config.ppo.partial_reward)
    rollouts = gradient_noise.batches(
        policy, tokenizer, bench.splits["train"], bench.fmt, reward, k, bench.config.sample,
        count, settings["questions"], bench.seed,
    )  # fmt: skip
    with models.autocast(policy.device, bench.bf16):
        found = gradient_noise.measure(rollouts, estimators(bench.config, policy, head, k))
    bench.trained_minutes = bench.minutes
    figures = {}
    for name, noise in found.items():
        figures[f"{name}_trace"], figures[f"{name}_signal"] = noise.trace, noise.signal
    return figures


def trained_head(bench: Bench, policy: Any, tokenizer: Any, steps: int) -> ValueHead:
    """Train a policy by some steps of PPO; return the value head that came of it."""
    chosen = of_ppo(bench.config, {"steps": steps})
    loop = ppo.begin(policy, chosen, bench.seed)
    reward = AnswerReward(bench.fmt, partial=chosen.partial_reward)
    for metrics in ppo.ppo(
        policy, tokenizer, bench.splits["train"], bench.fmt, reward, chosen, bench.config.sample,
        bench.seed, bench.bf16, loop,
    ):  # fmt: skip
        step = int(metrics.pop("step"))
        bench.record(step=step, split="train", **metrics)
    assert loop.head is not None
    return loop.head


def estimators(
    config: RunConfig, policy: Any, head: ValueHead, group_size: int
) -> dict[str, Estimator]:
    """Return the gradient of each method, and of REINFORCE without a baseline, by name."""
    rows = {"minibatches": 1, "group_size": group_size}
    relative = {kind: of(config, {"kind": kind, **rows}) for kind in TUNED}
    found = {kind: gradient_noise.of_relative(policy, c) for kind, c in relative.items()}
    bare = gradient_noise.of_relative(policy, relative["reinforce"], baseline=False)
    head_on = gradient_noise.of_ppo(policy, head, of_ppo(config, {"minibatches": 1}))
    return {"ppo": head_on, **found, "none": bare}


STUDY = Study(
    name="relatives",
    about="PPO, GRPO, RLOO and REINFORCE on the same rewards and minutes",
    arms={**METHODS, **GROUPS, "noise": NOISE},
    run=run,
)
