"""Tokens one after another, and the same tokens in the rows and columns of a rectangle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        self.of = (mask.flatten().cumsum(dim=0) - 1).clamp(min=0)  # the token of each place

    def __len__(self) -> int:
        return len(self.at)

    def spread(self, x: Tensor) -> Tensor:
        """Put tokens (heads, n, D) in their places; returns (B, heads, T, D).

        In the other places stand copies of some token: nobody may look at them.
        """
        rows: Tensor = _Spread.apply(x.transpose(0, 1), self.at, self.of)
        return rows.view(*self.mask.shape, *rows.shape[1:]).transpose(1, 2)

    def collect(self, x: Tensor) -> Tensor:
        """Return the tokens (n, heads, D) of x (B, T, heads, D)."""
        rows: Tensor = _Collect.apply(x.flatten(0, 1), self.at)
        return rows

    def causal(self) -> Tensor:
        """Return bool (B, 1, T, T): True where a token is that a query may look at."""
        width = self.mask.shape[1]
        every = torch.ones(width, width, dtype=torch.bool, device=self.mask.device)
        # Padding looks at itself, or it would look at nothing, which has no softmax.
        return (self.mask[:, None, None, :] & every.tril()) | every.triu().tril()


class _Spread(torch.autograd.Function):
    """Takes tokens to places; a token's gradient is that of its own place, not of its copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, of: Tensor) -> Tensor:
        """Return (B T, heads, D) for x (n, heads, D)."""
        ctx.save_for_backward(at)
        return x[of]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        (at,) = ctx.saved_tensors
        return grad[at], None, None


class _Collect(torch.autograd.Function):
    """Takes tokens from places, all of them different; autograd's own would add up nevertheless."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor) -> Tensor:
        """Return (n, heads, D) for x (B T, heads, D)."""
        ctx.save_for_backward(at)
        ctx.shape = x.shape
        return x[at]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of x: 0 where there is no token."""
        out = grad.new_zeros(ctx.shape)
        out[ctx.saved_tensors[0]] = grad
        return out, None
