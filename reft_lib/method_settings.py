"""The numbers of further methods, beside those in :mod:`reft_lib.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from reft_lib.errors import UserError
from reft_lib.settings import Checked

Relative = Literal["grpo", "rloo", "reinforce"]
"""PPO's relatives that need no value head; see :mod:`reft_lib.relatives`."""


@dataclass(frozen=True)
class RelativesConfig(Checked):
    """Reinforcement learning with a baseline from other responses instead of a value head."""

    kind: Relative = "grpo"
    """Which of them."""
    group_size: int = 8
    """Responses to each question of a rollout batch; REINFORCE can do with 1."""
    steps: int = 60
    """Rollout batches; each is followed by ``update_epochs`` passes of updates."""
    batch_size: int = 256
    """Responses in a rollout batch, so ``batch_size / group_size`` questions: as many responses
    as PPO has with the same number, from fewer questions."""
    update_epochs: int = 1
    """Passes over one rollout batch. Only GRPO's loss knows that later steps use old samples."""
    minibatches: int = 1
    """Optimiser steps in a pass."""
    micro_batch: int = 32
    """Rows in one forward pass; changes memory, not the result."""
    lr: float = 3e-4
    """Constant learning rate of AdamW."""
    beta: float = 0.05
    """Coefficient of the KL penalty to the warm-up policy: a term of GRPO's loss (nats a token),
    a part of the reward for the others (nats a response)."""
    clip: float = 0.2
    """GRPO: the ratio is clipped to [1 - clip, 1 + clip]. Nothing is clipped in the first
    optimiser step after a rollout, where all ratios are 1."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    partial_reward: float = 0.1
    """Reward of an answer that can be extracted but is wrong; 0 turns it off."""
    mean_per: Literal["sequence", "token"] = "sequence"
    """GRPO: the loss is averaged within each response first (the paper's), or over all tokens."""
    eval_every: int = 10
    """Steps between validations."""

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        super().__post_init__()
        if self.kind not in get_args(Relative):
            known = ", ".join(get_args(Relative))
            raise UserError(f"unknown kind {self.kind!r}; there are: {known}")
        if self.kind != "reinforce" and self.group_size < 2:
            raise UserError(
                f"group_size is {self.group_size}; {self.kind} compares responses to the same "
                "question, so it must be at least 2"
            )
        if self.batch_size % self.group_size or self.batch_size < 2:
            raise UserError(
                f"batch_size is {self.batch_size}; it counts responses and must be a multiple of "
                f"group_size, which is {self.group_size}, and at least 2"
            )

    @property
    def questions(self) -> int:
        """Questions in a rollout batch."""
        return self.batch_size // self.group_size
