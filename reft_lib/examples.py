"""What an example is, and what every loader needs: reading files, checking rows, splitting.

Loaders stand in :mod:`reft_lib.data` and the modules it names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reft_lib.answers import PROGRAM_SEED, canonical, equal
from reft_lib.config import Format
from reft_lib.errors import UserError
from reft_lib.sandbox import run_programs


@dataclass(frozen=True)
class Example:
    """One question with its answer and, where there is one, its annotated reasoning."""

    id: str
    question: str
    answer: str
    """The gold value as text, in its one written form, for example ``"42"``."""
    ncot: str | None = None
    """Chain of thought in words, without trigger and answer."""
    pcot: str | None = None
    """Body of ``solution()``: the text after ``def solution():``, without docstring."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Embedded problems: kinds, n_steps, path (name of the annotated one), paths (all)."""

    def cot(self, fmt: Format) -> str:
        """Return the annotation in a format; raise :class:`UserError` if there is none."""
        text = self.ncot if fmt == "ncot" else self.pcot
        if text is None:
            raise UserError(f"{self.id} has no {fmt} annotation; choose rows with with_cot()")
        return text


Report = dict[str, Any]
"""rows: rows read; ncot, pcot: annotations kept; ncot_share, pcot_share: of those given;
files: file name to SHA-256 of its content."""


def data_folder(folder: Path | None = None) -> Path:
    """Return the folder of downloaded data sets: the one given, or what REFT_DATA_DIR names."""
    named = folder or os.environ.get("REFT_DATA_DIR")
    if not named:
        raise UserError(
            "no folder of data sets: set REFT_DATA_DIR to the one that holds svamp_nl.json,"
            " svamp_python_sdp.json and svamp_test_set.json"
        )
    if not Path(named).is_dir():
        raise UserError(f"REFT_DATA_DIR is {str(named)!r}; it must be a folder that exists")
    return Path(named)


def read_text(path: Path, report: Report) -> str:
    """Return a file's text and note its hash in the report."""
    try:
        content = path.read_bytes()
        report.setdefault("files", {})[path.name] = hashlib.sha256(content).hexdigest()
        return content.decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; it must be a file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from error


def text_field(row: Any, key: str, where: str) -> str:
    """Return a field that must be a text with something in it."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; a row must be one")
    if key not in row:
        raise UserError(f"{where}: the field {key!r} is missing; it must be a text")
    if not isinstance(row[key], str) or not row[key].strip():
        raise UserError(f"{where}: the field {key!r} must be a text that is not empty")
    return row[key]


def gold_answer(row: Any, key: str, where: str) -> str:
    """Return a numeric gold answer in its one written form."""
    answer = canonical(text_field(row, key, where))
    if answer is None:
        raise UserError(f"{where}: {key!r} is {row[key]!r}; it must be a number, such as '42'")
    return answer


def check_unique(examples: Sequence[Example], path: Path) -> None:
    """Raise :class:`UserError` if two examples of a file have one id."""
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise UserError(f"{path}: the id {example.id!r} is there twice; ids must differ")
        seen.add(example.id)


def add_shares(report: Report, examples: Sequence[Example], given: dict[str, int]) -> None:
    """Add the numbers of rows and of kept annotations; ``given``: how many a file had."""
    report["rows"] = len(examples)
    for fmt in ("ncot", "pcot"):
        kept = sum(getattr(example, fmt) is not None for example in examples)
        report[fmt] = kept
        report[f"{fmt}_share"] = kept / given[fmt] if given.get(fmt) else None


def json_rows(path: Path, report: Report) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) for each row of a JSON file that holds one list."""
    try:
        rows = json.loads(read_text(path, report))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: it must hold one JSON list of rows")
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", row


def programs_that_run(bodies: Sequence[str | None], answers: Sequence[str]) -> list[str | None]:
    """Return each program body that runs to its answer, None in place of the others."""
    outcomes = run_programs([PROGRAM_SEED + (body or "") for body in bodies])
    return [
        body if body is not None and outcome.ok and equal(outcome.value, answer) else None
        for body, outcome, answer in zip(bodies, outcomes, answers, strict=True)
    ]


def with_cot(examples: Sequence[Example], fmt: Format) -> list[Example]:
    """Return the examples that have an annotation in a format."""
    return [e for e in examples if (e.ncot if fmt == "ncot" else e.pcot) is not None]


def _shuffled_groups(examples: Sequence[Example], seed: int) -> list[list[int]]:
    """Return positions grouped by question, the groups in an order that only the seed decides."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        groups[" ".join(example.question.lower().split())].append(position)

    def rank(question: str) -> str:
        return hashlib.sha256(f"{seed}\n{question}".encode()).hexdigest()

    return [groups[question] for question in sorted(groups, key=rank)]


def subset(examples: Sequence[Example], n: int, seed: int = 0) -> list[Example]:
    """Return ``n`` examples with different questions, drawn by seed, in the order given.

    Raises
    ------
    UserError
        If there are fewer different questions.
    """
    groups = _shuffled_groups(examples, seed)
    if not 0 <= n <= len(groups):
        raise UserError(f"{n} rows are wanted; it must be from 0 to {len(groups)} questions")
    return [examples[i] for i in sorted(group[0] for group in groups[:n])]


def split_validation(
    examples: Sequence[Example], n: int, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Cut a validation split from training examples; equal questions stay on one side.

    Whether a question is drawn depends on its text and the seed, not on the order of the rows.

    Parameters
    ----------
    examples : sequence of Example
        Training examples.
    n : int
        Size of the validation split, from 0 to fewer than there are.
    seed : int
        Seed of the draw.

    Returns
    -------
    (list of Example, list of Example)
        The rest and the validation split, each in the order given.

    Raises
    ------
    UserError
        If ``n`` is out of range, or groups of equal questions do not add up to it.
    """
    if not 0 <= n < max(1, len(examples)):
        raise UserError(f"validation of {n} rows: it must be from 0 to {len(examples) - 1}")
    taken: set[int] = set()
    for group in _shuffled_groups(examples, seed):
        if len(taken) + len(group) <= n:
            taken.update(group)
    if len(taken) < n:
        raise UserError(f"validation of {n} rows: repeated questions allow only {len(taken)}")
    rest = [e for i, e in enumerate(examples) if i not in taken]
    return rest, [e for i, e in enumerate(examples) if i in taken]


def fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of what a run sees of these examples, their order included."""
    digest = hashlib.sha256()
    for e in examples:
        row = [e.id, e.question, e.answer, e.ncot, e.pcot]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
