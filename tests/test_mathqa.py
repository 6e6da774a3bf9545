"""MathQA: formulas, rationales and loaders by hand, and (where it is there) the real one."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reft_lib.answers import equal
from reft_lib.data import Example, Report, load, load_with_report, with_cot
from reft_lib.errors import UserError
from reft_lib.examples import json_rows, problem_of
from reft_lib.mathqa import clean_rationale, number_of, states
from reft_lib.mathqa_formula import OPERATIONS, formula_program, problem_numbers
from reft_lib.rewards import AnswerReward
from reft_lib.sandbox import run_programs

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the file this library was tested with")

# ---------------------------------------------------------------- formulas


def test_numbers_of_a_problem() -> None:
    problem = "a 3 - digit box , 1 / 2 of $ 3,000.50 , .03 % of 21,36 and 007 , 5 % x2 10th 40."
    expected = ["3", "1", "2", "3000.50", "0.03", None, "7", "5", "40"]
    assert problem_numbers(problem) == expected


def body(*lines: str) -> str:
    return "".join(f"\n    {line}" for line in lines)


FORMULAS = [
    (
        "power(n1,n0)|",
        "4 questions , each has 5 choices",
        body("power = 5 ** 4", "return power"),
        625,
    ),
    (
        "divide(const_1,const_2)|power(#0,n0)|subtract(const_1,#1)",
        "a 3 - digit integer",
        body(
            "quotient = 1 / 2",
            "power = quotient ** 3",
            "difference = 1 - power",
            "return difference",
        ),
        0.875,
    ),
    (
        "circle_area(n0)|multiply(#0,const_0_25)|",
        "a circle of radius 2",
        body("import math", "area = math.pi * 2 ** 2", "product = area * 0.25", "return product"),
        math.pi,
    ),
    (
        "add(n0,n0)|add(#0,const_2.0)|subtract(n0,const_3_6)|add(#0,#1)",
        "10 km",
        body(
            "total = 10 + 10", "total_2 = total + 2", "total_3 = total + total_2", "return total_3"
        ),
        42,
    ),
]


@pytest.mark.parametrize(("formula", "problem", "expected", "value"), FORMULAS)
def test_formulas_by_hand(formula: str, problem: str, expected: str, value: float) -> None:
    assert formula_program(formula, problem) == expected
    (outcome,) = run_programs(["def solution():" + expected])
    assert float(outcome.value or "nan") == pytest.approx(value)


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "|",
        "add(n0,n1)",  # no second number
        "add(n0)",
        "add(n0,n0,n0)",
        "frobnicate(n0)|",
        "add(#0,n0)|",  # refers to itself
        "add(n0,n0)|add(#1,n0)|",
        "add(const_deg_to_rad,n0)",
        "add(n0,add(n0,n0))",
        "add(n0,x)",
    ],
)
def test_formulas_that_are_not_known(formula: str) -> None:
    assert formula_program(formula, "there are 7 days") is None


# What each operation comes to for 8, 6 and 4 (or as many as it takes), worked out by other means.
BY_HAND = {
    "add": 14, "subtract": 2, "multiply": 48, "divide": 4 / 3, "power": 262144,
    "sqrt": 2.8284271247461903, "inverse": 0.125, "negate": -8, "floor": 8, "reminder": 2,
    "factorial": 40320, "choose": 28, "permutation": 20160, "log": 2.0794415416798357,
    "gcd": 2, "lcm": 24, "max": 8, "min": 6, "speed": 4 / 3, "stream_speed": 1,
    "p_after_gain": 6.48, "original_price_before_gain": 6 / 1.08,
    "original_price_before_loss": 6 / 0.92, "circle_area": 201.06192982974676,
    "circumface": 50.26548245743669, "square_area": 64, "square_perimeter": 32,
    "square_edge_by_area": 2.8284271247461903, "rectangle_area": 48, "rectangle_perimeter": 28,
    "rhombus_area": 24, "rhombus_perimeter": 32, "quadrilateral_area": 40, "triangle_area": 24,
    "triangle_perimeter": 18, "triangle_area_three_edges": 11.61895003862225,
    "volume_cube": 512, "volume_rectangular_prism": 192, "volume_cylinder": 1206.3715789784806,
    "volume_cone": 402.1238596594935, "volume_sphere": 2144.660584850632, "surface_cube": 384,
    "surface_sphere": 804.247719318987, "surface_cylinder": 703.7167544041137,
    "surface_rectangular_prism": 208, "cube_edge_by_volume": 2,
}  # fmt: skip


def test_every_operation() -> None:
    assert set(OPERATIONS) == set(BY_HAND)
    sources = []
    for name, (_, template) in OPERATIONS.items():
        places = len(set(re.findall(r"\{\d", template)))
        arguments = ",".join(f"n{i}" for i in range(places))
        sources.append("def solution():" + str(formula_program(f"{name}({arguments})", "8 6 4")))
    found = [float(outcome.value or "nan") for outcome in run_programs(sources)]
    assert found == pytest.approx([BY_HAND[name] for name in OPERATIONS])


# ---------------------------------------------------------------- rationales and options

CLEANED = [
    ('"5 * 5 = 625 ways . answer : c ."', "c", "625", "5 * 5 = 625 ways"),
    ("explanation : 2 + 3 = 5 hence the correct answer is option ( b ) .", "b", "5", "2 + 3 = 5"),
    ("solution x = 5 km c is the correct answer .", "c", "5 km", "x = 5 km"),
    ("length = x + 26 = 63 m b", "b", "63 m", "length = x + 26 = 63 m"),
    ("18 - 4 = 14 so the answer = > d", "d", "14", "18 - 4 = 14"),
    ("7 * 8 = 56 answer : d ) 56 sec", "d", "56 sec", "7 * 8 = 56"),
    ("the larger side is a", "b", "7", "the larger side is a"),  # a variable, it may be
    ("2 + 3 = 5 answer : a", "b", "5", None),
    ("2 + 3 = 5 option c is correct", "b", "5", None),
    ("nothing to cut off", "b", "5", "nothing to cut off"),
]


@pytest.mark.parametrize(("rationale", "letter", "option", "expected"), CLEANED)
def test_rationales_are_cleaned(
    rationale: str, letter: str, option: str, expected: str | None
) -> None:
    assert clean_rationale(rationale, letter, option) == expected


STATED = [
    ("so 5 * 5 = 625 ways", "625", True),
    ("so 5 * 5 = 6250 ways", "625", False),
    ("that is rs . 1,450", "rs . 1450", True),
    ("which leaves - 7", "- 7", True),
    ("which leaves 7", "- 7", False),
    ("p = 31 / 36", "31 / 36", True),
    ("p = 31 / 360", "31 / 36", False),
    ("the ratio is 9 : 4", "9 : 4", True),
    ("the ratio is 19 : 4", "9 : 4", False),
    ("it can not be determined from this", "can not be determined", True),
    ("15 % of it", "15", True),
    ("it is 0.333", "1 / 3", True),
]


@pytest.mark.parametrize(("text", "option", "expected"), STATED)
def test_what_states_an_option(text: str, option: str, expected: bool) -> None:
    assert states(text, option) is expected


NUMBERS = [
    ("s . 180", "180"),
    ("238 sec", "238"),
    ("a ) 2", "2"),
    ("1 / 4", "0.25"),
    ("− 120", "-120"),
    ("$ 1,354", "1354"),
    ("3 : 1", None),
    ("none of these", None),
    ("30 , 10", None),
    ("5 x + 1", None),
]


@pytest.mark.parametrize(("option", "number"), NUMBERS)
def test_numbers_of_options(option: str, number: str | None) -> None:
    assert number_of(option) == number


# ---------------------------------------------------------------- loading made files


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "Problem": "a test has 4 questions with 5 choices each . how many ways ?",
        "Rationale": '"5 * 5 * 5 * 5 = 625 ways . answer : c ."',
        "options": "a ) 24 , b ) 120 , c ) 625 , d ) 720 , e ) 1024",
        "correct": "c",
        "annotated_formula": "power(5, 4)",
        "linear_formula": "power(n1,n0)|",
        "category": "general",
    } | changes
    return {key: value for key, value in good.items() if value is not None}


def write(folder: Path, train: Any, name: str = "mathqa_dev.json") -> Path:
    numeric = [("3", "how far ?", "1.0"), ("8", "how long ?", "36.0")]
    letters = [
        ("3", "how far ?\na ) 1,354 km , b ) 7", "a"),
        ("8", "how long ?\na ) 1 , b ) 36", "b"),
    ]
    files = {
        name: train,
        "mathqa-numeric_test_set.json": [
            {"item_id": f"mathqa-numeric_{i}", "question": q, "answer_value": a}
            for i, q, a in numeric
        ],
        "mathqa_test_set.json": [
            {"item_id": f"mathqa_{i}", "question": q, "answer_value": a} for i, q, a in letters
        ],
    }
    for file, rows in files.items():
        text = rows if isinstance(rows, str) else json.dumps(rows, indent=4)
        (folder / file).write_text(text, encoding="utf-8")
    return folder


QUESTION = "a test has 4 questions with 5 choices each . how many ways ?"


def test_a_row_with_a_number(tmp_path: Path) -> None:
    assert load("mathqa-numeric", "train", write(tmp_path, [row()])) == [
        Example(
            "mathqa_dev_0",
            QUESTION,
            "625",
            "5 * 5 * 5 * 5 = 625 ways",
            body("power = 5 ** 4", "return power"),
        )
    ]


def test_a_row_with_letters(tmp_path: Path) -> None:
    (example,) = load("mathqa-choice", "train", write(tmp_path, [row()]))
    assert example.question == f"{QUESTION}\na ) 24 , b ) 120 , c ) 625 , d ) 720 , e ) 1024"
    assert example.answer == "c" and example.ncot == "5 * 5 * 5 * 5 = 625 ways"
    assert example.pcot == body("power = 5 ** 4", "return power")
    assert example.meta["problem"] == QUESTION and example.meta["value"] == "625"
    assert example.meta["options"]["D"] == "720"
    # What is kept earns the full reward, in both formats.
    for fmt, cot in (
        ("ncot", f"{example.ncot}\nTherefore, the answer is: c"),
        ("pcot", example.pcot),
    ):
        (graded,) = AnswerReward(fmt)([str(cot)], [example])  # type: ignore[arg-type]
        assert graded.correct and graded.answer == "C"


def test_the_train_file_comes_before_the_stand_in(tmp_path: Path) -> None:
    write(tmp_path, [row()])
    write(tmp_path, [row(), row(Problem="another with 4 and 5 ?")], "mathqa_train.json")
    examples, report = load_with_report("mathqa-numeric", "train", tmp_path)
    assert [e.id for e in examples] == ["mathqa_train_0", "mathqa_train_1"]
    assert "mathqa_dev.json" not in report["files"]


def test_what_is_left_out_and_dropped(tmp_path: Path) -> None:
    rows = [
        row(),
        row(Problem="4 5 a ?", options="a ) 24 , b ) 120 , c ) 3 : 1 , d ) 720", linear_formula=""),
        row(Problem="4 5 b ?", linear_formula="add(n0,n1)|"),
        row(Problem="4 5 c ?", Rationale="it is 625 . answer : c"),
        row(Problem="4 5 d ?", Rationale="5 to the power of 4 is 625 . answer : d"),
        row(Problem="4 5 e ?", Rationale="look it up in the book . answer : c"),
        row(Problem="How far?"),
        row(Problem="4 5 f ?", options="24 or 625"),
        row(Problem="4 5 g ?", options="a ) 624.99999 , b ) 625.00001 , c ) 625 , d ) 1 , e ) 2"),
    ]
    _, numeric = load_with_report("mathqa-numeric", "train", write(tmp_path, rows))
    assert (numeric["read"], numeric["rows"]) == (9, 6)
    assert numeric["left_out"] == {
        "its right option is no number": 1,
        "the question is in the test too": 1,
        "its options cannot be read": 1,
    }
    assert numeric["dropped"] == {
        "pcot": {"the program does not run to the answer": 1},
        "ncot": {
            "fewer than 5 words": 1,
            "it closes with another letter": 1,
            "it does not state the right option": 1,
        },
    }
    _, letters = load_with_report("mathqa-choice", "train", tmp_path)
    assert letters["rows"] == 7
    # An unknown formula for the ratio; and a number that three options state chooses none.
    assert letters["dropped"]["pcot"] == {
        "an unknown formula": 1,
        "the program does not run to the answer": 2,
    }


def test_the_authors_first_digits_are_repaired(tmp_path: Path) -> None:
    examples, report = load_with_report("mathqa-numeric", "test", write(tmp_path, [row()]))
    assert [(e.id, e.answer) for e in examples] == [
        ("mathqa-numeric_3", "1354"),
        ("mathqa-numeric_8", "36"),
    ]
    assert [e.meta for e in examples] == [{"authors_answer": "1"}, {}]
    assert report["repaired"] == {"the right option says otherwise": 1}
    assert report["ncot_share"] is None


FAULTS: list[tuple[Any, str]] = [
    ("[{", "mathqa_dev.json row 1 (line 1): not JSON"),
    ([row(), row(Problem=None)], "row 2 (line 11): the field 'Problem' is missing"),
    ([row(), row(options=" ")], "row 2 (line 11): the field 'options' must be a text that is not"),
    ([row(Rationale=None)], "row 1 (line 2): the field 'Rationale' must be a text"),
    ([row(correct="f")], "row 1 (line 2): 'correct' is 'f'; it must be a letter from a to e"),
    ([row(), 5], "row 2 (line 11): not a JSON object"),
]


@pytest.mark.parametrize(("train", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_faults_are_named(tmp_path: Path, train: Any, message: str) -> None:
    for name in ("mathqa-numeric", "mathqa-choice"):
        with pytest.raises(UserError) as caught:
            load(name, "train", write(tmp_path, train))
        assert message in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- the real files

HERE = Path(os.environ.get("REFT_DATA_DIR") or "?")
Loaded = tuple[list[Example], Report]
real = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (HERE / "mathqa_dev.json").is_file(), reason="REFT_DATA_DIR names no folder with MathQA"
    ),
]


@pytest.fixture(scope="module")
def numeric() -> Loaded:
    return load_with_report("mathqa-numeric", "train", HERE)


@pytest.fixture(scope="module")
def letters() -> Loaded:
    return load_with_report("mathqa-choice", "train", HERE)


def worked_out(formula: str) -> float:
    """Work an annotated formula out, its numbers in it: another notation, and another reader."""
    binary: dict[str, Callable[[float, float], float]] = {
        "add": lambda a, b: a + b,
        "subtract": lambda a, b: a - b,
        "multiply": lambda a, b: a * b,
        "divide": lambda a, b: a / b,
        "power": lambda a, b: a**b,
    }
    while match := re.search(
        r"(add|subtract|multiply|divide|power)\(([^(),]+), ([^(),]+)\)", formula
    ):
        a, b = (float(re.sub("^const_", "", x).replace("_", ".")) for x in match.groups()[1:])
        formula = formula[: match.start()] + repr(binary[match[1]](a, b)) + formula[match.end() :]
    return float(formula)


class TestReal:
    pytestmark = real

    def test_counts_and_shares(self, numeric: Loaded, letters: Loaded) -> None:
        report = numeric[1]
        assert (report["read"], report["rows"]) == (4475, 4229)
        assert report["left_out"] == {
            "its right option is no number": 241,
            "the question is in the test too": 5,
        }
        assert report["ncot_share"] > 0.95 and report["pcot_share"] > 0.62
        assert "warnings" not in report
        report = letters[1]
        assert (report["read"], report["rows"]) == (4475, 4470)
        assert report["ncot_share"] > 0.94 and report["pcot_share"] > 0.60

    def test_options_say_what_the_authors_say(self) -> None:
        # The numeric test's answers, read by the authors' own program, against our reading of the
        # options: they differ in the first digits of "1,354" and in the sign, and nowhere else.
        examples, report = load_with_report("mathqa-numeric", "test", HERE)
        choices = {e.id.split("_")[1]: e for e in load("mathqa-choice", "test", HERE)}
        assert len(examples) == len(choices) == 1605
        assert sum(report["repaired"].values()) == 8
        repaired = sorted(
            (e.meta["authors_answer"], e.answer) for e in examples if "authors_answer" in e.meta
        )
        assert repaired == [
            ("1", "1000000"), ("1", "1354"), ("120", "-120"), ("13", "13400"),
            ("3", "3375"), ("4", "4000"), ("6", "-6"), ("60", "-60"),
        ]  # fmt: skip
        values = {e.id.split("_")[1]: e.answer for e in examples}
        unread = [i for i, e in choices.items() if e.meta["value"] is None]
        assert len(unread) < 10
        assert all(equal(values[i], e.meta["value"]) for i, e in choices.items() if i not in unread)

    def test_programs_agree_with_the_other_notation(self, numeric: Loaded) -> None:
        rows = {
            f"mathqa_dev_{i}": row
            for i, (_, row) in enumerate(json_rows(HERE / "mathqa_dev.json", {}))
        }
        agreeing = checked = 0
        for example in with_cot(numeric[0], "pcot"):
            formula = rows[example.id]["annotated_formula"]
            if set(re.findall(r"([a-z]\w+)\(", formula)) <= {
                "add",
                "subtract",
                "multiply",
                "divide",
            }:
                try:
                    value = worked_out(formula)
                except ValueError:
                    continue  # "21,36" in a formula
                checked += 1
                agreeing += abs(value - float(example.answer)) <= 0.0101
        # A dozen rows differ: there it is the other notation that is wrong.
        assert checked > 2000 and agreeing / checked > 0.99

    def test_kept_annotations_earn_the_reward(self, letters: Loaded) -> None:
        kept = with_cot(letters[0], "pcot")[::9]
        assert all(g.correct for g in AnswerReward("pcot")([str(e.pcot) for e in kept], kept))

    def test_words_end_without_their_closing(self, numeric: Loaded, letters: Loaded) -> None:
        for examples, _ in (numeric, letters):
            words = [e.ncot for e in examples if e.ncot]
            closed = [w for w in words if re.search(r"\banswer\W*(is)?\W*[a-e]\W*$", w)]
            assert len(closed) <= 5 and not [w for w in words if w.startswith('"')]

    def test_rows_by_hand(self, letters: Loaded) -> None:
        example = letters[0][0]  # 4 questions with 5 choices each
        assert example.answer == "c" and example.pcot == body("power = 5 ** 4", "return power")
        assert problem_of(example) + "\na ) 24 , b ) 120 , c ) 625 , d ) 720 , e ) 1024" == (
            example.question
        )
