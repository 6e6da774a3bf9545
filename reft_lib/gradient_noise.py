"""How noisy the gradient of one rollout batch is, estimator by estimator.

PPO, GRPO, RLOO and REINFORCE turn the same rollouts into different gradients g of the adapter.
Over many rollout batches from one policy that stands still,

    trace  = sum_d E (g_d - E g_d)^2      the trace of the covariance of g: its noise
    signal = sum_d (E g_d)^2              what all batches agree on
    ratio  = trace / signal               the noise that the signal drowns in

The estimators have different scales (GRPO divides by a standard deviation and by the length), so
it is ratios that compare, not traces. A ratio of 9 says that a batch's gradient is, squared, nine
parts noise to one part signal; twice as many independent responses halve it.

The ratio is the simple noise scale of McCandlish et al. 2018 (arXiv 1812.06162), section 2.2, with
the rollout batch as the unit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reft_lib import lora, ppo, relatives
from reft_lib.config import Format, PpoConfig, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.method_settings import RelativesConfig
from reft_lib.rewards import Graded, RewardFn
from reft_lib.rollout import Rollout
from reft_lib.value import ValueHead

Estimator = Callable[[Rollout, list[Graded]], Tensor]
"""(sampled, graded) -> the gradient (D,) of the loss of that batch; the policy does not move."""


@dataclass(frozen=True)
class Noise:
    """What some batches' gradients have in common, and what not."""

    batches: int
    trace: float
    """Unbiased estimate of the trace of the covariance of one batch's gradient."""
    signal: float
    """Unbiased estimate of the squared length of the expected gradient; noise can make it < 0."""

    @property
    def ratio(self) -> float:
        """Noise to signal; NaN where the batches are too few to show a signal."""
        return self.trace / self.signal if self.signal > 0 else math.nan


def batches(
    policy: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    reward: RewardFn,
    group_size: int,
    sampling: SampleConfig,
    count: int,
    questions: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[Rollout, list[Graded]]]:
    """Sample and grade one rollout batch after another from a policy that stands still.

    Parameters
    ----------
    policy, tokenizer : the policy
    examples : sequence of Example
    fmt : {"ncot", "pcot"}
    reward : RewardFn
    group_size : int
        Responses to each question.
    sampling : SampleConfig
        Its ``max_new_tokens`` cuts responses off.
    count : int
        Number of batches.
    questions : int, optional
        Questions drawn anew for each batch, as in training. Without it every batch asks all
        examples, and only the sampling of responses makes noise.
    seed : int
        Seed of questions and sampling.

    Yields
    ------
    Rollout, list of Graded
        Responses to the same question side by side.
    """
    shuffle = random.Random(seed)
    generator = torch.Generator(policy.device).manual_seed(seed)
    for _ in range(count):
        asked = list(examples) if questions is None else shuffle.sample(examples, questions)
        yield relatives.sample_groups(
            policy, tokenizer, asked, fmt, reward, group_size, sampling, generator
        )


def of_relative(policy: Any, config: RelativesConfig, baseline: bool = True) -> Estimator:
    """Return the estimator of GRPO, RLOO or REINFORCE.

    Parameters
    ----------
    policy : peft.PeftModel
    config : RelativesConfig
        Its ``group_size`` must be that of the batches.
    baseline : bool
        False takes the bare scores for advantages: REINFORCE without baseline, for comparison.
    """

    def gradient(sampled: Rollout, graded: list[Graded]) -> Tensor:
        experience = relatives.gather(policy, sampled, graded, config)
        if not baseline:
            experience.advantages = experience.scores
        policy.zero_grad()
        (rows,) = ppo.split_rows(sampled, 1)
        relatives.backward(policy, experience, rows, config)
        return take_gradient(policy)

    return gradient


def of_ppo(policy: Any, head: ValueHead, config: PpoConfig) -> Estimator:
    """Return PPO's estimator, without the value loss.

    Parameters
    ----------
    policy : peft.PeftModel
    head : ValueHead
        Should have learnt this policy's values; a fresh one predicts nothing.
    config : PpoConfig
    """
    config = replace(config, value_coef=0.0, grad_clip=1e30)  # the gradient as it is
    still = torch.optim.SGD(lora.trainable_parameters(policy), lr=0.0)

    def gradient(sampled: Rollout, graded: list[Graded]) -> Tensor:
        experience = ppo.gather(policy, head, sampled, graded, config)
        (rows,) = ppo.split_rows(sampled, 1)
        ppo.update(policy, head, still, experience, rows, config, step=0)
        head.zero_grad()
        return take_gradient(policy)

    return gradient


def take_gradient(policy: Any) -> Tensor:
    """Return the gradient (D,) of the trainable parameters, one behind the other, and clear it."""
    parameters = lora.trainable_parameters(policy)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    gradient = torch.cat([x.detach().flatten() for x in found])
    policy.zero_grad()
    return gradient


def measure(
    batches: Iterable[tuple[Rollout, list[Graded]]], estimators: Mapping[str, Estimator]
) -> dict[str, Noise]:
    """Measure the noise of estimators on the same rollouts.

    Parameters
    ----------
    batches : iterable of (Rollout, list of Graded)
        At least two, independent of each other, for instance from :func:`batches`.
    estimators : mapping of str to Estimator
        By name; see :func:`of_relative` and :func:`of_ppo`.

    Returns
    -------
    dict of str to Noise

    Raises
    ------
    UserError
        If there are fewer than two batches.
    """
    found = {name: Spread() for name in estimators}
    for sampled, graded in batches:
        for name, estimator in estimators.items():
            found[name].add(estimator(sampled, graded))
    return {name: spread.noise() for name, spread in found.items()}


@dataclass
class Spread:
    """Mean and scatter of vectors that come one by one and need not be kept (Welford 1962)."""

    n: int = 0
    mean: Tensor | None = None
    """float64 (D,)."""
    scatter: float = 0.0
    """Sum of the squared distances from the mean."""

    def add(self, x: Tensor) -> None:
        """Take in one vector (D,)."""
        x, self.n = x.double(), self.n + 1
        mean = torch.zeros_like(x) if self.mean is None else self.mean
        before = x - mean
        self.mean = mean + before / self.n
        self.scatter += float(before @ (x - self.mean))

    def noise(self) -> Noise:
        """Return noise and signal of what came.

        The mean of n vectors is longer than E g: its square by trace / n on average. That is
        subtracted.

        Raises
        ------
        UserError
            If fewer than two vectors came.
        """
        if self.mean is None or self.n < 2:
            raise UserError(f"noise shows between batches; {self.n} given, at least 2 are needed")
        trace = self.scatter / (self.n - 1)
        return Noise(self.n, trace, float(self.mean @ self.mean) - trace / self.n)
