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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from reft_lib import lora, losses, models, prompts, rollout, sft, stats
from reft_lib.config import Format, LoraSettings, VerifierConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop, new_loop
from reft_lib.samples import Sample, split
from reft_lib.value import ValueHead

ADAPTER = "verifier"
Pair = tuple[list[int], list[int]]
"""Prompt ids, and response ids with EOS."""
State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and what JSON can hold: from which a training goes on."""


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
    parameters = [p for group in loop.optimizer.param_groups for p in group["params"]]
    adapter = lora.adapter_parameters(verifier.model, ADAPTER)  # the loop's state holds the head
    kept = [p.detach().clone() for p in parameters]
    total = seconds = 0.0  # of the present epoch

    def now() -> State:
        tensors, notes = loop.state()
        tensors |= {f"now.{i}": p for i, p in enumerate(adapter)}
        tensors |= {f"kept.{i}": p for i, p in enumerate(kept)}
        mine = {"total": total, "seconds": seconds, "epoch": verifier.epoch}
        return tensors, mine | {"loop": notes, "history": verifier.history}

    if state is not None:
        tensors, notes = state
        loop.restore(tensors, notes["loop"])
        total, seconds, verifier.epoch = notes["total"], notes["seconds"], notes["epoch"]
        verifier.history = notes["history"]
        for i, parameter in enumerate(adapter):
            parameter.data.copy_(tensors[f"now.{i}"])
        kept = [tensors[f"kept.{i}"] for i in range(len(parameters))]
    per_epoch = math.ceil(len(training) / config.batch_size)
    steps = train_steps(verifier, loop, training, bf16)
    while loop.step < config.epochs * per_epoch:
        started = time.monotonic()
        total += next(steps)
        if loop.step % per_epoch == 0:
            epoch, measured = loop.step // per_epoch, validate(verifier, held)
            best = min((h["held_loss"] for h in verifier.history), default=math.inf)
            if measured["held_loss"] < best:
                verifier.epoch, kept = epoch, [p.detach().clone() for p in parameters]
            measured |= {"step_seconds": seconds + time.monotonic() - started}
            verifier.history.append({"epoch": epoch, "loss": total / per_epoch, **measured})
            total = seconds = 0.0
        else:
            seconds += time.monotonic() - started
        after(now)
    for parameter, value in zip(parameters, kept, strict=True):
        parameter.data.copy_(value)
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
    model = lora.add_adapter(policy, settings, seed, ADAPTER)
    if lora.REFERENCE in model.peft_config:
        lora.copy_adapter(model, lora.REFERENCE, ADAPTER)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ValueHead(model.config.hidden_size).to(model.device)
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
        for group in loop.optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, loop.step / max(1, config.lr_warmup_steps))
        batch = [rows[i] for i in loop.draw(len(rows), config.batch_size)]
        with models.autocast(verifier.model.device, bf16):
            loss = update(verifier, loop.optimizer, batch)
        yield loss


def encode(verifier: Verifier, responses: Sequence[tuple[Example, str]]) -> list[Pair]:
    """Return what the trunk reads of each (example, text).

    A text written in tokens anew may come out longer; what does not fit the context is cut out.
    """
    context, pairs = models.context_length(verifier.model), []
    for e, text in responses:
        prompt = prompts.prompt(e, verifier.fmt)
        prompt_ids, ids = prompts.encode_pair(verifier.tokenizer, prompt, text)
        prompts.check_length(prompt_ids, context - 1, e.id)
        room = context - len(prompt_ids) - 1
        pairs.append((prompt_ids, ids[:-1][:room] + ids[-1:]))
    return pairs


def read(verifier: Verifier, batch: sft.Batch) -> Tensor:
    """Return a logit after each token (B, T), before the log odds are added."""
    mask = batch.mask
    with lora.active(verifier.model, ADAPTER):
        hidden = rollout.last_hidden(verifier.model, batch.tokens, mask, rollout.positions(mask))
        return verifier.head(hidden)


def last_token(batch: sft.Batch) -> Tensor:
    """Return a mask (B, T): True on each row's last real token."""
    column = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return column == batch.mask.sum(dim=1, keepdim=True) - 1


def update(
    verifier: Verifier, optimizer: torch.optim.Optimizer, rows: Sequence[tuple[Pair, bool, float]]
) -> float:
    """Take one optimiser step; returns the loss in nats.

        L = (1/B) sum_i w_i (1/n_i) sum_t BCE(logit_it, right_i)

    ``rows`` are B tuples: what is read, whether it is right, the weight w_i of its class.
    """
    config, device, total = verifier.config, verifier.model.device, 0.0
    optimizer.zero_grad()
    rows = sorted(rows, key=lambda row: len(row[0][0]) + len(row[0][1]))  # little padding
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
    keys = {(i, text): 0.0 for i, group in enumerate(texts) for text in group}
    pairs = encode(verifier, [(examples[i], text) for i, text in keys])
    queue = sorted(zip(keys, pairs, strict=True), key=lambda x: len(x[1][0]) + len(x[1][1]))
    for at in range(0, len(queue), verifier.config.micro_batch):
        part = queue[at : at + verifier.config.micro_batch]
        eos, device = verifier.tokenizer.eos_token_id, verifier.model.device
        batch = sft.collate([pair for _, pair in part], eos, device)
        logits = read(verifier, batch)[last_token(batch)].double() + verifier.log_odds
        if not torch.isfinite(logits).all():
            raise NumericalError("verifier: a score is not finite")
        keys.update(zip([key for key, _ in part], logits.sigmoid().tolist(), strict=True))
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
