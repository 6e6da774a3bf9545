"""Run graders: rows and outputs in, scores out, each with its error and its sub-scores.

A grader that fails on a sample gives it the score 0, and the error is kept under the hosted
service's name for its kind (:class:`reft_lib.grader_template.GraderError`). A failing sub-grader
makes the whole sample 0. Malformed graders do not come this far: they are refused when they are
read (:func:`reft_lib.grader_spec.parse_grader`).

What is done where the documentation leaves something open is told in :mod:`reft_lib.grader_run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reft_lib.grader_run import KINDS, RUN, Helpers, Job
from reft_lib.grader_spec import parse_grader
from reft_lib.grader_template import GraderError, sample_of
from reft_lib.grader_types import Grader, Multi, type_name


@dataclass(frozen=True)
class Result:
    """What a grader says of one sample."""

    score: float
    """0 where the grader failed."""
    passed: bool
    """Whether the score reaches the grader's ``pass_threshold``, or 1 if it states none."""
    error: str | None = None
    """What went wrong, with the grader's name and the row; None if nothing did."""
    kind: str | None = None
    """One of ``KINDS``; None if nothing went wrong."""
    parts: Mapping[str, Result] = field(default_factory=dict)
    """What each sub-grader of a ``multi`` grader says."""


def grade(
    grader: Grader | Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    outputs: Sequence[str | Mapping[str, Any]],
    helpers: Helpers | None = None,
) -> list[Result]:
    """Grade outputs, each against its row.

    Parameters
    ----------
    grader : Grader or mapping
        As :func:`reft_lib.grader_spec.parse_grader` returns it, or the JSON it takes.
    rows : sequence of mapping
        The namespace ``item`` for each output.
    outputs : sequence of str or mapping
        Texts, or namespaces ``sample`` (:func:`reft_lib.grader_template.sample_of`).
    helpers : Helpers, optional
        Judge, embedder and limits.

    Returns
    -------
    list of Result
        One for each output, in order.

    Raises
    ------
    UserError
        If the grader is malformed, or a judge or embedder is missing, cannot be loaded or answers
        with something else than what was asked for.
    ValueError
        If there are not as many rows as outputs.
    """
    if isinstance(grader, Mapping):
        grader = parse_grader(grader)
    jobs = [(row, sample_of(out)) for row, out in zip(rows, outputs, strict=True)]
    return _grade(grader, jobs, helpers or Helpers())


def _grade(grader: Grader, jobs: Sequence[Job], helpers: Helpers) -> list[Result]:
    if isinstance(grader, Multi):
        return _multi(grader, jobs, helpers)
    outcomes = RUN[type(grader)](grader, jobs, helpers)
    return [_result(grader, outcome, jobs[i][0], i) for i, outcome in enumerate(outcomes)]


def _result(
    grader: Grader, outcome: float | GraderError, row: Mapping[str, Any], i: int, **parts: Result
) -> Result:
    if isinstance(outcome, GraderError):
        named = f"row {i}" + (f" ({row['id']})" if isinstance(row.get("id"), str) else "")
        error = f"grader {grader.name!r} ({type_name(grader)}) failed on {named}: {outcome}"
        return Result(0.0, False, error, outcome.kind, parts)
    threshold = getattr(grader, "pass_threshold", None)
    return Result(outcome, outcome >= (1.0 if threshold is None else threshold), parts=parts)


def _multi(grader: Multi, jobs: Sequence[Job], helpers: Helpers) -> list[Result]:
    columns = {key: _grade(sub, jobs, helpers) for key, sub in grader.graders.items()}
    results = []
    for i, (row, _) in enumerate(jobs):
        parts = {key: column[i] for key, column in columns.items()}
        failed = next((part for part in parts.values() if part.error), None)
        if failed is not None:
            results.append(Result(0.0, False, failed.error, failed.kind, parts))
            continue
        try:
            scores = {key: part.score for key, part in parts.items()}
            outcome: float | GraderError = grader.calculate_output.evaluate(scores)
        except GraderError as error:
            outcome = error
        results.append(_result(grader, outcome, row, i, **parts))
    return results


def metrics(results: Sequence[Result], lengths: Sequence[int] | None = None) -> dict[str, float]:
    """Return what the hosted service reports of a batch, under its names less ``train_``.

    Parameters
    ----------
    results : sequence of Result
        At least one.
    lengths : sequence of int, optional
        Tokens of each response.

    Returns
    -------
    dict
        ``reward_mean``; ``error_rate``, the share of samples on which the grader failed; one
        ``<kind>_mean`` for each of ``KINDS``, which add up to it; for each sub-grader
        ``<key>_reward_mean`` and ``<key>_error_rate``; ``response_tokens_mean`` with lengths.
    """
    n = len(results)
    found = {
        "reward_mean": sum(r.score for r in results) / n,
        "error_rate": sum(r.error is not None for r in results) / n,
        **{f"{kind}_mean": sum(r.kind == kind for r in results) / n for kind in KINDS},
    }
    for key in results[0].parts:
        found[f"{key}_reward_mean"] = sum(r.parts[key].score for r in results) / n
        found[f"{key}_error_rate"] = sum(r.parts[key].error is not None for r in results) / n
    if lengths is not None:
        found["response_tokens_mean"] = sum(lengths) / n
    return found
