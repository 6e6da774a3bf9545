"""A linear layer with its adapter as one function, and layers of the same input as one layer.

peft computes a LoRA layer by six operations: three products, a scaling, a sum, conversions to
bfloat16 and back. Each of them reads and writes everything again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reft_lib.frozen import Frozen, Product, lowered, suits_as_it_is
from reft_lib.switch import enabled, precision


class LowRank(torch.autograd.Function):
    """Frozen linear layers of the same input with their adapters: ``y = W x + s B A x``.

    The adapters' part is added where the product lies, without a matrix of its own. Of several
    layers W and A stand below each other, and B is ``[B1, 0; 0, B2]``, of which the zeros are
    not multiplied.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Frozen,
        bias: Tensor | None,
        a: Tensor,
        scale: float,
        *b: Tensor,
    ) -> Tensor:
        """Return (..., out) in the weight's dtype.

        Parameters
        ----------
        x : Tensor (..., in)
        weight : Frozen (out, in)
        bias : Tensor (out,) or None
        a : Tensor (r, in)
            Of all layers.
        scale : float
        b : Tensors (out, r)
            Of each layer; their outs and their rs add up to those of W and A.
        """
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        a, all_b = a.to(weight.dtype), [one.to(weight.dtype) for one in b]
        thin = rows @ a.t()  # (N, r)
        y = weight.times(rows, None if bias is None else bias.to(weight.dtype))
        for one, here, low in _each(all_b, y, thin):
            here.addmm_(low, one.t(), alpha=scale)
        ctx.save_for_backward(rows, thin, a, *all_b)
        ctx.weight, ctx.scale, ctx.shape, ctx.dtype = weight, scale, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B; W and its bias are frozen.

        With g the gradient of y: x gets ``W' g + s A' B' g``, A ``s (B' g) x'`` and B
        ``s g (A x)'``, where ' transposes.
        """
        rows, thin, a, *b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)
        back = torch.empty_like(thin)  # B' g, (N, r)
        for one, here, low in _each(b, g, back):
            torch.mm(here, one, out=low)
        back.mul_(ctx.scale)
        dx = da = None
        db: list[Tensor | None] = [None] * len(b)
        if ctx.needs_input_grad[0]:
            dx = ctx.weight.back(g).addmm_(back, a).to(ctx.dtype).view(ctx.shape)
        if ctx.needs_input_grad[3]:
            da = (back.t() @ rows).float()
        for i, (_, here, low) in enumerate(_each(b, g, thin)):
            if ctx.needs_input_grad[5 + i]:
                # the other way round g would be transposed in memory, which is much the larger
                db[i] = (low.t() @ here).t().float().mul_(ctx.scale)
        return dx, None, None, da, None, *db


def _each(b: Sequence[Tensor], y: Tensor, thin: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield each B with its columns of y and of the thin product."""
    outs, ranks = ([one.shape[i] for one in b] for i in (0, 1))
    yield from zip(b, y.split(outs, dim=1), thin.split(ranks, dim=1), strict=True)


def joined(x: Tensor, layers: Sequence[Any]) -> Tensor | None:
    """Return what several LoRA layers make of the same input, side by side, by one product.

    Parameters
    ----------
    x : Tensor (..., in)
    layers : sequence of modules

    Returns
    -------
    Tensor (..., sum of out) in the precision of products; None where the layers are not all fused
    ones with the same adapter and without bias, or where no copy of their weights in low precision
    is kept (:func:`reft_lib.frozen.lowered`), which can be the joined one.
    """
    low, first = precision(x), layers[0]
    if any(
        type(layer) is not lora_class() or layer.base_layer.bias is not None for layer in layers
    ):
        return None
    weight, name = first.base_layer.weight, _adapter(first)
    if weight.device.type != "cpu" or suits_as_it_is(weight, low):
        return None
    if name is None or any(_adapter(layer) != name for layer in layers):
        return None
    if not name:
        off: Tensor = Product.apply(x, lowered(layers, low), None)
        return off
    a = torch.cat([layer.lora_A[name].weight for layer in layers])
    b = (layer.lora_B[name].weight * layer.scaling[name] for layer in layers)
    found: Tensor = LowRank.apply(x, lowered(layers, low), None, a, 1.0, *b)
    return found


@cache
def lora_class() -> Any:
    """Return the fused version of peft's LoRA layer."""
    from peft.tuners.lora import Linear

    class FusedLinear(Linear):
        """peft's LoRA layer, computed by :class:`LowRank`."""

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            """Return (..., out) for x (..., in)."""
            name = _adapter(self)
            if name is None or args or kwargs:
                return super().forward(x, *args, **kwargs)
            weight, bias = lowered([self], precision(x)), self.base_layer.bias
            if not name:
                off: Tensor = Product.apply(x, weight, bias)
                return off
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            return LowRank.apply(x, weight, bias, a, self.scaling[name], b)

    return FusedLinear


def _adapter(layer: Any) -> str | None:
    """Return the name of a LoRA layer's adapter, "" if it is off; None: for peft to compute."""
    if not enabled() or layer.base_layer.weight.requires_grad or layer.merged:
        return None
    if layer.disable_adapters:
        return ""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    usual = len(names) == 1 and names[0] not in layer.lora_variant
    return names[0] if usual and type(layer.lora_dropout[names[0]]) is nn.Identity else None
