"""The small operations of a model's layer, a block of rows at a time, with gradients by hand.

Between its products of matrices a layer scales, rotates, activates and adds. Each such operation of
PyTorch reads a whole matrix from memory and writes another one, and the next one reads it again.
Here a block of rows that fits the processor's cache goes through all steps of a formula before the
next block comes, and what the backward pass needs is computed once more instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

BLOCK = 2**19
"""Numbers of a block, 2 MB in float32: they stay in a cache, and blocks are few enough not to wait
for Python."""

LARGE = 2**27
"""Numbers of a block on a GPU, 512 MB in float32: a bound for memory alone."""


def blocks(x: Tensor, *others: Tensor, most: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Return views of the same rows of x (N, ...) and of others, block by block.

    Of x a block has about ``most`` numbers; on a GPU, which has no use for small ones, ``LARGE``.
    """
    width = x[:1].numel() or 1
    step = max(1, ((most or BLOCK) if x.device.type == "cpu" else LARGE) // width)
    return zip(*(t.split(step) for t in (x, *others)), strict=True)


class Norm(torch.autograd.Function):
    """A root-mean-square norm with a frozen weight: ``y = w x / sqrt(mean(x^2) + eps)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return (..., H) in ``dtype``; the arithmetic is float32."""
        rows = x.reshape(-1, x.shape[-1])
        inverse = rows.new_empty(len(rows), 1, dtype=torch.float32)  # 1 / rms
        out = torch.empty_like(rows, dtype=dtype)
        for part, inv, y in blocks(rows, inverse, out):
            here = part.float()
            torch.linalg.vector_norm(here, dim=-1, keepdim=True, out=inv)
            inv.square_().div_(here.shape[-1]).add_(eps).rsqrt_()
            torch.mul(here * inv, weight, out=y)
        ctx.save_for_backward(rows, inverse, weight)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x: with g of x / rms, ``g / rms - x mean(g x) / rms^3``."""
        rows, inverse, weight = ctx.saved_tensors
        out, given = torch.empty_like(rows), grad.reshape(rows.shape)
        for part, of_y, inv, dx in blocks(rows, given, inverse, out):
            here = part.float()
            g = of_y.float() * weight
            along = (g * here).mean(dim=-1, keepdim=True).mul_(inv.pow(3))
            torch.addcmul(g.mul_(inv), here, along, value=-1, out=dx)
        return out.view(grad.shape), None, None, None


class Gated(torch.autograd.Function):
    """The middle of an MLP: ``y = silu(g) u``, where ``silu(g) = g / (1 + exp(-g))``."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        """Return (..., M) for g and u side by side, (..., 2 M)."""
        ctx.save_for_backward(both)
        rows = both.flatten(0, -2)
        g, u = rows.chunk(2, dim=-1)
        out = torch.empty_like(g, memory_format=torch.contiguous_format)
        for gate, up, y in blocks(g, u, out):
            torch.mul(functional.silu(gate), up, out=y)
        return out.view(*both.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradients of g and u: with G of y, ``G u silu'(g)`` and ``G silu(g)``."""
        (both,) = ctx.saved_tensors
        rows = both.flatten(0, -2)
        out = torch.empty_like(rows)
        (g, u), (dg, du) = rows.chunk(2, dim=-1), out.chunk(2, dim=-1)
        given = grad.reshape(g.shape)
        for gate, up, of_y, of_gate, of_up in blocks(g, u, given, dg, du):
            torch.mul(of_y, functional.silu(gate), out=of_up)
            torch.ops.aten.silu_backward(of_y * up, gate, grad_input=of_gate)
        return out.view(both.shape)


class Rotated(torch.autograd.Function):
    """Rotary positions: number i of a head and number i + D/2 turn as a point by an angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return (B, T, heads, D) for x of that shape, cos and sin (B or 1, T, D) of the angles.

        The second halves of cos and sin repeat the first ones. The arithmetic is float32.
        """
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x: that of y, turned back."""
        cos, sin = ctx.saved_tensors
        return turned(grad, cos, -sin), None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute what :class:`Rotated` does, without a gradient; ``out`` may be x itself."""
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows, y, half = x.flatten(0, 1), out.flatten(0, 1), x.shape[-1] // 2
    c, s = (t[..., :half].float().expand(len(x), -1, -1).reshape(-1, 1, half) for t in (cos, sin))
    for part, cos_here, sin_here, turned_here in blocks(rows, c, s, y):
        a, b = part.float().split(half, dim=-1)
        first = torch.addcmul(a * cos_here, b, sin_here, value=-1)
        turned_here[..., half:] = torch.addcmul(b * cos_here, a, sin_here)
        turned_here[..., :half] = first
    return out
