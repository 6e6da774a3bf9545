"""The cases by which the answer rules are stated, each with its reason.

They lie in ``data/answers/cases.jsonl``. The tests hold the library to every one of them, and a
page of the book shows them, so that the rules as read and the rules as run are the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reft_lib.answers import TRIGGER
from reft_lib.config import Format
from reft_lib.errors import UserError
from reft_lib.examples import Example

CASES = Path(__file__).resolve().parents[1] / "data" / "answers" / "cases.jsonl"
"""Where the cases lie in the repository."""
FORMS = ("line", "words", "program", "letter")
"""What the text of a case is; see :class:`Case`."""
VERDICTS = ("right", "wrong", "none")
"""What a case is judged to be: the right answer, another answer, or no answer."""
OPTIONS = "a ) 38 , b ) 27.675 , c ) 12 , d ) 12.0 , e ) none of these"
"""The options of the question that multiple-choice cases answer."""


@dataclass(frozen=True)
class Case:
    """One answer, how it is read, and what it is worth."""

    group: str
    """Heading under which it is shown."""
    form: Literal["line", "words", "program", "letter"]
    """What ``text`` is: a ``line`` after the trigger, whole ``words``, the body of a ``program``,
    or a line after the trigger of a question whose answer is a ``letter``."""
    text: str
    gold: str
    """The right answer."""
    reads: str | None
    """The answer in its one written form; None if there is none."""
    verdict: Literal["right", "wrong", "none"]
    reason: str

    @property
    def fmt(self) -> Format:
        """The format of the response."""
        return "pcot" if self.form == "program" else "ncot"

    @property
    def response(self) -> str:
        """The whole response, as a policy would write it."""
        return self.text if self.form in ("words", "program") else "So." + TRIGGER + self.text

    @property
    def example(self) -> Example:
        """A question with the gold answer, and with options where the answer is a letter."""
        question = f"Which?\n{OPTIONS}" if self.form == "letter" else "How many?"
        return Example(self.group, question, self.gold)


def load_cases(path: Path = CASES) -> list[Case]:
    """Return all cases, in the order of the file.

    Raises
    ------
    UserError
        If the file is missing, or a line of it is not a case.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; it must be a file") from error
    cases = []
    for number, line in enumerate(lines, start=1):
        try:
            case = Case(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} line {number}: not a case ({error})") from error
        if case.form not in FORMS or case.verdict not in VERDICTS:
            raise UserError(f"{path} line {number}: unknown form or verdict")
        cases.append(case)
    return cases
