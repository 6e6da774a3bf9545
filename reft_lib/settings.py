"""Every number a run depends on, as frozen dataclasses.

A run is described by one :class:`RunConfig`; its parts are handed to the functions that need
them. Named ones, and what makes variants of them, stand in :mod:`reft_lib.config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from reft_lib.errors import UserError

Format = Literal["ncot", "pcot"]
"""How reasoning is written: in words (N-CoT) or as a Python program (P-CoT)."""
Method = Literal["sft", "offline_st", "online_st", "reft"]
"""Supervised fine-tuning, self-training on samples drawn once or at every step, ReFT."""


MAY_BE_ZERO = frozenset(
    (
        "seed",
        "n_train",
        "n_test",
        "n_hard",
        "n_voted",
        "lr",
        "lr_warmup_steps",
        "beta",
        "beta_programs",
        "gamma",
        "lam",
    )
    + ("value_coef", "partial_reward", "weight_decay")
)


@dataclass(frozen=True)
class Checked:
    """A configuration whose numbers are finite and in range, or a one-line refusal."""

    def __post_init__(self) -> None:
        """Refuse a number that no run could use."""
        for name, figure in vars(self).items():
            if isinstance(figure, (int, float)):
                zero_too = name in MAY_BE_ZERO or isinstance(figure, bool)
                if not math.isfinite(figure) or figure < 0 or (figure == 0 and not zero_too):
                    least = "at least 0" if zero_too else "above 0"
                    raise UserError(f"{name} is {figure}; it must be a number {least}")
        if vars(self).get("samples") == 1:
            raise UserError("samples is 1; it must be at least 2: a single response is greedy")
        parts, rows = vars(self).get("minibatches", 0), vars(self).get("batch_size", 0)
        if parts > rows:
            raise UserError(f"minibatches is {parts}; batch_size, {rows}, has no row for each")


@dataclass(frozen=True)
class LoraSettings(Checked):
    """A low-rank adapter on linear layers (Hu et al. 2022)."""

    rank: int = 16
    """Rank r of the update B @ A."""
    alpha: int = 32
    """The update is scaled by alpha / rank."""
    targets: str = "all-linear"
    """Which layers: every linear layer but the language-model head."""


@dataclass(frozen=True)
class SftConfig(Checked):
    """Supervised fine-tuning on (question, CoT) pairs."""

    epochs: int = 10
    """Passes over the training questions."""
    batch_size: int = 32
    """Examples in an optimiser step."""
    micro_batch: int = 64
    """Rows in one forward pass; changes memory, not the result."""
    lr: float = 2e-3
    """Constant learning rate of AdamW, after the warm-up steps."""
    lr_warmup_steps: int = 10
    """Steps over which the learning rate rises linearly from zero."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    eval_every: int = 1
    """Epochs between validations."""


@dataclass(frozen=True)
class PpoConfig(Checked):
    """The reinforcement-learning phase of ReFT (Luong et al. 2024, section 3)."""

    steps: int = 60
    """Rollout batches; each is followed by ``ppo_epochs`` passes of updates."""
    batch_size: int = 256
    """Questions in a rollout batch, one sampled response each."""
    ppo_epochs: int = 2
    """Passes over one rollout batch."""
    minibatches: int = 1
    """Optimiser steps in a pass (1: the whole batch at once, as in the paper)."""
    micro_batch: int = 32
    """Rows in one forward pass; changes memory, not the result."""
    lr: float = 3e-4
    """Constant learning rate of AdamW."""
    beta: float = 0.05
    """Coefficient of the KL penalty to the warm-up policy."""
    gamma: float = 1.0
    """Discount."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation."""
    clip: float = 0.2
    """The ratio is clipped to [1 - clip, 1 + clip]."""
    value_clip: float = 0.2
    """A value may move this far from its old value before its loss is clipped."""
    value_coef: float = 5.0
    """Weight of the value loss (itself one half of a squared error)."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    partial_reward: float = 0.1
    """Reward of an answer that can be extracted but is wrong; 0 turns it off."""
    value_trunk: Literal["shared", "detached", "separate"] = "shared"
    """``shared``: the value head's gradient enters the policy (the paper's choice);
    ``detached``: it does not; ``separate``: the value has an adapter of its own."""
    mean_per: Literal["sequence", "token"] = "sequence"
    """Losses are averaged within each response first (the paper's), or over all tokens."""
    eval_every: int = 10
    """Steps between validations."""


@dataclass(frozen=True)
class SelfTrainConfig(Checked):
    """Self-training on a policy's own right responses (Luong et al. 2024, section 4.2)."""

    samples: int = 100
    """Offline: responses to each training question, sampled from the warm-up policy."""
    keep: int = 10
    """Offline: distinct right ones kept for a question, beside the annotated one."""
    sft_epochs: int = 20
    """Offline: passes of SFT over the enlarged data."""
    steps: int = 60
    """Online: rollout batches; each is followed by ``update_epochs`` passes of updates."""
    batch_size: int = 256
    """Online: questions in a rollout batch, one sampled response each."""
    update_epochs: int = 2
    """Online: passes over one rollout batch."""
    minibatches: int = 1
    """Online: optimiser steps in a pass."""
    micro_batch: int = 32
    """Online: rows in one forward pass; changes memory, not the result."""
    lr: float = 3e-4
    """Online: constant learning rate of AdamW."""
    grad_clip: float = 1.0
    """Online: largest norm of the gradient."""
    eval_every: int = 10
    """Online: steps between validations."""


@dataclass(frozen=True)
class VerifierConfig(Checked):
    """A classifier of right and wrong responses (Cobbe et al. 2021, section 4)."""

    samples: int = 100
    """Responses to each training question, sampled from the warm-up policy."""
    epochs: int = 3
    """Passes over the distinct responses; the best on held-out questions is kept."""
    batch_size: int = 64
    """Responses in an optimiser step."""
    micro_batch: int = 64
    """Rows in one forward pass; changes memory, not the result."""
    lr: float = 1e-3
    """Constant learning rate of AdamW, after the warm-up steps."""
    lr_warmup_steps: int = 10
    """Steps over which the learning rate rises linearly from zero."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    held_out: float = 0.1
    """Share of the training questions on which epochs are compared."""
    label: Literal["every", "last"] = "every"
    """Which response tokens learn the verdict; scores are read at the last in either case."""


@dataclass(frozen=True)
class SampleConfig(Checked):
    """How responses are sampled and scored at evaluation."""

    max_new_tokens: int = 96
    """A response is cut here if it has not ended."""
    batch_size: int = 256
    """Rows generated side by side, by all processes together."""
    votes: int = 16
    """k of majority voting@k."""


@dataclass(frozen=True)
class RunConfig(Checked):
    """One comparison of SFT with ReFT from the same base model on the same questions."""

    name: str = "nano"
    """Name of the preset; runs are stored under it."""
    model: str = "nano"
    """``nano``, ``smollm2-135m-instruct``, a folder, or the name of a model on the hub."""
    dataset: str = "embedded"
    """``embedded`` (shipped), or another name in :data:`reft_lib.data.SOURCES`."""
    fmt: Format = "ncot"
    """Reasoning in words or as a program."""
    n_train: int = 1024
    """Training questions (0: all that are left after validation was cut)."""
    n_validation: int = 300
    """Validation questions, on which checkpoints are chosen."""
    n_test: int = 1000
    """Test questions, read once per run (0: all)."""
    n_hard: int = 500
    """Questions of the harder test, read once per run (0: there is none)."""
    n_voted: int = 0
    """Questions of each test, its first, that are also answered by voting (0: all)."""
    hard_max_new_tokens: int = 128
    """A response to the harder test is cut here: its solutions are longer than any trained on."""
    seed: int = 0
    """Seed of adapters, batch order and sampling."""
    bf16: bool = True
    """Run the matrix products of training in bfloat16 where the device does so quickly."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen base weights; adapters and value head stay in float32."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    methods: tuple[Method, ...] = ("sft", "reft")
    """What is trained and tested, in this order; ``sft`` first, as its warm-up is the others'."""
    rerank: bool = False
    """Also train a verifier on samples of the warm-up policy and rerank with it."""
    warmup_epochs: int = 2
    """Epochs of SFT after which ReFT, and self-training, begin."""
    beta_programs: float = 0.01
    """Takes the place of ``ppo.beta`` where reasoning is a program (the paper's values differ)."""
    sft: SftConfig = field(default_factory=SftConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    self_train: SelfTrainConfig = field(default_factory=SelfTrainConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    @property
    def beta(self) -> float:
        """The coefficient of the KL penalty for the format."""
        return self.beta_programs if self.fmt == "pcot" else self.ppo.beta

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        super().__post_init__()
        if tuple(self.methods[:1]) != ("sft",) or len(set(self.methods)) < len(self.methods):
            raise UserError(
                f"methods is {' '.join(self.methods) or 'empty'}; it must begin with sft and name "
                "each method once"
            )
        for method in self.methods:
            if method not in get_args(Method):
                known = ", ".join(get_args(Method))
                raise UserError(f"unknown method {method!r}; there are: {known}")
        if self.rerank and self.sample.votes < 2:
            raise UserError("rerank needs samples to choose from; sample.votes must be at least 2")
        if not 1 <= self.warmup_epochs <= self.sft.epochs:
            raise UserError(
                f"warmup_epochs is {self.warmup_epochs}; it must be from 1 to sft.epochs, "
                f"which is {self.sft.epochs}"
            )


@dataclass(frozen=True)
class PretrainConfig(Checked):
    """The nano model's shape and its pretraining."""

    hidden: int = 128
    """Width of the residual stream."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    mlp: int = 384
    """Inner width of the gated MLP."""
    context: int = 512
    """Longest sequence in tokens."""
    vocab: int = 1024
    """Largest number of tokens of the tokenizer."""
    window: int = 256
    """Tokens in a training sequence; documents are packed into it."""
    batch: int = 16
    """Sequences in an optimiser step."""
    steps: int = 3600
    """Optimiser steps."""
    lr: float = 4e-3
    """Peak learning rate: linear warm-up over 100 steps, then cosine to a tenth."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    seed: int = 7
    """Seed of text, weights and batch order."""
    checkpoint_every: int = 500
    """Optimiser steps between checkpoints, from which an interrupted call goes on."""
