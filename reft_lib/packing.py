"""Padding and packing: two ways to put examples of unequal length into one tensor.

*Padded*, every example has a row of its own and is filled up to the longest one. *Packed*, several
examples stand behind each other in one row, so that little is filled up. Two things must then be
said that rows said before: a token looks back only within its own example (a block-diagonal
attention mask), and positions begin at 0 in each. With both, the two ways compute the same loss
from the same examples (tests/test_packing.py), and differ in speed alone.

    padded   a a a a . .        packed   a a a a c c        looks at   a: a   c: c   b: b
             b b b b b b                 b b b b b b
             c c . . . .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import losses, rollout
from reft_lib.errors import UserError
from reft_lib.sft import IGNORE

Pair = tuple[list[int], list[int]]
"""Prompt ids and target ids, the end-of-sequence token included, of one example."""


@dataclass
class Packed:
    """Examples behind each other; B rows of T tokens."""

    tokens: Tensor
    """int64 (B, T)."""
    labels: Tensor
    """int64 (B, T): the token itself where it is learnt, else ``IGNORE``."""
    segments: Tensor
    """int64 (B, T): 1, 2, ... for the examples of a row in turn, 0 on padding."""
    position_ids: Tensor
    """int64 (B, T): 0 on the first token of every example."""


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Put examples into rows of ``width`` tokens: longest first, each into the first row with room.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each example.
    width : int
        Tokens that a row holds.

    Returns
    -------
    list of lists of int
        The examples of each row, by index. First-fit decreasing never needs more than 11/9 of the
        fewest possible rows, and one (Johnson 1973).

    Raises
    ------
    UserError
        If an example is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > width:
            raise UserError(f"example {i} has {lengths[i]} tokens; a packed row holds {width}")
        at = next((row for row, left in enumerate(room) if left >= lengths[i]), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(width)
        rows[at].append(i)
        room[at] -= lengths[i]
    return rows


def collate(pairs: Sequence[Pair], width: int, pad: int, device: Any = "cpu") -> Packed:
    """Pack (prompt ids, target ids) pairs into rows, cut to the fullest of them.

    Parameters
    ----------
    pairs : sequence of pairs
    width : int
        Most tokens in a row.
    pad : int
        Token that fills rows up.
    device : device
    """
    lengths = [len(p) + len(t) for p, t in pairs]
    rows = pack(lengths, width)
    width = max(sum(lengths[i] for i in row) for row in rows)
    tokens = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORE)
    segments, position_ids = torch.zeros(2, len(rows), width, dtype=torch.long)
    for r, row in enumerate(rows):
        at = 0
        for segment, i in enumerate(row, start=1):
            (p, t), end = pairs[i], at + lengths[i]
            tokens[r, at:end] = torch.tensor([*p, *t])
            labels[r, at + len(p) : end] = torch.tensor(t)
            segments[r, at:end] = segment
            position_ids[r, at:end] = torch.arange(lengths[i])
            at = end
    return Packed(*(x.to(device) for x in (tokens, labels, segments, position_ids)))


def attention(segments: Tensor) -> Tensor:
    """Return what each token may look at: earlier tokens, and itself, of its own example.

    Parameters
    ----------
    segments : int64 (B, T)

    Returns
    -------
    bool Tensor (B, T, T)
        Row: the token that looks. Padding looks at padding, since a softmax over nothing is NaN.
    """
    same = segments[:, :, None] == segments[:, None, :]
    return same.tril()


def loss(model: Any, batch: Packed) -> Tensor:
    """Return the mean loss in nats of the batch's labelled tokens, as :func:`reft_lib.sft.loss`."""
    seen = attention(batch.segments)[:, None]  # (B, 1, T, T), the same for all heads
    dtype = model.get_input_embeddings().weight.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    mask = mask.masked_fill(~seen, torch.finfo(dtype).min)  # added to the attention's logits
    hidden = rollout.last_hidden(model, batch.tokens, mask, batch.position_ids)[:, :-1]
    # The first token of an example is part of its prompt, so no label reaches over a border.
    labels = batch.labels[:, 1:]
    wanted = labels != IGNORE
    logits = model.get_output_embeddings()(hidden[wanted])  # (N, V)
    return losses.cross_entropy(logits, labels[wanted], IGNORE)


def padding_share(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> float:
    """Return the share of places that hold padding, 0 to 1, when rows are cut to the longest.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each example.
    rows : sequence of sequences of int
        Which examples stand in each row; one in each: plain padding.
    """
    used = [sum(lengths[i] for i in row) for row in rows]
    return 1 - sum(used) / (len(used) * max(used))
