r"""Find the answer in a response, and compare answers: the rules every result rests on.

**Finding it.** In words (N-CoT) the answer is what follows the *last* trigger ``Therefore, the
answer is`` (any case; the comma and colon may be missing): the first line with a letter or digit
on it, up to its end. An earlier trigger never stands in for the last one, and without a trigger
there is no answer. A program (P-CoT) is run in the sandbox and its result is read by the same
rules.

**Reading it.** A number is read by the rules of :mod:`reft_lib.numerals`. Where the question is
multiple choice, the answer is a letter A to E: alone, or with what belongs to it (``(b)``, ``B.``,
``b ) 27.5``, "option b", "b is correct"). A number is taken for the letter of the one option that
states it, since programs compute numbers.

**Equality.** Numbers are equal within 0.01, the bound included, as in the official code, and
within a tenth of the larger one: 0.01 is not 0.005, nor 0.02 the same as 0.03. Letters are equal
whatever their case. A letter never equals a number, and no answer equals nothing, not even
another "none".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from reft_lib.config import Format
from reft_lib.errors import UserError
from reft_lib.numerals import LONGEST, plain_characters, read, shorten
from reft_lib.sandbox import Outcome, run_programs

TRIGGER = "\nTherefore, the answer is: "
"""What stands between a chain of thought in words and its answer."""
PROGRAM_SEED = "def solution():"
"""What the prompt of a program ends with, and so what a response continues."""
TOLERANCE = 0.01
"""Numbers this close are the same answer (the official code's rule)."""
SHARE = 10
"""Nor may they differ by more than one part in so many of the larger one."""
_NOISE = 1e-9  # what the rounding of floats may leave of zero

Runner = Callable[[list[str]], list[Outcome]]

_TRIGGER = re.compile(r"therefore,?\s+the\s+answer\s+is\b\s*:?", re.IGNORECASE)


def split_answer(text: str) -> tuple[str, str | None]:
    """Split a response in words at its last trigger.

    Returns
    -------
    (str, str or None)
        What stands before the trigger, and the first line after it with a letter or digit; None
        where there is no trigger or nothing follows it.
    """
    triggers = list(_TRIGGER.finditer(text))
    if not triggers:
        return text, None
    last = triggers[-1]
    lines = (line.strip() for line in text[last.end() :].splitlines())
    return text[: last.start()], next((line for line in lines if re.search(r"[^\W_]", line)), None)


def normalise(text: str | None) -> float | None:
    """Return the one number that a line states, or None; see :mod:`reft_lib.numerals`.

    Never raises, whatever the text.
    """
    value = read(text)
    return None if value is None else float(value)


# ---------------------------------------------------------------- multiple choice

_MARKS = re.compile(
    r"\\(?:boxed|text|mathrm|mathbf)\b|[*_`\"'“”$<>{}\[\]]|[,.]?\s(?:because|since)\s.*", re.DOTALL
)
_CHOICE = re.compile(
    r"(?:(?:the\s)?(?:correct\s|right\s|final\s)?(?:answer|option|choice|letter)(?:\sis)?\s?:?\s?)?"
    r"(?P<open>\(\s?)?(?!e\.g\b|a\s[0-9])(?P<letter>[A-E])"
    r"(?:\s?[).:,;=!]+\s?(?P<rest>.*)|\s(?P<number>[-$]?\s?[0-9].*)"
    r"|\s(?P<remark>-\s?.*|is\s(?:the\s)?(?:correct|right|true|answer).*))?",
    re.IGNORECASE | re.DOTALL,
)
# A second letter that is chosen, or that the first is exchanged for; "a" may be an article.
_ANOTHER = re.compile(
    r"^[\s,/&;]*(?:and\s|or\s)?\(?[A-Ea-e]\)?(?:[\s,.;]*$|\s?[,;/&]|\s(?:and|or)\s)"
    r"|\b(?i:or|and|nor|no|wait|actually)\b,?\s\(?(?:[A-E]|[b-e])\b|\bnot\s(?:correct|right|true)",
    re.DOTALL,
)
_OPTION = re.compile(r"(?:^|[\s,])([A-Ea-e]) ?\)")


def choice(text: str | None) -> str | None:
    """Return the letter A to E that a line chooses, in upper case, or None."""
    return _choice(text) if text and len(text) <= LONGEST else None


@lru_cache(maxsize=2**14)
def _choice(text: str) -> str | None:
    plain = _MARKS.sub(" ", plain_characters(text))
    found = _CHOICE.fullmatch(" ".join(plain.split()))
    if found is None or (found["open"] and not re.search(r"\(\s?[A-Ea-e]\s?\)", found[0])):
        return None
    letter = found["letter"].upper()
    rest = found["rest"] or found["number"] or found["remark"] or ""
    others = {other.upper() for other in _OPTION.findall(rest)} - {letter}
    return None if others or _ANOTHER.search(rest) else letter


def options(question: str) -> dict[str, str]:
    """Return the options on a question's last line, ``a ) 38 , b ) 27.675 , ...``: letter to text.

    Empty where there are none: fewer than two, or not beginning with A.
    """
    pieces = re.split(r"(?:^|[\s,\['\"])([A-Ea-e]) \) ", question.rsplit("\n", 1)[-1])
    found: dict[str, str] = {}
    for letter, text in zip(pieces[1::2], pieces[2::2], strict=True):
        if letter.upper() == "ABCDE"[len(found) : len(found) + 1]:
            found[letter.upper()] = text
        elif found:  # not the next letter: a part of the option before it
            found[max(found)] += f" {letter} ) {text}"
    return {a: text.strip(" ,'\"[]") for a, text in found.items()} if len(found) > 1 else {}


def pick(text: str | None, choices: Mapping[str, str]) -> str | None:
    """Return the letter that a line chooses by name, or by stating the number of one option.

    A letter counts whatever stands beside it. A number that no option states, or more than one,
    chooses none.
    """
    if letter := choice(text):
        return letter
    stating = [letter for letter, option in choices.items() if equal(text, option)]
    return stating[0] if len(stating) == 1 else None


# ---------------------------------------------------------------- whole responses


def canonical(text: str | None, letters: bool = False) -> str | None:
    """Return an answer in its one written form ("1,450 apples" -> "1450"), None if it is none.

    With ``letters``, the answer is a letter, and a number is none.
    """
    if letters:
        return choice(text)
    value = read(text)
    if value is None:
        return None
    return str(value.numerator) if value.denominator == 1 else shorten(float(value))


def stated_many(texts: Sequence[str], fmt: Format, run: Runner | None = None) -> list[str | None]:
    """Return what each response states as its answer, unread: a line, or a program's result.

    Parameters and errors as in :func:`extract_many`.
    """
    if fmt == "ncot":
        return [split_answer(text)[1] for text in texts]
    if fmt == "pcot":
        outcomes = (run or run_programs)([PROGRAM_SEED + text for text in texts])
        return [outcome.value for outcome in outcomes]
    raise UserError(f"unknown format {fmt!r}; there are: ncot, pcot")


def extract_many(
    texts: Sequence[str], fmt: Format, run: Runner | None = None, letters: bool = False
) -> list[str | None]:
    """Return the answer of each response in its one written form, or None.

    Parameters
    ----------
    texts : sequence of str
        Responses as sampled, without the prompt: for programs, what follows ``def solution():``.
    fmt : {"ncot", "pcot"}
        Whether the responses are words or programs.
    run : callable, optional
        Runs programs; all go to it in one call. ``sandbox.run_programs`` if not given.
    letters : bool
        Whether the questions are multiple choice: then letters are answers and numbers are not.

    Raises
    ------
    UserError
        If there is no such format.
    """
    return [canonical(answer, letters) for answer in stated_many(texts, fmt, run)]


def extract(text: str, fmt: Format, run: Runner | None = None, letters: bool = False) -> str | None:
    """Return the answer of one response; see :func:`extract_many`."""
    return extract_many([text], fmt, run, letters)[0]


def equal(a: str | None, b: str | None, tol: float = TOLERANCE) -> bool:
    """Say whether two answers are the same (the rule of equality of this module).

    Parameters
    ----------
    a, b : str or None
        Answers as written, in either order.
    tol : float
        Numbers may differ by this much, and by a tenth of the larger one.
    """
    letter_a, letter_b = choice(a), choice(b)
    if letter_a and letter_b:
        return letter_a == letter_b
    x, y = read(a), read(b)
    if x is None or y is None:
        return False
    gap = abs(x - y)
    return gap <= tol and (gap <= _NOISE or gap * SHARE <= max(abs(x), abs(y)))


def vote(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer, the earlier one of a tie; None if nobody has an answer.

    Answers count together where their written forms do, so invalid ones have no vote.
    """
    forms = [canonical(answer) or choice(answer) for answer in answers]
    counts = Counter(form for form in forms if form is not None)
    return max(counts, key=counts.__getitem__) if counts else None  # first seen comes first
