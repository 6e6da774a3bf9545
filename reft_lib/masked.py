"""Masked language modelling: self-supervised fine-tuning as BERT does it (Devlin et al. 2019).

Some tokens of a text are chosen and hidden, and the model says what they were, from what stands on
both sides of them. Only chosen tokens are learnt. Of these most are replaced by ``[MASK]``, some by
a random token and some stay as they are: later texts have no ``[MASK]``, and a model must not learn
that all other tokens can be trusted (section 3.1 and appendix A.1 there).

A model that looks to both sides cannot write a text from left to right, so the nano model will not
do; the model is a small encoder (:mod:`reft_lib.encoder`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import language_modelling, losses, models
from reft_lib.encoder import MASK
from reft_lib.errors import NumericalError, UserError
from reft_lib.language_modelling import TextConfig
from reft_lib.loop import Loop
from reft_lib.sft import IGNORE

CHOSEN, MASKED, RANDOM = 0.15, 0.8, 0.1
"""Share of tokens chosen; of these, the shares that are masked and replaced at random. The rest
stays as it is."""


@dataclass
class Hidden:
    """A batch for masked language modelling; B rows of T tokens."""

    tokens: Tensor
    """int64 (B, T): what the model reads."""
    mask: Tensor
    """int64 (B, T): 1 on real tokens."""
    labels: Tensor
    """int64 (B, T): the true token where one was chosen, else ``IGNORE``."""


def pad(rows: Sequence[Sequence[int]], filler: int, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    """Stack rows of tokens, padded on the right; returns tokens and mask, int64 (B, T)."""
    width = max(map(len, rows))
    tokens = [[*row, *[filler] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


def hide(
    tokens: Tensor,
    mask: Tensor,
    tokenizer: Any,
    generator: torch.Generator | None = None,
    share: float = CHOSEN,
    all_masked: bool = False,
    last: bool = False,
) -> Hidden:
    """Choose tokens and hide them, by BERT's rule.

    Parameters
    ----------
    tokens, mask : int64 Tensor (B, T)
        From :func:`pad`.
    tokenizer : tokenizer
        Special tokens are never chosen and never drawn at random; padding is never chosen.
    generator : torch.Generator, optional
        Source of randomness.
    share : float
        Probability of each token to be chosen.
    all_masked : bool
        Replace every chosen token by ``[MASK]``: for measuring.
    last : bool
        Choose the last token of every row, too, and always mask it: where it is the answer.

    Returns
    -------
    Hidden
    """
    device, names = tokens.device, set(tokenizer.all_special_ids)
    free = (mask == 1) & ~torch.isin(tokens, torch.tensor(sorted(names), device=device))
    draw, kind = (torch.rand(tokens.shape, generator=generator, device=device) for _ in range(2))
    ordinary = torch.tensor([i for i in range(len(tokenizer)) if i not in names], device=device)
    at = torch.randint(len(ordinary), tokens.shape, generator=generator, device=device)
    chosen = free & (draw < share)
    if last:
        ends = mask.sum(dim=1, keepdim=True) - 1
        chosen.scatter_(1, ends, free.gather(1, ends))
        kind.scatter_(1, ends, 0.0)
    if all_masked:
        kind = torch.zeros_like(kind)
    masked, random = chosen & (kind < MASKED), chosen & (kind >= 1 - RANDOM)
    seen = torch.where(random, ordinary[at], tokens).masked_fill(masked, tokenizer.mask_token_id)
    return Hidden(seen, mask, torch.where(chosen, tokens, IGNORE))


def logits(model: Any, batch: Hidden) -> tuple[Tensor, Tensor]:
    """Return the model's scores for the chosen tokens (N, V), and what they were (N,)."""
    base = models.unwrapped(model)
    out = base.bert(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
    wanted = batch.labels != IGNORE
    return base.cls(out[wanted]), batch.labels[wanted]


def loss(model: Any, batch: Hidden) -> Tensor:
    """Return the mean loss in nats of the chosen tokens; 0 where none was chosen.

    L = -(1/N) sum_(t chosen) log p(x_t | the corrupted text, left and right of t)
    """
    return losses.cross_entropy(*logits(model, batch), IGNORE)


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    config: TextConfig,
    seed: int = 0,
    bf16: bool = False,
    loop: Loop | None = None,
    last: bool = False,
) -> Iterator[dict[str, float]]:
    """Train what is trainable of an encoder, in place; yields after every step.

    Parameters
    ----------
    model : BertForMaskedLM, or a peft.PeftModel of one
        Plain, it is pretrained as a whole; with an adapter only that learns, and the embeddings if
        so configured.
    tokenizer : tokenizer with a mask token
    rows : sequence of lists of int
        Windows of text (:func:`reft_lib.language_modelling.windows`), or texts of unequal length.
    config : TextConfig
    seed : int
        Seed of the order of rows and of what is hidden.
    bf16 : bool
        Run matrix products in bfloat16.
    loop : Loop, optional
        What :func:`reft_lib.language_modelling.begin` made, perhaps restored.
    last : bool
        As in :func:`hide`.

    Yields
    ------
    dict
        ``step`` (from 1), ``loss`` (nats a chosen token), ``tokens`` (chosen in this step),
        ``grad_norm``, ``step_seconds``.

    Raises
    ------
    NumericalError
        If a loss is not finite.
    """
    if config.embeddings:
        language_modelling.open_embeddings(model)
    loop = loop or language_modelling.begin(model, config, seed)
    filler, device = tokenizer.pad_token_id, model.device
    while loop.step < config.steps:
        started = time.monotonic()
        some = [rows[i] for i in loop.draw(len(rows), config.batch_size, whole=True)]
        batch = hide(*pad(some, filler, device), tokenizer, loop.generator, last=last)
        with models.autocast(device, bf16):
            batch_loss = loss(model, batch)
        if not torch.isfinite(batch_loss):
            raise NumericalError(f"masked step {loop.step}: loss is {batch_loss.item()}; lower lr")
        norm = language_modelling.step(model, loop, batch_loss, config)
        yield {
            "step": loop.step,
            "loss": batch_loss.item(),
            "tokens": int((batch.labels != IGNORE).sum()),
            "grad_norm": norm,
            "step_seconds": time.monotonic() - started,
        }


@torch.no_grad()
def measure(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, float]:
    """Hide tokens of held-out text, all behind ``[MASK]``, and see what the model makes of them.

    Parameters
    ----------
    seed : int
        Of what is hidden: the same tokens at each call.

    Returns
    -------
    dict
        ``perplexity`` (e to the mean loss of a hidden token; it cannot be compared with that of an
        autoregressive model, which sees one side only) and ``accuracy`` (share of hidden tokens
        whose most probable filling is the true one, 0 to 1).
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    total, right, n = 0.0, 0, 0
    for at in range(0, len(rows), batch_size):
        part = pad(rows[at : at + batch_size], tokenizer.pad_token_id, model.device)
        scores, labels = logits(model, hide(*part, tokenizer, generator, all_masked=True))
        total += -float(losses.token_logprobs(scores, labels).sum())
        right += int((scores.argmax(dim=-1) == labels).sum())
        n += len(labels)
    return {"perplexity": math.exp(total / n), "accuracy": right / n}


@torch.no_grad()
def fill(
    model: Any, tokenizer: Any, texts: Sequence[str], only: Sequence[str] | None = None, k: int = 3
) -> list[list[list[tuple[str, float]]]]:
    """Fill the ``[MASK]`` s of texts.

    Parameters
    ----------
    texts : sequence of str
        Each with at least one ``[MASK]``.
    only : sequence of str, optional
        Tokens to choose among, as they stand after a space; all unless given.
    k : int
        Fillings to return, the most probable first.

    Returns
    -------
    For each text, for each of its masks, k pairs of a token's text and its probability (among
    ``only``, if given). Several masks of one text are filled independently of each other.

    Raises
    ------
    UserError
        If a text has no mask, or one of ``only`` is no single token.
    """
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if tokenizer.mask_token_id not in row:
            raise UserError(f"there is no {MASK} in {text!r}")
    allowed = torch.arange(len(tokenizer))
    if only is not None:
        ids = tokenizer([f" {word}" for word in only], add_special_tokens=False)["input_ids"]
        if wrong := [word for word, i in zip(only, ids, strict=True) if len(i) != 1]:
            raise UserError(f"{wrong[0]!r} is not one token; only single tokens can fill a mask")
        allowed = torch.tensor([i[0] for i in ids])
    found = []
    for row in rows:
        tokens, mask = pad([row], tokenizer.pad_token_id, model.device)
        wanted = tokens == tokenizer.mask_token_id
        scores, _ = logits(model, Hidden(tokens, mask, torch.where(wanted, tokens, IGNORE)))
        p, at = scores[:, allowed].softmax(dim=-1).topk(min(k, len(allowed)))
        words = [tokenizer.batch_decode([[i] for i in allowed[r].tolist()]) for r in at]
        found.append([list(zip(w, q.tolist(), strict=True)) for w, q in zip(words, p, strict=True)])
    return found
