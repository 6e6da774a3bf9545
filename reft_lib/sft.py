"""Supervised fine-tuning on chains of thought: ReFT's warm-up, and the baseline it is held against.

The loss is the mean negative log-probability of the target's tokens (CoT, answer, end); the
question's tokens are read but not learnt (Luong et al. 2024, section 3.1).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from reft_lib import decode, lora, losses, models, parallel, prompts, rollout
from reft_lib.config import Format, SftConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError
from reft_lib.loop import Loop, new_loop

IGNORE = -100


@dataclass
class Batch:
    """Right-padded training sequences; B rows of T tokens."""

    tokens: Tensor
    """int64 (B, T): prompt, target, end of sequence, padding."""
    mask: Tensor
    """int64 (B, T): 1 on real tokens."""
    labels: Tensor
    """int64 (B, T): the token itself where it is learnt, ``IGNORE`` on prompt and padding."""


def encode(
    tokenizer: Any, examples: Sequence[Example], fmt: Format, context: int | None = None
) -> list[tuple[list[int], list[int]]]:
    """Return (prompt ids, target ids with EOS) of every example.

    Raises
    ------
    UserError
        If an example has no annotation in the format, or is longer than ``context`` tokens.
    """
    pairs = []
    for e in examples:
        pair = prompts.encode_pair(tokenizer, prompts.prompt(e, fmt), prompts.target(e, fmt))
        if context is not None:
            prompts.check_length(pair[0], context - len(pair[1]), e.id)
        pairs.append(pair)
    return pairs


def collate(pairs: Sequence[tuple[list[int], list[int]]], pad: int, device: Any = "cpu") -> Batch:
    """Stack (prompt ids, target ids) pairs into one right-padded batch."""
    width = max(len(p) + len(t) for p, t in pairs)
    tokens = torch.full((len(pairs), width), pad)
    mask = torch.zeros(len(pairs), width, dtype=torch.long)
    labels = torch.full((len(pairs), width), IGNORE)
    for i, (p, t) in enumerate(pairs):
        n = len(p) + len(t)
        tokens[i, :n] = torch.tensor([*p, *t])
        mask[i, :n] = 1
        labels[i, len(p) : n] = torch.tensor(t)
    return Batch(tokens.to(device), mask.to(device), labels.to(device))


def loss(model: Any, batch: Batch) -> Tensor:
    """Return the mean loss in nats of the batch's labelled tokens.

    The output at column t predicts column t + 1; logits are made for labelled columns alone.
    """
    hidden = rollout.last_hidden(model, batch.tokens, batch.mask, decode.positions(batch.mask))[
        :, :-1
    ]
    labels = batch.labels[:, 1:]
    wanted = labels != IGNORE
    logits = model.get_output_embeddings()(hidden[wanted])  # (N, V)
    return losses.cross_entropy(logits, labels[wanted], IGNORE)


def begin(model: Any, config: SftConfig, seed: int = 0) -> Loop:
    """Return the state of a new loop: optimiser and order of questions."""
    return new_loop(lora.trainable_parameters(model), config.lr, seed, model.device)


def steps_per_epoch(n: int, config: SftConfig) -> int:
    """Return the optimiser steps that one pass over ``n`` examples takes."""
    return math.ceil(n / config.batch_size)


def sft_steps(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    config: SftConfig,
    seed: int = 0,
    bf16: bool = False,
    loop: Loop | None = None,
) -> Iterator[dict[str, float]]:
    """Train the model's adapter in place; yields after every optimiser step.

    Parameters
    ----------
    model : peft.PeftModel
        Its trainable parameters are updated.
    tokenizer : tokenizer
    examples : sequence of Example
        Each with an annotation in the format.
    fmt : {"ncot", "pcot"}
    config : SftConfig
    seed : int
        Seed of the order of batches.
    bf16 : bool
        Run matrix products in bfloat16.
    loop : Loop, optional
        What :func:`begin` made, perhaps restored: training goes on from its step.

    Yields
    ------
    dict
        ``loss`` (nats a token), ``grad_norm``, ``step_seconds``. Between two yields the caller may
        evaluate or stop.

    Raises
    ------
    NumericalError
        If a loss is not finite.
    """
    loop = loop or begin(model, config, seed)
    pairs = encode(tokenizer, examples, fmt, models.context_length(model))
    per_epoch = steps_per_epoch(len(pairs), config)
    while loop.step < config.epochs * per_epoch:
        started = time.monotonic()
        rows = [pairs[i] for i in loop.draw(len(pairs), config.batch_size)]
        own = parallel.deal(rows)
        weight = n_targets(own) / n_targets(rows)
        loop.optimizer.zero_grad()
        batch_loss = 0.0
        for part, share in micro_batches(own, config.micro_batch):
            batch = collate(part, tokenizer.eos_token_id, model.device)
            with models.autocast(model.device, bf16):
                part_loss = loss(model, batch) * (share * weight)
            if not torch.isfinite(part_loss):
                where = f"SFT epoch {loop.step // per_epoch + 1}, step {loop.step}"
                raise NumericalError(f"{where}: loss is {part_loss.item()}; lower sft.lr")
            part_loss.backward()
            batch_loss += part_loss.item()
        parameters = lora.trainable_parameters(model)
        batch_loss = parallel.sum_gradients(parameters, {"loss": batch_loss})["loss"]
        loop.step += 1
        loop.warm_up(config.lr, config.lr_warmup_steps)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))
        loop.optimizer.step()
        seconds = time.monotonic() - started
        yield {"loss": batch_loss, "grad_norm": norm, "step_seconds": seconds}


def micro_batches(
    rows: Sequence[tuple[list[int], list[int]]], size: int
) -> Iterator[tuple[list[tuple[list[int], list[int]]], float]]:
    """Yield parts of a batch that fit memory, each with its share of the batch's target tokens.

    The parts' losses, weighted by their shares, add up to the loss of the batch. A batch that fits
    is one part; otherwise rows of like length stand side by side, which saves padding.
    """
    if len(rows) > size:
        rows = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    total = n_targets(rows)
    for at in range(0, len(rows), size):
        part = list(rows[at : at + size])
        yield part, n_targets(part) / total


def n_targets(rows: Sequence[tuple[list[int], list[int]]]) -> int:
    """Count the target tokens of (prompt ids, target ids)."""
    return sum(len(target) for _, target in rows)


def sft(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    config: SftConfig,
    seed: int = 0,
    bf16: bool = False,
) -> Iterator[dict[str, float]]:
    """Train as :func:`sft_steps` does, whose parameters these are; yields after every epoch.

    Yields
    ------
    dict
        ``epoch`` (from 1), ``loss`` and ``grad_norm`` (means over its batches), ``step_seconds``.
    """
    steps = sft_steps(model, tokenizer, examples, fmt, config, seed, bf16)
    for epoch in range(1, config.epochs + 1):
        batches = range(steps_per_epoch(len(examples), config))
        bar = tqdm(batches, desc=f"sft epoch {epoch}", leave=False, mininterval=1)
        yield {"epoch": epoch, **epoch_metrics([next(steps) for _ in bar])}


def epoch_metrics(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Summarise the steps of an epoch: means, and the seconds of all together."""
    n = len(steps)
    return {
        "loss": sum(s["loss"] for s in steps) / n,
        "grad_norm": sum(s["grad_norm"] for s in steps) / n,
        "step_seconds": sum(s["step_seconds"] for s in steps),
    }
