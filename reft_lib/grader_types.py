"""Graders as they are once read: one frozen class for each type of OpenAI's graders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reft_lib.grader_formula import Formula
from reft_lib.grader_template import Place, Template


@dataclass(frozen=True)
class StringCheck:
    """``string_check``: 1 if the comparison holds, else 0."""

    name: str
    input: Template
    reference: Template
    operation: str
    """``eq``, ``ne``, ``like`` (the input contains the reference), ``ilike`` (in any case)."""


@dataclass(frozen=True)
class TextSimilarity:
    """``text_similarity``: how alike two texts are, from 0 to 1."""

    name: str
    input: Template
    reference: Template
    evaluation_metric: str
    pass_threshold: float | None = None


@dataclass(frozen=True)
class PythonGrader:
    """``python``: what ``grade(sample, item)`` returns."""

    name: str
    source: str
    image_tag: str | None = None
    """The hosted service's set of packages; it has no meaning here."""


@dataclass(frozen=True)
class Message:
    """A message of a conversation with a judge."""

    role: str
    content: Template


@dataclass(frozen=True)
class ScoreModel:
    """``score_model``: a number that a judge gives."""

    name: str
    model: str
    input: tuple[Message, ...]
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: Mapping[str, Any] | None = None
    pass_threshold: float | None = None


@dataclass(frozen=True)
class LabelModel:
    """``label_model``: 1 if a judge chooses a passing label, else 0."""

    name: str
    model: str
    input: tuple[Message, ...]
    labels: tuple[str, ...]
    passing_labels: tuple[str, ...]


@dataclass(frozen=True)
class Multi:
    """``multi``: a formula over the scores of named sub-graders."""

    name: str
    graders: Mapping[str, Single]
    calculate_output: Formula


Single = StringCheck | TextSimilarity | PythonGrader | ScoreModel | LabelModel
Grader = Single | Multi
"""Any grader, as :func:`reft_lib.grader_spec.parse_grader` returns it."""


def templates(grader: Grader) -> Iterator[Template]:
    """Yield every template of a grader, those of its sub-graders included."""
    if isinstance(grader, Multi):
        for sub in grader.graders.values():
            yield from templates(sub)
    elif isinstance(grader, StringCheck | TextSimilarity):
        yield from (grader.input, grader.reference)
    elif isinstance(grader, ScoreModel | LabelModel):
        yield from (message.content for message in grader.input)


def item_places(grader: Grader) -> list[Place]:
    """Return the places in a row that a grader's templates name, each once.

    What a ``python`` grader reads from its row cannot be seen from outside, and is not among them.
    """
    places = (place for template in templates(grader) for place in template.places)
    return list(dict.fromkeys(place for place in places if place[0] == "item"))


_TYPES: dict[type, str] = {
    StringCheck: "string_check",
    TextSimilarity: "text_similarity",
    PythonGrader: "python",
    ScoreModel: "score_model",
    LabelModel: "label_model",
    Multi: "multi",
}


def type_name(grader: Grader) -> str:
    """Return the ``type`` of a grader as its JSON names it."""
    return _TYPES[type(grader)]
