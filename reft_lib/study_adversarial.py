"""Recorded: a generator against a discriminator, with what stops it from collapsing, and VAT.

Arms ``text-...`` adapt the base model to unlabelled stories: the beginning of a training question
is the prompt, its rest the real text, and no answer is seen. Arm ``solutions`` plays the same game
with annotated solutions from the warm-up policy on, so that it can be tested on the test questions.
Arm ``sft-vat`` is SFT with virtual adversarial training, the other meaning of the word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reft_lib import (
    adversarial,
    discriminator,
    diversity,
    models,
    prompts,
    rollout,
    sft,
    stats,
    virtual_adversarial,
    wording,
)
from reft_lib.bench import Bench
from reft_lib.config import Format, SampleConfig
from reft_lib.data import Example
from reft_lib.discriminator import Text
from reft_lib.method_settings_adversarial import AdversarialConfig, VatConfig
from reft_lib.rewards import AnswerReward
from reft_lib.rollout import Rollout
from reft_lib.scorer import Row
from reft_lib.study import Study

HEAD = "Question:\n"
"""Stands before every story."""
STORY_TOKENS = 56
"""A generated story is cut here; no real one goes on for longer."""
JUDGE = AdversarialConfig()
"""Settings of a second opinion."""
PASSES = 2
"""Passes of a second opinion over its texts."""


def stories(examples: Sequence[Example]) -> list[Text]:
    """Return the questions as texts: the first sentence is the prompt, the others follow."""
    found = []
    for e in examples:
        at = e.question.find(". ") + 1
        found.append(Text(e.id, HEAD + e.question[:at], e.question[at:]))
    return found


def solutions(examples: Sequence[Example], fmt: Format) -> list[Text]:
    """Return the annotated solutions as texts: the question is the prompt."""
    return [Text(e.id, prompts.prompt(e, fmt), prompts.target(e, fmt)) for e in examples]


def whole(texts: Sequence[Text], written: Sequence[str]) -> list[str]:
    """Return stories from their first word on."""
    return [t.prompt.removeprefix(HEAD) + y for t, y in zip(texts, written, strict=True)]


def story_metrics(found: Sequence[str]) -> dict[str, float]:
    """Return ``worded``, the share worded as the task's problems, and ``kinds`` of sentences.

    See :func:`reft_lib.wording.is_problem` and :func:`reft_lib.wording.effective_kinds`.
    """
    worded = sum(map(wording.is_problem, found)) / len(found)
    return {"worded": worded, "kinds": wording.effective_kinds(found)}


def watch_stories(sampled: Rollout, texts: Sequence[Text], logits: Tensor) -> dict[str, float]:
    """Measure a batch of generated stories by :func:`story_metrics`."""
    return story_metrics(whole(texts, sampled.texts))


def continued(
    policy: Any, tokenizer: Any, texts: Sequence[Text], seed: int
) -> tuple[list[Row], list[Row], list[str]]:
    """Let a generator continue every text once; returns real rows, its rows, its continuations."""
    real = discriminator.encode(tokenizer, texts, models.context_length(policy))
    fake, said, size = list[Row](), list[str](), 256
    generator = torch.Generator(policy.device).manual_seed(seed)
    for at in range(0, len(real), size):
        part = real[at : at + size]
        sampled = rollout.sample(
            policy, tokenizer, [prompt for prompt, _ in part], STORY_TOKENS, generator=generator
        )
        fake += adversarial.written(sampled, part)
        said += sampled.texts
    return real, fake, said


def second_opinion(
    bench: Bench, policy: Any, texts: Sequence[Text], held: Sequence[Text]
) -> dict[str, float]:
    """Judge a generator by a discriminator that never played against it.

    It is trained from nothing, equally long whoever the generator is, on one continuation of each
    of ``texts`` against the real ones, and asked about ``held``. The opponents of different arms
    have met different generators; this makes the arms comparable (a classifier two-sample test,
    Lopez-Paz and Oquab 2017).

    Returns
    -------
    dict
        ``found_out``: share of held-out real and generated texts told rightly, each kind counting
        half; those of :func:`story_metrics` and :func:`reft_lib.diversity.summary`, of what was
        generated for ``held``; ``held_nll`` (nats a token).
    """
    config, seed = JUDGE, bench.seed + 1
    model, tokenizer = bench.base()
    judge = discriminator.attach(model, tokenizer, config, bench.config.lora, seed)
    real, fake, _ = continued(policy, tokenizer, texts, seed)
    for _ in range(PASSES * len(real) // config.batch_size):
        rows = judge.loop.draw(len(real), config.batch_size, whole=True)
        discriminator.learn(judge, [real[i] for i in rows], [fake[i] for i in rows], config)
    real, fake, said = continued(policy, tokenizer, held, seed)
    logits = [discriminator.score(judge, rows, config) for rows in (real, fake)]
    told = [discriminator.told_right(x) for x in (logits[0], -logits[1])]
    with torch.no_grad():
        batch = sft.collate(real, tokenizer.eos_token_id, policy.device)
        held_nll = sft.loss(policy, batch).item()
    found = story_metrics(whole(held, said)) | diversity.summary(said)
    return {"found_out": sum(told) / 2, **found, "held_nll": held_nll}


def run_text(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adapt the base model to unlabelled stories."""
    config = AdversarialConfig(**settings)
    texts, held = (stories(bench.splits[name]) for name in ("train", "validation"))
    policy, tokenizer = bench.adapted()
    sampled = 0.0
    for metrics in adversarial.train(
        policy, tokenizer, texts, held, config, bench.config.lora,
        SampleConfig(max_new_tokens=STORY_TOKENS), bench.seed, bench.bf16, watch_stories,
    ):  # fmt: skip
        bench.record(step=int(metrics.pop("step")), split="train", **metrics)
        sampled += config.batch_size * metrics["length"]
    bench.trained_minutes = bench.minutes
    found = second_opinion(bench, policy, texts, held)
    return found | {"sampled_tokens": round(sampled), "given": f"{len(texts)} unlabelled texts"}


def run_solutions(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Play with annotated solutions, from the warm-up policy on, and read the tests."""
    config = AdversarialConfig(**{k: x for k, x in settings.items() if k != "eval_every"})
    train, grade = bench.splits["train"], AnswerReward(bench.fmt, partial=0.0)
    asked = {e.id: e for e in train}

    def watch(sampled: Rollout, texts: Sequence[Text], logits: Tensor) -> dict[str, float]:
        """Say how right the samples are, which neither player is told, and whether it shows."""
        right = [g.correct for g in grade(sampled.texts, [asked[t.id] for t in texts])]
        return {"accuracy": sum(right) / len(right), "auc": stats.auc(logits.tolist(), right)}

    policy, tokenizer = bench.warm_policy()
    texts, held = (solutions(bench.splits[name], bench.fmt) for name in ("train", "validation"))
    steps = adversarial.train(
        policy, tokenizer, texts, held, config, bench.config.lora, bench.config.sample,
        bench.seed, bench.bf16, watch,
    )  # fmt: skip
    best = bench.fit(policy, tokenizer, steps, config.steps, settings["eval_every"])
    rounds = [line for line in bench.lines if line["split"] == "train"]
    sampled = sum(config.batch_size * line["length"] for line in rounds)
    played = [config.batch_size * line["length"] for line in rounds[config.head_start :]]
    forced = config.forcing * (config.batch_size // config.minibatches) * len(played)
    targets = target_tokens(bench, tokenizer)
    return {
        **best,
        **bench.test(policy, tokenizer),
        "auc": rounds[-1]["auc"],
        "right": rounds[-1]["right"],
        "sampled_tokens": round(sampled),
        "trained_tokens": round(
            (bench.config.warmup_epochs + forced / len(train)) * targets + sum(played)
        ),
        "given": f"{len(train)} annotated questions",
    }


def run_vat(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train by SFT with VAT on the annotations, and read the tests."""
    config = replace(bench.config.sft, epochs=settings["epochs"])
    train, vat = bench.splits["train"], {k: x for k, x in settings.items() if k != "epochs"}
    policy, tokenizer = bench.adapted()
    steps = virtual_adversarial.vat_steps(
        policy, tokenizer, train, bench.fmt, config, VatConfig(**vat), bench.seed
    )
    per_epoch = sft.steps_per_epoch(len(train), config)
    best = bench.fit(policy, tokenizer, steps, config.epochs * per_epoch, per_epoch)
    return {
        **best,
        **bench.test(policy, tokenizer),
        "sampled_tokens": 0,
        "trained_tokens": config.epochs * target_tokens(bench, tokenizer),
        "given": f"{len(train)} annotated questions",
    }


def target_tokens(bench: Bench, tokenizer: Any) -> int:
    """Return how many tokens one pass over the annotations learns."""
    pairs = sft.encode(tokenizer, bench.splits["train"], bench.fmt)
    return sum(len(target) for _, target in pairs)


RUNS: dict[str, Callable[[Bench, Mapping[str, Any]], dict[str, Any]]] = {
    "text": run_text,
    "solutions": run_solutions,
    "vat": run_vat,
}
"""What an arm's ``use`` means."""


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Do one arm with one seed."""
    return RUNS[settings["use"]](bench, {k: x for k, x in settings.items() if k != "use"})


PLAY = {
    "use": "text", "steps": 40, "batch_size": 32, "minibatches": 2, "reward": "log-odds",
    "lr": 1e-3, "discriminator_lr": 3e-3,
}  # fmt: skip
STUDY = Study(
    "adversarial",
    "can a discriminator teach what real texts are like, and what stops the generator's collapse?",
    {
        "text-base": {"use": "text", "steps": 1, "reward": "none"},
        "text-likelihood": {**PLAY, "reward": "none", "forcing": 2},
        "text-plain": PLAY,
        "text-kl": {**PLAY, "beta": 0.2},
        "text-mixed": {**PLAY, "forcing": 1},
        "solutions": {
            "use": "solutions", "steps": 35, "batch_size": 128, "minibatches": 8, "lr": 5e-4,
            "discriminator_lr": 3e-3, "reward": "log-odds", "beta": 0.05, "forcing": 2,
            "eval_every": 5,
        },
        "sft-vat": {"use": "vat", "epochs": 8, "weight": 1.0, "epsilon": 0.1},
    },
    run,
)  # fmt: skip
