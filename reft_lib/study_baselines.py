"""The base model, SFT and both kinds of self-training, measured as every other method is.

:mod:`reft_lib.compare` runs SFT and self-training in full, with voting and reranking. Here they run
once more as arms of a study, with the same settings and so the same results, so that their minutes
and tokens can stand beside those of the methods that only studies run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reft_lib import evaluate, lora, self_training, sft
from reft_lib.bench import Bench
from reft_lib.config import PRESETS
from reft_lib.data import Example
from reft_lib.rewards import AnswerReward
from reft_lib.study import Study

SETTINGS = PRESETS["nano-baselines"].self_train


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train by one method, and test the checkpoint that is best on validation.

    Returns
    -------
    dict
        ``validation``, ``best_step``, ``test``, ``hard``; ``trained_tokens`` of targets, each time
        that a loss was computed on them; ``sampled_tokens`` of responses; ``labels``, annotated
        questions; ``graded``, responses whose answer was checked.
    """
    return METHODS[settings["kind"]](bench)


def base(bench: Bench) -> dict[str, Any]:
    """Test the base model as it is."""
    model, tokenizer = bench.base()
    found = bench.accuracy(model, tokenizer, bench.splits["validation"])
    bench.record(step=0, split="validation", phase="base", accuracy=found)
    tested = bench.test(model, tokenizer)
    return {"validation": found, **tested, **spent(trained=0)}


def supervised(bench: Bench) -> dict[str, Any]:
    """SFT for as many epochs as the preset has."""
    model, tokenizer = bench.adapted()
    rows, config = bench.splits["train"], bench.config.sft
    found = imitate(bench, model, tokenizer, rows, config.epochs, phase="sft")
    trained = config.epochs * target_tokens(bench, tokenizer, rows)
    return {**found, **bench.test(model, tokenizer), **spent(trained, labels=len(rows))}


def offline(bench: Bench) -> dict[str, Any]:
    """Sample from the warm-up policy, keep what is right, train the base model on it."""
    policy, tokenizer = bench.warm_policy()
    train = bench.splits["train"]
    result = evaluate.answer(
        lora.merge(policy), tokenizer, train, bench.fmt, bench.config.sample,
        votes=SETTINGS.samples, seed=bench.seed, desc="samples of the warm-up policy",
    )  # fmt: skip
    rows = self_training.keep(result, train, bench.fmt, SETTINGS.keep)
    bench.record(step=0, split="samples", kept=len(rows) - len(train))
    model, tokenizer = bench.adapted()
    found = imitate(bench, model, tokenizer, rows, SETTINGS.sft_epochs, phase="offline_st")
    sampled = sum(len(tokenizer.encode(text)) for group in result.texts for text in group)
    trained = warm_tokens(bench, tokenizer)
    trained += SETTINGS.sft_epochs * target_tokens(bench, tokenizer, rows)
    used = spent(trained, sampled, len(train), graded=len(train) * SETTINGS.samples)
    return {**found, **bench.test(model, tokenizer), "kept": len(rows) - len(train), **used}


def online(bench: Bench) -> dict[str, Any]:
    """Sample from the present policy, imitate what is right, sample again."""
    policy, tokenizer = bench.warm_policy()
    train = bench.splits["train"]
    steps = self_training.online(
        policy, tokenizer, train, bench.fmt, AnswerReward(bench.fmt), SETTINGS,
        bench.config.sample, bench.seed, bench.bf16,
    )  # fmt: skip
    found = bench.fit(
        policy, tokenizer, steps, SETTINGS.steps, SETTINGS.eval_every, phase="online_st"
    )
    lines = [line for line in bench.lines if line["split"] == "train"]
    graded = SETTINGS.steps * SETTINGS.batch_size
    sampled = round(sum(SETTINGS.batch_size * line["length"] for line in lines))
    # both halves of an update: the right samples (here: their share of all), and the annotations
    right = round(sum(SETTINGS.batch_size * x["length"] * x["accuracy"] for x in lines))
    annotated = round(graded / len(train) * target_tokens(bench, tokenizer, train))
    trained = warm_tokens(bench, tokenizer) + SETTINGS.update_epochs * (right + annotated)
    used = spent(trained, sampled, len(train), graded)
    return {**found, **bench.test(policy, tokenizer), **used}


def imitate(
    bench: Bench, model: Any, tokenizer: Any, rows: Sequence[Example], epochs: int, phase: str
) -> dict[str, Any]:
    """Run SFT with the preset's settings, validated by the epoch."""
    settings = replace(bench.config.sft, epochs=epochs)
    steps: Iterator[dict[str, float]] = sft.sft_steps(
        model, tokenizer, rows, bench.fmt, settings, bench.seed, bench.bf16
    )
    per_epoch = sft.steps_per_epoch(len(rows), settings)
    return bench.fit(model, tokenizer, steps, epochs * per_epoch, per_epoch, phase=phase)


def target_tokens(bench: Bench, tokenizer: Any, rows: Sequence[Example]) -> int:
    """Return the tokens that one epoch of SFT on some annotations learns."""
    return sum(len(target) for _, target in sft.encode(tokenizer, rows, bench.fmt))


def warm_tokens(bench: Bench, tokenizer: Any) -> int:
    """Return the tokens that the preset's warm-up learns."""
    once = target_tokens(bench, tokenizer, bench.splits["train"])
    return round(bench.config.warmup_epochs * once)


def spent(trained: int, sampled: int = 0, labels: int = 0, graded: int = 0) -> dict[str, int]:
    """Return what a method was given, under the names that all studies use."""
    return {
        "trained_tokens": trained,
        "sampled_tokens": sampled,
        "labels": labels,
        "graded": graded,
    }


METHODS = {"base": base, "sft": supervised, "offline_st": offline, "online_st": online}

STUDY = Study(
    name="baselines",
    about="What do the base model, SFT and self-training reach, and what do they cost?",
    arms={kind.replace("_", "-"): {"kind": kind} for kind in METHODS},
    run=run,
)
