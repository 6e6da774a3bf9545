"""Attention of a ragged batch in one function: rotations, rows put together, both directions.

:meth:`reft_lib.ragged.Ragged.attend` says what is computed. As it stands there, queries, keys and
values are copied five times before two matrices are multiplied, and as often backwards. Here one
copy puts each number where the product wants it, from places that are counted once for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reft_lib import elementwise
from reft_lib.rectangle import Rectangle


@dataclass
class Places:
    """Where the numbers of b rows of T queries and S keys lie; n tokens, one after another.

    The tokens' heads stand below each other: head j of token i, of J heads in all, is row i J + j.
    """

    shape: tuple[int, int, int]
    """b, T, S."""
    tokens: slice
    """Of all N tokens those that ask here."""
    queries: Tensor
    """int64 (b heads T,): rows of the heads of N tokens; padding takes some token's."""
    asked: Tensor
    """The same; under padding the row behind the last one."""
    keys: Tensor
    """int64 (b groups S,): rows of the groups of N tokens."""
    found: Tensor
    """int64 (n heads,): rows of what was computed, in the order of the tokens."""
    own: Tensor
    """int64 (n groups,): rows of the keys that belong to these tokens."""
    mask: Tensor
    """(b, 1, T, S), to be added to the scores."""
    rows: slice
    """Which of all responses' rows these are; of the prompts none."""


@dataclass
class Layout:
    """All places of a batch of B responses to U prompts."""

    parts: list[Places]
    """The prompts, then each group of responses."""
    answers: Tensor
    """(U, B): 1 where a response belongs to a prompt."""


def layout(laid: Any, heads: int, groups: int, dtype: torch.dtype) -> Layout:
    """Return where all numbers of a batch lie; found once, and kept with it."""
    if laid.layout is None:
        n, prompts = len(laid.tokens), _spread(laid.prompts, 0)
        parts = [_places(laid.prompts, prompts, laid.seen, 0, 0, n, heads, groups, dtype)]
        used, row = len(laid.prompts), 0
        for some in laid.responses:
            seen = torch.cat([prompts[some.which], _spread(some.read, used)], dim=1)
            parts.append(_places(some.read, seen, some.seen, row, used, n, heads, groups, dtype))
            used, row = used + len(some.read), row + len(some.which)
        which = torch.cat([some.which for some in laid.responses] or [prompts[:0, 0]])
        answers = torch.arange(len(prompts))[:, None] == which
        laid.layout = Layout(parts, answers.to(dtype))
    found: Layout = laid.layout
    return found


def _spread(read: Rectangle, first: int) -> Tensor:
    """Return the token in each place (b, T); under padding some token."""
    return first + read.of.view(read.mask.shape)


def _places(
    read: Rectangle, keys: Tensor, seen: Tensor, first_row: int,
    first: int, n: int, heads: int, groups: int, dtype: torch.dtype,
) -> Places:  # fmt: skip
    (rows, t), s = read.mask.shape, keys.shape[1]
    head, group = torch.arange(heads), torch.arange(groups)
    queries = _spread(read, first)[:, None] * heads + head[:, None]  # (b, heads, T)
    row, column = read.at // t, read.at % t
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return Places(
        (rows, t, s),
        slice(first, first + len(read)),
        queries.flatten(),
        queries.masked_fill(~read.mask[:, None], n * heads).flatten(),
        (keys[:, None] * groups + group[:, None]).flatten(),
        ((row[:, None] * heads + head) * t + column[:, None]).flatten(),
        ((row[:, None] * groups + group) * s + s - t + column[:, None]).flatten(),
        mask,
        slice(first_row, first_row + rows),
    )


class AttendRagged(torch.autograd.Function):
    """Rotates queries and keys, and attends as :class:`reft_lib.attention.Attend` does."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, laid: Any, heads: int, scale: float
    ) -> Tensor:
        """Return (N, heads, D).

        Parameters
        ----------
        x : Tensor (N, heads + 2 groups, D)
            Queries, keys and values of N tokens, before rotation.
        cos, sin : Tensor (1, N, D)
        laid : Ragged
        heads : int
        scale : float
            Of the scores.
        """
        groups = (x.shape[1] - heads) // 2
        # the root of the scale with each, so that no product has to be scaled, here nor backwards
        cos, sin = (t.float() * scale**0.5 for t in (cos, sin))
        q, k = elementwise.turned(x[None, :, :-groups], cos, sin)[0].split([heads, groups], dim=1)
        sources = [part.reshape(-1, x.shape[2]) for part in (q, k, x[:, -groups:])]
        out, kept = torch.empty_like(q, memory_format=torch.contiguous_format), []
        found_places = layout(laid, heads, groups, x.dtype)
        for part in found_places.parts:
            rows, keys, values = _rows(part, sources, groups)
            scores = rows @ keys.mT
            by_head = scores.view(len(part.mask), heads, *part.shape[1:])
            by_head += part.mask
            weights = torch.softmax(scores, dim=-1, dtype=scores.dtype)
            found = (weights @ values).view(-1, x.shape[2])
            torch.index_select(found, 0, part.found, out=out[part.tokens].flatten(0, 1))
            kept += [rows, keys, values, weights]
        ctx.save_for_backward(cos, sin, *kept)
        ctx.layout, ctx.heads, ctx.shape = found_places, heads, x.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x; what several rows say about a prompt's keys adds up."""
        cos, sin, *kept = ctx.saved_tensors
        (_, all_heads, d), heads = ctx.shape, ctx.heads
        groups = (all_heads - heads) // 2
        parts, answers = ctx.layout.parts, ctx.layout.answers
        dx = grad.new_empty(ctx.shape)
        given = torch.cat([grad.reshape(-1, d), grad.new_zeros(1, d)])
        # what each response says about its prompt's keys and values
        about = grad.new_empty(2, answers.shape[1], groups, parts[0].shape[2], d)
        for i in reversed(range(len(parts))):  # the prompts come last
            part, (rows, keys, values, weights) = parts[i], kept[4 * i : 4 * i + 4]
            g = given.index_select(0, part.asked).view(rows.shape)
            scores = torch._softmax_backward_data(g @ values.mT, weights, -1, weights.dtype)
            dq, both = scores @ keys, [scores.mT @ rows, weights.mT @ g]
            here = dx[part.tokens]
            here[:, :heads] = dq.view(-1, d).index_select(0, part.found).view(-1, heads, d)
            for j, one in enumerate(both):
                if i:
                    by_row = one.view(part.shape[0], groups, -1, d)
                    about[j, part.rows] = by_row[:, :, : about.shape[3]]
                else:
                    one += (answers @ about[j].flatten(1)).view(one.shape)
                first = heads + j * groups
                own = one.view(-1, d).index_select(0, part.own)
                here[:, first : first + groups] = own.view(-1, groups, d)
        back = dx[None, :, :-groups]
        elementwise.turned(back, cos, -sin, out=back)
        return dx, None, None, None, None, None


def _rows(part: Places, sources: list[Tensor], groups: int) -> list[Tensor]:
    """Return queries (b groups, heads / groups T, D), keys and values (b groups, S, D)."""
    chosen = zip(sources, (part.queries, part.keys, part.keys), strict=True)
    return [x.index_select(0, at).view(part.shape[0] * groups, -1, x.shape[1]) for x, at in chosen]
