"""A reward model: a number for every response, learnt from which of two was preferred.

RLHF's second step (Christiano et al. 2017; Ouyang et al. 2022, section 3.5). Bradley and Terry's
model says that a response is preferred with probability s(r - r'), r and r' being the rewards of
the two and s the logistic function; the reward model makes the choices that were seen likely:

    L = -mean log s(r(x, y_chosen) - r(x, y_rejected))

It is a :mod:`reft_lib.scorer`: the policy's own trunk with an adapter of its own and one linear
layer on the last token's hidden state. Only differences enter the loss, so a constant is free: it
is chosen such that training responses score 0 on average (Ouyang et al. 2022 do so for people's
demonstrations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reft_lib import lora, models, scorer
from reft_lib.config import Format, LoraSettings
from reft_lib.data import Example
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop, new_loop
from reft_lib.method_settings_rlhf import RewardConfig
from reft_lib.pairwise import (
    by_question,
    draw,
    encode_pairs,
    micro_batches,
    preference_loss,
    responses,
)
from reft_lib.preferences import Pair, calibration
from reft_lib.rewards import AnswerReward, Graded
from reft_lib.samples import split
from reft_lib.scorer import Row, State
from reft_lib.value import ValueHead

ADAPTER = "reward"
CENTRED = 512
"""Responses whose scores set the mean to 0."""


@dataclass
class RewardModel:
    """What scoring needs, and how training went; called, it is a reward function."""

    model: Any
    """peft.PeftModel that holds the adapter ``ADAPTER``; whichever is active stays so."""
    tokenizer: Any
    fmt: Format
    head: ValueHead
    """One linear layer in float32; its bias, which the loss cannot see, centres the scores."""
    config: RewardConfig
    spread: float = math.nan
    """Standard deviation of the scores of the training responses, once it is trained."""
    epoch: int = 0
    """The epoch that was kept."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every epoch; see :func:`train`."""

    def __call__(self, responses: Sequence[str], examples: Sequence[Example]) -> list[Graded]:
        """Grade responses for PPO: the score as reward, and the true verdict beside it.

        A response that was cut off is read as if it had ended there.

        Raises
        ------
        NumericalError
            If a score is not finite.
        ValueError
            If there are not as many examples as responses.
        """
        truth = AnswerReward(self.fmt, partial=0.0)(responses, examples)
        scores = score(self, list(zip(examples, responses, strict=True)))
        return [replace(g, reward=x) for g, x in zip(truth, scores, strict=True)]


def train(
    policy: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    fmt: Format,
    config: RewardConfig,
    settings: LoraSettings,
    seed: int = 0,
    bf16: bool = False,
    state: State | None = None,
    after: Callable[[Callable[[], State]], None] = lambda state: None,
) -> RewardModel:
    """Train a reward model on a policy's trunk; the policy's own adapter is neither read nor moved.

    Parameters
    ----------
    policy, tokenizer : the policy
        It gets one more adapter, which is frozen when it has learnt; see
        :func:`reft_lib.scorer.attach`.
    pairs : sequence of Pair
        On training questions, never on test questions.
    fmt : {"ncot", "pcot"}
    config, settings : RewardConfig, LoraSettings
    seed : int
        Seed of the held-out questions, adapter, head and order of batches.
    bf16 : bool
        Run matrix products in bfloat16.
    state, after : State, callable
        To stop and go on; as in :func:`reft_lib.scorer.fit`.

    Returns
    -------
    RewardModel
        After the epoch with the lowest loss on the held-out questions. Its ``history`` has, for
        each epoch: ``epoch``, ``loss`` (training, nats), those of :func:`validate`,
        ``step_seconds``.

    Raises
    ------
    UserError
        If no pair is left to train on.
    NumericalError
        If a loss is not finite.
    """
    training, held = split(pairs, config.held_out, seed)
    if not training:
        raise UserError(f"{len(pairs)} pairs leave none to train on; ask about more questions")
    reward, loop = begin(policy, tokenizer, fmt, config, settings, seed)
    per_epoch = math.ceil(len(training) / config.batch_size)
    steps = train_steps(reward, loop, training, bf16)
    validated = partial(validate, reward, held)
    scorer.fit(reward, ADAPTER, loop, steps, config.epochs, per_epoch, validated, state, after)
    centre(reward, training)
    for parameter in lora.adapter_parameters(reward.model, ADAPTER):
        parameter.requires_grad_(False)  # whoever trains the policy next must not train this
    return reward


def begin(
    policy: Any,
    tokenizer: Any,
    fmt: Format,
    config: RewardConfig,
    settings: LoraSettings,
    seed: int = 0,
) -> tuple[RewardModel, Loop]:
    """Put an untrained reward model on a policy; returns it with the state of its training loop."""
    model, head = scorer.attach(policy, settings, seed, ADAPTER)
    parameters = [*lora.adapter_parameters(model, ADAPTER), *head.parameters()]
    loop = new_loop(parameters, config.lr, seed, model.device, head)
    return RewardModel(model, tokenizer, fmt, head, config), loop


def train_steps(
    reward: RewardModel, loop: Loop, training: Sequence[Pair], bf16: bool = False
) -> Iterator[float]:
    """Train from the loop's step to the end of the last epoch; yields the loss of every step."""
    config = reward.config
    rows = encode_pairs(reward.model, reward.tokenizer, reward.fmt, training)
    questions = by_question(rows)
    while loop.step < config.epochs * math.ceil(len(rows) / config.batch_size):
        loop.step += 1
        loop.warm_up(config.lr, config.lr_warmup_steps)
        batch = [rows[i] for i in draw(loop, questions, config.batch_size)]
        with models.autocast(reward.model.device, bf16):
            loss = update(reward, loop.optimizer, batch)
        yield loss


def update(
    reward: RewardModel, optimizer: torch.optim.Optimizer, rows: Sequence[tuple[Row, Row]]
) -> float:
    """Take one optimiser step on (chosen, rejected) rows; returns the loss in nats."""
    config, device, total = reward.config, reward.model.device, 0.0
    optimizer.zero_grad()
    eos = reward.tokenizer.eos_token_id
    for part in micro_batches(rows, config.micro_batch, eos, device):
        scores = scorer.read(reward, ADAPTER, part.batch)[scorer.last_token(part.batch)]
        loss = preference_loss(scores[part.chosen], scores[part.rejected])[0] * part.share
        if not torch.isfinite(loss):
            raise NumericalError(f"reward model: loss is {loss.item()}; lower its lr")
        loss.backward()
        total += loss.item()
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], config.grad_clip)
    optimizer.step()
    return total


def score(reward: RewardModel, responses: Sequence[tuple[Example, str]]) -> list[float]:
    """Return the reward of each (example, text); raises NumericalError if one is not finite."""
    rows = scorer.encode(reward.model, reward.tokenizer, reward.fmt, responses)
    return scorer.read_last(reward, ADAPTER, rows, 2 * reward.config.micro_batch).tolist()


@torch.no_grad()
def centre(reward: RewardModel, pairs: Sequence[Pair]) -> None:
    """Give the different responses of some pairs, the first ones, mean score 0; note their spread.

    Reading all of them would take as long as a third of an epoch.
    """
    scores = torch.tensor(score(reward, responses(pairs)[:CENTRED]), dtype=torch.float64)
    reward.head.linear.bias.sub_(scores.mean().item())
    reward.spread = scores.std(correction=0).item()


def margins(reward: RewardModel, pairs: Sequence[Pair]) -> Tensor:
    """Return by how much each chosen response scores above the rejected one, float64 (N,).

    Their logistic function is the probability that the model gives to the choices made.
    """
    each = responses(pairs)
    found = dict(zip(((e.id, text) for e, text in each), score(reward, each), strict=True))
    gaps = [found[p.example.id, p.chosen] - found[p.example.id, p.rejected] for p in pairs]
    return torch.tensor(gaps, dtype=torch.float64)


def validate(reward: RewardModel, held: Sequence[Pair]) -> dict[str, float]:
    """Measure how well choices that were held out are foretold.

    Returns ``held_loss`` (nats), ``held_accuracy`` and ``held_margin`` as in
    :func:`reft_lib.pairwise.preference_loss`, and ``held_ece``, the error of
    :func:`reft_lib.preferences.calibration`.
    """
    difference = margins(reward, held)
    loss, stats = preference_loss(difference, torch.zeros_like(difference))
    return {
        "held_loss": loss.item(),
        "held_accuracy": stats["accuracy"],
        "held_margin": stats["margin"],
        "held_ece": calibration(difference.sigmoid().tolist(), reward.config.bins).error,
    }
