"""Reading rows of unequal length, and rows with the same prompt, without doing work twice.

A padded batch is a rectangle, and a model multiplies its empty columns like all others. Groups of
responses to one question repeat the question besides. But a linear layer or a norm treats each
token alone, and what stands before a response does not depend on it. So here all different tokens
lie in one long row, each prompt once; only attention puts them back into rectangles.

    padded   pad q q q | a a a -      ragged   q q q  r r r r  a a  b  c c c
             pad q q q | b b - -      (here the prompt q serves two rows, r one;
             r   r r r | c c c c       a row's last token predicts nothing and is left out)

Models of Llama's architecture hand what else they are given down to attention, which is how
:meth:`Ragged.attend` gets there; :func:`suits` tells which models do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import attention, models, ragged_attention, switch
from reft_lib.rectangle import Rectangle

ROWS = 8
"""Responses of like length that attend in a rectangle of their own, on a CPU."""


@dataclass
class Responses:
    """Some rows of a batch, b of them, whose longest response has T + 1 tokens."""

    read: Rectangle
    """(b, T): response tokens that predict another one."""
    which: Tensor
    """int64 (b,): the prompt of each row."""
    seen: Tensor
    """bool (b, 1, T, P + T): True where a token may look at its prompt or its response."""


@dataclass
class Ragged:
    """A batch of B rows with U different prompts as one row of N tokens, prompts first."""

    tokens: Tensor
    """int64 (N,)."""
    position_ids: Tensor
    """int64 (N,): places in their own rows, from 0."""
    prompts: Rectangle
    """(U, P)."""
    seen: Tensor
    """bool (U, 1, P, P): True where a prompt's token may look at another one."""
    which: Tensor
    """int64 (B,): the prompt of each row."""
    responses: list[Responses]
    """All rows, some at a time, in the order of their tokens."""
    before: Tensor
    """int64 (B, R): the token whose output predicts each response token; 0 under padding."""
    layout: Any = None
    """What :mod:`reft_lib.ragged_attention` has found, for all layers."""

    def attend(self, attention: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let prompts look at themselves, and responses at their prompts and themselves.

        Parameters
        ----------
        attention : callable
            Of queries (B, heads, T, D), keys and values (B, groups, S, D) and a bool mask
            (B, 1, T, S), True where a query may look; returns (B, T, heads, D) first.
        q : Tensor (1, heads, N, D)
        k, v : Tensor (1, groups, N, D)

        Returns
        -------
        Tensor (1, N, heads, D)
        """
        sizes = [len(self.prompts), *(len(some.read) for some in self.responses)]
        parts = list(zip(*(x[0].split(sizes, dim=1) for x in (q, k, v)), strict=True))
        asked = [self.prompts.spread(x) for x in parts[0]]
        out = [self.prompts.collect(attention(*asked, self.seen)[0])]
        for some, part in zip(self.responses, parts[1:], strict=True):
            said = [some.read.spread(x) for x in part]
            keys, values = (
                torch.cat([x.index_select(0, some.which), y], dim=2)
                for x, y in zip(asked[1:], said[1:], strict=True)
            )
            out.append(some.read.collect(attention(said[0], keys, values, some.seen)[0]))
        return torch.cat(out)[None]

    def attend_at_once(
        self, x: Tensor, angles: tuple[Tensor, Tensor], heads: int, scale: float
    ) -> Tensor:
        """Rotate queries and keys and do what :meth:`attend` does, with all copies in one.

        Parameters
        ----------
        x : Tensor (N, heads + 2 groups, D)
            Queries, keys and values, on a CPU.
        angles : (Tensor, Tensor)
            cos and sin (1, N, D) of the tokens' rotations.
        heads : int
        scale : float
            Of the scores.

        Returns
        -------
        Tensor (N, heads, D)
        """
        found: Tensor = ragged_attention.AttendRagged.apply(x, *angles, self, heads, scale)
        return found


def suits(model: Any) -> bool:
    """Return whether a model can read ragged batches; others read padded ones."""
    config = models.unwrapped(model).config
    known = config.model_type == "llama" and config._attn_implementation == attention.ATTENTION
    return switch.enabled() and known


def lay_out(sequences: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Ragged:
    """Return a batch without padding and without repeated prompts.

    Parameters
    ----------
    sequences, attention_mask : int64 Tensor (B, T)
        Prompts padded on the left, responses on the right.
    response_mask : bool Tensor (B, R)
        True on the response tokens, which stand in the last R columns; each row has at least one.
    """
    mask = response_mask
    width = sequences.shape[1] - mask.shape[1]
    filled = attention_mask[:, :width] == 1
    marked = sequences[:, :width].masked_fill(~filled, -1)  # padding equals no token
    different, which = torch.unique(marked, dim=0, return_inverse=True)
    prompts = Rectangle(different >= 0)
    lengths = prompts.mask.sum(dim=1)
    last = lengths.cumsum(dim=0)[which] - 1  # padding is on the left: prompts end with a token
    before = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    before[:, 0] = last
    tokens, places = [different[prompts.mask]], [(prompts.mask.cumsum(dim=1) - 1)[prompts.mask]]
    said, used, responses = mask.sum(dim=1) - 1, len(prompts), []
    for rows in said.argsort(stable=True).split(ROWS if mask.device.type == "cpu" else len(mask)):
        if longest := int(said[rows].max()):
            read = Rectangle(mask[rows, 1 : longest + 1])
            own, prompt = read.causal(), prompts.mask[which[rows]][:, None, None]
            seen = torch.cat([prompt.expand(-1, 1, longest, -1), own], dim=3)
            responses.append(Responses(read, which[rows], seen))
            tokens.append(sequences[rows, width : width + longest][read.mask])
            at = lengths[which[rows]][:, None] + torch.arange(longest, device=mask.device)
            places.append(at[read.mask])
            found = torch.zeros(read.mask.shape, dtype=torch.int64, device=mask.device)
            found[read.mask] = used + torch.arange(len(read), device=mask.device)
            before[rows, 1 : longest + 1] = found
            used += len(read)
    return Ragged(
        torch.cat(tokens), torch.cat(places), prompts, prompts.causal(), which, responses, before
    )


def before_responses(model: Any, laid: Ragged) -> Tensor:
    """Return the hidden states (B, R, H) that predict the response tokens.

    Those under padding mean nothing.
    """
    base = models.unwrapped(model)
    # A mask of four dimensions is handed down as it is; a smaller one would be made causal.
    unused = laid.tokens.new_ones(1, 1, 1, 1)
    hidden = base.model(
        input_ids=laid.tokens[None], attention_mask=unused,
        position_ids=laid.position_ids[None], use_cache=False, ragged=laid,
    ).last_hidden_state  # fmt: skip
    return hidden[0].index_select(0, laid.before.flatten()).view(*laid.before.shape, -1)
