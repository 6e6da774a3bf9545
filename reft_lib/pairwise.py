"""What a reward model and DPO share: the loss of a choice, and reading pairs, each response once.

K responses to a question give K (K - 1) / 2 pairs, but only K texts to read. So the pairs of a
question stay together in a batch, and each of its responses goes through the model once, however
many pairs it is in (Ouyang et al. 2022, section 3.5, who also found less overfitting so).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reft_lib import scorer, sft
from reft_lib.config import Format
from reft_lib.data import Example
from reft_lib.loop import Loop
from reft_lib.preferences import Pair
from reft_lib.scorer import Row


class Part(NamedTuple):
    """Some pairs that go through the model together."""

    batch: sft.Batch
    """Their different responses, one a row."""
    chosen: Tensor
    """int64 (b,): for each pair the row of the chosen response."""
    rejected: Tensor
    """int64 (b,): likewise of the rejected one."""
    share: float
    """The pairs' share of the whole batch."""


def preference_loss(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood of the choices under Bradley and Terry's model.

        L = -(1/B) sum_i log s(chosen_i - rejected_i),      s(d) = 1 / (1 + exp(-d))

    Parameters
    ----------
    chosen, rejected : Tensor (B,)
        Rewards of the two responses of each pair.

    Returns
    -------
    loss : scalar Tensor, in nats
        ln 2 where rewards are equal, as of an honest coin.
    stats : dict of float
        ``accuracy``: share of pairs in which the chosen one has the higher reward, equal ones
        counting half; ``margin``: mean difference of rewards.

    Notes
    -----
    Ouyang et al. 2022, eq. 1, which weighs each question alike, here each pair; DPO has the same
    loss with the policy's own rewards (:mod:`reft_lib.dpo`).
    """
    difference = chosen - rejected
    stats = {
        "accuracy": (0.5 + 0.5 * difference.detach().sign()).mean().item(),
        "margin": difference.detach().mean().item(),
    }
    return -logsigmoid(difference).mean(), stats


def responses(pairs: Sequence[Pair]) -> list[tuple[Example, str]]:
    """Return every different response of some pairs once, with its question."""
    both = [(p.example, text) for p in pairs for text in (p.chosen, p.rejected)]
    return list({(e.id, text): (e, text) for e, text in both}.values())


def encode_pairs(
    model: Any, tokenizer: Any, fmt: Format, pairs: Sequence[Pair]
) -> list[tuple[Row, Row]]:
    """Return what a model reads of the (chosen, rejected) response of each pair.

    A response that is in several pairs is one and the same object in all of them.
    """
    each = responses(pairs)
    encoded = scorer.encode(model, tokenizer, fmt, each)
    rows = {(e.id, text): row for (e, text), row in zip(each, encoded, strict=True)}
    return [(rows[p.example.id, p.chosen], rows[p.example.id, p.rejected]) for p in pairs]


def by_question(rows: Sequence[tuple[Row, Row]]) -> list[list[int]]:
    """Return the indices of the pairs of each question, questions in order of appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, ((prompt, _), _) in enumerate(rows):
        groups.setdefault(tuple(prompt), []).append(i)
    return list(groups.values())


def draw(loop: Loop, questions: Sequence[Sequence[int]], size: int) -> list[int]:
    """Return the pairs of the next batch: question after question in a new random order.

    Every pair comes once before any comes again; the last batch of a pass may be smaller.
    """
    if not loop.waiting:
        order = loop.shuffle.sample(range(len(questions)), len(questions))
        loop.waiting = [i for question in order for i in questions[question]]
    chosen, loop.waiting = loop.waiting[:size], loop.waiting[size:]
    return chosen


def micro_batches(
    rows: Sequence[tuple[Row, Row]], size: int, pad: int, device: Any
) -> Iterator[Part]:
    """Yield parts of a batch of pairs that fit memory: at most ``2 * size`` responses each."""
    if len({id(row) for pair in rows for row in pair}) > 2 * size:
        # prompts of like length, and of one question, side by side: little padding or repetition
        rows = sorted(rows, key=lambda pair: (len(pair[0][0]), pair[0][0]))
    part: list[tuple[Row, Row]] = []
    places: dict[int, int] = {}
    for pair in rows:
        new = [id(row) for row in pair if id(row) not in places]
        if part and len(places) + len(new) > 2 * size:
            yield _part(part, pad, device, len(part) / len(rows))
            part, places = [], {}
        part.append(pair)
        for row in pair:
            places.setdefault(id(row), len(places))
    if part:
        yield _part(part, pad, device, len(part) / len(rows))


def _part(pairs: Sequence[tuple[Row, Row]], pad: int, device: Any, share: float) -> Part:
    """Collate the different responses of some pairs."""
    different = {id(row): row for pair in pairs for row in pair}
    places = {key: i for i, key in enumerate(different)}
    chosen, rejected = (
        torch.tensor([places[id(pair[side])] for pair in pairs], device=device) for side in (0, 1)
    )
    return Part(sft.collate(list(different.values()), pad, device), chosen, rejected, share)
