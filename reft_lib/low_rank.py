"""A linear layer with its adapter as one function, and layers of the same input as one layer.

peft computes a LoRA layer by six operations: three products, a scaling, a sum, conversions to
bfloat16 and back. Each of them reads and writes everything again, and under autocast a frozen
weight is converted anew in every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from reft_lib.switch import enabled, precision


class LowRank(torch.autograd.Function):
    """A frozen linear layer with its adapter: ``y = W x + s B A x``.

    The adapter's part is added where the product lies, without a matrix of its own.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        """Return (..., out) in the weight's dtype, for x (..., in), A (r, in) and B (out, r)."""
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        thin = rows @ a.t()  # (N, r)
        y = (
            rows @ weight.t()
            if bias is None
            else torch.addmm(bias.to(rows.dtype), rows, weight.t())
        )
        y.addmm_(thin, b.t(), alpha=scale)
        ctx.save_for_backward(rows, thin, weight, a, b)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B; W and its bias are frozen.

        With g the gradient of y: x gets ``W' g + s A' B' g``, A ``s (B' g) x'`` and B
        ``s g (A x)'``, where ' transposes.
        """
        rows, thin, weight, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
        back = (g @ b).mul_(ctx.scale)  # (N, r)
        dx = da = db = None
        if ctx.needs_input_grad[0]:
            dx = (g @ weight).addmm_(back, a).to(ctx.dtype).view(ctx.shape)
        if ctx.needs_input_grad[3]:
            da = (back.t() @ rows).float()
        if ctx.needs_input_grad[4]:
            db = (g.t() @ thin).float().mul_(ctx.scale)
        return dx, None, None, da, db, None


def joined(x: Tensor, layers: Sequence[Any]) -> Tensor | None:
    """Return what several LoRA layers make of the same input, side by side, by one product.

    Their weights W stand below each other, and so do their A; their B stand in blocks:
    ``[W1; W2] x + [s B1, 0; 0, s B2] [A1; A2] x``.

    Parameters
    ----------
    x : Tensor (..., in)
    layers : sequence of modules

    Returns
    -------
    Tensor (..., sum of out) in the precision of products; None where the layers are not all fused
    ones with the same adapter and without bias, or need no lower precision, in which a joined copy
    of their weights is kept.
    """
    low, first = precision(x), layers[0]
    if any(
        type(layer) is not lora_class() or layer.base_layer.bias is not None for layer in layers
    ):
        return None
    weight, name = first.base_layer.weight, _adapter(first)
    if weight.device.type != "cpu" or weight.dtype == low:
        return None
    if name is None or any(_adapter(layer) != name for layer in layers):
        return None
    if not name:
        return functional.linear(x.to(low), lowered(layers, low))
    a = torch.cat([layer.lora_A[name].weight for layer in layers])
    b = torch.block_diag(*(layer.lora_B[name].weight * layer.scaling[name] for layer in layers))
    found: Tensor = LowRank.apply(x, lowered(layers, low), None, a, b, 1.0)
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
                bias = None if bias is None else bias.to(weight.dtype)
                return functional.linear(x.to(weight.dtype), weight, bias)
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            return LowRank.apply(x, weight, bias, a, b, self.scaling[name])

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


def lowered(layers: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """Return the frozen weights of layers below each other in a dtype.

    On a CPU a converted copy is kept, at the first layer, until one of them changes: one of the
    layer alone, with which prompts are read, and one of the layers together, for updates.
    """
    weights = [getattr(layer, "base_layer", layer).weight.detach() for layer in layers]
    if len(weights) == 1 and (weights[0].dtype == dtype or weights[0].device.type != "cpu"):
        return weights[0].to(dtype)
    state = (dtype, *((weight.data_ptr(), weight._version) for weight in weights))
    kept = layers[0].__dict__.setdefault("_kept", {})
    if kept.get(len(layers), (None,))[0] != state:
        kept[len(layers)] = (state, torch.cat([weight.to(dtype) for weight in weights]))
    found: Tensor = kept[len(layers)][1]
    return found
