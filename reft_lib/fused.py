"""The layers of a policy with fewer passes over memory: same formulas, same weights, less waiting.

A processor multiplies matrices much faster than it fetches them. A LoRA layer as peft writes it is
six operations (three products, a scaling, a sum, conversions to bfloat16 and back), each of
which reads and writes everything again; under autocast a frozen weight is converted anew in every
pass. Here such a layer is one function whose backward pass is written by hand, the root-mean-square
norms likewise, and on a CPU attention in bfloat16 is two plain products, which PyTorch's kernel
for long sequences does not match at the lengths of this book.

:func:`fuse` exchanges the classes of layers in place. Weights, adapters, files and training loops
know nothing of it; inside ``with plain():`` the layers compute as before, and are what these are
tested against.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes of transformers that compute ``weight * x / sqrt(mean(x^2) + eps)``."""
ATTENTION = "reft"
"""Name under which :func:`attention` is registered with transformers."""
MOST_SCORES = 2**27
"""Attention scores, B * heads * T * T, up to which they are held in memory at once."""
UNUSUAL = ("softcap", "s_aux", "position_bias", "cache")
"""Options of attention that are left to transformers."""
_enabled = True


@contextmanager
def plain() -> Iterator[None]:
    """Compute as peft, transformers and PyTorch do by themselves."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


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


class Norm(torch.autograd.Function):
    """A root-mean-square norm with a frozen weight: ``y = w x / sqrt(mean(x^2) + eps)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return (..., H) in ``dtype``; the arithmetic is float32."""
        rows = x.reshape(-1, x.shape[-1]).float()
        mean = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_().div_(rows.shape[-1])
        inverse = mean.add_(eps).rsqrt_()  # (N, 1)
        unit = rows * inverse
        ctx.save_for_backward(unit, inverse, weight)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return (unit * weight).to(dtype).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x: with u = x / rms and g of u, ``(g - u mean(g u)) / rms``."""
        unit, inverse, weight = ctx.saved_tensors
        g = grad.reshape(unit.shape).float() * weight
        along = (g * unit).mean(dim=-1, keepdim=True)
        dx = g.sub_(unit * along).mul_(inverse)
        return dx.to(ctx.dtype).view(ctx.shape), None, None, None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' ``sdpa`` does; in bfloat16 on a CPU by two products of matrices.

    Parameters
    ----------
    module : Module
        The attention layer.
    query : Tensor (B, heads, T, D)
    key, value : Tensor (B, groups, S, D)
        Each group of keys serves heads / groups heads.
    mask : Tensor (B, 1, T, S) or None
        True where a query may look, or numbers to add to the scores; None: a query looks at
        everything up to itself.
    options
        ``scaling`` of the scores, ``ragged`` (a :class:`reft_lib.ragged.Ragged`) if the tokens
        of a batch lie in one row, and whatever else transformers gives.

    Returns
    -------
    output : Tensor (B, T, heads, D)
    None
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    low = precision(query)
    if (ragged := options.pop("ragged", None)) is not None:
        inner = partial(attention, module, **options)
        return ragged.attend(inner, *(x.to(low) for x in (query, key, value))), None
    (batch, heads, t, _), (groups, s) = query.shape, key.shape[1:3]
    suits = _enabled and low == torch.bfloat16 and query.device.type == "cpu" and t > 1
    known = mask is not None or (t == s and getattr(module, "is_causal", True))
    unusual = options.get("dropout") or any(options.get(name) is not None for name in UNUSUAL)
    if unusual or not (suits and known and batch * heads * t * s <= MOST_SCORES):
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if mask is None:
        mask = torch.ones(1, 1, t, s, dtype=torch.bool).tril()
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    query, key, value = (query * scale).to(low), key.to(low), value.to(low)
    if heads != groups:
        key, value = (x.repeat_interleave(heads // groups, dim=1) for x in (key, value))
    least = torch.finfo(low).min  # not minus infinity: a row of padding may see nothing
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=low).masked_fill_(~mask, least)
    scores = query @ key.transpose(2, 3) + mask.to(low).clamp(min=least)
    weights = torch.softmax(scores, dim=-1)
    return (weights @ value).transpose(1, 2), None


def fuse(model: Any) -> Any:
    """Exchange the classes of a policy's layers, in place; what cannot be fused stays as it is.

    Parameters
    ----------
    model : peft.PeftModel or transformers.PreTrainedModel

    Returns
    -------
    The same model. Merging, saving, loading and further adapters work as before.
    """
    linear = _lora_class()
    for name, module in model.named_modules():
        kind = type(module)
        if kind is linear.__base__ and type(module.base_layer) is nn.Linear:
            module.__class__ = linear
        elif kind.__name__ in NORMS and ".layers." in f".{name}":
            # not the last one: what goes to the head is often a view, and from a view in bfloat16
            # PyTorch multiplies row by row, with a copy of all weights for each
            module.__class__ = _norm_class(kind)  # type: ignore[arg-type]
    return model


def use_attention(model: Any) -> None:
    """Let a model that uses ``sdpa`` attend by :func:`attention`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def enabled() -> bool:
    """Return whether layers are fused here: everywhere but inside :func:`plain`."""
    return _enabled


def precision(x: Tensor) -> torch.dtype:
    """Return the dtype in which matrices are multiplied here: autocast's, else that of ``x``."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@cache
def _lora_class() -> Any:
    """Return the fused version of peft's LoRA layer."""
    from peft.tuners.lora import Linear

    class FusedLinear(Linear):
        """peft's LoRA layer, computed by :class:`LowRank`."""

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            """Return (..., out) for x (..., in)."""
            names = [name for name in self.active_adapters if name in self.lora_A]
            frozen = not self.base_layer.weight.requires_grad
            if not (_enabled and frozen) or self.merged or args or kwargs or len(names) != 1:
                return super().forward(x, *args, **kwargs)
            name = names[0]
            if name in self.lora_variant or type(self.lora_dropout[name]) is not nn.Identity:
                return super().forward(x)
            weight, bias = _lowered(self, precision(x)), self.base_layer.bias
            if self.disable_adapters:
                bias = None if bias is None else bias.to(weight.dtype)
                return nn.functional.linear(x.to(weight.dtype), weight, bias)
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            return LowRank.apply(x, weight, bias, a, b, self.scaling[name])

    return FusedLinear


def _lowered(layer: Any, dtype: torch.dtype) -> Tensor:
    """Return a frozen weight in a dtype; on a CPU a converted copy is kept until it changes."""
    weight = layer.base_layer.weight.detach()
    if weight.dtype == dtype or weight.device.type != "cpu":
        return weight.to(dtype)
    state = (weight.data_ptr(), layer.base_layer.weight._version, dtype)
    if getattr(layer, "_kept", (None,))[0] != state:
        layer._kept = (state, weight.to(dtype))
    return layer._kept[1]


@cache
def _norm_class(kind: Any) -> type:
    """Return the fused version of a norm's class."""

    def forward(self: Any, x: Tensor) -> Tensor:
        low = precision(x)
        if not _enabled or low == x.dtype or self.weight.requires_grad:
            return kind.forward(self, x)
        return Norm.apply(x, self.weight, self.variance_epsilon, low)

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward, "__doc__": kind.__doc__})
