"""What an example is, and what every loader needs: reading files, checking rows, splitting.

Loaders stand in :mod:`reft_lib.data` and the modules it names.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reft_lib.answers import PROGRAM_SEED, canonical, equal
from reft_lib.config import Format
from reft_lib.errors import UserError
from reft_lib.fetch import difference, locate
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
    """Embedded problems: kinds, n_steps, path (name of the annotated one), paths (all).
    With choices: problem (the question without them), options (label to text), value."""

    def cot(self, fmt: Format) -> str:
        """Return the annotation in a format; raise :class:`UserError` if there is none."""
        text = self.ncot if fmt == "ncot" else self.pcot
        if text is None:
            raise UserError(f"{self.id} has no {fmt} annotation; choose rows with with_cot()")
        return text


Report = dict[str, Any]
"""What a loader tells of its work, as JSON can hold it:

- ``rows``: examples returned; ``read``: rows of the split's files; ``left_out``: why to how many
  of them, for those that are no examples; ``repaired``: the same for answers set right;
- ``ncot``, ``pcot``: annotations kept; ``ncot_share``, ``pcot_share``: of those given; ``dropped``:
  format to why to how many, for the others;
- ``files``: file name to SHA-256 of its content; ``places``: file name to where it was found
  (``folder``, ``cache`` or ``hub``); ``warnings``: a line for each file that is not the known one.
"""


def find_file(names: Sequence[str], folder: Path | None, report: Report) -> Path:
    """Return the path of the best of some files (:func:`reft_lib.fetch.locate`), noting where."""
    path, place = locate(names, folder)
    report.setdefault("places", {})[path.name] = place
    return path


def count(report: Report, key: str, *why: str, n: int = 1) -> None:
    """Add ``n`` to one of the report's counts, such as ``left_out``, unless it is nothing."""
    if n:
        counts = report.setdefault(key, {})
        for part in why[:-1]:
            counts = counts.setdefault(part, {})
        counts[why[-1]] = counts.get(why[-1], 0) + n


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


def _check_known(path: Path, rows: list[Any], report: Report) -> None:
    """Warn, once a call, if a file that this library knows is not as it was."""
    if line := difference(path.name, len(rows), report["files"][path.name]):
        report.setdefault("warnings", []).append(line)
        warnings.warn(line, stacklevel=2)


def jsonl_rows(path: Path, report: Report) -> list[tuple[str, Any]]:
    """Return (where, row) for each row of a file with one JSON object to a line."""
    found = []
    # not splitlines: other line separators are legal inside a JSON string
    for number, line in enumerate(read_text(path, report).rstrip().split("\n"), start=1):
        where = f"{path} line {number}"
        try:
            found.append((where, json.loads(line)))
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error}); each line must be one row") from error
    _check_known(path, found, report)
    return found


_SPACE = re.compile(r"[ \t\r\n]*")


def json_rows(path: Path, report: Report) -> list[tuple[str, Any]]:
    """Return (where, row) for each row of a JSON file that holds one list.

    Rows are read one by one, so that a fault can be told by row and line.
    """
    text = read_text(path, report)

    def skip(at: int) -> int:
        match = _SPACE.match(text, at)
        return match.end() if match else at

    found: list[tuple[str, Any]] = []
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = skip(0)
    if text[at : at + 1] != "[" or text[skip(at + 1) :].startswith("]"):
        raise UserError(f"{path}: it must hold one JSON list of rows")
    while text[at : at + 1] in ("[", ","):
        at = skip(at + 1)
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path} row {len(found) + 1} (line {line})"
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            fault = f"not JSON at line {error.lineno} ({error.msg})"
            raise UserError(f"{where}: {fault}; the row must be one object") from error
        found.append((where, row))
        at = skip(at)
    if text[at:].strip() != "]":
        raise UserError(f"{where}: it must be followed by ',' and a row, or by ']' and the end")
    _check_known(path, found, report)
    return found


def programs_that_run(bodies: Sequence[str | None], answers: Sequence[str]) -> list[str | None]:
    """Return each program body that runs to its answer, None in place of the others."""
    outcomes = run_programs([PROGRAM_SEED + (body or "") for body in bodies])
    return [
        body if body is not None and outcome.ok and equal(outcome.value, answer) else None
        for body, outcome, answer in zip(bodies, outcomes, answers, strict=True)
    ]


def question_key(question: str) -> str:
    """Return what two questions share if they are the same to a reader: their words and numbers.

    Case, spacing and punctuation do not count. Used where a question must not be on both sides.
    """
    return " ".join(re.findall(r"[^\W_]+", question.lower()))


def problem_of(example: Example) -> str:
    """Return an example's question, without the options that may be listed below it."""
    return example.meta.get("problem", example.question)


def without_seen(
    rows: Sequence[Example], questions: Collection[str], report: Report
) -> list[Example]:
    """Return training rows without those whose question is also a question of the test."""
    seen = {question_key(question) for question in questions}
    kept = [e for e in rows if question_key(problem_of(e)) not in seen]
    count(report, "left_out", "the question is in the test too", n=len(rows) - len(kept))
    return kept


def with_cot(examples: Sequence[Example], fmt: Format) -> list[Example]:
    """Return the examples that have an annotation in a format."""
    return [e for e in examples if (e.ncot if fmt == "ncot" else e.pcot) is not None]


def _shuffled_groups(examples: Sequence[Example], seed: int) -> list[list[int]]:
    """Return positions grouped by question, the groups in an order that only the seed decides."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        groups[question_key(problem_of(example))].append(position)

    def rank(group: list[int]) -> str:
        spelt = min(" ".join(problem_of(examples[i]).lower().split()) for i in group)
        return hashlib.sha256(f"{seed}\n{spelt}".encode()).hexdigest()

    return sorted(groups.values(), key=rank)


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
    Questions with one row are drawn first, so that validation asks as many as it has rows.

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
    for group in sorted(_shuffled_groups(examples, seed), key=lambda group: len(group) > 1):
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
