"""Reading and comparing answers: the table of cases, each with its reason, and properties."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reft_lib import answer_cases, answers
from reft_lib.answer_cases import CASES, VERDICTS, Case, load_cases
from reft_lib.answers import (
    canonical,
    choice,
    equal,
    extract,
    extract_many,
    normalise,
    options,
    pick,
    vote,
)
from reft_lib.errors import UserError
from reft_lib.rewards import AnswerReward, Graded
from reft_lib.sandbox import Outcome

TABLE = load_cases()
NUMBERS = [case for case in TABLE if case.form == "line"]


def name(case: Case) -> str:
    return f"{case.group}: {case.text[:20]}"


def verdict(graded: Graded) -> str:
    return "right" if graded.correct else "wrong" if graded.answer is not None else "none"


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("case", NUMBERS, ids=name)
def test_a_line_is_read_as_a_person_would(case: Case) -> None:
    value = normalise(case.text)
    if case.reads is None:
        assert value is None
    else:
        # Python's own reading of the number in its plain form
        assert value == pytest.approx(float(case.reads), rel=1e-11)


@pytest.mark.parametrize("case", [c for c in TABLE if c.form != "program"], ids=name)
def test_an_answer_is_read_and_judged_as_a_person_would(case: Case) -> None:
    graded = AnswerReward(case.fmt)([case.response], [case.example])[0]
    assert (graded.answer, verdict(graded)) == (case.reads, case.verdict), case.reason


def test_results_of_programs_are_read_and_judged_as_a_person_would() -> None:
    programs = [case for case in TABLE if case.form == "program"]
    graded = AnswerReward("pcot")([c.response for c in programs], [c.example for c in programs])
    for case, got in zip(programs, graded, strict=True):
        assert (got.answer, verdict(got)) == (case.reads, case.verdict), case


def test_judging_all_cases_together_changes_none() -> None:
    # numbers and letters in one batch: each is read as its own question asks
    words = [case for case in TABLE if case.fmt == "ncot"]
    graded = AnswerReward("ncot")([c.response for c in words], [c.example for c in words])
    assert [verdict(g) for g in graded] == [c.verdict for c in words]


@pytest.mark.parametrize("case", NUMBERS, ids=name)
def test_equality_does_not_depend_on_the_order(case: Case) -> None:
    expected = case.verdict == "right"
    assert equal(case.text, case.gold) is equal(case.gold, case.text) is expected


def test_the_table_is_long_and_every_case_has_its_reason() -> None:
    assert len(TABLE) > 300
    for case in TABLE:
        assert case.reason and case.gold and len(case.reason) < 100, case
    assert len({(c.form, c.text, c.gold) for c in TABLE}) == len(TABLE)
    by_verdict = Counter(case.verdict for case in TABLE)
    assert min(by_verdict[v] for v in VERDICTS) >= 15  # all three verdicts are tried


def test_a_case_is_right_only_if_its_number_is() -> None:
    # the table against itself: reads, gold and verdict must tell one story
    for case in NUMBERS:
        if case.reads is None:
            assert case.verdict == "none", case
        else:
            top, _, under = case.gold.partition("/")
            gold = float(top) / float(under or 1)
            gap, size = abs(float(case.reads) - gold), max(abs(float(case.reads)), abs(gold))
            close = gap <= 0.01 + 1e-9 and gap <= 0.1 * size + 1e-9
            # floats cannot tell the large numbers apart
            assert (case.verdict == "right") == close or size >= 2**53, case


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a file"):
        load_cases(tmp_path / "none.jsonl")
    first = CASES.read_text(encoding="utf-8").split("\n")[0]
    for line in ("{", "[]", '{"text": "5"}', first.replace('"right"', '"nearly"')):
        (tmp_path / "cases.jsonl").write_text(first + "\n" + line + "\n")
        with pytest.raises(UserError, match="line 2"):
            load_cases(tmp_path / "cases.jsonl")


# ---------------------------------------------------------------- finding the answer


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


# ---------------------------------------------------------------- equality and votes

PAIRS: list[tuple[str | None, str | None, bool, str]] = [
    ("none", "none", False, "no answer equals nothing"),
    (None, None, False, "no answer equals nothing"),
    (None, "18", False, "no answer is wrong"),
    ("nan", "nan", False, "nan is no answer"),
    ("b", "B", True, "letters whatever their case"),
    ("(B)", "b", True, "letters in brackets"),
    ("A", "B", False, "another letter"),
    ("A", "18", False, "a letter is no number"),
    ("b ) 24", "c ) 24", False, "letters, not what stands beside them"),
    ("b ) 24", "24", True, "a number with the letter of its option"),
]


@pytest.mark.parametrize(("a", "b", "expected", "reason"), PAIRS, ids=[p[3] for p in PAIRS])
def test_equality(a: str | None, b: str | None, expected: bool, reason: str) -> None:
    assert equal(a, b) is expected
    assert equal(b, a) is expected


@settings(max_examples=300, deadline=None)
@given(st.decimals(-(10**6), 10**6, places=3), st.integers(-30, 30))
def test_the_tolerance_is_exact_and_shrinks_near_zero(gold, thousandths) -> None:  # type: ignore[no-untyped-def]
    other = gold + thousandths * type(gold)("0.001")
    gap, size = abs(other - gold), max(abs(other), abs(gold))
    assert equal(str(other), str(gold)) == (100 * gap <= 1 and 10 * gap <= size)


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


# ---------------------------------------------------------------- multiple choice


def test_letters_are_answers_only_where_asked_for() -> None:
    text = "Therefore, the answer is: b"
    assert extract(text, "ncot") is None
    assert extract(text, "ncot", letters=True) == "B"
    assert extract("Therefore, the answer is: 18", "ncot", letters=True) is None


def test_options_are_read_from_the_last_line() -> None:
    question = "of 5 ( a ) and 6 , how many ?\n"
    plain = {"A": "38", "B": "rs . 27.5", "C": "3 / 4"}
    assert options(question + "a ) 38 , b ) rs . 27.5 , c ) 3 / 4") == plain
    assert options(question + "['a ) 38', 'b ) rs . 27.5', 'c ) 3 / 4']") == plain
    assert options("a ) a ) 1,700 , b ) b ) 1,800")["B"] == "b ) 1,800"
    assert options(answer_cases.OPTIONS)["E"] == "none of these"
    for none in ("", "how many ?", "a ) 5", "b ) 5 , c ) 6", "( a ) x\nhow many ?"):
        assert options(none) == {}


def test_a_number_picks_the_one_option_that_states_it() -> None:
    choices = {"A": "12 : 5", "B": "$ 1,354", "C": "5", "D": "5.0", "E": "none of these"}
    assert [pick(t, choices) for t in ("2.4", "1354", "b ) 5", "D")] == ["A", "B", "B", "D"]
    assert [pick(t, choices) for t in ("5", "7", "none of these", None, "")] == [None] * 5
    assert pick("5", {}) is None


# ---------------------------------------------------------------- any text

PIECES = (
    "Therefore, the answer is: |18|-|$|,|.|/|:|=|(|)|<|>|%|e|x|10^| |\n|**|\\frac{1}{0}|\\boxed{|}"
    "|and a half|million|twenty|minus|nan|1,450|B|def|'|\"|\\|\u2212|²|½|π|\x00|\ud800|No|because"
    "|a ) |b ) |１|٣|hundred|third|rs . | : 5".split("|")
)


def check_reading(text: str) -> None:
    """Reading any text raises nothing and gives a finite number, or none."""
    value = normalise(text)
    assert value is None or math.isfinite(value)
    for letters in (False, True):
        found = extract("Therefore, the answer is: " + text, "ncot", letters=letters)
        assert found is None or equal(found, found)
        assert canonical(found, letters) == found  # the written form is read as itself
    extract(text, "ncot")
    choice(text)
    pick(text, options(text))


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


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e90, max_value=1e90))
def test_a_float_is_the_same_answer_as_its_text(x: float) -> None:
    assert equal(canonical(repr(x)), repr(x))


def test_long_lines_take_no_long_time() -> None:
    # a pattern that backtracks would need hours for these
    for text in ("1," * 10**5, "(" * 10**5, "** " * 10**5, "<" * 10**5, "therefore, " * 10**5):
        assert extract("Therefore, the answer is: " + text, "ncot") is None
    for piece in ("1 ", "1,", "a ) ", "one ", "x = ", "<<", "of ", "1:", "therefore "):
        assert extract("Therefore, the answer is: " + piece * 90, "ncot", letters=True) is None
        normalise(piece * 90)
