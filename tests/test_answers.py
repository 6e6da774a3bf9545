"""Reading and comparing answers: a table of cases, each with its reason, and properties."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reft_lib import answers
from reft_lib.answers import canonical, choice, equal, extract, extract_many, normalise, vote
from reft_lib.errors import UserError
from reft_lib.sandbox import Outcome

LINES: list[tuple[str, float | None, str]] = [
    # plain numbers
    ("42", 42, "a whole number"),
    ("18.00", 18, "decimals that say nothing"),
    ("18.50", 18.5, "decimals that say something"),
    (".5", 0.5, "no digit before the point"),
    ("0", 0, "zero is an answer"),
    ("007", 7, "leading zeros"),
    ("  42 ", 42, "spaces around"),
    ("42.", 42, "the period ends the sentence"),
    ("18.00.", 18, "decimal point and period"),
    ("+5", 5, "a plus sign"),
    ("1e3", 1000, "scientific notation"),
    ("1.5E-2", 0.015, "scientific notation, negative exponent"),
    ("1.2 x 10^3", 1200, "a power of ten written out"),
    ("1.2 × 10^{3}", 1200, "the same, typeset"),
    ("12*10**2", 1200, "the same, as a program writes it"),
    # signs
    ("-3", -3, "a minus sign"),
    ("- 3", -3, "a minus sign and a space"),
    ("\u22123", -3, "the typographic minus"),
    ("minus 3", -3, "the sign as a word"),
    ("negative 3 degrees", -3, "the sign as a word, a unit"),
    ("-$3", -3, "sign before the currency"),
    ("$-3", -3, "sign after the currency"),
    ("--3", None, "two signs are a slip"),
    ("minus -3", None, "two signs are a slip, in words too"),
    ("Tom has -3", -3, "a sign after words"),
    ("total - 3", None, "this is a subtraction"),
    # thousands
    ("1,450", 1450, "a thousands separator"),
    ("1,234,567.5", 1234567.5, "several of them and decimals"),
    ("$1,450", 1450, "with a currency"),
    ("1,45", None, "no group of three: 145 or 1.45?"),
    ("14,50", None, "a decimal comma, or a list"),
    ("1450,000", None, "the first group is too long"),
    ("1 450", None, "two numbers"),
    ("1.450,00", None, "continental notation cannot be told from a slip"),
    ("1,2,3", None, "a list"),
    # currency and units
    ("$18", 18, "a currency before"),
    ("$ 18", 18, "a currency and a space"),
    ("18$", 18, "a currency after"),
    ("US$18", 18, "a currency with letters"),
    ("Rs. 18", 18, "a currency in letters with a period"),
    ("€18.50", 18.5, "another currency"),
    ("18 dollars", 18, "a currency as a word"),
    ("18 apples", 18, "a unit"),
    ("18 apples.", 18, "a unit and a period"),
    ("18 more apples", 18, "what was asked for may be a difference"),
    ("18 times", 18, "a unit, as in: how many times"),
    ("5kg", 5, "a unit without a space"),
    ("50 km/h", 50, "a unit with a slash"),
    ("60 miles per hour", 60, "a unit of several words"),
    ("12 square metres", 12, "a unit of several words"),
    ("18 o'clock", 18, "an apostrophe in the unit"),
    ("a 5 year-old", 5, "a hyphen in the unit"),
    ("2 dozen eggs", 2, "dozen is a unit here"),
    ("50%", 50, "the per cent sign is a unit"),
    ("17.6 percent", 17.6, "per cent in words"),
    ("50\\%", 50, "per cent in LaTeX"),
    # fractions
    ("3/4", 0.75, "a fraction"),
    ("-3/4", -0.75, "a negative fraction"),
    ("3 / 4", 0.75, "spaces in a fraction"),
    ("1 3/4", 1.75, "a mixed number"),
    ("-1 1/2", -1.5, "a negative mixed number"),
    ("\\frac{3}{4}", 0.75, "a fraction in LaTeX"),
    ("1\\frac{1}{2}", 1.5, "a mixed number in LaTeX"),
    ("2 and a half", 2.5, "a half in words"),
    ("3/0", None, "dividing by zero"),
    ("1/2/3", None, "not a fraction but a date or a slip"),
    # scales and number words
    ("3 thousand", 3000, "a scale"),
    ("$2.5 million", 2.5e6, "a currency and a scale"),
    ("5k", 5000, "a short scale"),
    ("3 hundred thousand", 300000, "two scales"),
    ("eighteen", 18, "a number word"),
    ("Twenty-five apples", 25, "a number word of two parts and a unit"),
    ("zero", 0, "zero in words"),
    ("two hundred", 200, "a number word and a scale"),
    ("two hundred five", None, "longer number words are not read: better none than 200"),
    ("one third", None, "a fraction in words is not read: better none than 1"),
    # marks around
    ("<203>", 203, "the annotations of SVAMP"),
    ("<203>.", 203, "the same with a period"),
    ("<6%>.", 6, "the same with a unit"),
    ("**18**", 18, "bold"),
    ("18**", 18, "the end of a bold sentence"),
    ("**$18** per day", 18, "bold in a sentence"),
    ("`18`", 18, "code"),
    ('"18"', 18, "quotes"),
    ("(18)", 18, "brackets"),
    ("$18$", 18, "mathematics"),
    ("\\boxed{18}", 18, "boxed"),
    ("$\\boxed{1{,}450}$", 1450, "boxed, LaTeX's comma"),
    ("18 \\text{ apples}", 18, "a unit in LaTeX"),
    ("\\$18", 18, "an escaped dollar"),
    ("#### 18", 18, "the marks of GSM8K"),
    # sentences and calculations
    ("Tom has 18 apples", 18, "a short lead"),
    ("about 18", 18, "a lead that leaves the number as it is"),
    ("≈ 3.33", 3.33, "approximately"),
    ("x = 18", 18, "an equation"),
    ("9 + 9 = 18", 18, "the result of a calculation"),
    ("9 + 9 = 18 apples", 18, "the result of a calculation with a unit"),
    ("18 = 9 + 9", None, "the last part of the equation is no number"),
    ("9 + 9", None, "arithmetic left undone"),
    ("18. This is because 9 + 9 = 18.", 18, "the first sentence"),
    ("18 apples! That is 9 and 9.", 18, "the first sentence, exclaimed"),
    ("18 (9 each)", 18, "a remark in brackets"),
    ("18(2)", None, "a product"),
    # more than one number, or none
    ("18 or 19", None, "two numbers"),
    ("18 or so", None, "says that it is not sure"),
    ("18-19", None, "a range"),
    ("between 5 and 8", None, "a range in words"),
    ("16 apples and 4 pears", None, "two numbers: which?"),
    ("2 hours 30 minutes", None, "two numbers make one quantity"),
    ("3:30", None, "a time of day"),
    ("3:1", None, "a ratio"),
    ("1.2.3", None, "a version"),
    ("2x", None, "algebra"),
    ("x2", None, "a name"),
    ("2 x", None, "algebra with a space"),
    ("18 - x", None, "algebra, a difference"),
    ("2^3", None, "a power left undone"),
    ("5²", None, "the same, typeset"),
    ("2π", None, "a multiple of pi"),
    ("2 pi", None, "a multiple of pi in words"),
    ("√2", None, "a root"),
    ("5!", 5, "an exclamation, hardly a factorial"),
    ("18?", None, "a question is no answer"),
    ("0x10", None, "hexadecimal"),
    ("1_000", None, "a program's way to write it"),
    ("<5 or >7", None, "bounds"),
    ("x >= 18", None, "a bound"),
    ("not 18", None, "denied"),
    ("at least 18", None, "a bound in words"),
    ("less than 18", None, "a bound in words"),
    ("half of 18", None, "another number than the one written"),
    ("18 squared", None, "another number than the one written"),
    ("18 and a quarter", None, "another number than the one written"),
    # no numbers
    ("", None, "nothing"),
    (".", None, "only a period"),
    ("none", None, "the official code gives this 0.1"),
    ("None", None, "what a failing program becomes there"),
    ("nan", None, "not a number, 0.1 there as well"),
    ("inf", None, "not finite"),
    ("-inf", None, "not finite"),
    ("1e999", None, "overflows to infinity"),
    ("apples", None, "a unit without a number"),
    ("$", None, "a currency without a number"),
    ("no apples", None, "words for zero are not guessed"),
    ("A", None, "a letter is no number"),
    ("٣", None, "other scripts' digits are not read"),
    ("18٣", None, "nor after others"),
    ("5 " + "very " * 50 + "large apples", None, "too long to be an answer"),
]


@pytest.mark.parametrize(("line", "expected", "reason"), LINES, ids=[c[0][:20] for c in LINES])
def test_line_is_read_as_a_person_would(line: str, expected: float | None, reason: str) -> None:
    value = normalise(line)
    assert value == pytest.approx(expected, rel=1e-12) if expected is not None else value is None


RESPONSES: list[tuple[str, str | None, str]] = [
    ("9 + 9 = 18\nTherefore, the answer is: 18", "18", "the format itself"),
    ("9 + 9 = 18\n\nTherefore, the answer is <18>.", "18", "SVAMP's annotations"),
    ("Therefore, the answer is: 18\n\nQuestion: 5?", "18", "what comes on later lines is ignored"),
    ("Therefore, the answer is: 7\nTherefore, the answer is: 8", "8", "the last trigger counts"),
    ("Therefore, the answer is: 7 Therefore, the answer is: 8", "8", "also on one line"),
    ("Therefore, the answer is: 7\nTherefore, the answer is:", None, "cut off after the last one"),
    ("Therefore, the answer is: 7\nTherefore, the answer is: oh", None, "no fallback to earlier"),
    ("Therefore, the answer is:\n18", "18", "the answer on a line of its own"),
    ("therefore the answer is 18", "18", "case, comma and colon do not matter"),
    ("**Therefore, the answer is: 18**", "18", "the whole sentence in bold"),
    ("Therefore, the answer is: 1,450", "1450", "ledger: earned 0 in the official code"),
    ("Therefore, the answer is: $18", "18", "ledger: earned 0 in the official code"),
    ("Therefore, the answer is: none", None, "ledger: no partial reward for it"),
    ("Therefore, the answer is: nan", None, "ledger: no partial reward for it"),
    ("Therefore, Tom has 18.", None, "therefore alone is no trigger"),
    ("The answer is: 18", None, "nor is the second half"),
    ("18", None, "no trigger, no answer"),
    ("", None, "nothing at all"),
    ("Therefore, the answer is: 18<|im_end|>", None, "special tokens belong to the decoder"),
]


@pytest.mark.parametrize(("text", "expected", "reason"), RESPONSES, ids=[c[2] for c in RESPONSES])
def test_answer_is_found_in_words(text: str, expected: str | None, reason: str) -> None:
    assert extract(text, "ncot") == expected


PROGRAMS: list[tuple[str, str | None, str]] = [
    ("\n    return 9 + 9", "18", "an int"),
    ("\n    return 36 / 2", "18", "a float"),
    ("\n    return 0.1 + 0.2", "0.3", "the noise of floating point is no part of the answer"),
    ("\n    return '18 apples'", "18", "a string is read like a line"),
    ("\n    return 18 > 3", None, "a truth value is no number"),
    ("\n    return None", None, "ledger: 'none' earned 0.1"),
    ("\n    return float('nan')", None, "ledger: nan earned 0.1"),
    ("\n    return 1 / 0", None, "an exception"),
    ("\n    return 18\nTherefore", None, "not Python"),
    (" return 18", "18", "the body may stand on the first line"),
    ("\n    pass", None, "returns nothing"),
]


def test_answers_of_programs_are_found_in_one_batch() -> None:
    found = extract_many([text for text, _, _ in PROGRAMS], "pcot")
    assert found == [expected for _, expected, _ in PROGRAMS]


def test_runner_gets_whole_programs_in_one_call() -> None:
    calls: list[list[str]] = []

    def run(sources: list[str]) -> list[Outcome]:
        calls.append(sources)
        return [Outcome(True, "7.0", None) for _ in sources]

    assert extract_many(["\n    return 7", " return 7"], "pcot", run=run) == ["7", "7"]
    assert calls == [["def solution():\n    return 7", "def solution(): return 7"]]


def test_unknown_format_is_named() -> None:
    with pytest.raises(UserError, match="'words'.*ncot, pcot"):
        extract("18", "words")  # type: ignore[arg-type]


def test_text_before_the_trigger_is_kept_apart() -> None:
    assert answers.split_answer("a\nTherefore, the answer is: 5\nb") == ("a\n", "5")
    assert answers.split_answer("no trigger") == ("no trigger", None)


EQUAL: list[tuple[str | None, str | None, bool, str]] = [
    ("18", "18.00", True, "the same number"),
    ("18.01", "18", True, "the tolerance includes its bound"),
    ("17.99", "18", True, "on the other side too"),
    ("1450.01", "1450", True, "also where floating point makes it a little more"),
    ("18.0101", "18", False, "just outside"),
    ("0.333", "1/3", True, "a rounded fraction"),
    ("1,450", "1450", True, "separators do not matter"),
    ("-3", "3", False, "the sign does"),
    ("1e15", "1000000000000001", False, "the slack does not swallow large numbers"),
    ("none", "none", False, "no answer equals nothing"),
    (None, None, False, "no answer equals nothing"),
    (None, "18", False, "no answer is wrong"),
    ("nan", "nan", False, "nan is no answer"),
    ("b", "B", True, "letters whatever their case"),
    ("(B)", "b", True, "letters in brackets"),
    ("A", "B", False, "another letter"),
    ("A", "18", False, "a letter is no number"),
    ("18", "A", False, "a number is no letter"),
]


@pytest.mark.parametrize(("a", "b", "expected", "reason"), EQUAL, ids=[c[3] for c in EQUAL])
def test_equality(a: str | None, b: str | None, expected: bool, reason: str) -> None:
    assert equal(a, b) is expected


CHOICES = [
    ("b", "B"), ("(b)", "B"), ("B.", "B"), ("b ) 27.675", "B"), ("**C**", "C"), ("<a>", "A"),
    ("f", None), ("ab", None), ("a boy", None), ("b ) 2 , c ) 3", None), ("18", None), ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CHOICES)
def test_letters_of_multiple_choice(text: str, expected: str | None) -> None:
    assert choice(text) == expected


def test_letters_are_answers_only_where_asked_for() -> None:
    text = "Therefore, the answer is: b"
    assert extract(text, "ncot") is None
    assert extract(text, "ncot", letters=True) == "B"


VOTES: list[tuple[list[str | None], str | None]] = [
    (["5", "7", "7.0"], "7"),
    ([None, None, "none", "5"], "5"),  # the invalid ones are more, and do not count
    (["5", "7"], "5"),  # a tie goes to the first seen
    (["7", "5", "5", "7"], "7"),
    (["1,450", "1450", "3"], "1450"),
    (["0.30000000000000004", "0.3", "1"], "0.3"),
    (["b", "A", "B"], "B"),
    ([None], None),
    ([], None),
]


@pytest.mark.parametrize(("votes", "expected"), VOTES)
def test_majority_vote(votes: list[str | None], expected: str | None) -> None:
    assert vote(votes) == expected


PIECES = (
    "Therefore, the answer is: |18|-|$|,|.|/|=|(|)|<|>|%|e|x|10^| |\n|**|\\frac{1}{0}|\\boxed{|}"
    "|and a half|million|twenty|minus|nan|1,450|B|def|'|\"|\\|\u2212|²|π|\x00|\ud800".split("|")
)


def check_reading(text: str) -> None:
    """Reading any text raises nothing and gives a finite number, or none."""
    value = normalise(text)
    assert value is None or math.isfinite(value)
    found = extract("Therefore, the answer is: " + text, "ncot", letters=True)
    assert found is None or equal(found, found)
    extract(text, "ncot")
    choice(text)


def test_ten_thousand_made_texts_are_read() -> None:
    rng = random.Random(0)  # quicker than hypothesis, whose smaller share comes next
    for _ in range(5000):
        check_reading("".join(rng.choices(PIECES, k=rng.randrange(25))))
        check_reading("".join(chr(rng.randrange(400)) for _ in range(rng.randrange(100))))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
@example("9" * 5000)
@example("(" * 3000)
@example("1," * 3000)
def test_texts_that_hypothesis_finds_are_read(text: str) -> None:
    check_reading(text)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(-(10**12), 10**12), st.floats(-1e9, 1e9).map(lambda x: round(x, 3))))
def test_written_numbers_are_read_back(number: float) -> None:
    for text in (f"{number:,}", f"<{number}>.", f"{number} apples", f"= {number}", f"**{number}**"):
        assert normalise(text) == pytest.approx(float(number))
        assert canonical(canonical(text)) == canonical(text)
        assert equal(canonical(text), text)


def test_long_lines_take_no_long_time() -> None:
    # a pattern that backtracks would need hours for these
    for text in ("1," * 10**5, "(" * 10**5, "** " * 10**5, "<" * 10**5, "therefore, " * 10**5):
        assert extract("Therefore, the answer is: " + text, "ncot") is None
