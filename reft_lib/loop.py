"""What a training loop must remember, besides the weights, to go on exactly where it stopped.

A loop that is cut off and taken up again must do what one long run would have done: the same
questions in the same order, the same samples, the same optimiser steps. That needs the
optimiser's moments, three sources of randomness (order of questions, sampling, and what is left of
the present pass), the value head where there is one, and the number of steps taken.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reft_lib.value import ValueHead


@dataclass
class Loop:
    """The state of one training loop; the weights it trains belong to the model."""

    optimizer: torch.optim.Optimizer
    shuffle: random.Random
    """Draws the order of questions."""
    generator: torch.Generator
    """Draws the tokens of rollouts."""
    head: ValueHead | None = None
    step: int = 0
    """Steps taken so far."""
    waiting: list[int] = field(default_factory=list)
    """Rows that the present pass over the questions has still to visit."""

    def draw(self, n: int, size: int, whole: bool = False) -> list[int]:
        """Return the rows of the next batch: every row once, in a new random order, then again.

        Parameters
        ----------
        n : int
            Number of rows in all.
        size : int
            Rows in a batch.
        whole : bool
            True fills a batch up from the next pass; false lets the last one of a pass be smaller.
        """
        while not self.waiting or (whole and len(self.waiting) < size):
            self.waiting += self.shuffle.sample(range(n), n)
        rows, self.waiting = self.waiting[:size], self.waiting[size:]
        return rows

    def warm_up(self, lr: float, steps: int) -> None:
        """Set the learning rate of the present step: it rises linearly to ``lr`` over ``steps``."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * min(1.0, self.step / max(1, steps))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of this state by name, and the rest as what JSON can hold."""
        optimizer = self.optimizer.state_dict()
        tensors = {
            f"optimizer.{i}.{name}": torch.as_tensor(x)
            for i, moments in optimizer["state"].items()
            for name, x in moments.items()
        }
        tensors["generator"] = self.generator.get_state()
        if self.head is not None:
            tensors |= {f"head.{name}": x for name, x in self.head.state_dict().items()}
        notes = {
            "groups": optimizer["param_groups"],
            "shuffle": self.shuffle.getstate(),
            "step": self.step,
            "waiting": list(self.waiting),
        }
        return tensors, notes

    def restore(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` returned, from a loop with the same parameters."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, x in tensors.items():
            if key.startswith("optimizer."):
                _, i, name = key.split(".", 2)
                moments.setdefault(int(i), {})[name] = x
        self.optimizer.load_state_dict({"state": moments, "param_groups": notes["groups"]})
        self.generator.set_state(tensors["generator"].cpu())
        if self.head is not None:
            own = {k.removeprefix("head."): x for k, x in tensors.items() if k.startswith("head.")}
            self.head.load_state_dict(own)
        version, internal, gauss = notes["shuffle"]
        self.shuffle.setstate((version, tuple(internal), gauss))
        self.step, self.waiting = notes["step"], list(notes["waiting"])


def new_loop(
    parameters: Iterable[Tensor], lr: float, seed: int, device: Any, head: ValueHead | None = None
) -> Loop:
    """Return a loop before its first step: AdamW without weight decay, all randomness from a seed.

    ``parameters`` are what the optimiser trains, those of the head included.
    """
    return Loop(
        torch.optim.AdamW(list(parameters), lr=lr, weight_decay=0.0),
        random.Random(seed),
        torch.Generator(device).manual_seed(seed),
        head,
    )
