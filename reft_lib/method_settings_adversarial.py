"""The numbers of the two methods that are called adversarial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from reft_lib.errors import UserError

RewardKind = Literal["probability", "log-odds", "none"]
"""What of the discriminator's opinion rewards the generator; see :mod:`reft_lib.adversarial`."""


def _check(config: Any, may_be_zero: frozenset[str]) -> None:
    """Refuse a number that is not finite, negative, or 0 where 0 makes no sense."""
    for name, figure in vars(config).items():
        if isinstance(figure, (int, float)):
            zero_too = name in may_be_zero
            if not math.isfinite(figure) or figure < 0 or (figure == 0 and not zero_too):
                least = "at least 0" if zero_too else "above 0"
                raise UserError(f"{name} is {figure}; it must be a number {least}")


@dataclass(frozen=True)
class AdversarialConfig:
    """A generator against a discriminator (Yu et al. 2017)."""

    steps: int = 60
    """Rounds: a batch of generated texts, then both players learn."""
    batch_size: int = 64
    """Generated texts in a round; as many real ones stand beside them."""
    minibatches: int = 4
    """Optimiser steps of each player in a round, each on its part of the batch."""
    micro_batch: int = 64
    """Rows in one forward pass; changes memory, not the result."""
    head_start: int = 5
    """First rounds, in which the discriminator alone learns."""
    lr: float = 5e-4
    """Constant learning rate of the generator's AdamW."""
    discriminator_lr: float = 1e-3
    """The same of the discriminator's."""
    reward: RewardKind = "probability"
    """``probability``: of being real, 0 to 1 (the paper's); ``log-odds``: its logit; ``none``: the
    discriminator only watches, and the generator learns by ``forcing`` alone."""
    beta: float = 0.0
    """Coefficient of the KL penalty to the reference, in units of the reward a nat."""
    forcing: int = 0
    """Optimiser steps of maximum likelihood on real texts after each round of the generator."""
    smoothing: float = 0.0
    """The discriminator is asked for 1 - smoothing on real texts; from 0 to below 1/2."""
    grad_clip: float = 1.0
    """Largest norm of a gradient."""
    measured: int = 64
    """Real texts, held out, on which both players are measured in every round."""

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        _check(self, frozenset(("lr", "beta", "head_start", "forcing", "smoothing")))
        if self.reward not in get_args(RewardKind):
            known = ", ".join(get_args(RewardKind))
            raise UserError(f"unknown reward {self.reward!r}; there are: {known}")
        if self.minibatches * 2 > self.batch_size:
            raise UserError(
                f"batch_size is {self.batch_size}, minibatches {self.minibatches}; each minibatch "
                "needs at least 2 texts"
            )
        if self.smoothing >= 0.5:
            raise UserError(f"smoothing is {self.smoothing}; it must be below 0.5")


@dataclass(frozen=True)
class VatConfig:
    """Virtual adversarial training beside SFT (Miyato et al. 2017, 2019)."""

    weight: float = 1.0
    """Weight of the divergence beside SFT's loss; 0 leaves SFT."""
    epsilon: float = 0.1
    """Norm of the perturbation of a row, in norms of the row's embeddings."""
    probe: float = 0.01
    """Norm of the random start from which its direction is found, in the same unit."""
    iterations: int = 1
    """Power iterations; each costs a forward and a backward pass."""

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        _check(self, frozenset(("weight",)))
