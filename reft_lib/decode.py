"""Token by token: how the next one is chosen, and how a model reads it behind its cache.

A decoder holds a batch of unfinished rows. It reads their prompts once, then one token a row at a
time, and lets go of rows that have ended. :class:`CachedDecoder` does so with any causal language
model of transformers; it is the plain one that others are held to.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """What :func:`reft_lib.rollout.sample` asks of a decoder; B rows, a vocabulary of V."""

    def read(self, prompt: Tensor, mask: Tensor, k: int) -> Tensor:
        """Read P prompts (P, T), padded on the left; returns logits (P * k, V) of what follows.

        Row i * k + j of all that comes later belongs to prompt i.
        """

    def step(self, chosen: Tensor) -> Tensor:
        """Read one more token of every row (B,); returns the logits (B, V) of the next."""

    def keep(self, rows: Tensor) -> None:
        """Let go of all rows but these (int64, in order)."""


def positions(attention_mask: Tensor) -> Tensor:
    """Return position ids (B, T) that count real tokens from 0 and ignore padding."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


class CachedDecoder:
    """Decode with a model of transformers and its own cache of keys and values."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def read(self, prompt: Tensor, mask: Tensor, k: int) -> Tensor:
        """See :class:`Decoder`."""
        out = self.model(
            input_ids=prompt,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        if k > 1:
            self.cache.batch_repeat_interleave(k)
        self.seen = mask.repeat_interleave(k, dim=0)
        self.position = self.seen.sum(dim=1, keepdim=True)
        return out.logits[:, -1].repeat_interleave(k, dim=0)

    def step(self, chosen: Tensor) -> Tensor:
        """See :class:`Decoder`."""
        self.seen = torch.cat([self.seen, self.seen.new_ones(len(chosen), 1)], dim=1)
        out = self.model(
            input_ids=chosen[:, None],
            attention_mask=self.seen,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.position = self.position + 1
        return out.logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        """See :class:`Decoder`."""
        self.cache.batch_select_indices(rows)
        self.seen, self.position = self.seen[rows], self.position[rows]


def choose(logits: Tensor, temperature: float, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
    """Choose one token for each row, by the inverse of the cumulative distribution.

    Laid end to end, the probabilities of all tokens fill the interval from 0 to 1; the token on
    whose part the row's number falls is chosen.

    Parameters
    ----------
    logits : Tensor (B, V)
    temperature : float
        0 takes the most probable token.
    uniforms : float32 Tensor (B,) or None
        Numbers in [0, 1); not needed at temperature 0.

    Returns
    -------
    tokens : int64 Tensor (B,)
    logprobs : float32 Tensor (B,)
        Of these tokens under softmax(logits / temperature), in nats.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        assert uniforms is not None
        ends = logprobs.exp().cumsum(dim=-1)
        # The last end is 1 but for rounding. A token without probability has no part of its own,
        # so that right=True steps over it.
        numbers = uniforms[:, None] * ends[:, -1:]
        tokens = torch.searchsorted(ends, numbers, right=True).squeeze(1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)
