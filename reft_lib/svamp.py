"""SVAMP (Patel et al. 2021) with the annotations of the ReFT authors.

The folder holds ``svamp_nl.json`` (training rows with reasoning in words),
``svamp_python_sdp.json`` (with programs) and ``svamp_test_set.json``, as in the repository
lqtrung1998/mwp_ReFT.
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
    data_folder,
    gold_answer,
    json_rows,
    programs_that_run,
    text_field,
)


def _svamp_rows(path: Path, report: Report, annotated: bool) -> dict[str, tuple[Example, str]]:
    """Return id -> (example without annotation, its annotation as written) of one file."""
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
    """Load SVAMP: the two annotations of the training rows are joined by their item_id."""
    folder, report = data_folder(folder), Report()
    if split == "test":
        rows = _svamp_rows(folder / "svamp_test_set.json", report, annotated=False)
        examples = [example for example, _ in rows.values()]
        add_shares(report, examples, {})
        return examples, report
    words = _svamp_rows(folder / "svamp_nl.json", report, annotated=True)
    programs = _svamp_rows(folder / "svamp_python_sdp.json", report, annotated=True)
    plain = {row_id: example for row_id, (example, _) in (programs | words).items()}
    bodies = [program_body(programs[i][1]) if i in programs else None for i in plain]
    pcots = programs_that_run(bodies, [example.answer for example in plain.values()])
    examples = []
    for (row_id, example), pcot in zip(plain.items(), pcots, strict=True):
        if row_id in words and row_id in programs and programs[row_id][0] != example:
            raise UserError(f"{folder}: {row_id} differs between svamp_nl and svamp_python_sdp")
        ncot = words_without_answer(words[row_id][1], example.answer) if row_id in words else None
        examples.append(Example(row_id, example.question, example.answer, ncot, pcot))
    add_shares(report, examples, {"ncot": len(words), "pcot": len(programs)})
    return examples, report
