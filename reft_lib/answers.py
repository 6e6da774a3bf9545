r"""Read the answer out of a response, and compare answers: the rules every result rests on.

**Finding it.** In words (N-CoT) the answer is what follows the *last* trigger ``Therefore, the
answer is`` (any case; the comma and colon may be missing): the first line with anything on it,
up to its end. An earlier trigger never stands in for the last one, and without a trigger there
is no answer. A program (P-CoT) is run in the sandbox and its result is read by the same rules.

**Reading a number.** A line has a value if it states exactly one number, as a person would:

1. Marks around it are ignored: ``<203>``, ``**18**``, backticks, quotes, ``$...$``,
   ``\boxed{}``, a closing period. The first sentence counts ("18. This is because 9 + 9" is 18).
2. After a calculation the last ``=`` counts ("9 + 9 = 18"); bare arithmetic ("9 + 9") is not a
   number. A remark in brackets after a space is ignored ("18 (9 each)").
3. Thousands separators must stand where they belong: ``1,450`` is 1450; ``1,45`` and ``1 450`` are
   not numbers. The decimal mark is the point: ``18.00``, ``.5``.
4. Signs ``-3``, ``- 3``, the typographic minus, "minus 3", "negative 3", ``-$3`` and ``$-3``.
5. Currency before or after (``$18``, ``US$ 18``, ``18 euros``), units after (``18 apples``,
   ``50 km/h``, ``5kg``), and a short lead ("Tom has 18 apples", "about 18") change nothing. A lead
   or tail that changes the value ("not", "at least", "or", "half", "plus", ...) makes it no answer.
6. ``50%`` is 50: the per cent sign is a unit, as in the data sets' own answers.
7. ``3/4``, ``\frac{3}{4}`` and ``1 3/4`` are fractions; dividing by zero is no answer.
8. ``1e3``, ``1.2 x 10^3``, "3 thousand", "$2.5 million", ``5k``, "2 and a half" are multiplied out.
   "Dozen" and "pair" are units, since a question may ask for either.
9. Number words from zero to ninety-nine count where they open the line ("eighteen apples").
10. Two numbers, lists, ranges, times (3:30), ratios and algebra (2x) are no answer; nor are
    ``nan``, ``inf``, "none" or anything over 200 characters.

**Multiple choice** (``letters=True``): a lone letter A to E, also ``(b)``, ``B.`` or ``b ) 27.5``.

**Equality.** Numbers are equal within 0.01, the bound included; letters whatever their case.
A letter never equals a number, and no answer equals nothing, not even another "none".
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from reft_lib.config import Format
from reft_lib.errors import UserError
from reft_lib.sandbox import Outcome, run_programs

TRIGGER = "\nTherefore, the answer is: "
"""What stands between a chain of thought in words and its answer."""
PROGRAM_SEED = "def solution():"
"""What the prompt of a program ends with, and so what a response continues."""
TOLERANCE = 0.01
"""Numbers this close are the same answer (the official code's rule)."""

Runner = Callable[[list[str]], list[Outcome]]

_TRIGGER = re.compile(r"therefore,?[ \t]+the[ \t]+answer[ \t]+is[ \t]*:?", re.IGNORECASE)
_LONGEST = 200

# Replaced in turn before a line is read: typography, LaTeX, Markdown, angle brackets.
_TIDY: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), new)
    for pattern, new in [
        ("[\u2212\u2010\u2011]", "-"),
        (r"\{,\}", ","),
        ("[\u00a0\u2009\u202f]", " "),
        (r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", r" \1/\2"),
        (r"\\(?:boxed|text|mathrm|mathbf)\{([^{}]*)\}", r"\1"),
        (r"\\([$%])", r"\1"),
        (r"\\[()\[\],;!]", ""),
        (r"\\times|×", "x"),
        (r"\*\*(\S[^*]*)\*\*", r"\1"),
        (r"<([^<>]*)>", r"\1"),
        ('[`"“”]', ""),
    ]
]
_SENTENCE_END = re.compile(r"[.!](?=\s|$)")
_REMARK = re.compile(r"\s\([^()]*\)")

_PLAIN = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(
    r"(?P<sign>[-+] ?)?(?P<currency>[$£€¥₹] ?)?(?P<inner>-)?"
    rf"(?:(?P<whole>[0-9]+) +(?=[0-9]+ ?/))?(?P<value>{_PLAIN})"
    rf"(?: ?/ ?(?P<under>{_PLAIN})| ?[x*] ?10 ?(?:\^|\*\*) ?\{{?(?P<ten>-?[0-9]{{1,3}})\}}?)?"
)
_LEAD_CHARACTERS = re.compile(r"[A-Za-z'’,:#~≈.\s]*")
_TAIL_CHARACTERS = re.compile(r"(?:[A-Za-zÀ-ÖØ-öø-ÿ]|[\s.,'’%°¢$£€¥₹]|[-/](?=[A-Za-z]))*")

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen"""
_UNITS = {word: i for i, word in enumerate(_SMALL.split())}
_LARGE = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * i for i, word in enumerate(_LARGE.split(), start=2)}
_WORD_NUMBER = re.compile(
    rf"(?P<tens>{'|'.join(_TENS)})(?:[- ](?P<unit>{'|'.join(list(_UNITS)[1:10])}))?\b"
    rf"|(?P<small>{'|'.join(_UNITS)})\b",
    re.IGNORECASE,
)
_SCALES = {"k": 1e3, "hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9}
_MINUS = {"minus", "negative"}
# Words that change what a number says: next to one of them there is no plain answer.
_BAD = set("or not half plus minus divided multiplied squared cubed pi either neither".split())
_BAD_LEAD = _BAD | set(
    "no less fewer more under over above below least most than between up nearly almost cannot"
    " never isn't without except times from sqrt root".split()
)
_BAD_TAIL = _BAD | set("third thirds quarter quarters x y z n".split()) | set(_UNITS) | set(_TENS)
_ALGEBRA = {"x", "y", "z", "n", "i", "e"}


def split_answer(text: str) -> tuple[str, str | None]:
    """Split a response in words at its last trigger.

    Returns
    -------
    (str, str or None)
        What stands before the trigger, and the line after it; None where there is no trigger or
        nothing follows it.
    """
    triggers = list(_TRIGGER.finditer(text))
    if not triggers:
        return text, None
    last = triggers[-1]
    lines = text[last.end() :].strip().splitlines()
    return text[: last.start()], lines[0].strip() if lines else None


def _tidy(text: str) -> str:
    """Return the one stretch of a line that should state a number."""
    first = re.search(r"[0-9]|$", text)
    assert first is not None
    if end := _SENTENCE_END.search(text, first.start()):
        text = text[: end.start()]
    if len(text) > _LONGEST:
        return ""
    for pattern, new in _TIDY:
        text = pattern.sub(new, text)
    if re.search(r"[<>!≠]\s*=|=\s*$", text):
        return ""
    text = re.split("[=≈]", text)[-1].strip(" *'")
    if text.startswith(("(", "[")) and text.endswith((")", "]")):
        text = text[1:-1]
    return _REMARK.sub(" ", text).strip()


def _spelt(text: str) -> str:
    """Return the text with a number word at its beginning written in digits."""
    negative = re.match(r"(?:minus|negative)\s+", text, re.IGNORECASE)
    start = negative.end() if negative else 0
    if re.search("[0-9]", text) or not (word := _WORD_NUMBER.match(text, start)):
        return text
    parts = {key: (found or "").lower() for key, found in word.groupdict().items()}
    number = _TENS.get(parts["tens"], 0) + _UNITS.get(parts["unit"] or parts["small"], 0)
    return f"{text[:start]}{number}{text[word.end() :]}"


def _value(found: re.Match[str]) -> float | None:
    """Return the size of a matched number, without its sign."""
    number = float(found["value"].replace(",", ""))
    if found["under"]:
        under = float(found["under"].replace(",", ""))
        if under == 0:
            return None
        number = number / under + float(found["whole"] or 0)
    if found["ten"]:
        number *= float(f"1e{found['ten']}")
    return number


def _lead_sign(lead: str, found: re.Match[str]) -> int | None:
    """Return -1 or 1 as what precedes a number says, or None where it makes it no answer."""
    spaced = (found["sign"] or "").endswith(" ")
    if not _LEAD_CHARACTERS.fullmatch(lead) or (spaced and lead.strip()):
        return None
    # A letter right before it makes another thing of it (x2), but for currencies (US$2, Rs2).
    if lead[-1:].isalpha() and not found["currency"] and not lead.endswith("Rs"):
        return None
    words = re.findall(r"[a-z'’]+", lead.lower())
    minuses = [(found["sign"] or "").startswith("-"), bool(found["inner"])]
    if words and words[-1] in _MINUS:
        words.pop()
        minuses.append(True)
    odd = any(len(word) == 1 and word not in "ai" for word in words)
    if odd or _BAD_LEAD & set(words) or sum(minuses) > 1:
        return None
    return -1 if any(minuses) else 1


def _tail_scale(tail: str) -> tuple[float, float] | None:
    """Return (added, factor) as what follows a number says, or None if it makes it no answer."""
    if not _TAIL_CHARACTERS.fullmatch(tail):
        return None
    attached = re.match(r"[A-Za-z]+", tail)
    words = re.findall(r"[^\W\d_]+", tail.lower())
    if attached and words[0] in _ALGEBRA:
        return None
    added, factor = 0.0, 1.0
    if words[:3] == ["and", "a", "half"]:
        added, words = 0.5, words[3:]
    while words and words[0] in _SCALES and (words[0] != "k" or attached):
        factor *= _SCALES[words.pop(0)]
    return None if _BAD_TAIL & set(words) else (added, factor)


def normalise(text: str | None) -> float | None:
    """Return the one number that a line states, or None (rules 1 to 10 of this module).

    Never raises, whatever the text.
    """
    tidy = _spelt(_tidy(text.strip())) if text else ""
    found = _NUMBER.search(tidy)
    if found is None:
        return None
    sign = _lead_sign(tidy[: found.start()], found)
    scale = _tail_scale(tidy[found.end() :])
    value = _value(found)
    if sign is None or scale is None or value is None:
        return None
    value = sign * (value + scale[0]) * scale[1]
    return value if math.isfinite(value) else None


def choice(text: str | None) -> str | None:
    """Return the letter A to E that a line chooses, in upper case, or None."""
    found = re.fullmatch(r"[<(*\s]*([A-Ea-e])[>*\s]*(?:[).:][>*\s]*(.*))?", text or "")
    if found is None or re.search(r"\b[A-Ea-e]\s?\)", found[2] or ""):
        return None
    return found[1].upper()


def canonical(text: str | None, letters: bool = False) -> str | None:
    """Return an answer in its one written form ("1,450 apples" -> "1450"), None if it is none."""
    if letters and (letter := choice(text)):
        return letter
    value = normalise(text)
    if value is None:
        return None
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.12g}"  # drops the noise of floating point: 0.1 + 0.2 is 0.3


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
        Whether the letters of multiple choice are answers too.

    Raises
    ------
    UserError
        If there is no such format.
    """
    if fmt == "ncot":
        found = [split_answer(text)[1] for text in texts]
    elif fmt == "pcot":
        outcomes = (run or run_programs)([PROGRAM_SEED + text for text in texts])
        found = [outcome.value for outcome in outcomes]
    else:
        raise UserError(f"unknown format {fmt!r}; there are: ncot, pcot")
    return [canonical(answer, letters) for answer in found]


def extract(text: str, fmt: Format, run: Runner | None = None, letters: bool = False) -> str | None:
    """Return the answer of one response; see :func:`extract_many`."""
    return extract_many([text], fmt, run, letters)[0]


def equal(a: str | None, b: str | None, tol: float = TOLERANCE) -> bool:
    """Say whether two answers are the same: numbers within ``tol``, letters whatever their case."""
    letter_a, letter_b = choice(a), choice(b)
    if letter_a or letter_b:
        return letter_a == letter_b
    x, y = normalise(a), normalise(b)
    if x is None or y is None:
        return False
    # 18.01 - 18 is a little over 0.01 in floating point: allow for the last bits.
    slack = 4 * sys.float_info.epsilon * max(1.0, abs(x), abs(y))
    return abs(x - y) <= tol + slack


def vote(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer, the earlier one of a tie; None if nobody has an answer.

    Answers count together where their written forms do, so invalid ones have no vote.
    """
    forms = [canonical(answer, letters=True) for answer in answers]
    counts = Counter(form for form in forms if form is not None)
    return max(counts, key=counts.__getitem__) if counts else None  # first seen comes first
