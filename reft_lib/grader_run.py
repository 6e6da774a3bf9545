"""What each single type of grader does with a batch of samples: a score or an error for each.

Where the documentation leaves something open, this is what is done:

- A ``python`` grader returns a float; an "invalid" one earns 0, but whether 5.0 is invalid, or is
  clipped to 1, is not said (a published example for the same API on another cloud returns up to 5).
  ``outside`` chooses: ``"error"`` (the default: nothing is changed in silence), ``"clip"`` or
  ``"keep"``. A bool is no float.
- The result of ``multi`` and of ``score_model`` may lie outside 0 to 1, if the formula or the
  range has it so.
- A ``score_model`` answer is JSON with a number ``result``, as the service asks of its judges, or
  holds one number. It is cut to the range, as documented; without a number the score is 0 and, as
  the service's error list suggests, that counts as an error too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reft_lib.errors import UserError
from reft_lib.grader_sandbox import TIME, run_calls
from reft_lib.grader_template import GraderError, fill
from reft_lib.grader_text import Embed, check_length, cosine, similarity
from reft_lib.grader_types import (
    LabelModel,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)

if TYPE_CHECKING:
    from reft_lib.grader_models import Conversation, Judge

KINDS = (
    "sample_parse_error",
    "invalid_variable_error",
    "python_grader_runtime_error",
    "model_grader_parse_error",
    "other_error",
)
"""Kinds of errors, by the hosted service's names."""
OUTSIDE = ("error", "clip", "keep")
"""What may be done with a ``python`` grader's score outside 0 to 1."""

Job = tuple[Mapping[str, Any], dict[str, Any]]
"""A row and a sample."""
Outcomes = list[float | GraderError]


@dataclass(frozen=True)
class Helpers:
    """What graders need beside their JSON."""

    judge: Judge | str | Mapping[str, Judge | str] | None = None
    """Answers for ``score_model`` and ``label_model``: a callable, a local model's name, or either
    for each ``model`` that a grader names. None: the grader's ``model`` is a local model's name."""
    embed: Embed | str | None = None
    """Embeds texts for ``cosine``: a callable or a local model's name."""
    outside: str = "error"
    """One of ``OUTSIDE``."""
    timeout_s: float = TIME
    """Seconds of CPU time for one call of a ``python`` grader; the hosted limit is 120."""

    def __post_init__(self) -> None:
        """Refuse what would fail on every sample."""
        if self.outside not in OUTSIDE:
            raise UserError(f"outside is {self.outside!r}; it must be one of {', '.join(OUTSIDE)}")
        if not 0 < self.timeout_s <= 120:
            raise UserError(f"timeout_s is {self.timeout_s}; it must be above 0, at most 120")


def _filled(grader: StringCheck | TextSimilarity, job: Job) -> tuple[str, str]:
    return fill(grader.input, *job), fill(grader.reference, *job)


def _string_check(grader: StringCheck, jobs: Sequence[Job], helpers: Helpers) -> Outcomes:
    outcomes: Outcomes = []
    for job in jobs:
        try:
            text, reference = _filled(grader, job)
            outcomes.append(float(_HOLDS[grader.operation](text, reference)))
        except GraderError as error:
            outcomes.append(error)
    return outcomes


_HOLDS = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


def _text_similarity(grader: TextSimilarity, jobs: Sequence[Job], helpers: Helpers) -> Outcomes:
    outcomes: Outcomes = [0.0] * len(jobs)
    pairs: dict[int, tuple[str, str]] = {}
    for i, job in enumerate(jobs):
        try:
            text, reference = _filled(grader, job)
            if grader.evaluation_metric == "cosine":
                check_length(text, reference)
                pairs[i] = text, reference
            else:
                outcomes[i] = similarity(grader.evaluation_metric, text, reference)
        except GraderError as error:
            outcomes[i] = error
    if pairs:
        for i, score in zip(pairs, cosine(list(pairs.values()), _embed(helpers)), strict=True):
            outcomes[i] = score
    return outcomes


def _embed(helpers: Helpers) -> Embed:
    if helpers.embed is None:
        raise UserError("cosine needs an embedder; give embed, a callable or a model's name")
    if isinstance(helpers.embed, str):
        from reft_lib.grader_models import load_embed

        return load_embed(helpers.embed)
    return helpers.embed


def _python(grader: PythonGrader, jobs: Sequence[Job], helpers: Helpers) -> Outcomes:
    calls = [(sample, row) for row, sample in jobs]
    outcomes: Outcomes = []
    for done in run_calls(grader.source, calls, helpers.timeout_s):
        score = float(done.value) if done.value is not None else math.nan
        if done.value is None:
            outcomes.append(GraderError("python_grader_runtime_error", str(done.error)))
        elif 0 <= score <= 1 or helpers.outside == "keep":
            outcomes.append(score)
        elif helpers.outside == "clip":
            outcomes.append(min(max(score, 0.0), 1.0))
        else:
            why = f"grade returned {score:g}; it must lie from 0 to 1 (or set outside)"
            outcomes.append(GraderError("python_grader_runtime_error", why))
    return outcomes


def _ask(
    grader: ScoreModel | LabelModel, jobs: Sequence[Job], helpers: Helpers
) -> list[str | GraderError]:
    """Return what the judge says of each job."""
    replies: list[str | GraderError] = [""] * len(jobs)
    asked: dict[int, Conversation] = {}
    for i, job in enumerate(jobs):
        try:
            asked[i] = [{"role": m.role, "content": fill(m.content, *job)} for m in grader.input]
        except GraderError as error:
            replies[i] = error
    if not asked:
        return replies
    labels = grader.labels if isinstance(grader, LabelModel) else None
    sampling = getattr(grader, "sampling_params", None) or {}
    said = list(_judge(grader, helpers)(list(asked.values()), labels, sampling))
    if len(said) != len(asked) or not all(text is None or isinstance(text, str) for text in said):
        raise UserError(f"the judge of {grader.name!r} must return a text for each conversation")
    for i, text in zip(asked, said, strict=True):
        none = GraderError("other_error", "the judge gave no answer; its context may be too short")
        replies[i] = none if text is None else text
    return replies


def _judge(grader: ScoreModel | LabelModel, helpers: Helpers) -> Judge:
    judge = helpers.judge
    if isinstance(judge, Mapping):
        if grader.model not in judge:
            known = ", ".join(judge)
            raise UserError(f"no judge for model {grader.model!r} was given; there are: {known}")
        judge = judge[grader.model]
    if judge is None or isinstance(judge, str):
        from reft_lib.grader_models import load_judge

        return load_judge(judge or grader.model)
    return judge


_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w])")


def _object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text is, an empty one if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_score(text: str) -> float | None:
    """Return the one number of a judge's answer, or the ``result`` of a JSON object; else None."""
    result = _object(text).get("result")
    if type(result) in (int, float):
        numbers = [str(result)]
    else:
        numbers = _NUMBER.findall(text)
    value = float(numbers[0]) if len(numbers) == 1 else math.nan
    return value if math.isfinite(value) else None


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the one label that a judge's answer is, or names as a word; None if it is unclear."""
    said = _object(text).get("label", text)
    said = said.strip().casefold() if isinstance(said, str) else ""
    exact = [label for label in labels if label.strip().casefold() == said]
    named = exact or [
        label
        for label in labels
        if re.search(rf"(?<!\w){re.escape(label.strip().casefold())}(?!\w)", said)
    ]
    return named[0] if len(named) == 1 else None


def _score_model(grader: ScoreModel, jobs: Sequence[Job], helpers: Helpers) -> Outcomes:
    low, high = grader.range
    outcomes: Outcomes = []
    for reply in _ask(grader, jobs, helpers):
        score = None if isinstance(reply, GraderError) else read_score(reply)
        if isinstance(reply, GraderError):
            outcomes.append(reply)
        elif score is None:
            why = f"the judge's answer {reply[:60]!r} holds no number, or more than one"
            outcomes.append(GraderError("model_grader_parse_error", why))
        else:
            outcomes.append(min(max(score, low), high))
    return outcomes


def _label_model(grader: LabelModel, jobs: Sequence[Job], helpers: Helpers) -> Outcomes:
    outcomes: Outcomes = []
    for reply in _ask(grader, jobs, helpers):
        label = None if isinstance(reply, GraderError) else read_label(reply, grader.labels)
        if isinstance(reply, GraderError):
            outcomes.append(reply)
        elif label is None:
            why = f"the judge's answer {reply[:60]!r} is none of {', '.join(grader.labels)}"
            outcomes.append(GraderError("model_grader_parse_error", why))
        else:
            outcomes.append(float(label in grader.passing_labels))
    return outcomes


RUN: dict[type, Any] = {
    StringCheck: _string_check,
    TextSimilarity: _text_similarity,
    PythonGrader: _python,
    ScoreModel: _score_model,
    LabelModel: _label_model,
}
"""Grader class to function of (grader, jobs, helpers) -> a score or an error for each job."""
