"""Value accuracy: greedy (top-1) and by majority voting, with intervals.

A response counts as right by the same rule that the reward uses (:mod:`reft_lib.rewards`), so
training and evaluation cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import answers, models, rollout, stats
from reft_lib.config import Format, SampleConfig
from reft_lib.data import Example

EQUATION = re.compile(r"[\d(][\d\s.()+*/-]*=\s*-?[\d.]*\d")
"""An equation in a chain of thought: ``12 + 5 * 3 = 27``."""


@dataclass(frozen=True)
class Answers:
    """What a policy answered: N questions with k responses each."""

    texts: list[list[str]]
    """N lists of k responses."""
    answers: list[list[str | None]]
    """N lists of k extracted answers; None where there is none."""
    chosen: list[str | None]
    """N final answers: the only one (greedy), or the majority's."""
    correct: list[bool]
    """N verdicts on the final answers."""

    @property
    def accuracy(self) -> float:
        """Share of questions answered rightly, 0 to 1."""
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy over questions."""
        return stats.wilson(sum(self.correct), len(self.correct))


def answer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    config: SampleConfig,
    votes: int = 1,
    seed: int = 0,
    desc: str = "answer",
) -> Answers:
    """Let a policy answer questions, greedily or by majority voting.

    Parameters
    ----------
    model, tokenizer : the policy
    examples : sequence of Example
    fmt : {"ncot", "pcot"}
    config : SampleConfig
    votes : int
        1: one greedy response. k > 1: k responses sampled at temperature 1, whose most frequent
        answer is taken (Wang et al. 2023); responses without an answer do not vote.
    seed : int
        Seed of the sampling.
    desc : str
        Name on the progress bar.

    Returns
    -------
    Answers
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    room = models.context_length(model) - config.max_new_tokens
    prompt_ids = rollout.encode(tokenizer, examples, fmt, room)
    # Questions of like length side by side: less padding, the same answers.
    order = sorted(range(len(examples)), key=lambda i: len(prompt_ids[i]))
    per_call = max(1, config.batch_size // votes)
    texts: list[list[str]] = [[] for _ in examples]
    for at in tqdm(range(0, len(order), per_call), desc=desc, leave=False, mininterval=1):
        rows = order[at : at + per_call]
        sampled = rollout.sample(
            model,
            tokenizer,
            [prompt_ids[i] for i in rows],
            config.max_new_tokens,
            temperature=0.0 if votes == 1 else 1.0,
            generator=generator,
            samples_per_prompt=votes,
        )
        for j, i in enumerate(rows):
            texts[i] = sampled.texts[j * votes : (j + 1) * votes]
    return judge(texts, examples, fmt)


def judge(texts: list[list[str]], examples: Sequence[Example], fmt: Format) -> Answers:
    """Extract, vote and compare: N lists of k responses against N examples."""
    flat = answers.extract_many([t for group in texts for t in group], fmt)
    found, at = [], 0
    for group in texts:
        found.append(flat[at : at + len(group)])
        at += len(group)
    chosen = [group[0] if len(group) == 1 else answers.vote(group) for group in found]
    correct = [answers.equal(a, e.answer) for a, e in zip(chosen, examples, strict=True)]
    return Answers(texts, found, chosen, correct)


def reasoning(text: str, fmt: Format) -> str:
    """Reduce a response to what it computes, so that two ways of saying one path are equal.

    N-CoT: its equations in order (``12 + 5 = 17; 17 * 2 = 34``). P-CoT: its code without spaces.
    """
    if fmt == "ncot":
        return "; ".join(m.strip() for m in EQUATION.findall(text))
    return "\n".join("".join(line.split()) for line in text.splitlines() if line.strip())


def distinct_paths(result: Answers, examples: Sequence[Example], fmt: Format) -> list[int]:
    """Count, for each question, the different correct paths among its k responses (N integers)."""
    counts = []
    for texts, found, e in zip(result.texts, result.answers, examples, strict=True):
        right = {
            reasoning(t, fmt)
            for t, a in zip(texts, found, strict=True)
            if answers.equal(a, e.answer)
        }
        counts.append(len(right))
    return counts


def path_shares(texts: Sequence[str], examples: Sequence[Example], fmt: Format) -> dict[str, float]:
    """Tell which of the problems' known paths responses follow.

    Parameters
    ----------
    texts : sequence of str
        One response for each example.
    examples : sequence of Example
        Embedded problems, whose ``meta["paths"]`` name every known path.
    fmt : {"ncot", "pcot"}

    Returns
    -------
    dict
        Path name to share of responses, 0 to 1; ``other`` is anything else, right or wrong.
    """
    shares: dict[str, float] = {}
    for text, e in zip(texts, examples, strict=True):
        said = reasoning(text, fmt)
        names = [p["name"] for p in e.meta["paths"] if reasoning(p[fmt], fmt) == said]
        name = names[0] if names else "other"
        shares[name] = shares.get(name, 0.0) + 1 / len(texts)
    return shares
