"""Responses with their verdicts: what a verifier learns from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from reft_lib.data import Example
from reft_lib.evaluate import Answers


@dataclass(frozen=True)
class Sample:
    """A response with its verdict."""

    example: Example
    text: str
    right: bool


class Asked(Protocol):
    """Whatever belongs to one question: a sample, a pair of responses."""

    @property
    def example(self) -> Example:
        """The question."""


Of = TypeVar("Of", bound=Asked)


def distinct(result: Answers, examples: Sequence[Example]) -> list[Sample]:
    """Return every different response to each question once, with its verdict."""
    return [
        Sample(e, text, right)
        for e, texts, verdicts in zip(examples, result.texts, result.right, strict=True)
        for text, right in dict(zip(texts, verdicts, strict=True)).items()
    ]


def split(samples: Sequence[Of], share: float, seed: int) -> tuple[list[Of], list[Of]]:
    """Split samples by question into (training, held out): no question has samples in both."""
    ids = sorted({s.example.id for s in samples})
    held = set(random.Random(seed).sample(ids, min(len(ids), max(1, round(share * len(ids))))))
    training = [s for s in samples if s.example.id not in held]
    return training, [s for s in samples if s.example.id in held]
