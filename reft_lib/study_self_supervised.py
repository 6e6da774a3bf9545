"""Self-supervised fine-tuning in small: what reading unlabelled text does.

Two things are measured. On the *new domain's* text (:mod:`reft_lib.workshop`), the perplexity of
held-out text of both domains as training goes on, autoregressive and masked. And on the *task*: is
it of use to read the questions, as bare text, before SFT? The masked encoder cannot write a
solution. What it can do is to fill in the number of an option, and that it is tested on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reft_lib import data, masked, sft, workshop
from reft_lib import encoder as encoders
from reft_lib import language_modelling as lm
from reft_lib.bench import Bench
from reft_lib.data import Example
from reft_lib.embedded import RANGES
from reft_lib.prompts import TRIGGER
from reft_lib.study import Study
from reft_lib.task import adapter_weights, restore

TASK_TEXT = {"steps": 30, "window": 128, "batch_size": 16, "lr": 1e-3, "embeddings": False}
"""Reading the 640 training questions, three times each: no token of theirs is new."""
NEW_TEXT = {"steps": 90, "window": 128, "batch_size": 16, "lr": 4e-3, "eval_every": 15}
"""Reading the workshop's text."""
MASKED_TEXT = {"steps": 150, "window": 64, "batch_size": 32, "lr": 3e-3, "eval_every": 25}
"""The encoder reads the workshop's text."""
CLOZE = {"steps": 160, "batch_size": 32, "lr": 2e-3, "eval_every": 20}
"""The encoder reads questions with their options and the right one's number."""


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run an arm of one of the three kinds; see :func:`run_task` and the others."""
    kinds = {"task": run_task, "domain": run_domain, "masked": run_masked}
    return kinds[settings["kind"]](bench, settings)


# ---------------------------------------------------------------- autoregressive, on the task


def run_task(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the training questions as bare text, or not, then the preset's warm-up SFT; test.

    Returns
    -------
    dict
        ``validation``, ``best_step``, ``test``, ``hard``; ``trained_tokens``, ``text_tokens`` of
        them unlabelled; ``sampled_tokens``; ``labels``, annotated questions.
    """
    train = bench.splits["train"]
    policy, tokenizer = bench.adapted()
    text_tokens = 0
    if settings["text"]:
        config = lm.TextConfig(**settings["text"])
        rows = lm.windows(tokenizer, [e.question for e in train], config.window)
        for metrics in lm.train(policy, tokenizer, rows, config, bench.seed, bench.bf16):
            text_tokens += int(metrics["tokens"])
            bench.record(split="train", phase="text", **_with_step(metrics))
        policy = bench.renewed(policy)
    per_epoch = sft.steps_per_epoch(len(train), bench.config.sft)
    epochs = round(bench.config.warmup_epochs)
    config_sft = replace(bench.config.sft, epochs=epochs)
    steps = sft.sft_steps(policy, tokenizer, train, bench.fmt, config_sft, bench.seed, bench.bf16)
    found = bench.fit(policy, tokenizer, steps, epochs * per_epoch, per_epoch, phase="sft")
    targets = sum(len(target) for _, target in sft.encode(tokenizer, train, bench.fmt))
    return {
        **found,
        **bench.test(policy, tokenizer),
        "trained_tokens": text_tokens + epochs * targets,
        "text_tokens": text_tokens,
        "sampled_tokens": 0,
        "labels": len(train),
    }


# ---------------------------------------------------------------- perplexity in two domains


def run_domain(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Let nano read the workshop's text; record the perplexity of held-out text on the way.

    Returns
    -------
    dict
        ``new_before``, ``new_after``, ``old_before``, ``old_after``: perplexities; ``text_tokens``.
    """
    config = lm.TextConfig(**settings["text"])
    policy, tokenizer = bench.adapted()
    texts = held_out(bench)
    rows = {name: lm.windows(tokenizer, t, config.window) for name, t in texts.items()}
    text = lm.windows(tokenizer, workshop.load().texts["text"], config.window)

    def measure(step: int) -> dict[str, float]:
        found = {name: lm.perplexity(policy, some) for name, some in rows.items()}
        bench.record(step=step, split="text", **found)
        return found

    first, tokens = measure(0), 0
    for metrics in lm.train(policy, tokenizer, text, config, bench.seed, bench.bf16):
        tokens += int(metrics["tokens"])
        bench.record(split="train", phase="text", **_with_step(metrics))
        if metrics["step"] % config.eval_every == 0 or metrics["step"] == config.steps:
            last = measure(int(metrics["step"]))
    return {**_before_after(first, last), "text_tokens": tokens}


def held_out(bench: Bench) -> dict[str, list[str]]:
    """Return text that nothing is trained on: the workshop's (``new``) and old questions."""
    old = [e.question for e in bench.splits["validation"]]
    return {"new": workshop.load().texts["held_out"], "old": old}


def _before_after(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    return {f"{k}_before": x for k, x in first.items()} | {f"{k}_after": x for k, x in last.items()}


def _with_step(metrics: Mapping[str, float]) -> dict[str, Any]:
    return {**metrics, "step": int(metrics["step"])}


# ---------------------------------------------------------------- the masked encoder


def run_masked(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Test the shipped encoder on options, then let a fresh copy read the workshop's text.

    Returns
    -------
    dict
        ``validation``, ``test``, ``hard``: the share of questions whose right option's number is
        filled in (0 to 1), and ``chance``, that of a blind guess; ``untrained``, the validation
        share before the encoder has read a question with options. ``new_before``, ``new_after``,
        ``old_before``, ``old_after``: perplexities of masked tokens; the same with ``_accuracy``:
        the share filled in rightly. ``trained_tokens``: tokens that were predicted for the options.
    """
    encoder, tokenizer = encoders.load()
    found = choose_options(bench, copy.deepcopy(encoder), tokenizer, settings["cloze"])
    return found | read_domain(bench, encoder, tokenizer, lm.TextConfig(**settings["text"]))


def cloze(examples: Sequence[Example], answered: bool = False) -> list[str]:
    """Return multiple-choice questions as text that ends in the number of an option, or a mask."""
    ends = [e.answer if answered else encoders.MASK for e in examples]
    return [f"{e.question}{TRIGGER}{end}" for e, end in zip(examples, ends, strict=True)]


def options_right(encoder: Any, tokenizer: Any, examples: Sequence[Example]) -> list[bool]:
    """Tell for each question whether the most probable option's number is the right one."""
    filled = masked.fill(encoder, tokenizer, cloze(examples), only=list(RANGES), k=1)
    picks = [masks[-1][0][0].strip() for masks in filled]  # the question itself has no mask
    return [pick == e.answer for pick, e in zip(picks, examples, strict=True)]


def choose_options(
    bench: Bench, encoder: Any, tokenizer: Any, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Train an encoder on questions with options and answers; test the best on validation."""
    config = bench.config
    sizes = {"train": config.n_train, "validation": config.n_validation, "hard": config.n_hard}
    splits = {name: data.load("embedded-choice", name) for name in (*sizes, "test")}
    splits |= {name: data.subset(splits[name], n) for name, n in sizes.items() if n}
    model = encoders.add_adapter(encoder, config.lora, bench.seed)
    chosen = lm.TextConfig(**settings)
    texts = cloze(splits["train"], answered=True)
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]

    def validate(step: int) -> float:
        right = options_right(model, tokenizer, splits["validation"])
        bench.record(step=step, split="validation", phase="options", accuracy=_mean(right))
        return _mean(right)

    first = best = validate(0)
    kept, tokens = adapter_weights(model), 0
    train = masked.train(model, tokenizer, rows, chosen, bench.seed, bench.bf16, last=True)
    for metrics in train:
        tokens += int(metrics["tokens"])
        bench.record(split="train", phase="options", **_with_step(metrics))
        if metrics["step"] % chosen.eval_every == 0:
            if (found := validate(int(metrics["step"]))) > best:
                best, kept = found, adapter_weights(model)
    restore(model, kept)
    bench.trained_minutes = bench.minutes
    result: dict[str, Any] = {"untrained": first, "validation": best, "chance": 1 / len(RANGES)}
    for split in ("test", "hard"):
        right = options_right(model, tokenizer, splits[split])
        verdicts = "".join("01"[r] for r in right)
        bench.record(step=0, split=split, accuracy=_mean(right), verdicts=verdicts)
        result[split] = _mean(right)
    given = {"sampled_tokens": 0, "labels": len(splits["train"])}
    return {**result, **given, "trained_tokens": tokens}


def _mean(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def read_domain(
    bench: Bench, encoder: Any, tokenizer: Any, config: lm.TextConfig
) -> dict[str, float]:
    """Let an encoder read the workshop's text; record the perplexities on the way."""
    model = encoders.add_adapter(encoder, bench.config.lora, bench.seed)
    texts = held_out(bench)
    rows = {name: lm.windows(tokenizer, t, config.window) for name, t in texts.items()}
    text = lm.windows(tokenizer, workshop.load().texts["text"], config.window)

    def measure(step: int) -> dict[str, float]:
        every = {name: masked.measure(model, tokenizer, some) for name, some in rows.items()}
        found = {name: x["perplexity"] for name, x in every.items()}
        shares = {f"{name}_accuracy": x["accuracy"] for name, x in every.items()}
        bench.record(step=step, split="text", **found, **shares)
        return found | shares

    first = measure(0)
    for metrics in masked.train(model, tokenizer, text, config, bench.seed, bench.bf16):
        bench.record(split="train", phase="text", **_with_step(metrics))
        if metrics["step"] % config.eval_every == 0 or metrics["step"] == config.steps:
            last = measure(int(metrics["step"]))
    return _before_after(first, last)


STUDY = Study(
    name="self-supervised",
    about="what reading unlabelled text does, from left to right and with masks",
    arms={
        # the one that stands for the method on the scoreboard, and the same without any reading
        "autoregressive": {"kind": "task", "text": TASK_TEXT},
        "supervised": {"kind": "task", "text": None},
        "masked": {"kind": "masked", "cloze": CLOZE, "text": MASKED_TEXT},
        "domain": {"kind": "domain", "text": NEW_TEXT},
        "domain-adapter": {"kind": "domain", "text": {**NEW_TEXT, "embeddings": False}},
    },
    run=run,
)
