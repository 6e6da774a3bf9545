"""Number words against a writer of them."""

from __future__ import annotations

import random

import pytest

from reft_lib.answers import normalise
from reft_lib.number_words import spelt

SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
TENS = ["", "", *"twenty thirty forty fifty sixty seventy eighty ninety".split()]


def written(n: int, link: str = " and ") -> str:
    """Write a whole number in words, the other way round from the library."""
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10] + (f"-{SMALL[n % 10]}" if n % 10 else "")
    for size, word in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = f"{link}{written(n % size, link)}" if n % size else ""
            return f"{written(n // size, link)} {word}{rest}"
    raise AssertionError


def test_written_numbers_are_read_back() -> None:
    rng = random.Random(0)
    numbers = [*range(1100), *(rng.randrange(10 ** rng.randrange(4, 9)) for _ in range(500))]
    for n in numbers:
        for text in (written(n), written(n, " "), written(n).capitalize() + " apples."):
            assert normalise(text) == n, text


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("eighteen apples", "18 apples"),
        ("minus three", "minus 3"),
        ("Tom has twelve apples", "Tom has 12 apples"),
        ("two thirds", "2/3"),
        ("a quarter of it", "1/4 of it"),
        ("half", "1/2"),
        ("twelve hundred", "1200"),
        ("five and six", "five and six"),
        ("twenty eleven", "twenty eleven"),
        ("no one", "no one"),
        ("he took half", "he took half"),
        ("eighteen (18)", "eighteen (18)"),
        ("someone often", "someone often"),
        ("twenty-third", "twenty-third"),
        ("", ""),
    ],
)
def test_words_become_digits(text: str, digits: str) -> None:
    assert spelt(text) == digits
