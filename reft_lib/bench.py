"""What every arm of a study works with: the nano model, its questions, its preset, its tests.

A bench takes the plain steps out of an arm: load, warm up, run a training loop and keep its best
checkpoint, read the tests. Minutes are counted as processor time of one thread, which other work on
the machine does not lengthen: on an idle core they are minutes of the clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import evaluate, lora, models, runlog, sft
from reft_lib.config import Format, RunConfig, preset
from reft_lib.data import Example
from reft_lib.task import adapter_weights, restore
from reft_lib.unit import SHOWN_METRICS, load_splits


@dataclass
class Bench:
    """What every arm of a study works with: the nano model, its questions, its preset, its tests.

    In a chapter's live cells it has no log; what it records stands in ``lines`` either way.
    """

    seed: int = 0
    fmt: Format = "pcot"
    log: runlog.RunLog | None = None
    config: RunConfig = None  # type: ignore[assignment]
    """Preset ``nano`` with this seed and format, unless given."""
    device: str = "auto"
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Everything that :meth:`record` was told, in order."""
    trained_minutes: float | None = None
    """Processor minutes until the first test was read."""

    def __post_init__(self) -> None:
        """Take the preset, and begin to count."""
        self.config = self.config or preset("nano", seed=self.seed, fmt=self.fmt)
        self._began = time.process_time()

    @cached_property
    def splits(self) -> dict[str, list[Example]]:
        """The questions of the preset: ``train``, ``validation``, ``test`` and ``hard``."""
        return load_splits(self.config)

    @property
    def minutes(self) -> float:
        """Processor minutes since the bench was made."""
        return (time.process_time() - self._began) / 60

    @property
    def bf16(self) -> bool:
        """Whether the matrix products of training run in bfloat16 here."""
        return self.config.bf16 and models.has_fast_bf16(models.pick_device(self.device))

    def record(self, *, step: int, split: str, **metrics: Any) -> None:
        """Keep one line of figures; it goes into the run log, too, if there is one."""
        self.lines.append({"step": step, "split": split, **metrics})
        if self.log is not None:
            self.log.log(step=step, split=split, **metrics)

    def base(self) -> tuple[Any, Any]:
        """Load the base model and its tokenizer anew."""
        model, tokenizer = models.load(self.config.model, dtype=self.config.weights)
        return model.to(models.pick_device(self.device)), tokenizer

    def adapted(self) -> tuple[Any, Any]:
        """Load the base model with a fresh adapter, as SFT begins."""
        model, tokenizer = self.base()
        return lora.add_adapter(model, self.config.lora, seed=self.seed), tokenizer

    def warm_policy(
        self, rows: Sequence[Example] | None = None, epochs: float | None = None
    ) -> tuple[Any, Any]:
        """Return a warm-up policy, merged and with a fresh adapter, and its tokenizer.

        Parameters
        ----------
        rows : sequence of Example, optional
            The training questions of the preset, unless given. With those it is the policy with
            which ReFT begins in :mod:`reft_lib.phases`, to the bit.
        epochs : float, optional
            Passes over them; the preset's warm-up, unless given.
        """
        rows = self.splits["train"] if rows is None else rows
        epochs = self.config.warmup_epochs if epochs is None else epochs
        model, tokenizer = self.adapted()
        total = round(epochs * sft.steps_per_epoch(len(rows), self.config.sft))
        settings = replace(self.config.sft, epochs=max(1, -int(-epochs // 1)))
        steps = sft.sft_steps(model, tokenizer, rows, self.fmt, settings, self.seed, self.bf16)
        for _ in tqdm(range(total), desc="warm-up", leave=False, mininterval=1):
            next(steps)
        return self.renewed(model), tokenizer

    def renewed(self, policy: Any) -> Any:
        """Merge a policy's adapter and put a fresh one on: the next stage begins where it is."""
        return lora.add_adapter(lora.merge(policy), self.config.lora, seed=self.seed + 1)

    def answers(
        self, policy: Any, tokenizer: Any, examples: Sequence[Example], desc: str = "answer"
    ) -> evaluate.Answers:
        """Let a policy answer questions greedily, with the preset's limits."""
        return evaluate.answer(
            policy, tokenizer, examples, self.fmt, self.config.sample, desc=desc, seed=self.seed
        )

    def accuracy(self, policy: Any, tokenizer: Any, examples: Sequence[Example]) -> float:
        """Return the share of questions that a policy answers rightly, greedily; 0 to 1."""
        return self.answers(policy, tokenizer, examples).accuracy

    def fit(
        self,
        policy: Any,
        tokenizer: Any,
        steps: Iterator[dict[str, float]],
        total: int,
        eval_every: int,
        validation: Sequence[Example] | None = None,
        phase: str = "train",
    ) -> dict[str, Any]:
        """Run a training loop and leave its best checkpoint on validation in the policy.

        Parameters
        ----------
        policy, tokenizer : the policy
            What ``steps`` trains, in place.
        steps : iterator of dict
            Yields after every step what it measured; see for example :func:`reft_lib.ppo.ppo`.
        total : int
            Steps to take of it.
        eval_every : int
            Steps between validations; there is one before the first step and one at the end.
        validation : sequence of Example, optional
            The validation questions of the preset, unless given.
        phase : str
            Stands in every line that is recorded.

        Returns
        -------
        dict
            ``validation``, the best greedy accuracy (0 to 1), and ``best_step``.
        """
        validation = self.splits["validation"] if validation is None else validation
        best, best_step, kept = -1.0, 0, adapter_weights(policy)
        bar = tqdm(range(total + 1), desc=phase, leave=False, mininterval=1)
        for step in bar:
            if step % eval_every == 0 or step == total:
                found = self.accuracy(policy, tokenizer, validation)
                self.record(step=step, split="validation", phase=phase, accuracy=found)
                if found > best:
                    best, best_step, kept = found, step, adapter_weights(policy)
            if step < total:
                metrics = {k: x for k, x in next(steps).items() if k != "step"}
                self.record(step=step + 1, split="train", phase=phase, **metrics)
                shown = {k: f"{metrics[k]:.2f}" for k in SHOWN_METRICS if k in metrics}
                bar.set_postfix(shown | {"best validation": f"{best:.2f}"})
        restore(policy, kept)
        return {"validation": best, "best_step": best_step}

    def test(
        self, policy: Any, tokenizer: Any, splits: Sequence[str] = ("test", "hard")
    ) -> dict[str, float]:
        """Read the tests, once: greedy accuracy (0 to 1) by split; every verdict is recorded.

        Minutes are counted until here. The policy is used up: its adapter is merged.
        """
        if self.trained_minutes is None:
            self.trained_minutes = self.minutes
        if hasattr(policy, "peft_config"):
            policy = lora.merge(policy)  # half the work for each token
        found = {}
        for split in splits:
            sampling = self.config.sample
            if split == "hard":
                sampling = replace(sampling, max_new_tokens=self.config.hard_max_new_tokens)
            result = evaluate.answer(
                policy, tokenizer, self.splits[split], self.fmt, sampling, desc=split
            )
            verdicts = "".join("01"[right] for right in result.correct)
            self.record(step=0, split=split, accuracy=result.accuracy, verdicts=verdicts)
            found[split] = result.accuracy
        return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: nano's matrices are too small to share, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
