"""SVAMP (Patel et al. 2021) with the annotations of the ReFT authors.

Files: ``svamp_nl.json`` (training rows with reasoning in words), ``svamp_python_sdp.json`` (with
programs) and ``svamp_test_set.json``, as in the repository lqtrung1998/mwp_ReFT. The data set of
the same name on the hub (ChilleD/SVAMP) is split otherwise and has no reasoning, so it is not used.
"""

from __future__ import annotations

import ast
from pathlib import Path

from reft_lib.answers import PROGRAM_SEED, equal, split_answer
from reft_lib.errors import UserError
from reft_lib.examples import (
    Example,
    Report,
    add_shares,
    count,
    find_file,
    gold_answer,
    json_rows,
    programs_that_run,
    text_field,
    without_seen,
)


def _svamp_rows(
    name: str, folder: Path | None, report: Report, annotated: bool
) -> dict[str, tuple[Example, str]]:
    """Return id -> (example without annotation, its annotation as written) of one file."""
    path = find_file([name], folder, report)
    found: dict[str, tuple[Example, str]] = {}
    for where, row in json_rows(path, report):
        row_id = text_field(row, "item_id", where)
        if row_id in found:
            raise UserError(f"{where}: the item_id {row_id!r} is there twice; ids must differ")
        example = Example(
            row_id, text_field(row, "question", where), gold_answer(row, "answer_value", where)
        )
        found[row_id] = (example, text_field(row, "answer_cot", where) if annotated else "")
    return found


def words_without_answer(cot: str, answer: str) -> str | None:
    """Return a chain of thought cut before its trigger, None if it does not state the answer."""
    before, stated = split_answer(cot)
    return before.rstrip() if equal(stated, answer) and before.strip() else None


def program_body(source: str) -> str | None:
    """Return the body of ``solution()`` without its docstring, None if it is not that function."""
    try:
        (function,) = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not source.startswith(PROGRAM_SEED) or not isinstance(function, ast.FunctionDef):
        return None
    first = 1  # the line after ``def solution():``, counted from 0
    if ast.get_docstring(function, clean=False) is not None:
        first = function.body[0].end_lineno or 1
    body = "\n" + "\n".join(source.split("\n")[first:]).rstrip()
    return body if body.startswith("\n    ") else None


def load_svamp(split: str, folder: Path | None) -> tuple[list[Example], Report]:
    """Load SVAMP: the two annotations of the training rows are joined by their item_id.

    Training questions that are in the test too are left out (there are none in the known files).
    """
    report = Report()
    test = _svamp_rows("svamp_test_set.json", folder, report, annotated=False)
    tested = [example for example, _ in test.values()]
    if split == "test":
        report["read"] = len(tested)
        add_shares(report, tested, {})
        return tested, report
    words = _svamp_rows("svamp_nl.json", folder, report, annotated=True)
    programs = _svamp_rows("svamp_python_sdp.json", folder, report, annotated=True)
    for row_id in words:
        if row_id in programs and words[row_id][0] != programs[row_id][0]:
            raise UserError(f"{row_id} differs between svamp_nl.json and svamp_python_sdp.json")
    report["read"] = len(words | programs)
    every = [example for example, _ in (programs | words).values()]
    plain = without_seen(every, [e.question for e in tested], report)
    bodies = [program_body(programs[e.id][1]) if e.id in programs else None for e in plain]
    pcots = programs_that_run(bodies, [e.answer for e in plain])
    ncots = [
        words_without_answer(words[e.id][1], e.answer) if e.id in words else None for e in plain
    ]
    given = {
        "ncot": sum(e.id in words for e in plain),
        "pcot": sum(e.id in programs for e in plain),
    }
    examples = [
        Example(e.id, e.question, e.answer, ncot, pcot)
        for e, ncot, pcot in zip(plain, ncots, pcots, strict=True)
    ]
    add_shares(report, examples, given)
    why = "it does not end in the answer after the trigger"
    count(report, "dropped", "ncot", why, n=given["ncot"] - report["ncot"])
    why = "the program does not run to the answer"
    count(report, "dropped", "pcot", why, n=given["pcot"] - report["pcot"])
    return examples, report
