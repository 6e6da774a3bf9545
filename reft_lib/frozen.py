"""Frozen weights: converted, joined and put in order once, not in every product.

Before a processor multiplies bfloat16 matrices it has to bring the weights into the order in which
its instructions take them: pairs of rows, in blocks. A product by itself does so anew every time.
Weights that are not trained can stay in that order. oneDNN, which multiplies in PyTorch, calls it
reordering; where it cannot, and on a GPU, the weights stay as they are and all else works alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROWS = 1024
"""Rows for which the order is chosen; others are multiplied in the same one."""


class Frozen:
    """A weight W (out, in) that is not trained.

    Parameters
    ----------
    parts : sequence of Tensor
        Matrices that stand below each other in W.
    dtype : torch.dtype
        Precision of products; every operand must have it.
    """

    def __init__(self, parts: Sequence[Tensor], dtype: torch.dtype) -> None:
        self.parts, self.dtype = [part.detach() for part in parts], dtype
        suits = dtype == torch.bfloat16 and parts[0].device.type == "cpu"
        self.ordered = suits and can_order()
        self._ready: dict[str, Tensor] = {}

    def times(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W' plus the bias, (N, out), for x (N, in)."""
        if not self.ordered:
            return functional.linear(x, self._get("whole"), bias)
        return _multiply(x, self._get("times"), bias)

    def back(self, g: Tensor) -> Tensor:
        """Return g W, (N, in), for g (N, out): the gradient on its way to x."""
        return _multiply(g, self._get("back"), None) if self.ordered else g @ self._get("whole")

    def _get(self, name: str) -> Tensor:
        """Return W as it is, or ordered for one of the two products; made when first wanted."""
        if name not in self._ready:
            parts = [part.to(self.dtype) for part in self.parts]
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)  # one alone is not copied
            if name != "whole":
                whole = _order(whole if name == "times" else whole.t().contiguous())
            self._ready[name] = whole
        return self._ready[name]


class Product(torch.autograd.Function):
    """A frozen linear layer: ``y = W x + b``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Frozen, bias: Tensor | None) -> Tensor:
        """Return (..., out) in the weight's dtype, for x (..., in)."""
        ctx.weight, ctx.shape, ctx.dtype = weight, x.shape, x.dtype
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        y = weight.times(rows, None if bias is None else bias.to(weight.dtype))
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x: ``W' g`` with g of y."""
        g = grad.reshape(-1, grad.shape[-1]).to(ctx.weight.dtype)
        return ctx.weight.back(g).to(ctx.dtype).view(ctx.shape), None, None


_kept: WeakKeyDictionary[nn.Module, dict[int, tuple[Any, Frozen]]] = WeakKeyDictionary()
"""By layer and number of layers together: of which weights, and they in low precision."""


def suits_as_it_is(weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether products take a weight as it stands: not in bfloat16, which can be ordered."""
    return weight.dtype == dtype != torch.bfloat16


def lowered(layers: Sequence[Any], dtype: torch.dtype) -> Frozen:
    """Return the frozen weights of layers below each other in a dtype.

    On a CPU what has to be converted, joined or ordered is kept until one of the weights changes:
    of a layer alone, with which prompts are read, and of the layers together, for updates.

    Parameters
    ----------
    layers : sequence of modules
        Linear ones, or adapters around such.
    dtype : torch.dtype
    """
    weights = [getattr(layer, "base_layer", layer).weight for layer in layers]
    as_they_are = len(weights) == 1 and suits_as_it_is(weights[0], dtype)
    if as_they_are or weights[0].device.type != "cpu":
        return Frozen(weights, dtype)
    state = (dtype, *((weight.data_ptr(), weight._version) for weight in weights))
    kept = _kept.setdefault(layers[0], {})
    if len(layers) not in kept or kept[len(layers)][0] != state:
        kept[len(layers)] = (state, Frozen(weights, dtype))
    return kept[len(layers)][1]


@cache
def can_order() -> bool:
    """Return whether weights can be put in order here; tried once, on a small one."""
    try:
        x, weight = torch.eye(4).bfloat16(), torch.arange(32.0).view(8, 4).bfloat16()
        return torch.equal(_multiply(x, _order(weight), None), weight.t())
    except (AttributeError, RuntimeError):  # PyTorch without oneDNN, or without these operations
        return False


# These two are not part of PyTorch's documented interface; its own compiler uses them.
def _order(weight: Tensor) -> Tensor:
    ordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return ordered


def _multiply(x: Tensor, ordered: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, ordered, bias, "none", [], "")
    return y
