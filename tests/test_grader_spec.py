"""Reading grader JSON: what is taken, and one clear line for what is malformed."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reft_lib.errors import UserError
from reft_lib.grader_spec import load_grader, parse_grader
from reft_lib.grader_types import (
    LabelModel,
    Multi,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    item_places,
    type_name,
)

OUT, ANSWER = "{{ sample.output_text }}", "{{ item.answer }}"
ASK = [{"role": "user", "content": f"Is {OUT} the same as {ANSWER}?"}]
GOOD: dict[str, dict[str, Any]] = {
    "string_check": {
        "type": "string_check",
        "name": "same",
        "input": OUT,
        "reference": ANSWER,
        "operation": "eq",
    },
    "text_similarity": {
        "type": "text_similarity",
        "name": "near",
        "input": OUT,
        "reference": ANSWER,
        "evaluation_metric": "fuzzy_match",
        "pass_threshold": 0.8,
    },
    "python": {
        "type": "python",
        "name": "code",
        "source": "def grade(sample, item):\n    return 1.0",
        "image_tag": "2025-05-08",
    },
    "score_model": {
        "type": "score_model",
        "name": "judge",
        "model": "nano",
        "input": ASK,
        "range": [0, 5],
        "sampling_params": {"seed": 1, "temperature": 0.5, "max_completions_tokens": 20},
        "pass_threshold": 3,
    },
    "label_model": {
        "type": "label_model",
        "name": "labels",
        "model": "nano",
        "input": ASK,
        "labels": ["good", "fair", "bad"],
        "passing_labels": ["good", "fair"],
    },
}
GOOD["multi"] = {
    "type": "multi",
    "name": "all",
    "graders": {"a": GOOD["string_check"], "b": GOOD["text_similarity"]},
    "calculate_output": "(a + b) / 2",
}
CLASSES = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "python": PythonGrader,
    "score_model": ScoreModel,
    "label_model": LabelModel,
    "multi": Multi,
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_type_is_read(kind: str) -> None:
    before = copy.deepcopy(GOOD[kind])
    grader = parse_grader(GOOD[kind])
    assert type(grader) is CLASSES[kind] and type_name(grader) == kind
    assert grader.name == before["name"] and GOOD[kind] == before
    for field in ("operation", "evaluation_metric", "pass_threshold", "source", "image_tag"):
        if field in before:
            assert getattr(grader, field) == before[field]


def test_what_may_be_left_out() -> None:
    score = {k: GOOD["score_model"][k] for k in ("type", "model", "input")}
    grader = parse_grader(score)
    assert isinstance(grader, ScoreModel)
    assert (grader.name, grader.range) == ("score_model", (0.0, 1.0))
    assert grader.sampling_params is None and grader.pass_threshold is None
    python = {k: GOOD["python"][k] for k in ("type", "source")}
    sub = parse_grader({"type": "multi", "graders": {"x": python}, "calculate_output": "x"})
    assert isinstance(sub, Multi) and sub.graders["x"].name == "x"  # named by its key


def test_the_guides_neq_is_ne() -> None:
    grader = parse_grader({**GOOD["string_check"], "operation": "neq"})
    assert isinstance(grader, StringCheck) and grader.operation == "ne"


def test_messages_may_be_written_as_the_apis_do() -> None:
    content = [{"type": "input_text", "text": "Compare "}, {"type": "input_text", "text": OUT}]
    message = {"type": "message", "role": "developer", "content": content}
    grader = parse_grader({**GOOD["score_model"], "input": [message]})
    assert isinstance(grader, ScoreModel)
    assert grader.input[0].role == "developer" and grader.input[0].content.text == f"Compare {OUT}"


MULTI = GOOD["multi"]
TWO = {"a": GOOD["string_check"], "b": {**GOOD["string_check"], "operation": "same"}}
# (the type that is spoilt, what is changed, the path in the message, what else it says)
MALFORMED: list[tuple[str, dict[str, Any], str, str]] = [
    ("string_check", {"type": "regex"}, "grader.type", "is 'regex'; .* one of string_check"),
    ("string_check", {"type": None}, "grader.type", "is None"),
    ("string_check", {"type": ["multi"]}, "grader.type", "it must be one of"),
    ("string_check", {"type": ...}, "grader.type", "is missing"),
    ("string_check", {"name": ""}, "grader.name", "not empty"),
    ("string_check", {"name": 3}, "grader.name", "is 3"),
    ("string_check", {"input": ...}, "grader.input", "is missing; it must be a text"),
    ("string_check", {"input": 17}, "grader.input", "is 17"),
    ("string_check", {"input": None}, "grader.input", "is None"),
    ("string_check", {"input": "{{ output }}"}, "grader.input", "begins with 'item.'"),
    ("string_check", {"reference": ...}, "grader.reference", "is missing"),
    ("string_check", {"reference": "{{ item.a"}, "grader.reference", "not closed"),
    ("string_check", {"operation": ...}, "grader.operation", "is missing; .* eq, ne, like, ilike"),
    ("string_check", {"operation": "EQ"}, "grader.operation", "is 'EQ'"),
    ("string_check", {"operation": "contains"}, "grader.operation", "one of eq, ne, like, ilike"),
    ("string_check", {"operation": ["eq"]}, "grader.operation", "one of"),
    ("string_check", {"operaton": "eq"}, "grader.operaton", "unknown; .* the fields type, name"),
    ("string_check", {"pass_threshold": 1}, "grader.pass_threshold", "unknown"),
    ("text_similarity", {"evaluation_metric": ...}, "grader.evaluation_metric", "is missing"),
    ("text_similarity", {"evaluation_metric": "rouge_6"}, "grader.evaluation_metric", "rouge_5"),
    ("text_similarity", {"pass_threshold": "0.8"}, "grader.pass_threshold", "must be a number"),
    ("text_similarity", {"pass_threshold": True}, "grader.pass_threshold", "is True"),
    ("text_similarity", {"pass_threshold": float("nan")}, "grader.pass_threshold", "is nan"),
    ("python", {"source": ...}, "grader.source", "is missing"),
    ("python", {"source": "   "}, "grader.source", "not empty"),
    ("python", {"source": "def grade(s, i) return 1"}, "grader.source", "is no Python"),
    ("python", {"source": "def score(s, i): return 1"}, "grader.source", "no function grade"),
    ("python", {"source": "def grade(s): return 1"}, "grader.source", "exactly two arguments"),
    ("python", {"source": "import numpy\ndef grade(s, i): return 1"}, "grader.source", "'numpy'"),
    ("python", {"source": "#" * 262_145}, "grader.source", "longer than 262144 bytes"),
    ("python", {"source": "#" + "ü" * 131_072}, "grader.source", "longer than 262144 bytes"),
    ("python", {"image_tag": 5}, "grader.image_tag", "is 5"),
    ("score_model", {"model": ...}, "grader.model", "is missing"),
    ("score_model", {"input": "Is it?"}, "grader.input", "list of messages"),
    ("score_model", {"input": []}, "grader.input", "list of messages"),
    ("score_model", {"input": ["Is it?"]}, "grader.input\\[0\\]", "role and content"),
    ("score_model", {"input": [*ASK, {"role": "judge", "content": ""}]}, "grader.input\\[1\\].role",
     "one of system, developer"),
    ("score_model", {"input": [{"role": "user"}]}, "grader.input\\[0\\].content", "must be a text"),
    ("score_model", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
     "grader.input\\[0\\].content", "no image"),
    ("score_model", {"input": [{"role": "user", "content": "", "text": ""}]},
     "grader.input\\[0\\].text", "unknown"),
    ("score_model", {"input": [{"role": "user", "content": "{{ x.y }}"}]},
     "grader.input\\[0\\].content", "begins with"),
    ("score_model", {"range": [1, 0]}, "grader.range", "low and high"),
    ("score_model", {"range": [0]}, "grader.range", "two numbers"),
    ("score_model", {"range": "0-1"}, "grader.range", "two numbers"),
    ("score_model", {"range": [0, float("inf")]}, "grader.range", "two numbers"),
    ("score_model", {"sampling_params": {"top_k": 1}}, "grader.sampling_params", "may have seed"),
    ("score_model", {"sampling_params": [1]}, "grader.sampling_params", "may have"),
    ("score_model", {"sampling_params": {"temperature": -1}}, "grader.sampling_params.temperature",
     "negative"),
    ("label_model", {"labels": ...}, "grader.labels", "list of different texts"),
    ("label_model", {"labels": ["a", "a"]}, "grader.labels", "different"),
    ("label_model", {"labels": "good"}, "grader.labels", "list"),
    ("label_model", {"labels": ["a", 1]}, "grader.labels", "texts"),
    ("label_model", {"passing_labels": []}, "grader.passing_labels", "list"),
    ("label_model", {"passing_labels": ["best"]}, "grader.passing_labels", "'best'; each must"),
    ("multi", {"graders": ...}, "grader.graders", "must map names to graders"),
    ("multi", {"graders": {}}, "grader.graders", "must map names"),
    ("multi", {"graders": [GOOD["python"]]}, "grader.graders", "must map names"),
    ("multi", {"graders": {"a": "eq"}}, "grader.graders.a", "must be a JSON object"),
    ("multi", {"graders": TWO}, "grader.graders.b.operation", "is 'same'"),
    ("multi", {"graders": {"a": MULTI}}, "grader.graders.a.type", "cannot stand in another"),
    ("multi", {"graders": {"a-b": GOOD["python"]}}, "grader.graders", "'a-b'; a name that"),
    ("multi", {"graders": {"2": GOOD["python"]}}, "grader.graders", "begins with no digit"),
    ("multi", {"calculate_output": ...}, "grader.calculate_output", "is missing"),
    ("multi", {"calculate_output": "a + c"}, "grader.calculate_output", "'c' is unknown .* a, b"),
    ("multi", {"calculate_output": "a +"}, "grader.calculate_output", "a value is expected"),
    ("multi", {"calculate_output": 1}, "grader.calculate_output", "is 1; it must be a text"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "path", "words"), MALFORMED)
def test_malformed_graders(kind: str, change: dict[str, Any], path: str, words: str) -> None:
    spec = {k: v for k, v in {**GOOD[kind], **change}.items() if v is not ...}
    with pytest.raises(UserError) as caught:
        parse_grader(spec)
    message = str(caught.value)
    assert re.match(f"{path}( |:)", message) and re.search(words, message), message
    assert "\n" not in message and len(message) < 320


@pytest.mark.parametrize("spec", [None, "eq", 3, [GOOD["python"]]])
def test_a_grader_is_an_object(spec: Any) -> None:
    with pytest.raises(UserError, match="^grader is .*; it must be a JSON object"):
        parse_grader(spec)


def test_the_places_of_a_grader() -> None:
    multi = {
        "type": "multi",
        "graders": {
            "a": {**GOOD["string_check"], "reference": "{{ item.people[0].name }}"},
            "b": GOOD["score_model"],
            "c": GOOD["label_model"],
        },
        "calculate_output": "a * b * c",
    }
    assert item_places(parse_grader(multi)) == [
        ("item", "people", 0, "name"),
        ("item", "answer"),
    ]
    assert item_places(parse_grader(GOOD["python"])) == []


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(GOOD["multi"]), encoding="utf-8")
    assert load_grader(path) == parse_grader(GOOD["multi"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{'type': 'python'}", "not JSON"),
        ('{"type": "multi", "graders": {"a": 1, "a": 2}}', "a field is there twice among a, a"),
        ('{"type": "python"}', "grader.json: grader.source is missing"),
        ("[" * 5000, "not JSON"),
        ('{"type": "score_model", "model": "nano", "range": [NaN, 1], "input": []}', "must be"),
    ],
)
def test_a_file_that_is_no_grader(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "grader.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        load_grader(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load_grader(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"type": "\xff"}')
    with pytest.raises(UserError, match="not JSON"):
        load_grader(tmp_path / "latin.json")
