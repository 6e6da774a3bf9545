"""Log-probabilities over a large vocabulary, a few rows at a time.

Of SmolLM2's 49,152 logits a token only one log-probability is wanted. ``log_softmax`` in float32
makes a copy of all logits, another one of all log-probabilities, and both once more for the
gradient: more traffic with memory than the rest of a small model's head. Here a block of rows that
fits the processor's cache goes through all steps before the next one comes, and nothing is kept
but the logits as they are and one number a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reft_lib.elementwise import blocks

BLOCK = 2**20
"""Logits that are in float32 at once: 4 MB, which fit the third-level cache of most processors."""


class TokenLogprobs(torch.autograd.Function):
    """``log p(a) = z[a] - log sum_v exp(z[v])`` in float32, whatever the dtype of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return (N,) for logits (N, V) and tokens (N,)."""
        norms = logits.new_empty(len(logits), dtype=torch.float32)
        for some, norm in blocks(logits, norms, most=BLOCK):
            torch.logsumexp(some.float(), dim=1, out=norm)
        ctx.save_for_backward(logits, tokens, norms)
        return logits.gather(1, tokens[:, None]).squeeze(1).float() - norms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits: with g of ``log p(a)``, ``g (1[v = a] - p(v))``."""
        logits, tokens, norms = ctx.saved_tensors
        out = torch.empty_like(logits)
        g = grad[:, None].float()
        for some, norm, weight, of_logits in blocks(logits, norms[:, None], -g, out, most=BLOCK):
            torch.mul((some.float() - norm).exp_(), weight, out=of_logits)
        tokens = tokens[:, None]
        chosen = (logits.gather(1, tokens).float() - norms[:, None]).exp_()
        out.scatter_(1, tokens, (g * (1 - chosen)).to(out.dtype))
        return out, None
