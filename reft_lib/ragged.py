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
from torch.autograd.function import once_differentiable

from reft_lib import fused, models


class Rectangle:
    """Where n tokens, lying one after another, stand in B rows of T columns.

    Parameters
    ----------
    mask : bool Tensor (B, T)
        True on the n places that are filled.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.at = mask.flatten().nonzero().squeeze(1)  # once: a GPU has to wait for it

    def spread(self, x: Tensor) -> Tensor:
        """Put tokens (heads, n, D) in their places; returns (B, heads, T, D), 0 elsewhere."""
        rows: Tensor = _Spread.apply(x.transpose(0, 1), self.at, self.mask.shape)
        return rows.transpose(1, 2)

    def collect(self, x: Tensor) -> Tensor:
        """Return the tokens (n, heads, D) of x (B, T, heads, D)."""
        rows: Tensor = _Collect.apply(x, self.at)
        return rows

    def causal(self) -> Tensor:
        """Return bool (B, 1, T, T): True where a token is that a query may look at."""
        width = self.mask.shape[1]
        every = torch.ones(width, width, dtype=torch.bool, device=self.mask.device)
        # Padding looks at itself, or it would look at nothing, which has no softmax.
        return (self.mask[:, None, None, :] & every.tril()) | every.triu().tril()


@dataclass
class Ragged:
    """A batch of B rows with U different prompts as one row of N tokens, prompts first."""

    tokens: Tensor
    """int64 (N,)."""
    position_ids: Tensor
    """int64 (N,): places in their own rows, from 0."""
    prompts: Rectangle
    """(U, P)."""
    which: Tensor
    """int64 (B,): the prompt of each row."""
    read: Rectangle
    """(B, R - 1): response tokens that predict another one."""
    before: Tensor
    """int64 (B, R): the token whose output predicts each response token; 0 under padding."""

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
        n = len(self.prompts.at)
        asked = [self.prompts.spread(x[0, :, :n]) for x in (q, k, v)]
        out = self.prompts.collect(attention(*asked, self.prompts.causal())[0])
        if n < len(self.tokens):
            said = [self.read.spread(x[0, :, n:]) for x in (q, k, v)]
            keys, values = (
                torch.cat([x[self.which], y], dim=2)
                for x, y in zip(asked[1:], said[1:], strict=True)
            )
            own = self.read.causal()
            prompt = self.prompts.mask[self.which][:, None, None].expand(-1, 1, own.shape[2], -1)
            found = attention(said[0], keys, values, torch.cat([prompt, own], dim=3))[0]
            out = torch.cat([out, self.read.collect(found)])
        return out[None]


def suits(model: Any) -> bool:
    """Return whether a model can read ragged batches; others read padded ones."""
    config = models.unwrapped(model).config
    known = config.model_type == "llama" and config._attn_implementation == fused.ATTENTION
    return fused.enabled() and known


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
    prompts, read = different >= 0, mask[:, 1:]
    lengths = prompts.sum(dim=1)
    places = lengths[which][:, None] + torch.arange(read.shape[1], device=mask.device)
    at = torch.zeros(read.shape, dtype=torch.int64, device=mask.device)
    at[read] = int(lengths.sum()) + torch.arange(int(read.sum()), device=mask.device)
    last = lengths.cumsum(dim=0)[which] - 1  # padding is on the left: prompts end with a token
    return Ragged(
        tokens=torch.cat([different[prompts], sequences[:, width:-1][read]]),
        position_ids=torch.cat([(prompts.cumsum(dim=1) - 1)[prompts], places[read]]),
        prompts=Rectangle(prompts),
        which=which,
        read=Rectangle(read),
        before=torch.cat([last[:, None], at], dim=1),
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


class _Spread(torch.autograd.Function):
    """The gradient of spreading is collecting; autograd's own would add up what never meets."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return (B, T, heads, D), 0 but in n places, for x (n, heads, D)."""
        ctx.save_for_backward(at)
        out = x.new_zeros(shape[0] * shape[1], *x.shape[1:])
        out[at] = x
        return out.view(*shape, *x.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        (at,) = ctx.saved_tensors
        return grad.flatten(0, 1)[at], None, None


class _Collect(torch.autograd.Function):
    """The gradient of collecting is spreading."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor) -> Tensor:
        """Return (n, heads, D) for x (B, T, heads, D)."""
        ctx.save_for_backward(at)
        ctx.shape = x.shape
        return x.flatten(0, 1)[at]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of x."""
        (at,) = ctx.saved_tensors
        out = grad.new_zeros(ctx.shape)
        out.flatten(0, 1)[at] = grad
        return out, None
