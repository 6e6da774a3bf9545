"""Attention with all scores in memory, for sequences as short as this book's.

PyTorch's kernel never holds all scores, which is what long sequences need; for some hundred tokens
in bfloat16 on a CPU it is slower than plain products of matrices.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reft_lib.elementwise import Rotated
from reft_lib.low_rank import joined
from reft_lib.switch import enabled, precision

ATTENTION = "reft"
"""Name under which :func:`attend` is registered with transformers."""
MOST_SCORES = 2**27
"""Attention scores, B * heads * T * T, up to which they are held in memory at once."""
UNUSUAL = ("softcap", "s_aux", "position_bias", "cache")
"""Options of attention that are left to transformers."""


class Attend(torch.autograd.Function):
    """Attention with all scores in memory: ``O = W V``, ``W = softmax(s Q K' + M)``, by head.

    The queries of heads that share keys stand below each other in one product; keys and values are
    not repeated.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        """Return (B, heads, T, D).

        Q has that shape; K and V have (B, groups, S, D), M has (B or 1, 1, T, S).
        """
        batch, heads, t, d = q.shape
        rows = q.reshape(batch * k.shape[1], -1, d)  # (B groups, heads / groups T, D)
        keys, values = k.flatten(0, 1), v.flatten(0, 1)
        scores = rows @ keys.mT
        by_head = scores.view(batch, heads, t, -1)
        torch.add(mask, by_head, alpha=scale, out=by_head)
        weights = torch.softmax(scores, dim=-1, dtype=scores.dtype)
        ctx.save_for_backward(rows, keys, values, weights)
        ctx.shapes, ctx.scale = (q.shape, k.shape), scale
        return (weights @ values).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of Q, K and V.

        With G the gradient of O: V gets ``W' G``. Scores get S = ``W (G V' - sum(W G V'))``, the
        products with W and the sum by row; Q gets ``s S K``, K ``s S' Q``.
        """
        rows, keys, values, weights = ctx.saved_tensors
        g = grad.reshape(rows.shape).to(weights.dtype)
        scores = torch._softmax_backward_data(g @ values.mT, weights, -1, weights.dtype)
        dq = (scores @ keys).mul_(ctx.scale).view(ctx.shapes[0])
        dk = (scores.mT @ rows).mul_(ctx.scale).view(ctx.shapes[1])
        return dq, dk, (weights.mT @ g).view(ctx.shapes[1]), None, None


def attend(
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
        inner = partial(attend, module, **options)
        return ragged.attend(inner, *(x.to(low) for x in (query, key, value))), None
    (batch, heads, t, _), s = query.shape, key.shape[2]
    suits = enabled() and low == torch.bfloat16 and query.device.type == "cpu" and t > 1
    known = mask is not None or (t == s and getattr(module, "is_causal", True))
    unusual = options.get("dropout") or any(options.get(name) is not None for name in UNUSUAL)
    if unusual or not (suits and known and batch * heads * t * s <= MOST_SCORES):
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if mask is None:
        mask = torch.ones(1, 1, t, s, dtype=torch.bool).tril()
    least = torch.finfo(low).min  # not minus infinity: a row of padding may see nothing
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=low).masked_fill_(~mask, least)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    rows = (x.to(low) for x in (query, key, value))
    found: Tensor = Attend.apply(*rows, mask.to(low).clamp(min=least), scale)
    return found.transpose(1, 2), None


def use_attention(model: Any) -> None:
    """Let a model that uses ``sdpa`` attend by :func:`attend`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, attend)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


@cache
def fused_class(kind: Any) -> Any:
    """Return the version of Llama's attention layer that rotates by :class:`Rotated`."""

    class FusedAttention(kind):  # type: ignore[misc]
        """Llama's attention layer; with a cache of keys and values it is transformers' own."""

        def forward(
            self,
            hidden_states: Tensor,
            position_embeddings: Any = None,
            attention_mask: Tensor | None = None,
            past_key_values: Any = None,
            **options: Any,
        ) -> tuple[Tensor, None]:
            """Return (B, T, H) for hidden states of that shape."""
            ours = enabled() and self.config._attn_implementation == ATTENTION
            if not ours or past_key_values is not None:
                return super().forward(
                    hidden_states, position_embeddings, attention_mask, past_key_values, **options
                )
            rows, layers = hidden_states.shape[:2], (self.q_proj, self.k_proj, self.v_proj)
            parts = joined(hidden_states, layers)
            if parts is None:
                parts = torch.cat([layer(hidden_states) for layer in layers], dim=-1)
            parts = parts.view(*rows, -1, self.head_dim)  # queries, keys and values by head
            groups = parts.shape[2] // (self.num_key_value_groups + 2)
            heads, dropout = parts.shape[2] - 2 * groups, self.attention_dropout * self.training
            fast = parts.device.type == "cpu" and parts.dtype == torch.bfloat16 and not dropout
            if fast and (laid := options.get("ragged")) is not None:
                found = laid.attend_at_once(parts[0], position_embeddings, heads, self.scaling)
                return self.o_proj(found.flatten(1)[None]), None
            turned, v = parts.split([parts.shape[2] - groups, groups], dim=2)
            turned = Rotated.apply(turned, *position_embeddings)
            q, k = turned.split([turned.shape[2] - groups, groups], dim=2)
            options["dropout"] = dropout
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            found, _ = attend(self, q, k, v, attention_mask, scaling=self.scaling, **options)
            return self.o_proj(found.reshape(*rows, -1)), None

    return FusedAttention
