"""The training file, examples as rows and back, and PPO against a grader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reft_lib import data, lora, ppo
from reft_lib.config import LoraSettings, PpoConfig, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.grader_run import Helpers
from reft_lib.grader_spec import parse_grader
from reft_lib.rewards import Graded
from reft_lib.rft_data import (
    check_fields,
    from_row,
    load_rows,
    message_text,
    reward_from,
    to_row,
    write_rows,
)

USER = {"role": "user", "content": "How many?"}
ROW: dict[str, Any] = {"messages": [USER], "answer": "17"}
CHECK = {
    "type": "string_check",
    "name": "check",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "like",
}

# ---------------------------------------------------------------- the file

GOOD_ROWS = [
    ROW,
    {"messages": [{"role": "system", "content": "Be brief."}, USER], "compliant": "yes"},
    {"messages": [USER, {"role": "assistant", "content": "17"}, USER], "list": [1, {"a": None}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "How"}]}]},
    {"messages": [USER, {"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": ""},
                  USER]},
    {"messages": [{"role": "user", "content": "lines\n\u2028 and \x85 grün 🙂 \ud800"}]},
]  # fmt: skip


def test_rows_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write_rows(GOOD_ROWS, path)
    assert load_rows(path) == GOOD_ROWS
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(GOOD_ROWS)
    marked = tmp_path / "marked.jsonl"  # as some editors write it
    marked.write_text("\ufeff" + json.dumps(ROW) + "\r\n", encoding="utf-8")
    assert load_rows(marked) == [ROW]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "empty; each line must be one row"),
        ("{", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"messages": NaN}', "not JSON .*NaN"),
        ("[" * 9999, "not JSON"),
        ("[]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("{}", "'messages' is missing"),
        ('{"prompt": "a"}', "'messages' is missing"),
        ('{"messages": "How many?"}', "'messages' has to be a list"),
        ('{"messages": []}', "'messages' has to be a list"),
        ('{"messages": ["How many?"]}', "messages\\[0\\] is no JSON object"),
        ('{"messages": [{"content": "a"}]}', "messages\\[0\\].role is None; .* one of system"),
        ('{"messages": [{"role": "human", "content": "a"}]}', "role is 'human'"),
        ('{"messages": [{"role": "user"}]}', "messages\\[0\\].content must be a text"),
        ('{"messages": [{"role": "user", "content": 3}]}', "content must be a text"),
        ('{"messages": [{"role": "user", "content": []}]}', "content must be a text"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "parts that are"),
        ('{"messages": [{"role": "user", "content": " "}]}', "the last message is empty"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
         "the last message is of role 'assistant'; it must be the user's"),
        ('{"messages": [{"role": "system", "content": "a"}]}', "of role 'system'"),
    ],
)  # fmt: skip
def test_faults_are_told_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join([json.dumps(ROW), line, json.dumps(ROW)]), encoding="utf-8")
    with pytest.raises(UserError, match=f"train.jsonl line 2: .*{words}") as caught:
        load_rows(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load_rows(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="line 1: empty"):
        load_rows(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="UTF-8"):
        load_rows(tmp_path / "latin.jsonl")


def test_only_good_rows_are_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for bad in ({"messages": []}, {**ROW, "x": float("nan")}, {**ROW, "x": {1, 2}}):
        with pytest.raises(UserError, match="^row 2"):
            write_rows([ROW, bad], path)
        assert not path.exists()


def test_fields_that_a_grader_names_must_be_there() -> None:
    grader = parse_grader(CHECK)
    check_fields(grader, [ROW, ROW])
    with pytest.raises(UserError, match="train.jsonl line 2: the field 'answer' is missing") as e:
        check_fields(grader, [ROW, {"messages": [USER], "anser": "17"}], "train.jsonl line")
    assert "{{ item.answer }}" in str(e.value) and "messages, anser" in str(e.value)


def test_the_text_of_a_message() -> None:
    assert message_text({"content": [{"text": "a"}, {"text": "b"}]}) == "ab"
    assert message_text({"content": [{"text": "a"}, {"image": 1}]}) is None
    assert message_text({}) is None


# ---------------------------------------------------------------- examples


def test_embedded_problems_come_back_unchanged(tmp_path: Path) -> None:
    problems = [*data.load("embedded", "test")[:40], *data.load("embedded-choice", "test")[:20]]
    path = tmp_path / "problems.jsonl"
    write_rows([to_row(e) for e in problems], path)
    assert [from_row(row) for row in load_rows(path)] == problems


TEXTS = st.text(min_size=1, max_size=9).filter(str.strip)


META = st.dictionaries(TEXTS.filter(lambda text: text != "row"), st.integers(), max_size=2)


@given(st.builds(Example, TEXTS, TEXTS, TEXTS, st.none() | TEXTS, st.none() | TEXTS, META))
def test_examples_come_back_unchanged(example: Example) -> None:
    row = json.loads(json.dumps(to_row(example)))
    assert row["messages"] == [{"role": "user", "content": example.question}]
    assert from_row(row) == example


@pytest.mark.parametrize("row", GOOD_ROWS)
def test_other_peoples_rows_come_back_unchanged(row: dict[str, Any]) -> None:
    example = from_row(row, 7)
    assert example.id == "row-7" and to_row(example) == row
    assert example.question.endswith(message_text(row["messages"][-1]) or "")


def test_what_an_example_takes_from_a_row() -> None:
    row = {"messages": [{"role": "system", "content": "Be brief."}, USER], "target": 17, "id": "a"}
    example = from_row(row, answer="target")
    assert (example.id, example.question, example.answer) == ("a", "Be brief.\n\nHow many?", "17")
    assert from_row(row).answer == ""
    with pytest.raises(UserError, match="row 3: the last message"):
        from_row({"messages": [{"role": "system", "content": "a"}]}, 3)


# ---------------------------------------------------------------- the reward


def test_a_grader_is_a_reward(examples: list[Example]) -> None:
    reward = reward_from(CHECK)
    assert reward(["it is 17", "8"], examples[:2]) == [
        Graded(1.0, "it is 17", True),
        Graded(0.0, "8", False),
    ]
    assert reward.history[-1]["reward_mean"] == 0.5 and len(reward.results) == 2
    assert reward([], []) == [] and len(reward.history) == 1
    with pytest.raises(ValueError):
        reward(["a"], examples[:2])


def test_a_response_may_be_read_before_it_is_graded(examples: list[Example]) -> None:
    reward = reward_from({**CHECK, "operation": "eq"}, read=lambda text: text.split("is: ")[-1])
    (graded,) = reward(["Therefore, the answer is: 17"], examples[:1])
    assert graded == Graded(1.0, "17", True)
    nothing = reward_from({**CHECK, "operation": "ne"}, read=lambda text: "")
    assert nothing(["17"], examples[:1]) == [Graded(1.0, None, True)]  # no answer, whatever it pays


def test_a_malformed_grader_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="^grader.operation"):
        reward_from({**CHECK, "operation": "is"})
    with pytest.raises(UserError, match="max_error_rate"):
        reward_from(CHECK, max_error_rate=0)


def test_a_grader_that_always_fails_ends_training(examples: list[Example]) -> None:
    broken = {"type": "python", "source": "def grade(sample, item):\n    return item['anser']"}
    with pytest.raises(UserError, match="2 of 2 samples could not be graded: .*KeyError: anser"):
        reward_from(broken)(["a", "b"], examples[:2])
    patient = reward_from(broken, max_error_rate=2)
    assert patient(["a", "b"], examples[:2]) == [Graded(0.0, None, False)] * 2
    assert patient.history[0]["python_grader_runtime_error_mean"] == 1.0
    # a model that does not write JSON yet is no fault of the grader
    spec = {**CHECK, "input": "{{ sample.output_json.answer }}"}
    young = reward_from(spec)
    assert young(["a", "b"], examples[:2]) == [Graded(0.0, None, False)] * 2
    half = reward_from(
        {**broken, "source": broken["source"].replace("anser", "pcot")}, max_error_rate=0.5
    )
    with pytest.raises(UserError, match="2 of 2"):
        half(["a", "b"], examples[:2])  # a text is no float


def test_two_steps_of_ppo_against_a_multi_grader(new_model, tokenizer, examples) -> None:  # type: ignore[no-untyped-def]
    spec = {
        "type": "multi",
        "name": "mix",
        "graders": {
            "near": {
                "type": "text_similarity",
                "input": "{{ sample.output_text }}",
                "reference": "{{ item.ncot }}",
                "evaluation_metric": "fuzzy_match",
            },
            "short": {
                "type": "python",
                "source": "def grade(sample, item):\n"
                "    return max(0.0, 1.0 - len(sample['output_text']) / 40)",
            },
            "label": {
                "type": "label_model",
                "model": "any",
                "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
                "labels": ["even", "odd"],
                "passing_labels": ["even"],
            },
        },
        "calculate_output": "0.5 * near + 0.3 * short + 0.2 * label",
    }

    def judge(conversations, labels, sampling):  # type: ignore[no-untyped-def]
        return [labels[len(talk[0]["content"]) % 2] for talk in conversations]

    reward = reward_from(spec, Helpers(judge=judge))
    policy = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    before = [p.detach().clone() for p in lora.trainable_parameters(policy)]
    config = PpoConfig(steps=2, batch_size=4, micro_batch=2, lr=1e-2)
    sampling = SampleConfig(max_new_tokens=8)
    steps = list(ppo.ppo(policy, tokenizer, examples, "ncot", reward, config, sampling))
    assert [step["step"] for step in steps] == [1, 2]
    assert len(reward.history) == 2
    for step, found in zip(steps, reward.history, strict=True):
        assert step["reward"] == pytest.approx(found["reward_mean"]) and found["error_rate"] == 0
        parts = [found[f"{key}_reward_mean"] for key in ("near", "short", "label")]
        assert found["reward_mean"] == pytest.approx(
            0.5 * parts[0] + 0.3 * parts[1] + 0.2 * parts[2]
        )
        assert 0 < step["reward"] < 1
    moved = zip(before, lora.trainable_parameters(policy), strict=True)
    assert any(not torch.equal(old, new) for old, new in moved)
