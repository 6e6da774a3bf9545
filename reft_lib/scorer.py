"""What a verifier and a reward model share: a policy's trunk that reads a response and rates it.

A scorer is the policy's own network with a LoRA adapter of its own and one linear layer in float32
on the last hidden state. What it learns (whether a response is right, which of two is preferred)
is its loss, and stands in its own module; how it is put on, how it reads, and how its best epoch is
kept stand here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from reft_lib import decode, lora, models, prompts, rollout, sft
from reft_lib.config import Format, LoraSettings
from reft_lib.data import Example
from reft_lib.errors import NumericalError
from reft_lib.loop import Loop
from reft_lib.value import ValueHead

Row = tuple[list[int], list[int]]
"""Prompt ids, and response ids with EOS."""
State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and what JSON can hold: from which a training goes on."""


class Scorer(Protocol):
    """What the functions here ask of a verifier or a reward model."""

    model: Any
    """peft.PeftModel that holds the scorer's adapter; whichever is active stays so."""
    tokenizer: Any
    head: ValueHead
    """One linear layer in float32, the same that estimates values."""
    epoch: int
    """The epoch that was kept."""
    history: list[dict[str, float]]
    """Metrics of every epoch."""


def attach(policy: Any, settings: LoraSettings, seed: int, adapter: str) -> tuple[Any, ValueHead]:
    """Give a policy one more adapter, and a head that is not trained yet.

    The trunk is the model below the policy's adapter, or what was kept as the reference
    (:func:`reft_lib.lora.keep_reference`): as that the new adapter then begins. On a plain model
    the new adapter becomes the active one, so give a policy that will be trained its own first.

    Returns
    -------
    model : peft.PeftModel
    head : ValueHead
        On the model's device; the global random state is left untouched.
    """
    model = lora.add_adapter(policy, settings, seed, adapter)
    if lora.REFERENCE in model.peft_config:
        lora.copy_adapter(model, lora.REFERENCE, adapter)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ValueHead(model.config.hidden_size).to(model.device)
    return model, head


def encode(
    model: Any, tokenizer: Any, fmt: Format, responses: Sequence[tuple[Example, str]]
) -> list[Row]:
    """Return what a model reads of each (example, text).

    A text written in tokens anew may come out longer; what does not fit the context is cut out.
    """
    context, rows = models.context_length(model), []
    for e, text in responses:
        prompt_ids, ids = prompts.encode_pair(tokenizer, prompts.prompt(e, fmt), text)
        prompts.check_length(prompt_ids, context - 1, e.id)
        room = context - len(prompt_ids) - 1
        rows.append((prompt_ids, ids[:-1][:room] + ids[-1:]))
    return rows


def width(row: Row) -> int:
    """Return how many tokens a row has; rows of like width side by side save padding."""
    return len(row[0]) + len(row[1])


def read(scorer: Scorer, adapter: str, batch: sft.Batch) -> Tensor:
    """Return the head's number after each token, float32 (B, T)."""
    mask = batch.mask
    with lora.active(scorer.model, adapter):
        hidden = rollout.last_hidden(scorer.model, batch.tokens, mask, decode.positions(mask))
        return scorer.head(hidden)


def last_token(batch: sft.Batch) -> Tensor:
    """Return a mask (B, T): True on each row's last real token."""
    column = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return column == batch.mask.sum(dim=1, keepdim=True) - 1


@torch.no_grad()
def read_last(scorer: Scorer, adapter: str, rows: Sequence[Row], micro_batch: int) -> Tensor:
    """Return the head's number after the last token of each row, float64 (N,), on the CPU.

    Raises
    ------
    NumericalError
        If one is not finite.
    """
    found = torch.zeros(len(rows), dtype=torch.float64)
    order = sorted(range(len(rows)), key=lambda i: width(rows[i]))
    for at in range(0, len(rows), micro_batch):
        part = order[at : at + micro_batch]
        eos, device = scorer.tokenizer.eos_token_id, scorer.model.device
        batch = sft.collate([rows[i] for i in part], eos, device)
        found[part] = read(scorer, adapter, batch)[last_token(batch)].double().cpu()
    if not torch.isfinite(found).all():
        raise NumericalError(f"{adapter}: a score is not finite")
    return found


def fit(
    scorer: Scorer,
    adapter: str,
    loop: Loop,
    steps: Iterator[float],
    epochs: int,
    per_epoch: int,
    validate: Callable[[], dict[str, float]],
    state: State | None = None,
    after: Callable[[Callable[[], State]], None] = lambda state: None,
) -> None:
    """Take training steps to the end of the last epoch, and keep the best epoch.

    Parameters
    ----------
    scorer : Scorer
        Ends up with the weights of the epoch whose ``held_loss`` was lowest. Its ``history`` gets
        for each epoch: ``epoch`` (from 1), ``loss`` (mean over its steps), what ``validate``
        measured, ``step_seconds``.
    adapter : str
        The name of its adapter.
    loop : Loop
        Its optimiser holds the adapter's parameters and the head's.
    steps : iterator of float
        Takes one step for each loss it yields, and counts it in ``loop.step``.
    epochs, per_epoch : int
        Passes, and the steps of one.
    validate : callable
        Measures what was held out.
    state : State, optional
        From which to go on.
    after : callable
        Is given, after every step, what returns the state.
    """
    parameters = [p for group in loop.optimizer.param_groups for p in group["params"]]
    own = lora.adapter_parameters(scorer.model, adapter)  # the loop's state holds the head
    kept = [p.detach().clone() for p in parameters]
    total = seconds = 0.0  # of the present epoch

    def now() -> State:
        tensors, notes = loop.state()
        tensors |= {f"now.{i}": p for i, p in enumerate(own)}
        tensors |= {f"kept.{i}": p for i, p in enumerate(kept)}
        mine = {"total": total, "seconds": seconds, "epoch": scorer.epoch}
        return tensors, mine | {"loop": notes, "history": scorer.history}

    if state is not None:
        tensors, notes = state
        loop.restore(tensors, notes["loop"])
        total, seconds, scorer.epoch = notes["total"], notes["seconds"], notes["epoch"]
        scorer.history = notes["history"]
        for i, parameter in enumerate(own):
            parameter.data.copy_(tensors[f"now.{i}"])
        kept = [tensors[f"kept.{i}"] for i in range(len(parameters))]
    while loop.step < epochs * per_epoch:
        started = time.monotonic()
        total += next(steps)
        if loop.step % per_epoch == 0:
            epoch, measured = loop.step // per_epoch, validate()
            best = min((h["held_loss"] for h in scorer.history), default=math.inf)
            if measured["held_loss"] < best:
                scorer.epoch, kept = epoch, [p.detach().clone() for p in parameters]
            measured |= {"step_seconds": seconds + time.monotonic() - started}
            scorer.history.append({"epoch": epoch, "loss": total / per_epoch, **measured})
            total = seconds = 0.0
        else:
            seconds += time.monotonic() - started
        after(now)
    for parameter, value in zip(parameters, kept, strict=True):
        parameter.data.copy_(value)
