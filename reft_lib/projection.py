"""Linear layers that read the same input, as one product while decoding, with their adapters.

An adapter is added to weights in float32, and the sum is rounded once. Weights in bfloat16 have 8
bits: most of what training adds to them would be rounded away. There the adapters stay beside: A
of all layers (R, in) stands below the weights, so that one product gives both, and B in one matrix
(out, R) with zeros between the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reft_lib.frozen import Frozen


class Projection:
    """Linear layers of the same input as one, without gradient.

    Parameters
    ----------
    layers : sequence of modules
        Linear ones, or adapters around such (:func:`adapters` knows them).
    dtype : torch.dtype
        Precision of products.
    heads : int
        Of so many of the layers, the first ones, outputs are ordered by :func:`paired`.
    head_dim : int
        Numbers of a head, for these.
    copy : bool
        Whether the weights are copied into one matrix. Else they stay where they are, which saves
        memory and takes a product for each; they must then have ``dtype``, and not be float32.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        dtype: torch.dtype,
        heads: int = 0,
        head_dim: int = 2,
        copy: bool = True,
    ) -> None:
        weights, inner, outer = zip(*map(_with_adapters, layers), strict=True)
        self.b = torch.block_diag(*outer).to(dtype)
        self.order = None
        if heads:
            places = torch.arange(len(self.b), device=self.b.device)
            parts = places.split([len(weight) for weight in weights])
            turned = (paired(part, head_dim) for part in parts[:heads])
            self.order = torch.cat([*turned, *parts[heads:]])
            self.b = self.b[self.order]
        self.a, self.apart = torch.cat(inner).to(dtype), weights
        if copy:
            whole = torch.cat([weight.to(dtype) for weight in weights])
            whole = whole if self.order is None else whole[self.order]
            self.joined, self.apart = Frozen([torch.cat([whole, self.a])], dtype), ()

    def times(self, x: Tensor) -> Tensor:
        """Return (B, out) for x (B, in)."""
        out, rank = self.b.shape
        if self.apart:
            y = torch.cat([functional.linear(x, weight) for weight in self.apart], dim=1)
            y = y if self.order is None else y[:, self.order]
            thin = x @ self.a.t()
        else:
            y, thin = self.joined.times(x).split([out, rank], dim=1)
        return torch.addmm(y, thin, self.b.t()) if rank else y


def paired(x: Tensor, head_dim: int, dim: int = 0) -> Tensor:
    """Return x with numbers i and i + D/2 of each head of D numbers side by side along ``dim``."""
    order = torch.arange(x.shape[dim], device=x.device).view(-1, 2, head_dim // 2)
    return x.index_select(dim, order.transpose(1, 2).flatten())


def adapters(layer: Any) -> list[str] | None:
    """Return the names of a layer's active adapters; None if they are more than A and B."""
    if type(layer) is torch.nn.Linear:
        return []
    if not hasattr(layer, "get_delta_weight") or layer.merged:
        return None
    if type(layer.base_layer) is not torch.nn.Linear:
        return None
    if layer.disable_adapters:
        return []
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    # DoRA and the like add more than a product
    return None if any(name in layer.lora_variant for name in names) else names


def _with_adapters(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return a layer's weight (out, in), and what of its active adapters is not added to it.

    A (R, in) of all of them and B (out, R), scaled; R is 0 where all are added.
    """
    names = adapters(layer) or []
    weight = getattr(layer, "base_layer", layer).weight
    if weight.dtype == torch.float32:
        for name in names:
            weight = weight + layer.get_delta_weight(name)
        names = []
    a = [layer.lora_A[name].weight for name in names]
    b = [layer.lora_B[name].weight * layer.scaling[name] for name in names]
    out, width = weight.shape
    return (
        weight,
        torch.cat([weight.new_empty(0, width), *a]),
        torch.cat([weight.new_empty(out, 0), *b], dim=1),
    )
