"""GSM8K on made rows, and (where it is there) the real one."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from reft_lib import fetch
from reft_lib.data import Example, Report, load, load_with_report, with_cot
from reft_lib.derivation import numbers_in, steps_in
from reft_lib.errors import UserError
from reft_lib.gsm8k import solution_in_words, split_solution

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the file this library was tested with")

NATALIA = {
    "question": "Natalia sold clips to 48 friends in April, and half as many in May. How many?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72",
}
ALGEBRA = {"question": "What is x?", "answer": "4x = 1,080\nx = $<<270=270>>270\n#### 270"}


def write(folder: Path, train: list[Any], test: list[Any] | None = None) -> Path:
    for split, rows in (("train", train), ("test", test or [ALGEBRA])):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"gsm8k_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    (example,), report = load_with_report("gsm8k", "train", write(tmp_path, [NATALIA]))
    assert example == Example(
        "gsm8k_train_0",
        NATALIA["question"],
        "72",
        "Natalia sold 48/2 = 24 clips in May.\n"
        "Natalia sold 48+24 = 72 clips altogether in April and May.",
        "\n    clips_in_may = 48 / 2\n    clips_altogether = 48 + clips_in_may"
        "\n    return clips_altogether",
    )
    assert (report["read"], report["rows"], report["ncot"], report["pcot"]) == (1, 1, 1, 1)
    assert report["places"]["gsm8k_train.jsonl"] == "folder" and len(report["files"]) == 2


def test_a_row_without_a_program_is_counted(tmp_path: Path) -> None:
    other = ALGEBRA | {"question": "And x?"}
    examples, report = load_with_report("gsm8k", "train", write(tmp_path, [NATALIA, other]))
    assert [e.pcot is None for e in examples] == [False, True]
    assert (report["pcot"], report["pcot_share"], report["ncot_share"]) == (1, 0.5, 1.0)
    assert report["dropped"] == {"pcot": {"no calculation in it comes to the answer": 1}}
    assert [e.answer for e in examples] == ["72", "270"]


def test_test_questions_are_left_out_of_train(tmp_path: Path) -> None:
    shouted = NATALIA | {"question": NATALIA["question"].upper().replace(".", " .")}
    folder = write(tmp_path, [NATALIA, NATALIA | {"question": "Another?"}], [shouted])
    examples, report = load_with_report("gsm8k", "train", folder)
    assert [e.id for e in examples] == ["gsm8k_train_1"]
    assert (report["read"], report["rows"]) == (2, 1)
    assert report["left_out"] == {"the question is in the test too": 1}
    assert len(load("gsm8k", "test", folder)) == 1


FAULTS = [
    ([NATALIA, "{"], "gsm8k_train.jsonl line 2: not JSON"),
    ([NATALIA, "[]"], "gsm8k_train.jsonl line 2: not a JSON object"),
    ([{"answer": "x\n#### 1"}], "line 1: the field 'question' is missing"),
    ([NATALIA | {"answer": 72}], "line 1: the field 'answer' must be a text"),
    ([NATALIA | {"answer": "so 72"}], "line 1: 'answer' must be a solution and a last line"),
    ([NATALIA | {"answer": "so\n#### many"}], "line 1: 'answer' must be a solution and a last"),
    ([NATALIA | {"answer": "#### 72"}], "line 1: 'answer' must be a solution and a last line"),
]


@pytest.mark.parametrize(("rows", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_faults_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load("gsm8k", "train", write(tmp_path, rows))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_words_and_answer_of_a_solution() -> None:
    assert (
        solution_in_words("It is $<<2*3=6>>6.\nSo 6+1 = <<6+1=7>>7. ") == "It is $6.\nSo 6+1 = 7."
    )
    assert split_solution({"answer": "a #### b\n#### 1,080\n"}, "row 1") == ("a #### b", "1080")


# ---------------------------------------------------------------- the real files

HERE = Path(os.environ.get("REFT_DATA_DIR") or "?")
real = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (HERE / "gsm8k_train.jsonl").is_file(),
        reason="REFT_DATA_DIR names no folder with GSM8K",
    ),
]
Loaded = tuple[list[Example], Report]


@pytest.fixture(scope="module")
def train() -> Loaded:
    return load_with_report("gsm8k", "train")


class TestReal:
    pytestmark = real

    def test_counts_and_shares(self, train: Loaded) -> None:
        examples, report = train
        test, test_report = load_with_report("gsm8k", "test")
        assert (len(examples), len(test)) == (7473, 1319)
        assert report["ncot_share"] == test_report["ncot_share"] == 1
        assert report["pcot_share"] > 0.95 and test_report["pcot_share"] > 0.95
        assert "warnings" not in report
        assert "left_out" not in report  # no training question is in the test
        assert not {e.question for e in examples} & {e.question for e in test}
        assert report["files"]["gsm8k_train.jsonl"] == fetch.FILES["gsm8k_train.jsonl"].sha256

    def test_no_marks_are_left(self, train: Loaded) -> None:
        assert not [e.id for e in train[0] if re.search("<<|>>|####", e.ncot or "")]

    def test_rows_by_hand(self, train: Loaded) -> None:
        by_question = {e.question.split()[0]: e for e in reversed(train[0])}
        weng = by_question["Weng"]  # $12 an hour, 50 minutes
        assert weng.answer == "10" and weng.pcot == (
            "\n    dollars_per_minute = 12 / 60\n    dollars_earned = dollars_per_minute * 50"
            "\n    return dollars_earned"
        )

    def test_programs_are_derivations(self, train: Loaded) -> None:
        # Read anew with plain Python: every variable holds a result of the solution, is used, and
        # no number that only an earlier line gives stands as a number.
        rows = [json.loads(line) for line in (HERE / "gsm8k_train.jsonl").open(encoding="utf-8")]
        solution = {f"gsm8k_train_{i}": row["answer"] for i, row in enumerate(rows)}
        for example in with_cot(train[0], "pcot")[::7]:
            function = ast.parse("def solution():" + (example.pcot or "")).body[0]
            assert isinstance(function, ast.FunctionDef)
            results = {step.result for step in steps_in(solution[example.id].split("####")[0])}
            given, known, unused = numbers_in(example.question), dict[str, float](), set[str]()
            for line in function.body:
                value = line.value  # type: ignore[attr-defined]
                names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
                plain = {n.value for n in ast.walk(value) if isinstance(n, ast.Constant)}
                assert not (plain & set(known.values())) - given, example.id
                unused -= names
                if isinstance(line, ast.Assign):
                    (target,) = line.targets
                    known[target.id] = eval(ast.unparse(value), {}, known)  # type: ignore[attr-defined]
                    assert min(abs(known[target.id] - r) for r in results) < 0.02, example.id
                    unused.add(target.id)  # type: ignore[attr-defined]
            assert not unused, example.id
            assert abs(known[names.pop()] - float(example.answer)) <= 0.01
