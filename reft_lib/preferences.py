"""Preferences over pairs of solutions, made by a simulated rater whose rule and noise are known.

People rate responses for reasons that nobody can look up. Here the reason is stated: a hidden *gold
score* of a response, and choices between two of them by Bradley and Terry's model,

    g(x, y)         = right [answer right] + sound [reasoning sound] - brevity (characters / 100)
    P(a preferred)  = (1 - flip) s(d) + flip s(-d),   d = (g(a) - g(b)) / temperature

with s the logistic function. Whoever learns from the choices never sees g; but we can, and so can
measure what a learned reward cannot: whether more of it is still more of what was wanted (Gao et
al. 2023, "Scaling laws for reward model overoptimization", who use a large reward model as gold).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from reft_lib import models, rollout, soundness
from reft_lib.config import Format, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.method_settings_rlhf import PreferenceConfig, RaterConfig
from reft_lib.rewards import AnswerReward, Graded, RewardFn


class Pair(NamedTuple):
    """Two different responses to one question, and which of them was preferred."""

    example: Example
    chosen: str
    rejected: str


@dataclass(frozen=True)
class GoldReward:
    """The rater's hidden score of a response, as a reward function.

    Parameters
    ----------
    fmt : {"ncot", "pcot"}
        Format of the responses. A program is its own reasoning, sound where its answer is right.
    rater : RaterConfig
        Its weights; its noise is that of choices and does not enter.
    """

    fmt: Format
    rater: RaterConfig = RaterConfig()

    def __call__(self, responses: Sequence[str], examples: Sequence[Example]) -> list[Graded]:
        """Return the gold score of each response as its reward, with the verdict on its answer.

        Raises
        ------
        ValueError
            If there are not as many examples as responses.
        """
        graded = AnswerReward(self.fmt, partial=0.0)(responses, examples)
        parts = zip(responses, examples, graded, strict=True)
        return [replace(g, reward=self._gold(text, e, g.correct)) for text, e, g in parts]

    def _gold(self, text: str, example: Example, right: bool) -> float:
        sound = right
        if self.fmt == "ncot":
            sound = soundness.sound(text, example.meta.get("value", example.answer))
        cost = self.rater.brevity * len(text) / 100
        return self.rater.right * right + self.rater.sound * sound - cost


def probability(a: float, b: float, rater: RaterConfig) -> float:
    """Return the probability that a response of gold score ``a`` is preferred to one of ``b``.

        P = (1 - flip) s(d) + flip s(-d),   s(d) = 1 / (1 + exp(-d)),   d = (a - b) / temperature

    At temperature 0 the higher score wins, and equal scores have probability 1/2 each.

    Notes
    -----
    Bradley and Terry 1952, "Rank analysis of incomplete block designs: the method of paired
    comparisons", with exp(gold / temperature) as a response's strength.
    """
    if rater.temperature == 0 or a == b:
        clear = 0.5 + 0.5 * ((a > b) - (a < b))
    else:
        # tanh cannot overflow, as exp does once scores are far apart for the temperature
        clear = 0.5 + 0.5 * math.tanh((a - b) / rater.temperature / 2)
    return (1 - rater.flip) * clear + rater.flip * (1 - clear)


def sample(
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    config: PreferenceConfig,
    sampling: SampleConfig,
    seed: int = 0,
) -> list[list[str]]:
    """Sample responses for a rater to compare: N lists of ``config.samples`` texts.

    Parameters
    ----------
    policy, tokenizer : the policy
    examples : N examples
    fmt : {"ncot", "pcot"}
    config : PreferenceConfig
    sampling : SampleConfig
        Of it ``max_new_tokens`` and ``batch_size``, responses side by side.
    seed : int
    """
    generator = torch.Generator(policy.device).manual_seed(seed)
    room = models.context_length(policy) - sampling.max_new_tokens
    ids = rollout.encode(tokenizer, examples, fmt, room)
    order = sorted(range(len(examples)), key=lambda i: len(ids[i]))  # little padding
    texts: list[list[str]] = [[] for _ in examples]
    k = config.samples
    size = max(1, sampling.batch_size // k)
    for at in tqdm(range(0, len(order), size), desc="responses", leave=False, mininterval=1):
        rows = order[at : at + size]
        sampled = rollout.sample(
            policy, tokenizer, [ids[i] for i in rows], sampling.max_new_tokens,
            config.temperature, generator, samples_per_prompt=k,
        )  # fmt: skip
        for j, i in enumerate(rows):
            texts[i] = sampled.texts[j * k : (j + 1) * k]
    return texts


def make_pairs(
    texts: Sequence[Sequence[str]],
    examples: Sequence[Example],
    fmt: Format,
    config: PreferenceConfig,
    seed: int = 0,
) -> list[Pair]:
    """Let the simulated rater choose between sampled responses to the same question.

    Parameters
    ----------
    texts : N sequences of texts
        Responses to each question; equal ones count once. Questions with fewer than two different
        responses give no pair.
    examples : N examples
        With ids of their own.
    fmt : {"ncot", "pcot"}
    config : PreferenceConfig
    seed : int
        With a question's id it decides which pairs are shown and how the rater's dice fall. Other
        questions do not matter, and another noise meets the same pairs and the same dice.

    Returns
    -------
    list of Pair
        For each question, in order, at most ``config.per_question``, drawn without replacement from
        all pairs of its different responses; those on which the rater is undecided are left out.
        Divide them with :func:`reft_lib.samples.split`.

    Raises
    ------
    UserError
        If no question has two different responses.
    ValueError
        If there are not as many examples as sequences of texts.
    """
    groups = [list(dict.fromkeys(group)) for group in texts]
    flat = [(text, e) for group, e in zip(groups, examples, strict=True) for text in group]
    if all(len(group) < 2 for group in groups):
        raise UserError("no question has two different responses; sample more of them")
    graded = iter(GoldReward(fmt, config.rater)([t for t, _ in flat], [e for _, e in flat]))
    found = []
    for group, e in zip(groups, examples, strict=True):
        gold = {text: next(graded).reward for text in group}
        dice = random.Random(f"{seed} {e.id}")
        every = list(itertools.combinations(group, 2))
        for a, b in dice.sample(every, min(len(every), config.per_question)):
            first = dice.random() < probability(gold[a], gold[b], config.rater)
            if abs(gold[a] - gold[b]) >= config.rater.undecided:  # the dice fall all the same
                found.append(Pair(e, a, b) if first else Pair(e, b, a))
    return found


def ceiling(pairs: Sequence[Pair], fmt: Format, rater: RaterConfig) -> dict[str, float]:
    """Say what the rater's own noise leaves to be learnt of some pairs.

    Returns
    -------
    dict
        ``agreement``: share of choices that went to the higher gold score (equal ones count half).
        ``accuracy``: the accuracy, expected over choices, of a judge who knows the gold scores;
        ``loss``: such a judge's expected loss in nats. Nobody can do better than these two, but by
        luck with the choices that were drawn.

    Raises
    ------
    UserError
        If there is no pair.
    """
    if not pairs:
        raise UserError("there is no pair of responses; sample more of them")
    examples = [pair.example for pair in pairs]
    score = GoldReward(fmt, rater)
    chosen = [g.reward for g in score([pair.chosen for pair in pairs], examples)]
    rejected = [g.reward for g in score([pair.rejected for pair in pairs], examples)]
    agreed = [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(chosen, rejected, strict=True)]
    p = [probability(a, b, rater) for a, b in zip(chosen, rejected, strict=True)]
    entropies = [-sum(x * math.log(x) for x in (q, 1 - q) if x > 0) for q in p]
    n = len(pairs)
    return {
        "agreement": sum(agreed) / n,
        "accuracy": sum(max(q, 1 - q) for q in p) / n,
        "loss": sum(entropies) / n,
    }


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibration` returns: predicted and observed shares of choices, by bins.

    Bins without a pair are left out, so the lists have at most as many entries as there are bins.
    """

    predicted: list[float]
    """Mean probability that was given to the favoured response of a pair, 1/2 to 1."""
    observed: list[float]
    """Share of pairs in which the favoured one was chosen, 0 to 1."""
    n: list[int]
    """Pairs in each bin."""
    error: float
    """Expected calibration error, 0 to 1: mean of ``abs(predicted - observed)`` over pairs."""


def calibration(p: Sequence[float], bins: int = 10) -> Calibration:
    """Compare how sure a judge of pairs was with how often it was right.

        error = sum_b (n_b / n) abs(predicted_b - observed_b)

    A pair has no natural order, so each is read from the side that the judge favours: its
    confidence max(p, 1 - p) lies from 1/2 to 1, in bins of equal width, the upper bound of each
    excluded but for the last. At p = 1/2 neither is favoured, and the choice counts half.

    Parameters
    ----------
    p : sequence of float
        Probability that the judge gave to the choice that was made, one for each pair.
    bins : int

    Raises
    ------
    UserError
        If there is no pair or no bin, or a probability is not from 0 to 1.

    Notes
    -----
    Guo et al. 2017, "On calibration of modern neural networks", eq. 3.
    """
    if not p or bins < 1 or not all(0 <= x <= 1 for x in p):
        raise UserError(f"calibration: {len(p)} pairs, {bins} bins; wanted some, and 0 <= p <= 1")
    inside: dict[int, list[tuple[float, float]]] = {}
    for x in p:
        sure = max(x, 1 - x)
        agreed = 0.5 + 0.5 * ((x > 0.5) - (x < 0.5))
        inside.setdefault(min(int((2 * sure - 1) * bins), bins - 1), []).append((sure, agreed))
    full = [inside[b] for b in sorted(inside)]
    predicted = [sum(sure for sure, _ in rows) / len(rows) for rows in full]
    observed = [sum(agreed for _, agreed in rows) / len(rows) for rows in full]
    n = [len(rows) for rows in full]
    gaps = zip(n, predicted, observed, strict=True)
    return Calibration(predicted, observed, n, sum(k * abs(a - b) for k, a, b in gaps) / len(p))


@dataclass
class Watched:
    """A reward function that notes what another one thinks of the same responses.

    As PPO's reward it trains on ``proxy`` alone and leaves, after every rollout batch, both means
    in ``seen``: so they stand beside the KL of that very batch, and show where the two part.
    """

    proxy: RewardFn
    gold: RewardFn
    seen: dict[str, float] = field(default_factory=dict)
    """``proxy`` and ``gold``: mean rewards of the last batch."""

    def __call__(self, responses: Sequence[str], examples: Sequence[Example]) -> list[Graded]:
        """Return what ``proxy`` makes of the responses."""
        graded, truth = self.proxy(responses, examples), self.gold(responses, examples)
        self.seen = {
            "proxy": sum(g.reward for g in graded) / len(graded),
            "gold": sum(g.reward for g in truth) / len(truth),
        }
        return graded
