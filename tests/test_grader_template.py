"""Templates: what they are filled with, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reft_lib.errors import UserError
from reft_lib.grader_template import (
    MAX_DEPTH,
    GraderError,
    fill,
    parse_template,
    sample_of,
    spell,
)

ITEM = {
    "answer": "17",
    "n": 1.0,
    "yes": True,
    "nothing": None,
    "people": [{"name": "Ann"}, {"name": "Bo"}],
    "two words": {"deep": {"er": "here"}},
    "empty": "",
    "umlaut": "grün",
}
TOOLS = [{"function": {"name": "find", "arguments": '{"x": 1}'}}]
SAMPLE = sample_of({"output_text": '{"name": "Ann", "ages": [3, 4]}', "output_tools": TOOLS})


def filled(text: str, sample: dict[str, Any] = SAMPLE) -> str:
    return fill(parse_template(text, "grader.input"), ITEM, sample)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{ item.answer }}", "17"),
        ("{{item.answer}}", "17"),
        ("{{\n item.answer\t}}", "17"),
        ("a {{ item.answer }} b {{ item.answer }}", "a 17 b 17"),
        ("{{ item.empty }}", ""),
        ("{{ item.people[1].name }}", "Bo"),
        ('{{ item["two words"].deep.er }}', "here"),
        ("{{ item['two words']['deep']['er'] }}", "here"),
        ("{{ sample.output_json.name }}", "Ann"),
        ("{{ sample.output_json.ages[0] }}", "3"),
        ("{{sample.output_tools[0].function.name}}", "find"),
        ('{"x": "{{item.answer}}"}', '{"x": "17"}'),
        ("{{ item.answer }}}}", "17}}"),  # closing braces alone are text
        ("{ {item.answer} }", "{ {item.answer} }"),
        ("{{ item.n }} {{ item.yes }} {{ item.nothing }}", "1.0 true null"),
        ("{{ item.people }}", '[{"name": "Ann"}, {"name": "Bo"}]'),
        ("{{ item.umlaut }}", "grün"),
    ],
)
def test_filled(text: str, expected: str) -> None:
    assert filled(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ item.answer", "not closed"),
        ("{{ item.answer }", "not closed"),
        ("{{ }}", "begins with 'item.' or 'sample.'"),
        ("{{ row.answer }}", "begins with 'item.' or 'sample.'"),
        ("{{ items.answer }}", "begins with 'item.' or 'sample.'"),
        ("{{ output_text }}", "begins with 'item.' or 'sample.'"),
        ("{{ item }}", "names no field"),
        ("{{ sample }}", "names no field"),
        ("{{ sample.text }}", "a sample has output_text"),
        ("{{ item.a b }}", "cannot be read"),
        ("{{ item.a.}}", "cannot be read"),
        ("{{ item.a[-1] }}", "cannot be read"),
        ("{{ item.a[x] }}", "cannot be read"),
        ("{{ item.a | upper }}", "cannot be read"),
        ("{{ item.a() }}", "cannot be read"),
        ("{{ item.{{ item.a }} }}", "not closed"),
    ],
)
def test_malformed_templates_are_refused_with_the_field(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^grader.input: .*{words}"):
        parse_template(text, "grader.input")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("{{ item.anser }}", "invalid_variable_error", "no 'anser' in item; it has answer, n"),
        ("{{ item.people[2] }}", "invalid_variable_error", "a list of 2"),
        ("{{ item.people.name }}", "invalid_variable_error", "a list of 2"),
        ("{{ item.answer.length }}", "invalid_variable_error", "it is '17'"),
        ("{{ item.answer.__class__ }}", "invalid_variable_error", "it is '17'"),
        ("{{ item.answer[0] }}", "invalid_variable_error", "it is '17'"),
        ("{{ sample.choices }}", "invalid_variable_error", "no 'choices' in sample"),
        ("{{ sample.output_json.age }}", "invalid_variable_error", "it has name, ages"),
    ],
)
def test_a_place_that_is_not_there(text: str, kind: str, words: str) -> None:
    with pytest.raises(GraderError) as caught:
        filled(text)
    assert caught.value.kind == kind and words in str(caught.value)
    assert text.strip("{} ") in str(caught.value)  # the template is named


@pytest.mark.parametrize(
    "text", ["", "no JSON", "{", "{'a': 1}", "NaN", '{"a": 1} and more', "9" * 5000, "[" * 9999]
)
def test_an_output_that_is_no_json(text: str) -> None:
    assert "output_json" not in sample_of(text)
    with pytest.raises(GraderError, match="not JSON") as caught:
        filled("{{ sample.output_json.name }}", sample_of(text))
    assert caught.value.kind == "sample_parse_error"


def test_json_is_read_to_a_depth() -> None:
    def nested(n: int) -> str:
        return "[" * n + "]" * n

    assert "output_json" in sample_of(nested(MAX_DEPTH))
    assert "output_json" not in sample_of(nested(MAX_DEPTH + 1))
    assert "output_json" not in sample_of('{"a":' * 101 + "1" + "}" * 101)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_output_json_is_the_text_read(value: Any) -> None:
    assert sample_of(json.dumps(value))["output_json"] == value


def test_what_is_filled_in_is_no_template() -> None:
    trick = sample_of("{{ item.answer }}")
    assert filled("{{ sample.output_text }}", trick) == "{{ item.answer }}"


@pytest.mark.parametrize(
    "output", [{}, {"output_text": 3}, {"output_text": "a", "text": "b"}, {"output_json": {}}]
)
def test_an_output_must_be_a_sample(output: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a sample has output_text"):
        sample_of(output)


def test_a_given_output_json_is_kept() -> None:
    assert sample_of({"output_text": "1", "output_json": {"a": 2}})["output_json"] == {"a": 2}


@pytest.mark.parametrize("text", ["item.a", "item.a[0].b", "sample.output_json.x[12]"])
def test_a_place_is_spelt_as_written(text: str) -> None:
    (place,) = parse_template("{{" + text + "}}", "g").places
    assert spell(place) == text
