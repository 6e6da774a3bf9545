"""Domain adaptation in small: from school problems to a workshop, with text and a few labels.

Every arm begins where ReFT begins on nano, with a policy that has learnt the old domain's task.
It then reads unlabelled text of the new domain, or not, and each of several numbers of labelled
problems continues from there. Both domains are tested each time: what is won and what is forgotten.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reft_lib import data, lora, prompts, sft, workshop
from reft_lib import language_modelling as lm
from reft_lib.bench import Bench
from reft_lib.data import Example
from reft_lib.study import Study

SIZES = (0, 16, 64, 256)
"""Numbers of labelled problems."""
EPOCHS = {16: 20, 64: 10, 256: 6}
"""Passes over them, fixed beforehand: with so few labels there are none to choose by."""
BATCH = 16
"""Labelled problems of an optimiser step."""
TEXT: dict[str, Any] = {"steps": 120, "window": 128, "batch_size": 16, "lr": 2e-3}
"""Training on unlabelled text, as :class:`reft_lib.language_modelling.TextConfig` has it."""
OLD_QUESTIONS = 300
"""Questions of the old domain's test that are asked each time."""


def documents(bench: Bench, kind: str) -> list[str]:
    """Return the text of an arm: ``new``, the workshop's, or ``mixed``, old texts among it.

    The old texts are the training questions of the old domain with their solutions, as the policy
    has learnt to read and to write them. They are about a quarter of the whole.
    """
    new = workshop.load().texts["text"]
    if kind == "new":
        return new
    old = [prompts.prompt(e, bench.fmt) + prompts.target(e, bench.fmt) for e in old_rows(bench)]
    every = len(new) // len(old) + 1
    mixed = [[*new[i * every : (i + 1) * every], text] for i, text in enumerate(old)]
    return [text for part in mixed for text in part]


def old_rows(bench: Bench) -> list[Example]:
    """Return the labelled problems of the old domain that the policy began with."""
    return bench.splits["train"]


def perplexities(bench: Bench, model: Any, tokenizer: Any, window: int) -> dict[str, float]:
    """Return the perplexity of held-out text: ``new``, the workshop's, and ``old`` questions."""
    texts = {
        "new": workshop.load().texts["held_out"],
        "old": [e.question for e in bench.splits["validation"]],
    }
    return {k: lm.perplexity(model, lm.windows(tokenizer, t, window)) for k, t in texts.items()}


def adapt(bench: Bench, policy: Any, tokenizer: Any, kind: str, config: lm.TextConfig) -> Any:
    """Let a policy read unlabelled text; returns it merged, without an adapter.

    The perplexities on the way are recorded, the first ones before the first step.
    """
    rows = lm.windows(tokenizer, documents(bench, kind), config.window)

    def measure(step: int) -> None:
        found = perplexities(bench, policy, tokenizer, config.window)
        bench.record(step=step, split="text", **found)

    measure(0)
    for metrics in lm.train(policy, tokenizer, rows, config, bench.seed, bench.bf16):
        step = int(metrics.pop("step"))
        bench.record(step=step, split="train", phase="text", **metrics)
        if step % config.eval_every == 0 or step == config.steps:
            measure(step)
    return lora.merge(policy)


def learn(
    bench: Bench, model: Any, tokenizer: Any, k: int, embeddings: bool = False, replay: int = 0
) -> Any:
    """Fine-tune a copy of a model on ``k`` labelled problems; returns it merged.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Stays as it is.
    k : int
        Which problems these are is decided by the bench's seed.
    embeddings : bool
        Let the embeddings learn, too.
    replay : int
        Labelled problems of the old domain beside them.
    """
    policy = lora.add_adapter(copy.deepcopy(model), bench.config.lora, seed=bench.seed + 2)
    if embeddings:
        lm.open_embeddings(policy)
    rows = data.subset(workshop.load().problems["train"], k, bench.seed)
    rows += data.subset(old_rows(bench), replay, bench.seed)
    config = replace(bench.config.sft, epochs=EPOCHS[k], batch_size=BATCH)
    steps = sft.sft_steps(policy, tokenizer, rows, bench.fmt, config, bench.seed, bench.bf16)
    for step, metrics in enumerate(steps, start=1):
        bench.record(step=step, split="train", phase=f"labels {k}", **metrics)
    return lora.merge(policy)


def tested(bench: Bench, model: Any, tokenizer: Any, k: int) -> dict[str, float]:
    """Test a model on both domains; every verdict is recorded."""
    asked = {
        "new": workshop.load().problems["test"],
        "old": bench.splits["test"][:OLD_QUESTIONS],
    }
    found = {}
    for domain, examples in asked.items():
        result = bench.answers(model, tokenizer, examples, desc=f"{domain} test, {k} labels")
        verdicts = "".join("01"[right] for right in result.correct)
        bench.record(step=k, split=f"{domain} test", accuracy=result.accuracy, verdicts=verdicts)
        found[f"{domain}_{k}"] = result.accuracy
    return found


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adapt the warm-up policy in one way, with each number of labelled problems.

    Returns
    -------
    dict
        ``new_<k>`` and ``old_<k>``: accuracy (0 to 1) on the tests of the new and the old domain
        after ``k`` labelled problems; ``old_before``, that of the policy that all begin with;
        ``perplexity_new`` and ``perplexity_old`` before any label; ``text_tokens``, how many
        tokens of unlabelled text were learnt.
    """
    policy, tokenizer = bench.warm_policy()
    begun = lora.merge(policy)
    old = bench.splits["test"][:OLD_QUESTIONS]
    found: dict[str, Any] = {"old_before": bench.accuracy(begun, tokenizer, old), "text_tokens": 0}
    config = lm.TextConfig(**TEXT)
    model = begun
    if settings["text"]:
        policy = lora.add_adapter(begun, bench.config.lora, seed=bench.seed + 1)
        model = adapt(bench, policy, tokenizer, settings["text"], config)
        lines = [x for x in bench.lines if x.get("phase") == "text"]
        found["text_tokens"] = sum(x["tokens"] for x in lines)
    ppl = perplexities(bench, model, tokenizer, config.window)
    found |= {f"perplexity_{domain}": x for domain, x in ppl.items()}
    for k in settings["sizes"]:
        options = {"embeddings": settings["embeddings"], "replay": k if settings["replay"] else 0}
        learnt = learn(bench, model, tokenizer, k, **options) if k else model
        found |= tested(bench, learnt, tokenizer, k)
    return found


def arm(text: str = "", embeddings: bool = False, replay: bool = False) -> dict[str, Any]:
    """Return the settings of an arm: which text is read, and how labels are then learnt."""
    return {"text": text, "sizes": list(SIZES), "embeddings": embeddings, "replay": replay}


STUDY = Study(
    name="domain",
    about="a new domain from few labels, with and without reading its text first",
    arms={
        "labelled": arm(),
        # the same with embeddings that learn, as they do where text is read
        "labelled-embeddings": arm(embeddings=True),
        "adapted": arm("new"),
        "mixed": arm("mixed", replay=True),
    },
    run=run,
)
