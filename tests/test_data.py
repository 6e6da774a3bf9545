"""Loaders on made files, the embedded problems and (where it is there) the real SVAMP."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from reft_lib import data
from reft_lib.data import Example, fingerprint, load, load_with_report, split_validation, subset
from reft_lib.errors import UserError
from reft_lib.examples import count, json_rows, programs_that_run, question_key
from reft_lib.sandbox import run_programs
from reft_lib.svamp import program_body, words_without_answer

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the file this library was tested with")

# ---------------------------------------------------------------- examples


def made(questions: list[str]) -> list[Example]:
    return [Example(f"q{i}", question, str(i)) for i, question in enumerate(questions)]


def test_cot_gives_the_annotation_of_a_format() -> None:
    both = Example("a", "q?", "5", ncot="words", pcot="\n    return 5")
    assert (both.cot("ncot"), both.cot("pcot")) == ("words", "\n    return 5")


def test_a_missing_annotation_is_named() -> None:
    with pytest.raises(UserError, match="row7 has no pcot"):
        Example("row7", "q?", "5", ncot="words").cot("pcot")


def test_with_cot_keeps_those_that_have_one() -> None:
    examples = [Example("a", "q", "1", ncot="w"), Example("b", "q", "1", pcot="\n    p")]
    assert [e.id for e in data.with_cot(examples, "ncot")] == ["a"]
    assert [e.id for e in data.with_cot(examples, "pcot")] == ["b"]


# ---------------------------------------------------------------- splits


def test_validation_has_its_size_and_nothing_is_lost() -> None:
    examples = made([f"question {i}?" for i in range(100)])
    train, validation = split_validation(examples, 30, seed=1)
    assert len(validation) == 30
    assert sorted(e.id for e in train + validation) == sorted(e.id for e in examples)
    assert [e.id for e in train] == [e.id for e in examples if e in train]  # order is kept


def test_validation_is_a_matter_of_the_seed_and_not_of_the_order() -> None:
    examples = made([f"question {i}?" for i in range(100)])
    shuffled = random.Random(3).sample(examples, k=100)
    drawn = [{e.id for e in split_validation(x, 30, seed=1)[1]} for x in (examples, shuffled)]
    assert drawn[0] == drawn[1]
    assert {e.id for e in split_validation(examples, 30, seed=2)[1]} != drawn[0]


def test_equal_questions_stay_on_one_side() -> None:
    # every question three times, with other spaces and capitals
    examples = made([f"{'Question' if i % 2 else 'question '} {i % 40}?" for i in range(120)])
    train, validation = split_validation(examples, 30, seed=0)

    def plain(rows: list[Example]) -> set[str]:
        return {" ".join(e.question.lower().split()) for e in rows}

    assert len(validation) == 30 and not plain(train) & plain(validation)


def test_a_question_spelt_otherwise_stays_on_one_side() -> None:
    # Two tokenisations of each second question, as SVAMP has them.
    examples = [
        Example(f"{i}-{spelling}", f"Ann has {i} pens{spelling}", "1")
        for i in range(60)
        for spelling in ([".", " ."] if i % 2 else ["?"])
    ]
    train, validation = split_validation(examples, 25, seed=3)
    keys = [{question_key(e.question) for e in rows} for rows in (train, validation)]
    assert not keys[0] & keys[1] and len(validation) == 25
    # Questions with one row go first, so that a subset of as many questions can be had.
    assert len(keys[1]) == 25 and len(subset(validation, 25)) == 25


def test_equal_problems_with_other_options_stay_on_one_side() -> None:
    examples = [
        Example(f"{i}{o}", f"problem {i}\na ) {o}", "a", meta={"problem": f"problem {i}"})
        for i in range(40)
        for o in range(2)
    ]
    train, validation = split_validation(examples, 10, seed=0)
    assert not {e.meta["problem"] for e in train} & {e.meta["problem"] for e in validation}


SAME = [
    ("How many are 3.5 + 4 ?", "how many are 3.5 + 4", True),
    ("Ann has 3 pens.", "Ann has 4 pens.", False),
    ("Ann has 12 pens", "Ann has 1 2 pens", False),
    ("the pens of ann", "the pens of bob", False),
]


@pytest.mark.parametrize(("a", "b", "same"), SAME)
def test_questions_that_are_the_same_to_a_reader(a: str, b: str, same: bool) -> None:
    assert (question_key(a) == question_key(b)) is same


@pytest.mark.parametrize("n", [-1, 10, 11])
def test_validation_of_impossible_size(n: int) -> None:
    with pytest.raises(UserError, match="from 0 to 9"):
        split_validation(made([f"q{i}" for i in range(10)]), n)


def test_validation_that_repeated_questions_do_not_allow() -> None:
    with pytest.raises(UserError, match="allow only 2"):
        split_validation(made(["a", "a", "b", "b"]), 3)


def test_subset_has_different_questions_in_order() -> None:
    examples = made(["a", "b", "A", "c", "d"])
    chosen = subset(examples, 3, seed=5)
    assert len({e.question.lower() for e in chosen}) == 3
    assert [e.id for e in chosen] == sorted(e.id for e in chosen)
    assert chosen == subset(examples, 3, seed=5)
    with pytest.raises(UserError, match="from 0 to 4"):
        subset(examples, 5)


def test_fingerprint_sees_every_change() -> None:
    base = [Example("a", "q?", "5", "w", "p"), Example("b", "r?", "6")]
    others = [
        base[::-1],
        base[:1],
        [Example("a", "q?", "5", "w", "P"), base[1]],
        [Example("a", "q?", "5", "wp", None), base[1]],
    ]
    prints = {fingerprint(x) for x in (base, *others)}
    assert len(prints) == 5
    assert fingerprint(list(base)) == fingerprint(base) and len(fingerprint([])) == 64


# ---------------------------------------------------------------- reading rows

LISTS: list[tuple[str, list[tuple[int, int]] | str]] = [
    ('[{"a": 1}, {"a": 2}]', [(1, 1), (2, 1)]),
    ('\n[\n  {"a": 1\n},\n\n  2\n]\n', [(1, 3), (2, 6)]),
    ('[{"a": "x\\ny"},\n[1,\n2], 3]', [(1, 1), (2, 2), (3, 3)]),
    ("", "it must hold one JSON list of rows"),
    ("[ ]", "it must hold one JSON list of rows"),
    ("{}", "it must hold one JSON list of rows"),
    ("[1,\n2", "row 2 (line 2): it must be followed by"),
    ("[1\n2]", "row 1 (line 1): it must be followed by"),
    ("[1] 2", "row 1 (line 1): it must be followed by"),
    ("[1,\n]", "row 2 (line 2): not JSON at line 2"),
    ('[1,\n{"a":\n\n?}]', "row 2 (line 2): not JSON at line 4"),
]


@pytest.mark.parametrize(("text", "expected"), LISTS)
def test_rows_of_a_list_and_their_lines(
    tmp_path: Path, text: str, expected: list[tuple[int, int]] | str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    if isinstance(expected, str):
        with pytest.raises(UserError) as caught:
            json_rows(path, {})
        assert expected in str(caught.value) and "\n" not in str(caught.value)
        return
    found = json_rows(path, {})
    assert [row for _, row in found] == json.loads(text)
    assert [where for where, _ in found] == [f"{path} row {n} (line {m})" for n, m in expected]


def test_counts_of_a_report() -> None:
    report: dict[str, Any] = {}
    count(report, "left_out", "why", n=0)
    assert report == {}
    count(report, "left_out", "why")
    count(report, "left_out", "why", n=2)
    count(report, "dropped", "ncot", "why", n=4)
    assert report == {"left_out": {"why": 3}, "dropped": {"ncot": {"why": 4}}}


# ---------------------------------------------------------------- embedded problems


def row(**changes: Any) -> dict[str, Any]:
    """Make a well-formed embedded row, then change it; a change to None drops the field."""
    good = {
        "id": "train-0",
        "question": "Ann has 2 and gets 3. How many?",
        "answer": "5",
        "kinds": ["have", "get"],
        "n_steps": 1,
        "annotated": 1,
        "paths": [
            {"name": "steps", "ncot": "2 + 3 = 5", "pcot": "\n    return 2 + 3"},
            {"name": "turned", "ncot": "3 + 2 = 5", "pcot": "\n    return 3 + 2"},
        ],
    } | changes
    return {key: value for key, value in good.items() if value is not None}


def write(folder: Path, *rows: Any) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_embedded_row_becomes_an_example(tmp_path: Path) -> None:
    (example,), report = load_with_report("embedded", "train", write(tmp_path, row()))
    assert (example.id, example.answer) == ("train-0", "5")
    assert (example.ncot, example.pcot) == ("3 + 2 = 5", "\n    return 3 + 2")
    assert example.meta["path"] == "turned" and example.meta["n_steps"] == 1
    assert [p["name"] for p in example.meta["paths"]] == ["steps", "turned"]
    content = (tmp_path / "train.jsonl").read_bytes()
    assert report["files"] == {"train.jsonl": hashlib.sha256(content).hexdigest()}
    assert (report["rows"], report["ncot_share"], report["pcot_share"]) == (1, 1.0, 1.0)


def test_embedded_rows_may_hold_odd_line_separators(tmp_path: Path) -> None:
    odd = json.dumps(row(question="one\u2028two"), ensure_ascii=False)
    assert load("embedded", "train", write(tmp_path, odd))[0].question == "one\u2028two"


BAD_ROWS: list[tuple[Any, str]] = [
    ("{not json", "line 2: not JSON"),
    ("", "line 2: not JSON"),
    ("[1]", "line 2: not a JSON object"),
    (row(id="x", question=None), "line 2: the field 'question' is missing"),
    (row(id="x", question="  "), "line 2: the field 'question' must be a text that is not empty"),
    (row(id="x", question=5), "line 2: the field 'question' must be a text"),
    (row(id="x", answer="many"), "line 2: 'answer' is 'many'; it must be a number"),
    (row(id="x", answer=5), "line 2: the field 'answer' must be a text"),
    (row(id="x", paths=[]), "line 2: 'paths' must be a list"),
    (row(id="x", paths=[{"name": "a"}]), "line 2, paths: the field 'ncot' is missing"),
    (row(id="x", annotated=2), "line 2: 'annotated' must be a number from 0 to 1"),
    (row(id="x", annotated=True), "line 2: 'annotated' must be a number from 0 to 1"),
    (row(id="x", annotated=-1), "line 2: 'annotated' must be a number from 0 to 1"),
    (row(id="x", kinds=None), "line 2: 'kinds' must be a list"),
    (row(id="x", n_steps="1"), "line 2: 'kinds' must be a list and 'n_steps' a whole number"),
    (
        row(id="x", paths=[{"name": "a", "ncot": "w", "pcot": "return 5"}], annotated=0),
        "line 2: a 'pcot' must begin with a new line and four spaces",
    ),
    (row(), "the id 'train-0' is there twice"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS, ids=[m for _, m in BAD_ROWS])
def test_malformed_row_names_file_and_line(tmp_path: Path, bad: Any, message: str) -> None:
    write(tmp_path, row(), bad, row(id="last"))
    with pytest.raises(UserError) as caught:
        load("embedded", "train", tmp_path)
    assert "train.jsonl" in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train.jsonl is missing"):
        load("embedded", "train", tmp_path)
    with pytest.raises(UserError, match="no split 'trian'.*train, validation, test, hard"):
        load("embedded", "trian")
    with pytest.raises(UserError, match="unknown data set 'svmap'.*embedded, embedded-choice"):
        load("svmap", "train")


def test_text_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not text in UTF-8"):
        load("embedded", "train", tmp_path)


@pytest.mark.skipif(
    not (data.PROBLEMS / "train.jsonl").is_file(), reason="data/problems has not been made"
)
@pytest.mark.parametrize("split", ["train", "validation", "test", "hard"])
def test_shipped_problems_load_and_their_annotations_are_right(split: str) -> None:
    examples = load("embedded", split)
    assert len(examples) >= 300
    bodies, answers = [e.pcot for e in examples], [e.answer for e in examples]
    assert programs_that_run(bodies, answers) == bodies


def test_multiple_choice_asks_the_same_questions_and_its_option_covers_the_answer() -> None:
    numbers = data.subset(load("embedded", "train"), 640)
    choices = data.subset(load("embedded-choice", "train"), 640)
    for e, c in zip(numbers, choices, strict=True):
        low, high = map(int, c.meta["options"][c.answer].split(" to "))
        assert low <= int(e.answer) <= high and c.meta["value"] == e.answer
        assert (c.id, c.meta["problem"], c.ncot) == (e.id, e.question, e.ncot)
        assert c.question.startswith(f"{e.question}\n1: 1 to 19, 2: ") and c.pcot is None
    shares = [sum(c.answer == a for c in choices) / 640 for a in "12345"]
    assert min(shares) > 0.12 and max(shares) < 0.3  # naming one option always is no achievement


def test_an_answer_outside_every_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train-0: the answer is 201; no option covers it"):
        load("embedded-choice", "train", write(tmp_path, row(answer="201")))
    with pytest.raises(UserError, match="the answer is 19.5; no option"):
        load("embedded-choice", "train", write(tmp_path, row(answer="19.5")))


# ---------------------------------------------------------------- SVAMP, made

DOCUMENTED = 'def solution():\n    """{q}"""\n{body}'


def svamp_row(i: int, answer: str = "5.0", cot: str | None = None) -> dict[str, str]:
    fields = {"item_id": f"svamp_{i}", "question": f"q {i} ?", "answer_value": answer}
    return fields | ({"answer_cot": cot} if cot is not None else {})


def write_svamp(folder: Path, words: Any = None, programs: Any = None) -> Path:
    right = "2 + 3 = 5\n\nTherefore, the answer is <5>."
    default_words = [svamp_row(i, cot=right) for i in range(4)]
    program = DOCUMENTED.format(q="q ?", body="    x = 2\n    return x + 3")
    default_programs = [svamp_row(i, cot=program) for i in range(4)]
    for name, content in [
        ("svamp_nl.json", words or default_words),
        ("svamp_python_sdp.json", programs or default_programs),
        ("svamp_test_set.json", [svamp_row(9, "203.0"), svamp_row(10, "0.75")]),
    ]:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_svamp_annotations_are_joined_and_cut(tmp_path: Path) -> None:
    example = load("svamp", "train", write_svamp(tmp_path))[0]
    assert example == Example(
        "svamp_0", "q 0 ?", "5", "2 + 3 = 5", "\n    x = 2\n    return x + 3", {}
    )


def test_svamp_test_has_no_annotations(tmp_path: Path) -> None:
    examples, report = load_with_report("svamp", "test", write_svamp(tmp_path))
    assert [e.answer for e in examples] == ["203", "0.75"]
    assert {e.ncot for e in examples} == {e.pcot for e in examples} == {None}
    assert report["rows"] == 2 and report["ncot_share"] is None


def test_svamp_keeps_only_annotations_that_lead_to_the_answer(tmp_path: Path) -> None:
    words = [
        svamp_row(0, cot="a\nTherefore, the answer is <5>."),
        svamp_row(1, cot="a\nTherefore, the answer is <6>."),  # another number
        svamp_row(2, cot="This was answered before. The answer is <5>."),  # no trigger
        svamp_row(3, cot="Therefore, the answer is <5>."),  # no reasoning
    ]
    programs = [
        svamp_row(0, cot=DOCUMENTED.format(q="q", body="    return 6")),  # another number
        svamp_row(1, cot=DOCUMENTED.format(q="q", body="    return 5")),
        svamp_row(2, cot=DOCUMENTED.format(q="q", body="    import os\n    return 5")),
        svamp_row(7, cot="not a program"),  # and no words for this one
    ]
    examples, report = load_with_report("svamp", "train", write_svamp(tmp_path, words, programs))
    kept = {e.id: (e.ncot, e.pcot) for e in examples}
    assert kept == {
        "svamp_0": ("a", None),
        "svamp_1": (None, "\n    return 5"),
        "svamp_2": (None, None),
        "svamp_3": (None, None),
        "svamp_7": (None, None),
    }
    assert (report["rows"], report["ncot"], report["ncot_share"]) == (5, 1, 0.25)
    assert (report["pcot"], report["pcot_share"]) == (1, 0.25)
    assert report["dropped"] == {
        "ncot": {"it does not end in the answer after the trigger": 3},
        "pcot": {"the program does not run to the answer": 3},
    }
    assert set(report["files"]) == {
        "svamp_nl.json",
        "svamp_python_sdp.json",
        "svamp_test_set.json",
    }


def test_svamp_test_questions_are_left_out_of_train(tmp_path: Path) -> None:
    seen = svamp_row(9, cot="2 + 3 = 5\n\nTherefore, the answer is <5>.")  # q 9 is in the test
    examples, report = load_with_report(
        "svamp", "train", write_svamp(tmp_path, [seen, svamp_row(0, cot="x")])
    )
    assert "svamp_9" not in {e.id for e in examples} and report["read"] == 5
    assert report["left_out"] == {"the question is in the test too": 1}


SVAMP_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"words": "[{"}, "svamp_nl.json row 1 (line 1): not JSON at line 1"),
    ({"words": "{}"}, "svamp_nl.json: it must hold one JSON list"),
    ({"words": "[]"}, "svamp_nl.json: it must hold one JSON list"),
    ({"words": [svamp_row(0, cot="x"), 5]}, "svamp_nl.json row 2 (line 1): not a JSON object"),
    ({"words": [svamp_row(0)]}, "row 1 (line 1): the field 'answer_cot' is missing"),
    ({"programs": [svamp_row(0, "many", "x")]}, "row 1 (line 1): 'answer_value' is 'many'"),
    (
        {"words": [svamp_row(0, cot="x")] * 2},
        "row 2 (line 1): the item_id 'svamp_0' is there twice",
    ),
    ({"words": [svamp_row(0, "6.0", "x")]}, "svamp_0 differs between"),
]


@pytest.mark.parametrize(("files", "message"), SVAMP_FAULTS, ids=[m for _, m in SVAMP_FAULTS])
def test_svamp_faults_are_named(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load("svamp", "train", write_svamp(tmp_path, **files))
    assert message in str(caught.value) and "\n" not in str(caught.value)


BODIES = [
    (DOCUMENTED.format(q="q", body="    return 5"), "\n    return 5"),
    ("def solution():\n    return 5\n\n", "\n    return 5"),
    (DOCUMENTED.format(q="two\nlines", body="    return 5"), "\n    return 5"),
    (DOCUMENTED.format(q="odd\u2028line\x0c", body="    return 5"), "\n    return 5"),
    (DOCUMENTED.format(q="q", body="    # why\n    return 5"), "\n    # why\n    return 5"),
    ("def solution(): return 5", None),
    ("def solution(x):\n    return 5", None),
    ("def other():\n    return 5", None),
    ("import math\ndef solution():\n    return 5", None),
    ("def solution():\n", None),
    ("def solution():\n    return (", None),
    ('def solution():\n    """only a docstring"""', None),
]


@pytest.mark.parametrize(("source", "body"), BODIES)
def test_program_body(source: str, body: str | None) -> None:
    assert program_body(source) == body
    if body is not None:
        assert run_programs(["def solution():" + body])[0].value == "5"


def test_words_are_cut_at_the_last_trigger() -> None:
    twice = "Therefore, the answer is 4? No.\nTherefore, the answer is <5>."
    assert words_without_answer(twice, "5") == "Therefore, the answer is 4? No."
    assert words_without_answer(twice, "4") is None


# ---------------------------------------------------------------- SVAMP, real


@pytest.mark.data
@pytest.mark.skipif(
    not (Path(os.environ.get("REFT_DATA_DIR") or "?") / "svamp_nl.json").is_file(),
    reason="REFT_DATA_DIR names no folder with SVAMP",
)
def test_real_svamp() -> None:
    train, report = load_with_report("svamp", "train")
    test = load("svamp", "test")
    assert (len(train), len(test)) == (3096, 1000)
    assert (report["ncot"], report["pcot"]) == (3065, 3043)
    assert not {e.question for e in train} & {e.question for e in test}
    first = next(e for e in train if e.id == "svamp_0")
    assert first.answer == "203"
    assert first.ncot is not None and first.ncot.endswith("pairs of birds in the bird sanctuary.")
    assert first.pcot is not None and first.pcot.startswith("\n    num_species = 29\n")
    assert not any("Therefore, the answer is" in (e.ncot or "") for e in train)
    assert not any('"""' in (e.pcot or "") for e in train)
