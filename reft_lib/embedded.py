"""The embedded problems as examples: the answer is the number asked for, or one of five options.

Both kinds are made from the same rows of ``data/problems``, so that a policy which chooses among
options can be held against one which states the number (reward hacking: an option is right by
chance one time in five, a number hardly ever).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from reft_lib.errors import UserError
from reft_lib.examples import (
    Example,
    Report,
    add_shares,
    check_unique,
    gold_answer,
    jsonl_rows,
    text_field,
)

PROBLEMS = Path(__file__).resolve().parents[1] / "data" / "problems"
"""Where the embedded problems lie in the repository."""
RANGES = {"1": (1, 19), "2": (20, 34), "3": (35, 49), "4": (50, 79), "5": (80, 200)}
"""The options of every question as multiple choice: in each about a fifth of the answers.

They are ranges, the same for all, so that a result need not be looked up in a list, and numbered,
because digits are what the nano model knows best."""


def _example(row: Any, where: str) -> Example:
    """Return one line of data/problems as an example."""
    row_id, question = text_field(row, "id", where), text_field(row, "question", where)
    paths, chosen = row.get("paths"), row.get("annotated")
    if not isinstance(paths, list) or not paths:
        raise UserError(f"{where}: 'paths' must be a list of at least one path")
    for path in paths:
        text_field(path, "name", f"{where}, paths")
        text_field(path, "ncot", f"{where}, paths")
        if not text_field(path, "pcot", f"{where}, paths").startswith("\n    "):
            raise UserError(f"{where}: a 'pcot' must begin with a new line and four spaces")
    if type(chosen) is not int or not 0 <= chosen < len(paths):
        raise UserError(f"{where}: 'annotated' must be a number from 0 to {len(paths) - 1}")
    if not isinstance(row.get("kinds"), list) or type(row.get("n_steps")) is not int:
        raise UserError(f"{where}: 'kinds' must be a list and 'n_steps' a whole number")
    path = paths[chosen]
    meta = {key: row[key] for key in ("kinds", "n_steps", "paths")} | {"path": path["name"]}
    answer = gold_answer(row, "answer", where)
    return Example(row_id, question, answer, path["ncot"], path["pcot"], meta)


def load_embedded(split: str, folder: Path | None) -> tuple[list[Example], Report]:
    """Load a split of the embedded problems. Their tests prove that every path is right."""
    path = (folder or PROBLEMS) / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing; reft_lib.problems.write_splits makes it")
    report = Report()
    examples = [_example(row, where) for where, row in jsonl_rows(path, report)]
    report["read"] = len(examples)
    check_unique(examples, path)
    add_shares(report, examples, {"ncot": len(examples), "pcot": len(examples)})
    return examples, report


def load_embedded_choice(split: str, folder: Path | None) -> tuple[list[Example], Report]:
    """Load a split with five ranges below each question; the answer is the right one's number.

    The annotations in words stay as they are, and end with the result; its range's number follows
    the trigger. There are none as programs. As with MathQA, ``meta`` has the ``problem`` without
    its options, the ``options`` by label, and the result as ``value``.
    """
    examples, report = load_embedded(split, folder)
    examples = [_with_ranges(e) for e in examples]
    add_shares(report, examples, {"ncot": len(examples), "pcot": len(examples)})
    return examples, report


def _with_ranges(e: Example) -> Example:
    """Return an embedded problem as multiple choice."""
    fitting = [a for a, (low, high) in RANGES.items() if low <= float(e.answer) <= high]
    if not fitting:
        raise UserError(f"{e.id}: the answer is {e.answer}; no option covers it: they go to 200")
    texts = {a: f"{low} to {high}" for a, (low, high) in RANGES.items()}
    line = ", ".join(f"{a}: {text}" for a, text in texts.items())
    meta = {**e.meta, "problem": e.question, "options": texts, "value": e.answer}
    return replace(e, question=f"{e.question}\n{line}", answer=fitting[0], pcot=None, meta=meta)
