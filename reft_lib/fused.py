"""The layers of a policy with fewer passes over memory: same formulas, same weights, less waiting.

A processor multiplies matrices much faster than it fetches them, and between its products a layer
as peft and transformers write it reads and writes the same numbers many times. Here LoRA layers
(:mod:`reft_lib.low_rank`) with their frozen weights (:mod:`reft_lib.frozen`), attention
(:mod:`reft_lib.attention`, :mod:`reft_lib.ragged_attention`), norms, activations and rotations
(:mod:`reft_lib.elementwise`) are functions whose backward passes are written by hand.

:func:`fuse` exchanges the classes of layers in place. Weights, adapters, files and training loops
know nothing of it; inside ``with plain():`` the layers compute as before, and are what these are
tested against.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from reft_lib import attention
from reft_lib.elementwise import Gated, Norm
from reft_lib.frozen import Product, lowered, suits_as_it_is
from reft_lib.low_rank import joined, lora_class
from reft_lib.switch import enabled, precision
from reft_lib.switch import plain as plain

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes of transformers that compute ``weight * x / sqrt(mean(x^2) + eps)``."""
MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""Classes that compute ``down(act(gate(x)) * up(x))``."""


def fuse(model: Any) -> Any:
    """Exchange the classes of a policy's layers, in place; what cannot be fused stays as it is.

    Parameters
    ----------
    model : peft.PeftModel or transformers.PreTrainedModel

    Returns
    -------
    The same model. Merging, saving, loading and further adapters work as before.
    """
    linear = lora_class()
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        kind: Any = type(module)
        new: Any = None
        if kind is linear.__base__ and type(module.base_layer) is nn.Linear:
            new = linear
        elif kind.__name__ in NORMS and ".layers." in f".{name}":
            # not the last one: what goes to the head is often a view, and from a view in bfloat16
            # PyTorch multiplies row by row, with a copy of all weights for each
            new = _norm_class(kind)
        elif kind.__name__ in MLPS and module.config.hidden_act == "silu":
            new = _mlp_class(kind)
        elif kind.__name__ == "LlamaAttention":
            new = attention.fused_class(kind)
        elif module is head and kind is nn.Linear:
            new = FusedHead
        if new is not None:
            module.__class__ = new
    return model


class FusedHead(nn.Linear):
    """A frozen head whose weights are converted once, not in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (..., V) for x (..., H)."""
        low = precision(x)
        if not enabled() or self.weight.requires_grad or suits_as_it_is(self.weight, low):
            return super().forward(x)
        found: Tensor = Product.apply(x, lowered([self], low), self.bias)
        return found


@cache
def _norm_class(kind: Any) -> type:
    """Return the fused version of a norm's class."""

    def forward(self: Any, x: Tensor) -> Tensor:
        low = precision(x)
        if not enabled() or low == x.dtype or self.weight.requires_grad:
            return kind.forward(self, x)
        return Norm.apply(x, self.weight, self.variance_epsilon, low)

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward, "__doc__": kind.__doc__})


@cache
def _mlp_class(kind: Any) -> type:
    """Return the fused version of an MLP's class."""

    def forward(self: Any, x: Tensor) -> Tensor:
        both = joined(x, (self.gate_proj, self.up_proj)) if enabled() else None
        return kind.forward(self, x) if both is None else self.down_proj(Gated.apply(both))

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward, "__doc__": kind.__doc__})
