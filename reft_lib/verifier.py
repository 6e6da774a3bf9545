"""A verifier: a classifier that reads a question and a response, and says how likely it is right.

It ranks samples at inference time (:func:`reft_lib.evaluate.rerank`): the policy's own trunk with a
LoRA adapter and one linear layer on the last hidden state. It learns from distinct responses of the
warm-up policy, graded by their answers (Cobbe et al. 2021, section 4; Luong et al. 2024, 4.3).

*Which tokens learn the verdict.* A response has one verdict, but every token can learn to predict
it from what has been written so far. Cobbe et al. (section 4.3) found such a token-level verifier
slower to learn and better in the end. So every token is the default here; the authors of ReFT train
the last token alone (``label="last"``). Scores are read at the last, which has seen everything.

*Class imbalance.* Of a good policy's responses most are right, and a constant "right" would have a
small loss. Both classes therefore weigh the same in training. Adding the log odds of the training
responses to the logit takes that back: scores are probabilities. It changes no ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from reft_lib import lora, losses, models, scorer, sft, stats
from reft_lib.config import Format, LoraSettings, VerifierConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop, new_loop
from reft_lib.samples import Sample, split
from reft_lib.scorer import Row, State, last_token
from reft_lib.value import ValueHead

ADAPTER = "verifier"


@dataclass
class Verifier:
    """What scoring needs, and how training went."""

    model: Any
    """peft.PeftModel that holds the adapter ``ADAPTER``; whichever is active stays so."""
    tokenizer: Any
    fmt: Format
    head: ValueHead
    """The same one linear layer in float32 that estimates values."""
    config: VerifierConfig
    log_odds: float
    """ln(right / wrong) of the training responses, added to every logit."""
    epoch: int = 0
    """The epoch that was kept."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every epoch; see :func:`train`."""


def train(
    policy: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    fmt: Format,
    config: VerifierConfig,
    settings: LoraSettings,
    seed: int = 0,
    bf16: bool = False,
    state: State | None = None,
    after: Callable[[Callable[[], State]], None] = lambda state: None,
) -> Verifier:
    """Train a verifier on a policy's trunk; the policy's own adapter is neither read nor changed.

    Parameters
    ----------
    policy, tokenizer : the policy
        It gets one more adapter. The trunk is the model below a policy's adapter; to build on that
        too, merge it first (:func:`reft_lib.lora.merge`), or keep it as the reference
        (:func:`reft_lib.lora.keep_reference`), as which the new adapter then begins.
    samples : sequence of Sample
        Different responses to training questions, never to test questions.
    fmt : {"ncot", "pcot"}
    config, settings : VerifierConfig, LoraSettings
    seed : int
        Seed of the held-out questions, and as in :func:`begin`.
    bf16 : bool
    state : State, optional
        From which to go on.
    after : callable
        Is given, after every step, what returns the state.

    Returns
    -------
    Verifier
        After the epoch with the lowest loss on the held-out questions. Its ``history`` has, for
        each epoch: ``epoch``, ``loss`` (training, classes balanced, nats), those of
        :func:`validate`, ``step_seconds``.

    Raises
    ------
    UserError
        If the training responses are all right or all wrong.
    NumericalError
        If a loss is not finite.
    """
    training, held = split(samples, config.held_out, seed)
    verifier, loop = begin(policy, tokenizer, training, fmt, config, settings, seed)
    per_epoch = math.ceil(len(training) / config.batch_size)
    steps = train_steps(verifier, loop, training, bf16)
    validated = partial(validate, verifier, held)
    scorer.fit(verifier, ADAPTER, loop, steps, config.epochs, per_epoch, validated, state, after)
    return verifier


def begin(
    policy: Any,
    tokenizer: Any,
    training: Sequence[Sample],
    fmt: Format,
    config: VerifierConfig,
    settings: LoraSettings,
    seed: int = 0,
) -> tuple[Verifier, Loop]:
    """Put an untrained verifier on a policy; returns it with the state of its training loop.

    ``training`` gives the log odds, ``seed`` adapter, head and order of batches.
    """
    n, n_right = len(training), sum(s.right for s in training)
    if n_right in (0, n):
        found = f"{n_right} of {n} training responses are right"
        raise UserError(f"verifier: {found}; it needs both kinds: sample more responses")
    model, head = scorer.attach(policy, settings, seed, ADAPTER)
    log_odds = math.log(n_right / (n - n_right))
    verifier = Verifier(model, tokenizer, fmt, head, config, log_odds)
    parameters = [*lora.adapter_parameters(model, ADAPTER), *head.parameters()]
    return verifier, new_loop(parameters, config.lr, seed, model.device, head)


def train_steps(
    verifier: Verifier, loop: Loop, training: Sequence[Sample], bf16: bool = False
) -> Iterator[float]:
    """Train from the loop's step to the end of the last epoch; yields the loss of every step."""
    config, odds = verifier.config, math.exp(verifier.log_odds)
    weights = {True: (1 + 1 / odds) / 2, False: (1 + odds) / 2}  # n / (2 n_right), n / (2 n_wrong)
    pairs = encode(verifier, [(s.example, s.text) for s in training])
    rows = [(pair, s.right, weights[s.right]) for pair, s in zip(pairs, training, strict=True)]
    while loop.step < config.epochs * math.ceil(len(rows) / config.batch_size):
        loop.step += 1
        loop.warm_up(config.lr, config.lr_warmup_steps)
        batch = [rows[i] for i in loop.draw(len(rows), config.batch_size)]
        with models.autocast(verifier.model.device, bf16):
            loss = update(verifier, loop.optimizer, batch)
        yield loss


def encode(verifier: Verifier, responses: Sequence[tuple[Example, str]]) -> list[Row]:
    """Return what the trunk reads of each (example, text); see :func:`reft_lib.scorer.encode`."""
    return scorer.encode(verifier.model, verifier.tokenizer, verifier.fmt, responses)


def read(verifier: Verifier, batch: sft.Batch) -> Tensor:
    """Return a logit after each token (B, T), before the log odds are added."""
    return scorer.read(verifier, ADAPTER, batch)


def update(
    verifier: Verifier, optimizer: torch.optim.Optimizer, rows: Sequence[tuple[Row, bool, float]]
) -> float:
    """Take one optimiser step; returns the loss in nats.

        L = (1/B) sum_i w_i (1/n_i) sum_t BCE(logit_it, right_i)

    ``rows`` are B tuples: what is read, whether it is right, the weight w_i of its class.
    """
    config, device, total = verifier.config, verifier.model.device, 0.0
    optimizer.zero_grad()
    rows = sorted(rows, key=lambda row: scorer.width(row[0]))  # little padding
    for at in range(0, len(rows), config.micro_batch):
        pairs, right, weight = zip(*rows[at : at + config.micro_batch], strict=True)
        batch = sft.collate(pairs, verifier.tokenizer.eos_token_id, device)
        mask = batch.labels != sft.IGNORE if config.label == "every" else last_token(batch)
        logits = read(verifier, batch)
        target = torch.tensor(right, device=device).float()[:, None].expand_as(logits)
        bce = binary_cross_entropy_with_logits(logits, target, reduction="none")
        weighted = bce * torch.tensor(weight, device=device)[:, None]
        loss = losses.masked_mean(weighted, mask, "sequence") * (len(pairs) / len(rows))
        if not torch.isfinite(loss):
            raise NumericalError(f"verifier: loss is {loss.item()}; lower verifier.lr")
        loss.backward()
        total += loss.item()
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], config.grad_clip)
    optimizer.step()
    return total


@torch.no_grad()
def score(
    verifier: Verifier, examples: Sequence[Example], texts: Sequence[Sequence[str]]
) -> list[list[float]]:
    """Return the probability that each response is right.

    From N examples, whose questions are read, and N sequences of k responses (equal ones are read
    once) come N lists of k floats, 0 to 1. Raises NumericalError if a score is not finite.
    """
    asked = list(dict.fromkeys((i, text) for i, group in enumerate(texts) for text in group))
    rows = encode(verifier, [(examples[i], text) for i, text in asked])
    logits = scorer.read_last(verifier, ADAPTER, rows, verifier.config.micro_batch)
    keys = dict(zip(asked, (logits + verifier.log_odds).sigmoid().tolist(), strict=True))
    return [[keys[i, text] for text in group] for i, group in enumerate(texts)]


def validate(verifier: Verifier, held: Sequence[Sample]) -> dict[str, float]:
    """Measure how well scores tell right from wrong.

    Returns ``held_loss`` (nats); ``held_accuracy`` (at 1/2); ``held_rate``, the share of right
    ones; ``held_auc``; ``held_auc_within`` a question, as reranking meets responses.
    """
    p = [group[0] for group in score(verifier, [s.example for s in held], [[s.text] for s in held])]
    right = [s.right for s in held]
    sure = [x if r else 1 - x for x, r in zip(p, right, strict=True)]
    return {
        "held_loss": -sum(math.log(max(x, 1e-12)) for x in sure) / len(sure),
        "held_accuracy": sum(x > 0.5 for x in sure) / len(sure),
        "held_auc": stats.auc(p, right),
        "held_auc_within": stats.auc(p, right, [s.example.id for s in held]),
        "held_rate": sum(right) / len(right),
    }
