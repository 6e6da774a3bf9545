"""Programs built from solutions in words, by hand-worked cases and properties."""

from __future__ import annotations

import ast
import itertools
import random

import pytest

from reft_lib.derivation import (
    Step,
    assemble,
    name_of,
    needed,
    numbers_in,
    parse,
    plain_arithmetic,
    program,
    steps_in,
    value_of,
)
from reft_lib.sandbox import run_programs


def body(*lines: str) -> str:
    return "".join(f"\n    {line}" for line in lines)


CASES = [
    (
        "earlier results become variables, named by the words after them",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
        "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.",
        "She sold clips to 48 friends in April, and half as many in May.",
        "72",
        body(
            "clips_in_may = 48 / 2",
            "clips_altogether = 48 + clips_in_may",
            "return clips_altogether",
        ),
    ),
    (
        "money, and a step that the answer does not rest on",
        "He has $<<5*2=10>>10. He owes $<<3*4=12>>12. She pays 10+1 = $<<10+1=11>>11 a day.",
        "How much?",
        "11",
        body("dollars = 5 * 2", "dollars_a_day = dollars + 1", "return dollars_a_day"),
    ),
    (
        "the name before the reason",
        "There are 120 students because 8 x 15 = <<8*15=120>>120\n"
        "There are 60 boys because 120 / 2 = <<120/2=60>>60",
        "8 rooms of 15?",
        "60",
        body("students = 8 * 15", "boys = students / 2", "return boys"),
    ),
    (
        "what is said to be worked out",
        "The total number of ladybugs is 8 + 5 = <<8+5=13>>13",
        "?",
        "13",
        body("number_of_ladybugs = 8 + 5", "return number_of_ladybugs"),
    ),
    (
        "two equal results: each is used once, the earlier one first",
        "Blue: 5*2=<<5*2=10>>10 fish. Red: 20/2=<<20/2=10>>10 birds. 10+10=<<10+10=20>>20 animals.",
        "?",
        "20",
        body("fish = 5 * 2", "birds = 20 / 2", "animals = fish + birds", "return animals"),
    ),
    (
        "a used result that the question gives too stands as a number",
        "He has 4-1=<<4-1=3>>3 cats. He has 3*2=<<3*2=6>>6 dogs. Then 6+3=<<6+3=9>>9 pets.",
        "He has 4 cats, loses 1 and finds 3 birds.",
        "9",
        body("cats = 4 - 1", "dogs = cats * 2", "pets = dogs + 3", "return pets"),
    ),
    (
        "without the question's 3 it can only be the result",
        "He has 4-1=<<4-1=3>>3 cats. He has 3*2=<<3*2=6>>6 dogs. Then 6+3=<<6+3=9>>9 pets.",
        "He has 4 cats and loses 1.",
        "9",
        body("cats = 4 - 1", "dogs = cats * 2", "pets = dogs + cats", "return pets"),
    ),
    (
        "an equation without a mark, and a mark without a calculation",
        "She has 14 x 3 = 42 coconuts.\nThat leaves 42 - 10 = <<32=32>>32 for lunch.",
        "?",
        "32",
        body("coconuts = 14 * 3", "lunch = coconuts - 10", "return lunch"),
    ),
    (
        "per cents, currency, units and thousands separators",
        "He paid $810,000 x 5% = $40,500 in fees.",
        "A fee of 5% on $810,000?",
        "40500",
        body("dollars_in_fees = 810000 * (5 / 100)", "return dollars_in_fees"),
    ),
    (
        "a name that is a word of Python",
        "So 2*3=<<2*3=6>>6 class.",
        "?",
        "6",
        body("the_class = 2 * 3", "return the_class"),
    ),
    (
        "names repeat with numbers",
        "<<1+1=2>>2 pens. <<2+5=7>>7 pens. <<7*3=21>>21 pens",
        "?",
        "21",
        body("pens = 1 + 1", "pens_2 = pens + 5", "pens_3 = pens_2 * 3", "return pens_3"),
    ),
]


@pytest.mark.parametrize(
    ("solution", "question", "answer", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_programs_by_hand(solution: str, question: str, answer: str, expected: str) -> None:
    found = program(steps_in(solution), question, answer)
    assert found == expected
    assert float(run_programs(["def solution():" + expected])[0].value or "nan") == float(answer)


NONE = [
    ("no calculation", "Dividing both sides by 6, we find that p = 15.", "15"),
    ("the answer only written down", "11x = 99\nx = <<9=9>>9", "9"),
    ("another result", "He has 2+3=<<2+3=5>>5 cats.", "6"),
    ("a mark that does not hold", "He has 2+3=<<2+3=6>>6 cats.", "6"),
    ("algebra", "2x + 110 = 298", "298"),
]


@pytest.mark.parametrize(("solution", "answer"), [c[1:] for c in NONE], ids=[c[0] for c in NONE])
def test_solutions_without_a_program(solution: str, answer: str) -> None:
    assert program(steps_in(solution), "?", answer) is None


ARITHMETIC = [
    ("He paid $810,000 x 5/100 ", "810000 * 5/100"),
    ("13 girls x 3 boys/girl ", "13 * 3"),
    ("On Friday there were 74 boys - 5 absent ", "74   - 5"),
    ("100 students and 40 play so that leaves 100-40 ", "100-40"),
    ("6 men / 12 men * 100% ", "6   / 12   * 100"),
    ("30% of it: 20% * 50 ", "(20/100) * 50"),
    ("12 ÷ 4 × 2 – 1", "12 / 4 * 2 - 1"),
    ("In 2020. He has 3+4", "3+4"),
    ("he has 7 ", None),
    ("x + 7 ", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), ARITHMETIC)
def test_plain_arithmetic(text: str, expected: str | None) -> None:
    found = plain_arithmetic(text)
    assert (found and found.split()) == (expected and expected.split())


@pytest.mark.parametrize(
    "expression",
    ["2**9", "f(2)", "2(3)", "a+1", "1 < 2", "'a'", "1/0", "True and 2", "(1,)", "1+", "~1", ""],
)
def test_only_arithmetic_is_read(expression: str) -> None:
    assert parse(expression) is None


def test_arithmetic_comes_to_what_python_says() -> None:
    rng = random.Random(1)
    for _ in range(200):
        terms = [rng.choice(["1", "2.5", ".5", "30", "(4-1)", "-2"]) for _ in range(4)]
        text = terms[0] + "".join(rng.choice("+-*/") + term for term in terms[1:])
        tree = parse(text)
        assert tree is not None and value_of(tree) == eval(text)
    tree = parse("007+1")  # Python has no such number, a solution may
    assert tree is not None and value_of(tree) == 8


def test_numbers_of_a_question() -> None:
    text = "Half of the twenty-one boys pay $1,200.50 for 3 dozen; 1/4 pay twice."
    assert numbers_in(text) == {2, 20, 1, 1200.5, 3, 12, 4}


NAMES = [
    ("48/2 = ", "24", "24 clips in May.", "clips_in_may"),
    ("That is $", "5", "5 per hour, so", "dollars_per_hour"),
    ("That is $", "5", "5 dollars.", "dollars"),
    ("It is 2 x 20 = £", "40", "40 a person", "pounds_a_person"),
    ("They pay 2 + 3 = €", "5", "5", "euros_pay"),
    ("This is 8/16 x 100 = ", "50", "50% of his cards.", "percent_cards"),
    ("The price is ", "9", "9.\nTherefore he pays", "price"),
    ("Working 50 minutes, she earned 0.2 x 50 = $", "10", "10.", "dollars_earned"),
    ("Ernesto = 11 + 3 = ", "14", "14\n", "ernesto"),
    ("So 2 + 2 = ", "4", "4", "result"),
    ("", "4", "4 of Tom's apples", "tom_apples"),
]


@pytest.mark.parametrize(("before", "result", "after", "expected"), NAMES)
def test_names(before: str, result: str, after: str, expected: str) -> None:
    assert name_of(before, result, after) == expected


def test_every_name_can_be_a_variable() -> None:
    words = ["is", "None", "x__y", "ñandú", "9 lives", "-", "$", "class", "my_", "", "%", "\n", "λ"]
    for before, after in itertools.product(words, repeat=2):
        name = name_of(f"{before} 2 + 2 = ", "4", f"4 {after}")
        assert name.isidentifier() and "__" not in name
        ast.parse(f"{name} = 4")


def test_lines_that_are_needed() -> None:
    lines = [("a", "1 + 1"), ("b", "2"), ("a", "<0> * 3"), ("c", "<2> - 1 + math.pi")]
    assert needed(lines) == {0, 2, 3}
    kept = [line if i in needed(lines) else None for i, line in enumerate(lines)]
    assert assemble(kept) == body(
        "import math", "a = 1 + 1", "a_2 = a * 3", "c = a_2 - 1 + math.pi", "return c"
    )


def test_made_derivations_run_to_their_end() -> None:
    # Random solutions whose every step uses an earlier result: brute force says what comes out.
    rng = random.Random(2)
    sources, expected = [], []
    for _ in range(60):
        values, steps = [float(rng.randrange(2, 9))], []
        steps.append(Step(f"{int(values[0]) - 1}+1", values[0], "start"))
        for _ in range(rng.randrange(1, 6)):
            operand = rng.randrange(11, 99)
            value = values[-1] * operand + 1000
            steps.append(Step(f"{values[-1]:.0f}*{operand}+1000", value, rng.choice(["a", "b"])))
            values.append(value)
        found = program(steps, "", f"{values[-1]:.0f}")
        assert found is not None
        assert found.count("\n") == len(steps) + 1  # every step is needed: a line, and the return
        sources.append("def solution():" + found)
        expected.append(values[-1])
    assert [float(outcome.value or "nan") for outcome in run_programs(sources)] == expected
