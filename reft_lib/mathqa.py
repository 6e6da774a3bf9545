"""MathQA (Amini et al. 2019), with numbers or with letters to choose as answers.

``mathqa-numeric`` asks for a number; ``mathqa-choice`` lists five options below the question and
asks for a letter. Both are made of the same rows.

**Files.** The tests are the ReFT authors' (Luong et al. 2024), ``mathqa-numeric_test_set.json`` and
``mathqa_test_set.json``: 1,605 of MathQA's 2,985 test rows. *Their training files are not public.*
Train is MathQA's own train split, ``mathqa_train.json`` (29,837 rows; on the hub allenai/math_qa).
A folder that has only ``mathqa_dev.json`` is read from that: *MathQA's dev split (4,475 rows)
stands in for train*. The report's ``files`` and the examples' ids say which it was.

**As a program** (P-CoT) a row's ``linear_formula`` is written out
(:mod:`reft_lib.mathqa_formula`). It is kept if it runs to the right answer; with letters, to the
number of the right option and of no other one, since a program computes numbers and a number
chooses the option that states it (:func:`reft_lib.answers.pick`).

**In words** (N-CoT) a row's ``Rationale`` is taken, without quotes, a heading ("explanation :") and
a closing ("answer : c"). It is kept if no closing names another letter, at least five words are
left, and they state the right option: its number, or else its text. With numbers the option must be
one. (The authors sampled their reasoning in words from GPT-3.5 instead.)

**Numbers.** ``mathqa-numeric`` leaves out the rows whose right option states no number or is a
ratio ("3 : 1"), as the authors' test does.

**A repair.** The authors took a numeric answer by its first digits: "1,354" became 1 and "- 6"
became 6. Where the right option says otherwise, it counts. The report's ``repaired`` tells how
often, and ``meta["authors_answer"]`` keeps what the file says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from reft_lib.answers import PROGRAM_SEED, TOLERANCE, canonical, equal, normalise, options, pick
from reft_lib.errors import UserError
from reft_lib.examples import (
    Example,
    Report,
    add_shares,
    count,
    find_file,
    gold_answer,
    json_rows,
    problem_of,
    text_field,
    without_seen,
)
from reft_lib.mathqa_formula import formula_program
from reft_lib.sandbox import run_programs

Kind = Literal["numeric", "choice"]
_LETTERS = ("a", "b", "c", "d", "e")
FEWEST_WORDS = 5
"""A shorter rationale ("166") is no reasoning."""

# ---------------------------------------------------------------- rationales

_HEADING = re.compile(r"^(?:explanation|solution|sol|exp|ans(?:wer)?)\b[\s.:,-]*")
_NAMING = r"\b(?:answers?|ans|options?|choice|correct)\b"
_FILLING = (
    r"(?:[\s.,:;'\"=>-]|\b(?:so|hence|thus|therefore|and|the|right|final|required|our|is|are|be|will"
    rf"|must|should|it)\b|{_NAMING})*"
)
_CLOSING = re.compile(  # "... . so the answer is ( c ) .", "... c is the answer", "... 63 m b"
    rf"(?P<fill>{_FILLING})(?<![a-z0-9])\(?\s?(?P<letter>[a-e])\b[\s).,:;'\"]*"
    rf"(?P<after>is\s(?:the\s)?(?:right\s)?(?:{_NAMING}[\s.!]*)+)?$"
)
_CLOSING_WITH_TEXT = re.compile(  # "answer : d ) 56 sec"
    rf"{_FILLING}{_NAMING}[\s.:-]*(?:is\s)?[\s:]*\(?\s?(?P<letter>[a-e])\s?\)(?P<text>[^()]{{1,60}})$"
)


def clean_rationale(rationale: str, letter: str, option: str) -> str | None:
    """Return a rationale without quotes, heading and closing; None if that names another letter.

    Parameters
    ----------
    rationale : str
        As the row has it.
    letter : str
        The right letter, in lower case. Without a word such as "answer" it is cut off at the end,
        and another one is left where it is: it may be a variable.
    option : str
        The right option's text.
    """
    text = _HEADING.sub("", rationale.strip(' "\n\t'))
    closing = _CLOSING_WITH_TEXT.search(text)
    if closing is not None and _same(closing["text"], option):
        named = True
    else:
        closing = _CLOSING.search(text)
        named = closing is not None and bool(re.search(_NAMING, closing[0]))
    if closing is None:
        return text
    if closing["letter"] == letter:
        return text[: closing.start()].rstrip(" .,:;=>-")
    return None if named else text


def _same(a: str, b: str) -> bool:
    """Say whether two texts are the same but for spaces and closing marks."""
    return re.sub(r"[\s.,]+", "", a) == re.sub(r"[\s.,]+", "", b)


_STATED = re.compile(r"(-?) ?([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?: ?/ ?([0-9]+(?:\.[0-9]+)?))?")


def states(text: str, option: str) -> bool:
    """Say whether a text states an option: its number, or else its words."""
    value = None if ":" in option else normalise(option)
    if value is None:
        words, wanted = text.lower().split(), option.lower().split()
        return any(words[i : i + len(wanted)] == wanted for i in range(len(words)))
    for sign, digits, under in _STATED.findall(text):
        number, below = float(digits.replace(",", "")), float(under or 1)
        for stated in {number, number / below if below else number}:
            for signed in (stated, -stated) if sign else (stated,):
                if abs(signed - value) <= TOLERANCE and equal(repr(signed), option):
                    return True
    return False


def words(row: dict[str, str], letter: str, option: str) -> tuple[str | None, str]:
    """Return a row's reasoning in words, or None and why it is not kept."""
    text = clean_rationale(row["Rationale"], letter, option)
    if text is None:
        return None, "it closes with another letter"
    if len(text.split()) < FEWEST_WORDS:
        return None, f"fewer than {FEWEST_WORDS} words"
    if not states(text, option):
        return None, "it does not state the right option"
    return text, ""


# ---------------------------------------------------------------- loading


def number_of(option: str) -> str | None:
    """Return the number an option states, in its one written form; a ratio is none."""
    return None if ":" in option else canonical(option)


def _example(row: Any, where: str, row_id: str, kind: Kind) -> tuple[Example | None, str]:
    """Return a training row as an example, its reasoning not yet checked, or None and why not."""
    problem, letter = text_field(row, "Problem", where), text_field(row, "correct", where)
    question = f"{problem.strip()}\n{text_field(row, 'options', where).strip()}"
    listed = options(question)
    for key in ("Rationale", "linear_formula"):  # these may be empty
        if not isinstance(row.get(key), str):
            raise UserError(f"{where}: the field {key!r} must be a text")
    if letter not in _LETTERS:
        raise UserError(f"{where}: 'correct' is {letter!r}; it must be a letter from a to e")
    if letter.upper() not in listed:
        return None, "its options cannot be read"
    value = number_of(listed[letter.upper()])
    if kind == "choice":
        meta = {"problem": problem.strip(), "options": listed, "value": value}
        return Example(row_id, question, letter, meta=meta), ""
    if value is None:
        return None, "its right option is no number"
    return Example(row_id, problem.strip(), value), ""


def _program_answers(bodies: Sequence[str | None], examples: Sequence[Example]) -> list[bool]:
    """Say of each program whether it runs to its example's answer."""
    outcomes = run_programs([PROGRAM_SEED + (body or "") for body in bodies])
    return [
        outcome.ok
        and equal(pick(outcome.value, e.meta["options"]) if e.meta else outcome.value, e.answer)
        for outcome, e in zip(outcomes, examples, strict=True)
    ]


def _load_train(kind: Kind, folder: Path | None) -> tuple[list[Example], Report]:
    """Load the training rows of one kind."""
    report = Report()
    path = find_file(["mathqa_train.json", "mathqa_dev.json"], folder, report)
    every, source = [], {}
    for number, (where, row) in enumerate(json_rows(path, report)):
        example, why = _example(row, where, f"{path.stem}_{number}", kind)
        if example is None:
            count(report, "left_out", why)
        else:
            every.append(example)
            source[example.id] = row
    report["read"] = number + 1
    plain = without_seen(every, [problem_of(e) for e in _tests(kind, folder, report)], report)
    bodies = [formula_program(source[e.id]["linear_formula"], problem_of(e)) for e in plain]
    right = _program_answers(bodies, plain)
    examples = []
    for e, body, runs in zip(plain, bodies, right, strict=True):
        row = source[e.id]
        letter = row["correct"]
        ncot, why = words(row, letter, options("\n" + row["options"])[letter.upper()])
        if ncot is None:
            count(report, "dropped", "ncot", why)
        if not runs:
            why = "the program does not run to the answer" if body else "an unknown formula"
            count(report, "dropped", "pcot", why)
        examples.append(Example(e.id, e.question, e.answer, ncot, body if runs else None, e.meta))
    add_shares(report, examples, {"ncot": len(plain), "pcot": len(plain)})
    return examples, report


def _choice_tests(folder: Path | None, report: Report) -> list[Example]:
    """Return the test with letters; ``meta["value"]`` is the right option's number, if any."""
    found = []
    path = find_file(["mathqa_test_set.json"], folder, report)
    for where, row in json_rows(path, report):
        question = text_field(row, "question", where)
        letter, listed = text_field(row, "answer_value", where).strip().lower(), options(question)
        if letter.upper() not in listed:
            raise UserError(f"{where}: 'answer_value' is {letter!r}; it must name an option")
        value = number_of(listed[letter.upper()])
        meta = {"problem": question.rpartition("\n")[0], "options": listed, "value": value}
        found.append(Example(text_field(row, "item_id", where), question, letter, meta=meta))
    return found


def _tests(kind: Kind, folder: Path | None, report: Report) -> list[Example]:
    """Return the test rows of one kind."""
    with_letters = _choice_tests(folder, report)
    if kind == "choice":
        return with_letters
    values = {e.id.rpartition("_")[2]: e.meta["value"] for e in with_letters}
    found = []
    path = find_file(["mathqa-numeric_test_set.json"], folder, report)
    for where, row in json_rows(path, report):
        row_id = text_field(row, "item_id", where)
        given = gold_answer(row, "answer_value", where)
        value = values.get(row_id.rpartition("_")[2])
        example = Example(row_id, text_field(row, "question", where), given)
        if value is not None and not equal(value, given):
            example = replace(example, answer=value, meta={"authors_answer": given})
        found.append(example)
    return found


def load_mathqa_numeric(split: str, folder: Path | None) -> tuple[list[Example], Report]:
    """Load MathQA with numbers as answers: train (both annotations) or test (none)."""
    return _load("numeric", split, folder)


def load_mathqa_choice(split: str, folder: Path | None) -> tuple[list[Example], Report]:
    """Load MathQA with letters as answers: train (both annotations) or test (none).

    An example's ``meta`` has the problem without its options, the options by letter, and the
    right option's number (None if it is none), by which a right letter from wrong reasoning shows.
    """
    return _load("choice", split, folder)


def _load(kind: Kind, split: str, folder: Path | None) -> tuple[list[Example], Report]:
    if split == "train":
        return _load_train(kind, folder)
    report = Report()
    examples = _tests(kind, folder, report)
    report["read"] = len(examples)
    count(
        report,
        "repaired",
        "the right option says otherwise",
        n=sum("authors_answer" in e.meta for e in examples),
    )
    add_shares(report, examples, {})
    return examples, report
