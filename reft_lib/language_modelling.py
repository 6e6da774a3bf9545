"""Autoregressive language modelling of unlabelled text: self-supervised fine-tuning as GPT does it.

Each token is predicted from those before it, and every token of the text is learnt: there is no
prompt and nothing is labelled (Radford et al. 2018, section 3.1). It is the objective of
pretraining (:mod:`reft_lib.pretrain`), continued on other text and, here, through an adapter.

Documents are joined, an end-of-sequence token behind each, and cut into windows of equal length, so
that no position is padding. Two documents may share a window, as they did in pretraining.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import lora, models, sft
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop, new_loop
from reft_lib.settings import Checked


@dataclass(frozen=True)
class TextConfig(Checked):
    """Self-supervised training on unlabelled text, autoregressive or masked."""

    steps: int = 90
    """Optimiser steps."""
    window: int = 128
    """Tokens of a row."""
    batch_size: int = 16
    """Rows of an optimiser step."""
    lr: float = 2e-3
    """Constant learning rate of AdamW, after the warm-up steps."""
    lr_warmup_steps: int = 10
    """Steps over which the learning rate rises linearly from zero."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    embeddings: bool = True
    """Whether the embeddings, which an adapter leaves as they are, learn too."""
    eval_every: int = 15
    """Steps between measurements of the perplexity."""


def windows(tokenizer: Any, texts: Sequence[str], width: int) -> list[list[int]]:
    """Join documents, end-of-sequence behind each, and cut the whole into rows of tokens.

    Parameters
    ----------
    tokenizer : tokenizer
    texts : sequence of str
    width : int
        Tokens of a row. What is left over at the end is not used.

    Raises
    ------
    UserError
        If the texts do not fill one row.
    """
    ids: list[int] = []
    for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []:
        ids += [*row, tokenizer.eos_token_id]
    if len(ids) < width:
        raise UserError(f"{len(ids)} tokens of text; wanted at least one window of {width}")
    return [ids[at : at + width] for at in range(0, len(ids) - width + 1, width)]


def open_embeddings(model: Any) -> Any:
    """Let the input embeddings learn beside the adapter, and return the model.

    A new word is made of known tokens, but a token that pretraining never showed has an embedding
    that means nothing, and no adapter behind it can tell it from another such token. Where the
    output layer is tied to the embeddings, as nano's is, it learns with them.
    """
    model.get_input_embeddings().weight.requires_grad_(True)
    return model


def begin(model: Any, config: TextConfig, seed: int = 0) -> Loop:
    """Return the state of a new loop: optimiser and order of rows."""
    return new_loop(lora.trainable_parameters(model), config.lr, seed, model.device)


def whole(rows: Sequence[list[int]], pad: int, device: Any = "cpu") -> sft.Batch:
    """Return rows as a batch of SFT whose prompts are empty, so that every token is learnt."""
    nothing: list[int] = []
    return sft.collate([(nothing, row) for row in rows], pad, device)


def step(model: Any, loop: Loop, loss: Tensor, config: TextConfig) -> float:
    """Take one optimiser step down a loss; returns the gradient's norm before it is clipped."""
    loop.optimizer.zero_grad()
    loss.backward()
    loop.step += 1
    loop.warm_up(config.lr, config.lr_warmup_steps)
    parameters = lora.trainable_parameters(model)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))
    loop.optimizer.step()
    return norm


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[list[int]],
    config: TextConfig,
    seed: int = 0,
    bf16: bool = False,
    loop: Loop | None = None,
) -> Iterator[dict[str, float]]:
    """Train the model's adapter, and its embeddings if so configured; yields after every step.

    Parameters
    ----------
    model : peft.PeftModel
        Its trainable parameters are updated.
    tokenizer : tokenizer
    rows : sequence of lists of int
        Unlabelled text in tokens, from :func:`windows`.
    config : TextConfig
    seed : int
        Seed of the order of rows.
    bf16 : bool
        Run matrix products in bfloat16.
    loop : Loop, optional
        What :func:`begin` made, perhaps restored: training goes on from its step.

    Yields
    ------
    dict
        ``step`` (from 1), ``loss`` (nats a token), ``tokens`` (learnt in this step),
        ``grad_norm``, ``step_seconds``.

    Raises
    ------
    NumericalError
        If a loss is not finite.
    """
    if config.embeddings:
        open_embeddings(model)
    loop = loop or begin(model, config, seed)
    while loop.step < config.steps:
        started = time.monotonic()
        some = [rows[i] for i in loop.draw(len(rows), config.batch_size, whole=True)]
        batch = whole(some, tokenizer.eos_token_id, model.device)
        with models.autocast(model.device, bf16):
            loss = sft.loss(model, batch)
        if not torch.isfinite(loss):
            raise NumericalError(f"text step {loop.step}: loss is {loss.item()}; lower lr")
        norm = step(model, loop, loss, config)
        yield {
            "step": loop.step,
            "loss": loss.item(),
            "tokens": int(batch.mask[:, 1:].sum()),  # the first of a row has none before it
            "grad_norm": norm,
            "step_seconds": time.monotonic() - started,
        }


@torch.no_grad()
def perplexity(model: Any, rows: Sequence[list[int]], batch_size: int = 32) -> float:
    """Return the perplexity of text: e to the mean loss in nats of a token.

        PPL = exp( -(1/N) sum_t log p(x_t | x_<t) )

    It is the number of tokens among which the model is as good as choosing evenly.

    Parameters
    ----------
    model : causal language model
    rows : sequence of lists of int
        Of equal length, from :func:`windows`; the first token of each is not predicted.
    batch_size : int
        Rows in one forward pass.
    """
    total = 0.0
    for at in range(0, len(rows), batch_size):
        part = rows[at : at + batch_size]
        total += float(sft.loss(model, whole(part, 0, model.device))) * len(part)
    return math.exp(total / len(rows))
