"""Number words: "two hundred and five apples" becomes "205 apples".

Only lines without a digit are touched, and only their first number word; what its reading leaves
over ("five and six") is no number. "One" and "half" must open the line: inside it, "one" is a
pronoun more often than a number.
"""

from __future__ import annotations

import re

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen"""
_LARGE = "twenty thirty forty fifty sixty seventy eighty ninety"
COUNTS = {word: i for i, word in enumerate(_SMALL.split())}
"""Number words below a hundred and their values."""
COUNTS |= {word: 10 * i for i, word in enumerate(_LARGE.split(), start=2)}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that multiply what stands before them."""
SCALES |= {"lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7, "hundred": 100}
ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth".split()
"""Words that divide what stands before them, from a third to a tenth."""
PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
"""Words of fractions and their denominators."""
PARTS |= {w + s: i for i, w in enumerate(ORDINALS, start=3) for s in ("", "s")}


def _any(words: list[str]) -> str:
    return rf"(?:{'|'.join(sorted(words, key=len, reverse=True))})\b"


COUNT = _any(list(COUNTS))
"""Pattern of one number word below a hundred."""
_SCALE, _PART = _any(list(SCALES)), _any(list(PARTS))
_SPELT = re.compile(
    rf"\b(?P<count>(?:{COUNT}|an?\s(?={_SCALE}))(?:[\s-]*{_SCALE})?"
    rf"(?:[\s-]+(?:and\s+)?(?:{COUNT}|{_SCALE}))*)(?:[\s-]+(?P<part>{_PART}))?"
    rf"|\b(?:an?\s(?P<one>{_PART})|half\b)",
    re.IGNORECASE,
)


def spelt(text: str) -> str:
    """Return a line with its number word written in digits, if it has no digit already."""
    if re.search("[0-9]", text) or not (found := _SPELT.search(text)):
        return text
    sign = re.match(r"(?:minus|negative)\s+", text, re.IGNORECASE)
    inside = found.start() > (sign.end() if sign else 0)
    if found["count"] is None:
        number, under = 1, PARTS[(found["one"] or "half").lower()]
    else:
        words = re.findall("[a-z]+", found["count"].lower())
        number, under = _added(words), PARTS.get((found["part"] or "").lower(), 1)
    # "Two thirds" is a fraction, "twenty-third" a position.
    position = number != 1 and found["part"] is not None and not found["part"].endswith("s")
    if number < 0 or position or (inside and number < 2):
        return text
    digits = f"{number}/{under}" if under > 1 else str(number)
    return f"{text[: found.start()]}{digits}{text[found.end() :]}"


def _added(words: list[str]) -> int:
    """Return what number words add up to, or -1 if they are not one number."""
    total = current = 0
    for word in words:
        if word in ("a", "an"):
            current += 1
        elif word in COUNTS:
            value = COUNTS[word]
            tens = current % 100 >= 20 and current % 10 == 0 and value < 10
            if not (current % 100 == 0 or tens) or (value == 0 and len(words) > 1):
                return -1
            current += value
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word != "and":
            total, current = total + max(current, 1) * SCALES[word], 0
    return total + current
