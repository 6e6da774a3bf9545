"""GSM8K (Cobbe et al. 2021): grade-school problems with reasoning in words and as programs.

A solution is written in words, with a mark after most calculations, ``<<48/2=24>>``; its last line
is ``#### 72``. In words (N-CoT) the marks and the last line are taken out. As a program (P-CoT) the
calculations are strung together by :mod:`reft_lib.derivation`; it is kept if it runs to the row's
answer. Solutions that solve an equation ("4x = 24, so x = 6") have no program: there, marks hold
numbers and no calculation.

Files: ``gsm8k_train.jsonl`` and ``gsm8k_test.jsonl``, as in the repository
openai/grade-school-math and, under the name openai/gsm8k, on the hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from reft_lib.answers import canonical
from reft_lib.derivation import program, steps_in
from reft_lib.errors import UserError
from reft_lib.examples import (
    Example,
    Report,
    add_shares,
    count,
    find_file,
    jsonl_rows,
    programs_that_run,
    text_field,
    without_seen,
)

_MARK = re.compile("<<[^<>]*>>")


def solution_in_words(solution: str) -> str:
    """Return a solution without calculator marks."""
    return _MARK.sub("", solution).strip()


def split_solution(row: Any, where: str) -> tuple[str, str]:
    """Return a row's solution without its last line, and the answer on that line."""
    solution, mark, stated = text_field(row, "answer", where).rpartition("####")
    answer = canonical(stated.strip()) if mark else None
    if answer is None or not solution.strip():
        raise UserError(f"{where}: 'answer' must be a solution and a last line such as '#### 72'")
    return solution.strip(), answer


def _rows(split: str, folder: Path | None, report: Report) -> list[tuple[Example, str]]:
    """Return the examples of a file, in words only, each with its solution as written."""
    path = find_file([f"gsm8k_{split}.jsonl"], folder, report)
    found = []
    for number, (where, row) in enumerate(jsonl_rows(path, report)):
        question = text_field(row, "question", where)
        solution, answer = split_solution(row, where)
        words = solution_in_words(solution)
        found.append((Example(f"gsm8k_{split}_{number}", question, answer, words), solution))
    return found


def load_gsm8k(split: str, folder: Path | None) -> tuple[list[Example], Report]:
    """Load train or test of GSM8K; both have annotations.

    Training questions that are in the test too are left out (there are none in the known files).
    """
    report = Report()
    rows = _rows(split, folder, report)
    report["read"] = len(rows)
    solutions = {example.id: solution for example, solution in rows}
    plain = [example for example, _ in rows]
    if split == "train":
        plain = without_seen(plain, [e.question for e, _ in _rows("test", folder, report)], report)
    answers = [e.answer for e in plain]
    bodies = [program(steps_in(solutions[e.id]), e.question, e.answer) for e in plain]
    pcots = programs_that_run(bodies, answers)
    why = "no calculation in it comes to the answer"
    count(report, "dropped", "pcot", why, n=bodies.count(None))
    why = "the program does not run to the answer"
    count(report, "dropped", "pcot", why, n=pcots.count(None) - bodies.count(None))
    examples = [
        Example(e.id, e.question, e.answer, e.ncot, pcot)
        for e, pcot in zip(plain, pcots, strict=True)
    ]
    add_shares(report, examples, {"ncot": len(plain), "pcot": len(plain)})
    return examples, report
