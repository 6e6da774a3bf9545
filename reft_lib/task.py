"""A unit of a comparison while it runs: what it works on, how far it is, what it would go on from.

A unit can be stopped between any two steps and taken up again (:mod:`reft_lib.resume`): what it
does then is what it would have done without the stop. Nothing that matters for this lives
outside :class:`Progress`, the tensors that :meth:`Task.save` writes, and the run log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reft_lib import adapter_files, models, parallel, resume, runlog
from reft_lib.config import RunConfig, to_dict
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.loop import Loop
from reft_lib.verifier import Verifier

STATE = "state"
"""The folder, inside the run's own, from which an unfinished unit goes on."""
Weights = dict[str, Tensor]


@dataclass
class Progress:
    """Where a unit stands: all of its state that is no tensor."""

    method: str = ""
    """The phase that is going on."""
    loop: dict[str, Any] = field(default_factory=dict)
    """Its loop, without tensors."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Its steps since the last one that was logged."""
    validated: list[int] = field(default_factory=list)
    """Its steps at which it has been validated."""
    best_step: int = 0
    best: float = -1.0
    """Best greedy accuracy on validation, 0 to 1."""
    trained: bool = False
    """Whether only its tests are left."""
    began: float = 0.0
    """Seconds of the run at which it began."""
    ended: float = 0.0
    """Seconds of the run at which it, with its tests, ended."""
    minutes: float = 0.0
    """Wall-clock of its training with validations, once that has ended."""
    tested: dict[str, float] = field(default_factory=dict)
    """Its accuracies on the tests, as far as they have been read."""
    verified: bool = False
    """Whether the training of the verifier has been logged."""
    warm_minutes: float = 0.0
    """Wall-clock of the warm-up, its validations included."""
    lines: int = 0
    """Lines of the run log that belong to this state."""
    seconds: float = 0.0
    """Seconds that the run has taken."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What the card will hold, for each phase that has ended."""


@dataclass
class Task:
    """What one unit works on, and how far it is."""

    config: RunConfig
    splits: dict[str, list[Example]]
    """``train``, ``validation``, ``test`` and, where there is one, ``hard``."""
    log: runlog.RunLog
    clock: resume.Clock = field(default_factory=resume.Clock)
    adapters: Path | None = None
    """Where to save adapters in peft's format; not saved if None."""
    device: str = "auto"
    progress: Progress = field(default_factory=Progress)
    verifier: Verifier | None = None
    """What reranks, once it has been trained."""
    tensors: Weights = field(default_factory=dict)
    """Of the state that an unfinished phase goes on from."""
    best: Weights = field(default_factory=dict)
    """The adapter at the best validation of the present phase."""
    warm: Weights = field(default_factory=dict)
    """The adapter of the warm-up policy, with which ReFT begins."""

    @parallel.first_only
    def keep_adapter(self, model: Any, stage: str) -> None:
        """Save the model's adapter in peft's format, if adapters are to be saved."""
        if self.adapters is not None:
            adapter_files.save_adapter(model, self.adapters / f"{self.log.folder.name}-{stage}")

    def base(self) -> tuple[Any, Any]:
        """Load the base model and its tokenizer anew."""
        with parallel.first_goes_first():
            model, tokenizer = models.load(self.config.model, dtype=self.config.weights)
        return model.to(models.pick_device(self.device)), tokenizer

    @property
    def bf16(self) -> bool:
        """Whether the matrix products of training run in bfloat16 here."""
        return self.config.bf16 and models.has_fast_bf16(models.pick_device(self.device))

    @property
    def folder(self) -> Path:
        """Where the state lies."""
        return self.log.folder / STATE

    def save(self, phase: Phase) -> None:
        """Write everything that is needed to go on from here."""
        loop_tensors, self.progress.loop = phase.loop.state()
        self.progress.lines, self.progress.seconds = self.log.lines, self.log.seconds
        groups = {
            "policy": adapter_weights(phase.policy),
            "loop": loop_tensors,
            "best": self.best,
            "warm": self.warm,
        }
        tensors = {f"{g}.{name}": x for g, named in groups.items() for name, x in named.items()}
        resume.save(self.folder, tensors, self.notes())

    def save_progress(self) -> None:
        """Write what has changed while the tensors have not."""
        self.progress.lines, self.progress.seconds = self.log.lines, self.log.seconds
        resume.save_notes(self.folder, self.notes())

    @parallel.first_only
    def save_seconds(self) -> None:
        """Write how long the run has taken; the state stays the one from which it would go on."""
        notes = resume.load_notes(self.folder)
        notes["progress"]["seconds"] = self.log.seconds
        resume.save_notes(self.folder, notes)

    def notes(self) -> dict[str, Any]:
        """Return what a state holds besides tensors."""
        progress = runlog.jsonable(asdict(self.progress), text=str)
        return {
            "config": runlog.jsonable(to_dict(self.config)),
            "device": models.pick_device(self.device).type,
            "progress": progress,
        }

    def memo(self, key: str) -> resume.Memo:
        """Return the memory of one evaluation; ``key`` tells it from all others of the unit."""
        return resume.Memo(self.folder, key, lambda: self.clock.tick(self.save_seconds))


@dataclass
class Phase:
    """The training of one method, ready to run."""

    method: str
    policy: Any
    tokenizer: Any
    loop: Loop
    steps: Iterator[dict[str, float]]
    total: int
    """Steps in all."""
    per_epoch: float
    """Steps in a pass over the training questions."""
    validate_at: set[int]
    """Steps after which to validate."""
    counts: str = "step"
    """What a line of the log counts: ``epoch`` or ``step``."""
    after_warm_up: bool = True
    """Whether the warm-up's minutes belong to this method."""
    log_every: int = 1
    """Steps between two lines of the log; a line's ``step`` counts such lines."""
    summarise: Callable[[list[dict[str, float]]], dict[str, float]] = lambda steps: steps[-1]
    """Make one line of the steps since the last one."""

    @property
    def key(self) -> str:
        """Name the present policy."""
        return f"{self.method} {self.loop.step}"

    def at(self) -> tuple[int, float]:
        """Return step and epoch of the present line of the log."""
        return self.loop.step // self.log_every, self.loop.step / self.per_epoch


def unfinished(
    notes: dict[str, Any], config: RunConfig, folder: Path, device: str, prints: dict[str, str]
) -> Progress:
    """Return how far the unfinished run in a folder is, of which ``notes`` are the state's.

    Raises
    ------
    UserError
        If it has another configuration, another kind of device (whose random numbers are not these)
        or other questions, or another version of the library wrote it.
    """
    began, reason = notes.get("device", device), ""
    if not runlog.same_config(notes["config"], config):
        reason = "holds an unfinished run of another configuration"
    elif began != device:
        reason = f"its unfinished run began on {began}; go on with --device {began}"
    elif runlog.read_card(folder).get("data") != prints:
        reason = "its unfinished run began with other questions than the data set has now"
    elif not set(notes["progress"]) <= {f.name for f in fields(Progress)}:
        reason = "its unfinished run was begun by another version of reft_lib"
    if reason:
        raise UserError(f"{folder}: {reason}; or remove the folder, or choose another --out")
    return Progress(**notes["progress"])


def part(tensors: Weights, group: str) -> Weights:
    """Return the tensors of one group of a state, by their names within it."""
    return {k.removeprefix(f"{group}."): x for k, x in tensors.items() if k.startswith(f"{group}.")}


def adapter_weights(model: Any) -> Weights:
    """Return a copy of the trainable parameters by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def restore(model: Any, weights: Weights) -> None:
    """Put copied parameters back."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
