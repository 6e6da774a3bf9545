"""Instruction fine-tuning of nano: what many tasks, many phrasings and known words each do.

All arms see the same questions, as many requests and the same settings; they differ in what is
asked. The last step is taken, and nothing is selected on validation: an arm that never saw a task
should not be chosen by it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from reft_lib import instruction_tuning, lora
from reft_lib.bench import Bench
from reft_lib.data import Example
from reft_lib.instruction_tuning import by_task, judge, requests
from reft_lib.instructions import SEEN, TASKS, UNSEEN, Request
from reft_lib.study import Study

WIDTH = 256
"""Tokens of a packed row."""
ASKED = 200
"""Test questions, the first, that are asked for every task."""
SPEED_STEPS = 12
"""Optimiser steps of each measurement of speed."""
COMMON: dict[str, Any] = {"epochs": 3, "variety": 0, "language": "plain", "tasks": list(SEEN)}
ARMS: dict[str, dict[str, Any]] = {
    "mixed": {**COMMON, "speed": True},
    "mixed-few": {**COMMON, "variety": 1},
    "mixed-english": {**COMMON, "language": "english"},
    "solve-only": {**COMMON, "tasks": ["solve"] * len(SEEN)},
}
"""All tasks; all tasks in one phrasing each; in words that nano never met; one task alone."""


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tune nano on an arm's requests, then ask for every task.

    Returns
    -------
    dict
        ``validation``, ``test``, ``hard``: accuracy (0 to 1) on the plain prompt of programs, which
        is no instruction. ``seen_<task>``, ``kept_back_<task>``, ``unseen_<task>``: share of right
        responses to test questions, in phrasings of training, in phrasings kept back, and for the
        tasks of no training. ``last_as_first``: how often the first operation is named for the
        last; ``equation_as_first``: how often it is given, as an equation, for the whole.
        ``labels``, annotated responses; ``trained_tokens`` of responses; ``sampled_tokens``, 0.
        Arm ``mixed`` also has those of :func:`speed`.
    """
    train, language = bench.splits["train"], settings["language"]
    asked = requests(train, settings["tasks"], bench.seed, language, variety=settings["variety"])
    config = replace(bench.config.sft, epochs=settings["epochs"])
    policy, tokenizer = bench.adapted()
    steps = instruction_tuning.tune(
        policy, tokenizer, asked, config, bench.seed, bench.bf16, width=WIDTH
    )
    for step, metrics in enumerate(steps, start=1):
        bench.record(step=step, split="train", phase="instruct", **metrics)
    policy = lora.merge(policy)
    found: dict[str, Any] = {
        "validation": bench.accuracy(policy, tokenizer, bench.splits["validation"]),
        **bench.test(policy, tokenizer),
        **measure(bench, policy, tokenizer, bench.splits["test"], language),
    }
    pairs = instruction_tuning.encode(tokenizer, asked, 2**31)
    found["labels"] = len(asked)
    found["trained_tokens"] = settings["epochs"] * sum(len(target) for _, target in pairs)
    found["sampled_tokens"] = 0
    return found | (speed(bench, asked) if settings.get("speed") else {})


def measure(
    bench: Bench, policy: Any, tokenizer: Any, questions: Sequence[Example], language: str
) -> dict[str, float]:
    """Return the share of right responses for each task, as :func:`run` does; texts are recorded.

    Tasks of no training are asked for only where there are several steps: else the first operation
    is also the last, and the whole.
    """
    longer = [e for e in questions if e.meta["n_steps"] > 1]
    seed = bench.seed + 1000  # the wrong solutions are not those of training
    sets = {
        "seen": requests(questions[:ASKED], SEEN, seed, language),
        "kept_back": requests(questions[:ASKED], SEEN, seed, language, kept_back=True),
        "unseen": requests(longer[:ASKED], UNSEEN, seed, language),
    }
    found: dict[str, float] = {}
    for name, asked in sets.items():
        texts = instruction_tuning.answer(policy, tokenizer, asked, bench.config.sample)
        right = judge(texts, asked)
        verdicts = "".join("01"[v] for v in right)
        shown = [[r.text, text] for r, text in zip(asked, texts, strict=True)][:: ASKED // 4]
        bench.record(step=0, split=name, verdicts=verdicts, responses=shown)
        found |= {f"{name}_{task}": share for task, share in by_task(right, asked).items()}
    # Controls of the two: what the response says where another one is asked for.
    whole = requests(longer[:ASKED], ["equation"], seed, language)
    said = instruction_tuning.answer(policy, tokenizer, whole, bench.config.sample)
    first = [TASKS["first-sum"].check(text, r) for text, r in zip(said, whole, strict=True)]
    last = [
        TASKS["first"].check(text, r)
        for r, text in zip(asked, texts, strict=True)
        if r.task == "last"
    ]
    return found | {
        "last_as_first": sum(last) / len(last),
        "equation_as_first": sum(first) / len(first),
    }


def speed(bench: Bench, asked: Sequence[Request]) -> dict[str, float]:
    """Measure training, padded and packed, in tokens (without padding) a second of processor time.

    Returns
    -------
    dict
        ``tokens_per_second_padded`` and ``_packed``, of some steps after the first.
    """
    found = {}
    for name, width in (("padded", 0), ("packed", WIDTH)):
        policy, tokenizer = bench.adapted()
        steps = instruction_tuning.tune(
            policy, tokenizer, asked, bench.config.sft, bench.seed, bench.bf16, width
        )
        next(steps)
        began = time.process_time()
        tokens = sum(m["tokens"] for m in islice(steps, SPEED_STEPS))
        found[f"tokens_per_second_{name}"] = tokens / (time.process_time() - began)
    return found


STUDY = Study(
    name="instruct",
    about="instructions for many tasks: held-out phrasings, held-out tasks, words never met",
    arms=ARMS,
    run=run,
)
