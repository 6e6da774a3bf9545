r"""Read the one number that a line states, as a person would.

A line has a value if it states exactly one number:

1. Marks around it are ignored: ``<203>``, ``**18**``, backticks, quotes, ``$...$``,
   ``\boxed{}``, ``####``, ``a ) 24``, a closing period. The first sentence counts ("18. This is
   because 9 + 9" is 18), unless the next one takes it back ("18. No, 19."); reasons are cut off
   ("18, because ..."), and so is a remark in brackets after a space ("18 (9 each)").
2. After a calculation the last ``=`` counts ("9 + 9 = 18"), or the first part where the last is
   the calculation ("18 = 9 + 9"). Bare arithmetic ("9 + 9") and "17 = 18" are not numbers.
3. Thousands separators must stand where they belong: ``1,450``, ``1 450``, ``1'450`` and the
   Indian ``1,00,000``; ``1,45`` is not a number. The decimal mark is the point: ``18.00``, ``.5``.
4. Signs ``-3``, ``- 3``, the typographic minus, "minus 3", "negative 3", ``-$3`` and ``$-3``.
5. Currency before or after (``$18``, ``Rs. 18``, ``18 euros``), units after (``18 apples``,
   ``36 km / hr``, ``12 cm 2``), and a short lead ("Tom has 18 apples", "about 18") change nothing.
   A lead or tail that changes the value ("not", "at least", "or", "twice", "plus") makes it none.
6. ``50%`` is 50: the per cent sign is a unit, as in the data sets' own answers.
7. ``3/4``, ``\frac{3}{4}`` and ``1 3/4`` are fractions; so is a ratio, ``3 : 4``, but for times
   of day (``5:00`` is 5, ``5:30`` no number). Dividing by zero is no answer.
8. ``1e3``, ``1.2 x 10^3``, "3 thousand", "$2.5 million", ``5k``, "2 and a half" are multiplied out.
   "Dozen", "pair" and "quarters" are units, since a question may ask for either.
9. Number words count ("two hundred and five", "three quarters") where no digit stands in the line.
10. Two numbers, lists, ranges and algebra (2x) are no answer; nor are ``nan``, ``inf``, "none",
    numbers of more than 100 digits, or anything over 200 characters.

Values are exact fractions, so that ``18.01`` is one hundredth from 18 and large numbers differ.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from reft_lib.number_words import COUNT, COUNTS, PARTS, SCALES, spelt

LONGEST = 200
"""Characters of the longest stretch of text that is taken for an answer."""
_SEEN = 2000  # characters of a line that are looked at
_TOO_LARGE = 10**100

# ---------------------------------------------------------------- characters and marks

_CHARACTERS: dict[int, int | str] = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},  # full-width forms
    **dict.fromkeys(map(ord, "\u2212\u2010\u2011\uff0d"), "-"),
    **dict.fromkeys(map(ord, "\u00a0\u2009\u202f\u3000"), " "),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), ""),  # not to be seen
    **dict.fromkeys(map(ord, "\u2044\u2215"), "/"),
    **dict.fromkeys(map(ord, '`"“”'), ""),
    **{ord("∶"): ":", ord("。"): ".", ord("…"): " ", ord("’"): "'"},
}
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_LENGTHS = r"mm|cm|km|m|ft|feet|foot|inch(?:es)?|yards?|met(?:er|re)s?|units?"

# Replaced in turn before a line is read: special tokens, LaTeX, Markdown, angle brackets, units.
_TIDY: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), new)
    for pattern, new in [
        (r"<\|[^<>|]*\|>|</?(?:answer|s|eos|bos|pad|b|em|strong)>", " "),
        (r"<<[^<>]*>>(?=\s*[$]?[0-9])", ""),
        (r"\{,\}", ","),
        (r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r" \1/\2"),
        (r"\\[dt]?frac([0-9])([0-9])", r" \1/\2"),
        (r"\\(?:boxed|text|mathrm|mathbf)\{([^{}]*)\}", r"\1"),
        (r"\^\{?\\circ\}?", "°"),
        (r"\\([$%])", r"\1"),
        (r"\\[()\[\],;! ]", ""),
        (r"\\(?:times|cdot)|[×·]", "x"),
        (r"\\approx", "≈"),
        (r"\*\*(\S[^*]*)\*\*", r"\1"),
        (r"<<?([^<>]*)>>?", r"\1"),
        (r"[=-]>|→|⇒|==+", "="),
        ("–(?= ?[$£€]?[0-9.])", "-"),
        (rf"(?<![A-Za-z])({_LENGTHS})(?:[²³]|\s?\^?\s?\{{?[23]\}}?)(?=[\s.]*$)", r"\1"),
        (r"\s*/\s*-\s*$", ""),  # Rs. 750/-
        (r"(?:(?<![A-Za-z])[Rr]?s ?\. ?|(?<![A-Za-z'])[Rr]?s ?)(?=-? ?[0-9])", "$"),
        (r"^(?:\(?[A-Ea-e] ?\) ?)+(?=\S)", ""),  # the letter of an option before its number
    ]
]
_SENTENCE_END = re.compile(r"[.!](?=\s|$)")
_TAKEN_BACK = re.compile(
    r"^\W*(?:wait|no\b\W|or\b|actually|correction|sorry|oops|rather|[0-9.,]+\W*$)"
    r"|\b(?:wrong|mistake|incorrect)\b",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"(?<!\bwell),?\s(?:because|since|as(?!\s+well)|which is)\s.*", re.IGNORECASE | re.DOTALL
)
_REMARK = re.compile(r"\s\((?![^()]*\b(?:or|not|no|maybe)\b)[^()]*\)")
_SECOND_NUMBER = re.compile(r"[0-9].*\(\s*-?[0-9.,]+\s*\)")
# Two statements, and so perhaps two numbers: x = 18 or x = 19.
_SEVERAL = re.compile(r"\b[a-z] ?=.*\b[a-z] ?=|=.*\bor\b|\bor\b.*=")

# ---------------------------------------------------------------- numbers

_WHOLE = (
    r"[0-9]{1,3}(?: ?, ?[0-9]{3})+(?![0-9])|[0-9]{1,3}(?:[' ][0-9]{3})+(?![0-9])"
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]+"
)
_PLAIN = rf"(?:(?:{_WHOLE})(?:\.[0-9]+)?|(?<![A-Za-z])\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?"
_NUMBER = re.compile(
    r"(?P<sign>[-+] ?)?(?P<currency>[$£€¥₹] ?)?(?P<inner>- ?)?"
    rf"(?:(?P<whole>[0-9]+) +(?=[0-9]+ ?/ ?[0-9]))?(?P<value>{_PLAIN})"
    rf"(?: ?/ ?(?P<under>{_PLAIN})|(?P<colon> : |:)(?P<ratio>{_PLAIN})"
    r"| ?[x*] ?10 ?(?:\^|\*\*) ?\{?(?P<ten>-?[0-9]{1,3})\}?)?"
)
_LEAD_CHARACTERS = re.compile(r"[A-Za-z',:#~≈.•*\s]*")
_TAIL_CHARACTERS = re.compile(
    r"(?:[A-Za-zÀ-ÖØ-öø-ÿ]|[\s.,'%°¢$£€¥₹]|/(?= ?[A-Za-z])|-(?=[A-Za-z]))*"
)
# What may stand right of a number in an equation: a variable, or a calculation.
_CALCULATION = re.compile(r"[a-z]|[0-9 .()]+[-+*/x][-0-9 .()+*/x]+")
_CLOCK = re.compile(r"\s*[ap]\s?\.?\s?m\b", re.IGNORECASE)

_SHORT = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "mn": 10**6, "bn": 10**9}
_FIRST = re.compile(rf"[0-9]|\b{COUNT}|$", re.IGNORECASE)

_MINUS = {"minus", "negative"}
# Words that change what a number says: next to one of them there is no plain answer.
_BAD = set(
    "or not half plus minus divided multiplied squared cubed pi either neither wrong incorrect"
    " false impossible".split()
)
_BAD_LEAD = _BAD | set(
    "no less fewer more under over above below least most than between up nearly almost cannot"
    " never without except times from sqrt root twice thrice double triple past"
    " log ln sin cos tan".split()
)
_BAD_TAIL = _BAD | set("x y z n too factorial hundredth hundredths thousandth thousandths".split())
_BAD_TAIL |= set(COUNTS) | set(PARTS) - {"quarters"}
_PART_OF = re.compile(
    rf"\b(?:percent|cent|{'|'.join([*PARTS, *COUNTS])})\s+(?:of|in|out\s+of)(?:\s+(?:the|all))?"
    r"\s*$",
    re.IGNORECASE,
)
_VARIABLES = set("a b e i j n q r u x y z".split())


@lru_cache(maxsize=2**13)  # votes and comparisons read the same few answers again and again
def read(text: str | None) -> Fraction | None:
    """Return the one number that a line states, exactly, or None (the rules of this module).

    Never raises, whatever the text.
    """
    stretch = _first_sentence(plain_characters((text or "").strip()[:_SEEN]))
    if len(stretch) > LONGEST:
        return None
    for pattern, new in _TIDY:
        stretch = pattern.sub(new, stretch)
    if re.search(r"[<>!≠≤≥]\s*=|=\s*$", stretch) or _SEVERAL.search(stretch):
        return None
    parts = [part.strip(" *'#_") for part in re.split("[=≈]", stretch)]
    return _agreed(parts)


def shorten(value: float) -> str:
    """Return a number without the noise of floating point: 0.1 + 0.2 is 0.3."""
    return f"{value + 0.0:.12g}" if abs(value) < 1e9 else f"{value:.15g}"


def plain_characters(text: str) -> str:
    """Return the text with characters that only look different replaced."""
    text = text.translate(_CHARACTERS)
    text = re.sub("[¼-¾⅐-⅞]", lambda m: " " + unicodedata.normalize("NFKC", m[0]), text)
    text = text.replace("\u2044", "/")
    if not re.search("[0-9]", text):  # another script's digits, but no mixture
        text = re.sub(r"\d", lambda m: str(unicodedata.decimal(m[0])), text)
    return re.sub("(?<=10)[⁰¹²³⁴-⁹⁻]+", lambda m: "^" + m[0].translate(_SUPERSCRIPT), text)


def _first_sentence(text: str) -> str:
    """Return the sentence with the first number, without its reasons; "" if it is taken back."""
    text = re.sub(r"\.{2,}", " ", text)
    first = _FIRST.search(text)
    assert first is not None  # the pattern also finds the end
    if end := _SENTENCE_END.search(text, first.start()):
        if _TAKEN_BACK.search(text[end.end() :]):
            return ""
        text = text[: end.start()]
    if reason := _REASON.search(text, first.start()):
        text = text[: reason.start()]
    return text


def _agreed(parts: list[str]) -> Fraction | None:
    """Return the value of an equation's parts: the last one's, or the one that is calculated."""
    *before, last = map(_number, parts)
    if last is None and before and _CALCULATION.fullmatch(parts[-1]):
        return before[0]
    if before and before[-1] is not None and last is not None:
        bare = all(re.fullmatch(r"-?[0-9.,]+", part) for part in parts[-2:])
        if bare and abs(before[-1] - last) > Fraction(1, 2):
            return None  # 17 = 18
    return last


def _number(text: str) -> Fraction | None:
    """Return the number that one side of an equation states."""
    if text.startswith(("(", "[", "{")) and text.endswith((")", "]", "}")):
        text = text[1:-1]
    if _SECOND_NUMBER.search(text):
        return None
    text = spelt(_REMARK.sub(" ", text).strip())
    found = _NUMBER.search(text)
    if found is None:
        return None
    lead, tail = text[: found.start()], text[found.end() :]
    sign = _lead_sign(lead, found)
    scale = _tail_scale(tail, found["currency"] is not None)
    value = _value(found, tail)
    if sign is None or scale is None or value is None:
        return None
    value = sign * (value + scale[0]) * scale[1]
    return value if abs(value) < _TOO_LARGE else None


def _literal(text: str) -> Fraction | None:
    """Return the value of digits with separators, point and exponent."""
    text = re.sub("[, ']", "", text)
    if "." in text or "e" in text.lower():
        digits = re.sub("[eE].*|[.]", "", text).lstrip("0")
        if len(digits) > 15:  # a float printed in full: its last digits are noise
            text = shorten(float(text))
    return Fraction(text) if "inf" not in text else None


def _value(found: re.Match[str], tail: str) -> Fraction | None:
    """Return the size of a matched number, without its sign."""
    number = _literal(found["value"])
    if number is None:
        return None
    if found["ten"]:
        return number * Fraction(10) ** int(found["ten"])
    if found["ratio"]:
        minutes = re.fullmatch("[0-5][0-9]", found["ratio"]) is not None and number <= 24
        tight = found["colon"] == ":" or found["ratio"] == "00" or _CLOCK.match(tail)
        if minutes and tight:
            return number if found["ratio"] == "00" else None
    if below := found["under"] or found["ratio"]:
        under = _literal(below)
        if not under:
            return None
        number = number / under + Fraction(found["whole"] or 0)
    return number


def _lead_sign(lead: str, found: re.Match[str]) -> int | None:
    """Return -1 or 1 as what precedes a number says, or None where it makes it no answer."""
    spaced = (found["sign"] or "").endswith(" ")
    if not _LEAD_CHARACTERS.fullmatch(lead) or (spaced and lead.strip(" *•:")):
        return None
    # A letter right before it makes another thing of it (x2), but for currencies (US$2).
    if lead[-1:].isalpha() and not found["currency"]:
        return None
    words = re.findall(r"[a-z']+", lead.lower())
    minuses = [(found["sign"] or "").startswith("-"), bool(found["inner"])]
    if words and words[-1] in _MINUS:
        words.pop()
        minuses.append(True)
    odd = any(len(word) == 1 and word not in "ai" or word.endswith("n't") for word in words)
    if odd or _BAD_LEAD & set(words) or _PART_OF.search(lead) or sum(minuses) > 1:
        return None
    return -1 if any(minuses) else 1


def _tail_scale(tail: str, money: bool) -> tuple[Fraction, int] | None:
    """Return (added, factor) as what follows a number says, or None if it makes it no answer."""
    if not _TAIL_CHARACTERS.fullmatch(tail):
        return None
    words = re.findall(r"[^\W\d_]+", tail)
    attached = words[0] if words and tail.startswith(words[0]) else ""
    if attached.lower() in _VARIABLES:
        return None
    added, factor = Fraction(0), 1
    if attached in _SHORT or (money and attached in ("m", "b")):
        factor, words = _SHORT[attached if attached in _SHORT else attached.upper()], words[1:]
    words = [word.lower() for word in words]
    if words[:3] == ["and", "a", "half"]:
        added, words = Fraction(1, 2), words[3:]
    while words and words[0] in SCALES:
        factor *= SCALES[words.pop(0)]
    return None if _BAD_TAIL & set(words) else (added, factor)
