"""DPO: learn from preferences without a reward model and without sampling.

The policy that RLHF would end with, for any reward r, can be solved for that reward: up to a
constant of the question, r(x, y) = beta log(pi(y | x) / pi_ref(y | x)) (Rafailov et al. 2023,
eq. 5). Put into Bradley and Terry's model, it is a loss for the policy itself (eq. 7):

    L = -mean log s(r(x, y_w) - r(x, y_l))        s(d) = 1 / (1 + exp(-d))

w is the chosen response, l the rejected one. The reference is the network with its adapter off. A
new adapter changes nothing, so both rewards are 0 at first and the first loss is ln 2 exactly.

Only the difference is asked for. It also grows where both log-probabilities fall, the rejected
one's faster, and then the policy says something third (Pal et al. 2024, "Smaug"; Razin et al. 2024,
"Unintentional unalignment"): hence both are among the metrics.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from reft_lib import decode, lora, losses, models, rollout, sft
from reft_lib.config import Format
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop, new_loop
from reft_lib.method_settings_rlhf import DpoConfig
from reft_lib.pairwise import (
    Part,
    by_question,
    draw,
    encode_pairs,
    micro_batches,
    preference_loss,
)
from reft_lib.preferences import Pair


def response_logp(model: Any, batch: sft.Batch) -> Tensor:
    """Return the log-probability in nats of each row's response, EOS included, float32 (B,).

    The output at column t predicts column t + 1; logits are made for labelled columns alone.
    """
    mask = batch.mask
    hidden = rollout.last_hidden(model, batch.tokens, mask, decode.positions(mask))[:, :-1]
    labels = batch.labels[:, 1:]
    wanted = labels != sft.IGNORE
    logits = model.get_output_embeddings()(hidden[wanted])  # (N, V)
    logp = losses.token_logprobs(logits, labels[wanted])  # (N,)
    return logp.new_zeros(labels.shape).masked_scatter(wanted, logp).sum(dim=1)


def dpo_loss(logp: Tensor, ref_logp: Tensor, beta: float) -> tuple[Tensor, dict[str, float]]:
    """DPO's loss on a batch of pairs.

        r = beta (log pi(y | x) - log pi_ref(y | x))        L = -(1/B) sum_i log s(r_w,i - r_l,i)

    Parameters
    ----------
    logp, ref_logp : Tensor (2B,)
        Log-probabilities in nats of whole responses under policy and reference: first the B chosen
        ones, then the B rejected ones in the same order.
    beta : float
        Above 0.

    Returns
    -------
    loss : scalar Tensor, in nats
    stats : dict of float, means over pairs
        ``accuracy`` and ``margin`` of the implicit rewards r, as in
        :func:`reft_lib.pairwise.preference_loss`; ``chosen_reward``, ``rejected_reward``;
        ``chosen_logp``, ``rejected_logp``, in nats a response.

    Notes
    -----
    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; its gradient (section 4) is each pair's
    difference of log-probability gradients, weighted by how wrongly the rewards order it.
    """
    chosen, rejected = (beta * (logp - ref_logp)).chunk(2)
    loss, stats = preference_loss(chosen, rejected)
    chosen_logp, rejected_logp = logp.detach().chunk(2)
    return loss, stats | {
        "chosen_reward": chosen.detach().mean().item(),
        "rejected_reward": rejected.detach().mean().item(),
        "chosen_logp": chosen_logp.mean().item(),
        "rejected_logp": rejected_logp.mean().item(),
    }


def part_loss(policy: Any, part: Part, beta: float) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of some pairs and its statistics; see :func:`dpo_loss`.

    Both policies read the very same tensors, so that equal ones agree to the bit.
    """
    with torch.no_grad(), lora.reference(policy):
        ref_logp = response_logp(policy, part.batch)
    pairs = torch.cat([part.chosen, part.rejected])
    return dpo_loss(response_logp(policy, part.batch)[pairs], ref_logp[pairs], beta)


def begin(policy: Any, config: DpoConfig, seed: int = 0) -> Loop:
    """Return the state of a new loop: optimiser and order of pairs."""
    return new_loop(lora.trainable_parameters(policy), config.lr, seed, policy.device)


def steps_per_epoch(n: int, config: DpoConfig) -> int:
    """Return the optimiser steps that one pass over ``n`` pairs takes."""
    return math.ceil(n / config.batch_size)


def dpo_steps(
    policy: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    fmt: Format,
    config: DpoConfig,
    seed: int = 0,
    bf16: bool = False,
    loop: Loop | None = None,
) -> Iterator[dict[str, float]]:
    """Train the policy's adapter in place; yields after every optimiser step.

    Parameters
    ----------
    policy : peft.PeftModel
        The merged warm-up policy with a fresh adapter: with the adapter off it is the reference.
    tokenizer : tokenizer
    pairs : sequence of Pair
        A response that does not fit the context with its question is cut there.
    fmt : {"ncot", "pcot"}
    config : DpoConfig
    seed : int
        Seed of the order of batches.
    bf16 : bool
        Run matrix products in bfloat16.
    loop : Loop, optional
        What :func:`begin` made, perhaps restored: training goes on from its step.

    Yields
    ------
    dict
        ``loss`` (nats; ln 2 at the first step) and the statistics of :func:`dpo_loss`, all before
        the step's update; ``grad_norm``, ``step_seconds``. Between two yields the caller may
        evaluate or stop.

    Raises
    ------
    UserError
        If there is no pair.
    NumericalError
        If a loss is not finite; the policy keeps its last finite state.
    """
    if not pairs:
        raise UserError("DPO: there is no pair of responses; sample more of them")
    loop = loop or begin(policy, config, seed)
    parameters = [p for group in loop.optimizer.param_groups for p in group["params"]]
    rows = encode_pairs(policy, tokenizer, fmt, pairs)
    questions = by_question(rows)
    while loop.step < config.epochs * steps_per_epoch(len(rows), config):
        started = time.monotonic()
        chosen = [rows[i] for i in draw(loop, questions, config.batch_size)]
        loop.optimizer.zero_grad()
        total: dict[str, float] = {}
        eos = tokenizer.eos_token_id
        for part in micro_batches(chosen, config.micro_batch, eos, policy.device):
            with models.autocast(policy.device, bf16):
                loss, stats = part_loss(policy, part, config.beta)
            if not torch.isfinite(loss):
                raise NumericalError(f"DPO step {loop.step + 1}: loss is {loss.item()}; lower lr")
            (loss * part.share).backward()
            add(total, {"loss": loss.item(), **stats}, part.share)
        loop.step += 1
        loop.warm_up(config.lr, config.lr_warmup_steps)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))
        loop.optimizer.step()
        yield {**total, "grad_norm": norm, "step_seconds": time.monotonic() - started}


def add(total: dict[str, float], stats: dict[str, float], share: float) -> None:
    """Add a part's means to those of the whole, by its share."""
    for name, x in stats.items():
        total[name] = total.get(name, 0.0) + share * x


@torch.no_grad()
def validate(
    policy: Any, tokenizer: Any, pairs: Sequence[Pair], fmt: Format, config: DpoConfig
) -> dict[str, float]:
    """Return the loss and the statistics of :func:`dpo_loss` over pairs that are not trained on."""
    rows, total = encode_pairs(policy, tokenizer, fmt, pairs), dict[str, float]()
    for part in micro_batches(rows, config.micro_batch, tokenizer.eos_token_id, policy.device):
        loss, stats = part_loss(policy, part, config.beta)
        add(total, {"loss": loss.item(), **stats}, part.share)
    return total
