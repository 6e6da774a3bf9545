"""The numbers of learning from preferences: the simulated rater, the reward model, DPO."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from reft_lib.errors import UserError
from reft_lib.settings import Checked


@dataclass(frozen=True)
class RaterConfig:
    """What a simulated rater values, and how unsure of it the choices are.

    The gold score of a response is ``right`` if its answer is right, plus ``sound`` if its
    reasoning is, less ``brevity`` for every 100 characters. Any of the numbers may be 0.
    """

    right: float = 2.0
    """Worth of a right answer."""
    sound: float = 1.0
    """Worth of reasoning in words that is sound; of a program, of its right answer."""
    brevity: float = 0.5
    """Cost of 100 characters."""
    temperature: float = 0.5
    """Of the choices, in units of the gold score; 0: the better response always wins."""
    flip: float = 0.0
    """Share of choices that are turned round, 0 to 1/2, however clear they were."""
    undecided: float = 0.0
    """Below this difference of gold scores the rater finds neither better: there is no choice."""

    def __post_init__(self) -> None:
        """Refuse a number that no rater could use."""
        for name, figure in vars(self).items():
            if not math.isfinite(figure) or figure < 0:
                raise UserError(f"{name} is {figure}; it must be a number at least 0")
        if self.flip > 0.5:
            raise UserError(f"flip is {self.flip}; it must be at most 0.5, where choices are coins")


@dataclass(frozen=True)
class PreferenceConfig(Checked):
    """How pairs for the rater are made."""

    samples: int = 8
    """Responses to each training question, sampled from the warm-up policy."""
    temperature: float = 1.0
    """Of the sampling; below 1 there is less nonsense among them, and less variety."""
    per_question: int = 4
    """Pairs of different responses to one question that the rater is shown, at most."""
    rater: RaterConfig = field(default_factory=RaterConfig)


@dataclass(frozen=True)
class RewardConfig(Checked):
    """Training of a reward model on pairs (Ouyang et al. 2022, section 3.5)."""

    epochs: int = 3
    """Passes over the pairs; the best on held-out questions is kept."""
    batch_size: int = 32
    """Pairs in an optimiser step."""
    micro_batch: int = 32
    """Pairs in one forward pass, or as many responses; changes memory, not the result."""
    lr: float = 1e-3
    """Constant learning rate of AdamW, after the warm-up steps."""
    lr_warmup_steps: int = 10
    """Steps over which the learning rate rises linearly from zero."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    held_out: float = 0.1
    """Share of the questions on which epochs are compared."""
    bins: int = 10
    """Bins of the calibration curve."""


@dataclass(frozen=True)
class DpoConfig(Checked):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    epochs: int = 2
    """Passes over the pairs."""
    batch_size: int = 32
    """Pairs in an optimiser step."""
    micro_batch: int = 32
    """Pairs in one forward pass, or as many responses; changes memory, not the result."""
    lr: float = 5e-4
    """Constant learning rate of AdamW, after the warm-up steps."""
    lr_warmup_steps: int = 10
    """Steps over which the learning rate rises linearly from zero."""
    beta: float = 0.1
    """Strength of the tie to the reference; a smaller one lets the policy move further."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    eval_every: int = 1
    """Epochs between validations."""

    def __post_init__(self) -> None:
        """Refuse what could not learn."""
        super().__post_init__()
        if self.beta == 0:
            raise UserError("beta is 0; DPO needs one above 0: at 0 its loss is ln 2 whatever")
