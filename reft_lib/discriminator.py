"""The discriminator of adversarial fine-tuning: it tells real texts from generated ones.

It is a :mod:`reft_lib.scorer`: the generator's trunk with an adapter of its own and one linear
layer on the hidden states, whose number is the log-odds that a real author wrote the text so far;
a text is rated by the number at its last token. It reads tokens as they were sampled, never the
text in tokens anew: where the two differ, it would learn to tell tokenizers apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reft_lib import lora, prompts, scorer, sft
from reft_lib.config import LoraSettings
from reft_lib.errors import NumericalError
from reft_lib.loop import Loop, new_loop
from reft_lib.losses import masked_mean
from reft_lib.method_settings_adversarial import AdversarialConfig
from reft_lib.scorer import Row
from reft_lib.value import ValueHead

ADAPTER = "discriminator"


@dataclass(frozen=True)
class Text:
    """A real text, cut in two."""

    id: str
    """Names it in messages."""
    prompt: str
    """Given to the generator."""
    rest: str
    """What the real author wrote next; may be empty in a prompt that is only continued."""


@dataclass
class Discriminator:
    """Tells real continuations from generated ones; a :class:`reft_lib.scorer.Scorer`."""

    model: Any
    """peft.PeftModel that holds the adapter ``ADAPTER``; whichever is active stays so."""
    tokenizer: Any
    head: ValueHead
    loop: Loop
    """Optimiser of adapter and head."""
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def discriminator_loss(
    real: Tensor, fake: Tensor, real_mask: Tensor, fake_mask: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood of telling real from generated, both kinds counting half.

        L = -1/2 mean[(1 - a) log s(real) + a log s(-real)] - 1/2 mean[log s(-fake)]

    The question is asked after every token, so that it is learnt which beginnings give a text away,
    and where; means are taken over the tokens of a text first, then over texts.

    Parameters
    ----------
    real, fake : Tensor (R, T), Tensor (F, T)
        Log-odds of being real after each token, of real and of generated texts.
    real_mask, fake_mask : bool Tensors of the same shapes
        True on the tokens of the continuation.
    smoothing : float
        a. Real texts are said to be real with probability 1 - a only (one-sided label smoothing,
        Salimans et al. 2016, section 3.4), so that certainty does not pay.

    Returns
    -------
    loss : scalar Tensor, in nats
        ln 2 where all log-odds are 0.
    stats : dict of float
        ``real_right``, ``fake_right``: shares of tokens told rightly, log-odds of 0 counting half.

    Notes
    -----
    Goodfellow et al. 2014, eq. 1, with the opposite sign and halved.
    """
    told = -((1 - smoothing) * logsigmoid(real) + smoothing * logsigmoid(-real))
    caught = -logsigmoid(-fake)
    loss = 0.5 * masked_mean(told, real_mask) + 0.5 * masked_mean(caught, fake_mask)
    stats = {
        "real_right": told_right(real[real_mask]),
        "fake_right": told_right(-fake[fake_mask]),
    }
    return loss, stats


def told_right(logits: Tensor) -> float:
    """Return the share of positive log-odds, those of 0 counting half."""
    return (0.5 + 0.5 * logits.detach().sign()).mean().item()


def attach(
    policy: Any, tokenizer: Any, config: AdversarialConfig, settings: LoraSettings, seed: int = 0
) -> Discriminator:
    """Put an untrained discriminator on a policy; see :func:`reft_lib.scorer.attach`."""
    model, head = scorer.attach(policy, settings, seed, ADAPTER)
    parameters = [*lora.adapter_parameters(model, ADAPTER), *head.parameters()]
    loop = new_loop(parameters, config.discriminator_lr, seed, model.device, head)
    return Discriminator(model, tokenizer, head, loop)


def encode(tokenizer: Any, texts: Sequence[Text], room: int) -> list[Row]:
    """Return (prompt ids, continuation ids with EOS) of every text.

    Raises
    ------
    UserError
        If one is longer than ``room`` tokens, or has no prompt.
    """
    found = []
    for t in texts:
        pair = prompts.encode_pair(tokenizer, t.prompt, t.rest)
        prompts.check_length(pair[0], room - len(pair[1]), t.id)
        found.append(pair)
    return found


def score(judge: Discriminator, rows: Sequence[Row], config: AdversarialConfig) -> Tensor:
    """Return the log-odds that each row is real, float32 (B,), on the judge's device."""
    found = scorer.read_last(judge, ADAPTER, rows, config.micro_batch)
    return found.float().to(judge.model.device)


def learn(
    judge: Discriminator,
    real: Sequence[Row],
    fake: Sequence[Row],
    config: AdversarialConfig,
    step: int = 0,
) -> dict[str, float]:
    """Take one discriminator step on each part of a round's texts; returns its mean loss."""
    eos, device, total = judge.tokenizer.eos_token_id, judge.model.device, 0.0
    for part in range(config.minibatches):
        judge.loop.optimizer.zero_grad()
        some_real, some_fake = (x[part :: config.minibatches] for x in (real, fake))
        for at in range(0, len(some_real), config.micro_batch):
            rows = [x[at : at + config.micro_batch] for x in (some_real, some_fake)]
            batch = sft.collate([*rows[0], *rows[1]], eos, device)
            on_real, on_fake = (batch.labels != sft.IGNORE).split(len(rows[0]))
            of_real, of_fake = scorer.read(judge, ADAPTER, batch).split(len(rows[0]))
            loss, _ = discriminator_loss(of_real, of_fake, on_real, on_fake, config.smoothing)
            if not torch.isfinite(loss):
                raise NumericalError(f"discriminator, round {step}: loss is {loss.item()}")
            share = len(rows[0]) / len(some_real)
            (loss * share).backward()
            total += loss.item() * share / config.minibatches
        move(judge.loop, config)
    return {"discriminator_loss": total}


def move(loop: Loop, config: AdversarialConfig) -> None:
    """Take one optimiser step, with the gradient's norm cut."""
    for group in loop.optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], config.grad_clip)
    loop.optimizer.step()
