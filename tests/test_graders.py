"""Grading: a table of cases for each type, errors by kind, sub-scores and metrics."""

from __future__ import annotations

from typing import Any

import pytest

from reft_lib.errors import UserError
from reft_lib.grader_run import KINDS, Helpers, read_label, read_score
from reft_lib.graders import Result, grade, metrics

OUT, ANSWER = "{{ sample.output_text }}", "{{ item.answer }}"
ASK = [
    {"role": "system", "content": "You are strict."},
    {"role": "user", "content": f"Is {OUT} the same as {ANSWER}?"},
]


def one(spec: dict[str, Any], output: Any, row: dict[str, Any], **helpers: Any) -> Result:
    """Grade one output, between two others that must not matter."""
    results = grade(spec, [row, row, row], [output, output, "other"], Helpers(**helpers))
    assert results[0].score == results[1].score
    return results[0]


def check(operation: str, text: str = OUT, reference: str = ANSWER) -> dict[str, Any]:
    return {
        "type": "string_check", "name": "check", "operation": operation,
        "input": text, "reference": reference,
    }  # fmt: skip


def similar(metric: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "text_similarity", "name": "near", "evaluation_metric": metric,
        "input": OUT, "reference": ANSWER, **more,
    }  # fmt: skip


def python(body: str) -> dict[str, Any]:
    return {"type": "python", "name": "code", "source": f"def grade(sample, item):\n    {body}"}


def judged(**more: Any) -> dict[str, Any]:
    return {"type": "score_model", "name": "judge", "model": "m", "input": ASK, **more}


def labelled(**more: Any) -> dict[str, Any]:
    labels = {"labels": ["good", "not good", "bad"], "passing_labels": ["good"]}
    return {"type": "label_model", "name": "label", "model": "m", "input": ASK, **labels, **more}


def says(answer: str | None):  # type: ignore[no-untyped-def]
    """A judge that says the same of everything."""
    return lambda conversations, labels, sampling: [answer] * len(conversations)


# ---------------------------------------------------------------- string_check


@pytest.mark.parametrize(
    ("operation", "output", "answer", "score"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "paris", "Paris", 0),
        ("eq", "Paris ", "Paris", 0),
        ("eq", "", "", 1),
        ("ne", "Paris", "Rome", 1),
        ("ne", "Paris", "Paris", 0),
        ("ne", "paris", "Paris", 1),
        ("like", "It is Paris.", "Paris", 1),
        ("like", "It is paris.", "Paris", 0),
        ("like", "Paris", "It is Paris", 0),
        ("like", "50%", "%", 1),
        ("like", "Paris", "P%", 0),
        ("like", "Paris", "", 1),
        ("ilike", "It is PARIS.", "Paris", 1),
        ("ilike", "It is Rome.", "Paris", 0),
        ("ilike", "STRASSE", "straße", 1),
    ],
)
def test_string_check(operation: str, output: str, answer: str, score: float) -> None:
    result = one(check(operation), output, {"answer": answer})
    assert result == Result(float(score), score == 1)


# ---------------------------------------------------------------- text_similarity


def test_text_similarity_and_its_threshold() -> None:
    row, output = {"answer": "the cat sat on the mat"}, "the cat is on the mat"
    assert one(similar("rouge_1"), output, row) == Result(pytest.approx(5 / 6), False)
    assert one(similar("rouge_1", pass_threshold=0.8), output, row).passed
    assert not one(similar("rouge_1", pass_threshold=0.84), output, row).passed
    assert one(similar("rouge_1"), row["answer"], row) == Result(1.0, True)
    assert one(similar("rouge_1", pass_threshold=0.0), "", row) == Result(0.0, True)


def test_cosine_needs_an_embedder() -> None:
    row = {"answer": "a"}
    with pytest.raises(UserError, match="cosine needs an embedder"):
        one(similar("cosine"), "b", row)
    vectors = {"a": [1.0, 0.0], "b": [3.0, 4.0], "other": [0.0, 1.0]}

    def embed(texts):  # type: ignore[no-untyped-def]
        return [vectors[text] for text in texts]

    assert one(similar("cosine"), "b", row, embed=embed).score == pytest.approx(0.6)


def test_too_long_an_output_is_an_error_of_its_row_alone() -> None:
    results = grade(similar("rouge_l"), [{"answer": "a"}] * 2, ["a " * 20_000, "a"])
    assert results[0].kind == "other_error" and "40000 characters" in str(results[0].error)
    assert results[1] == Result(1.0, True)
    results = grade(
        similar("cosine"), [{"answer": "a"}] * 2, ["a " * 20_000, "a"],
        Helpers(embed=lambda texts: [[1.0]] * len(texts)),
    )  # fmt: skip
    assert [r.score for r in results] == [0.0, 1.0] and results[0].kind == "other_error"


# ---------------------------------------------------------------- python


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ("return 1.0", 1.0),
        ("return 0", 0.0),
        ("return float(sample['output_text'] == item['answer'])", 1.0),
        ("return sample['output_json'] / 20", 0.85),
    ],
)
def test_python(body: str, score: float) -> None:
    assert one(python(body), "17", {"answer": "17"}) == Result(score, score == 1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return item['anser']", "KeyError: anser (line 2)"),
        ("return sample['output_json']['a']", "KeyError: output_json"),
        ("return True", "grade returned a bool"),
        ("return '1'", "grade returned a str"),
        ("return 5", "grade returned 5; it must lie from 0 to 1"),
        ("return -0.1", "grade returned -0.1"),
        ("return float('nan')", "must return a finite float"),
        ("while True: pass", "used more than 0.2 s"),
    ],
)
def test_python_errors(body: str, words: str) -> None:
    result = one(python(body), "no JSON", {"answer": "17", "id": "q7"}, timeout_s=0.2)
    assert (result.score, result.passed, result.kind) == (0, False, "python_grader_runtime_error")
    assert result.error is not None and words in result.error
    assert result.error.startswith("grader 'code' (python) failed on row 0 (q7): ")


@pytest.mark.parametrize(
    ("outside", "score", "expected"),
    [
        ("error", 5, None), ("clip", 5, 1.0), ("keep", 5, 5.0),
        ("error", -1, None), ("clip", -1, 0.0), ("keep", -1, -1.0),
        ("error", 0.3, 0.3), ("clip", 0.3, 0.3), ("keep", 0.3, 0.3),
        ("clip", "float('inf')", None), ("keep", "float('nan')", None),
    ],
)  # fmt: skip
def test_scores_outside_0_to_1(outside: str, score: Any, expected: float | None) -> None:
    result = one(python(f"return {score}"), "", {}, outside=outside)
    assert (result.error is None) == (expected is not None)
    assert result.score == (expected or 0.0)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="one of error, clip, keep"):
        Helpers(outside="drop")
    for seconds in (0, -1, 121, float("nan")):
        with pytest.raises(UserError, match="at most 120"):
            Helpers(timeout_s=seconds)


# ---------------------------------------------------------------- judges


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("0.5", 0.5),
        (" 1\n", 1.0),
        ("Score: 0.75.", 0.75),
        ("-2", -2.0),
        ("1e-1", 0.1),
        (".5", 0.5),
        ('{"result": 0.25, "steps": []}', 0.25),
        ('{"steps": [{"conclusion": "7 of 9"}], "result": 1}', 1.0),
        ('{"result": "0.5"}', 0.5),
        ("", None),
        ("good", None),
        ("4 out of 5", None),
        ("0.5 or 0.7", None),
        ("nan", None),
        ("1e999", None),
        ('{"result": 1e999}', None),
        ('{"result": true}', None),
        ("v2", None),
        ("[" * 9999, None),
    ],
)
def test_a_judges_score(text: str, score: float | None) -> None:
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("good", "good"),
        (" GOOD\n", "good"),
        ("not good", "not good"),
        ('{"label": "bad"}', "bad"),
        ("It is bad.", "bad"),
        ("badly done", None),
        ("good or bad", None),
        ("It is not good", None),  # two labels are named in it
        ("", None),
        ("none", None),
    ],
)
def test_a_judges_label(text: str, label: str | None) -> None:
    assert read_label(text, ["good", "not good", "bad"]) == label


@pytest.mark.parametrize(
    ("bounds", "text", "score"),
    [
        ([0, 1], "0.5", 0.5),
        ([0, 1], "7", 1.0),
        ([0, 1], "-7", 0.0),
        ([1, 5], "4", 4.0),
        ([1, 5], "0", 1.0),
        ([-1, 1], "-1", -1.0),
    ],
)
def test_score_model_is_cut_to_its_range(bounds: list[float], text: str, score: float) -> None:
    spec = judged(range=bounds)
    assert one(spec, "a", {"answer": "b"}, judge=says(text)) == Result(score, score >= 1)


def test_score_model_without_a_number_is_0_and_an_error() -> None:
    result = one(judged(range=[1, 5]), "a", {"answer": "b"}, judge=says("very good"))
    assert (result.score, result.kind) == (0.0, "model_grader_parse_error")
    assert "'very good' holds no number" in str(result.error)
    result = one(judged(), "a", {"answer": "b"}, judge=says(None))
    assert (result.score, result.kind) == (0.0, "other_error")


def test_label_model() -> None:
    row = {"answer": "b"}
    assert one(labelled(), "a", row, judge=says("good")) == Result(1.0, True)
    assert one(labelled(), "a", row, judge=says("bad")) == Result(0.0, False)
    result = one(labelled(), "a", row, judge=says("unsure"))
    assert (result.score, result.kind) == (0.0, "model_grader_parse_error")
    assert "none of good, not good, bad" in str(result.error)


def test_what_a_judge_is_asked() -> None:
    seen: list[Any] = []

    def judge(conversations, labels, sampling):  # type: ignore[no-untyped-def]
        seen.append((conversations, labels, sampling))
        return ["1"] * len(conversations)

    spec = judged(sampling_params={"temperature": 0.5})
    rows: list[dict[str, Any]] = [{"answer": "b"}, {}, {"answer": 3}]
    results = grade(spec, rows, ["x", "y", "z"], Helpers(judge=judge))
    ((conversations, labels, sampling),) = seen  # one call for the whole batch
    assert [c[1]["content"] for c in conversations] == [
        "Is x the same as b?",
        "Is z the same as 3?",
    ]
    assert conversations[0][0] == {"role": "system", "content": "You are strict."}
    assert labels is None and sampling == {"temperature": 0.5}
    assert [r.score for r in results] == [1.0, 0.0, 1.0]
    assert results[1].kind == "invalid_variable_error" and "row 1" in str(results[1].error)
    grade(labelled(), rows[:1], ["x"], Helpers(judge=lambda c, la, s: [la[0]]))  # type: ignore


def test_judges_by_model_name() -> None:
    row = {"answer": "b"}
    assert one(judged(), "a", row, judge={"m": says("1"), "n": says("0")}).score == 1.0
    with pytest.raises(UserError, match="no judge for model 'm' was given; there are: n"):
        one(judged(), "a", row, judge={"n": says("0")})
    with pytest.raises(UserError, match="gpt-4o-2024-08-06 is a hosted model"):
        one(judged(model="gpt-4o-2024-08-06"), "a", row)
    with pytest.raises(UserError, match="must return a text for each conversation"):
        one(judged(), "a", row, judge=lambda c, la, s: [])
    with pytest.raises(UserError, match="must return a text for each conversation"):
        one(judged(), "a", row, judge=lambda c, la, s: [1.0] * len(c))


# ---------------------------------------------------------------- multi


def multi(formula: str, **graders: Any) -> dict[str, Any]:
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": formula}


def test_the_documentations_example() -> None:
    spec = multi(
        "(name + email) / 2",
        name=similar("fuzzy_match", input="{{sample.output_json.name}}",
                     reference="{{item.name}}", pass_threshold=0.9),
        email=check("eq", "{{sample.output_json.email}}", "{{item.email}}"),
    )  # fmt: skip
    row = {"name": "John Doe", "email": "john.doe@gmail.com"}
    outputs = [
        '{"name": "John Doe", "email": "john.doe@gmail.com"}',
        '{"name": "John Doe", "email": "john@gmail.com"}',
        '{"name": "Jon Doe", "email": "john.doe@gmail.com"}',
        "John Doe, john.doe@gmail.com",
        '{"name": "John Doe"}',
    ]
    results = grade(spec, [row] * 5, outputs)
    near = 14 / 15  # 7 of 7 and 8 letters, the gap included
    assert [r.score for r in results] == pytest.approx([1.0, 0.5, (1 + near) / 2, 0.0, 0.0])
    assert [r.passed for r in results] == [True, False, False, False, False]
    assert results[2].parts["name"] == Result(pytest.approx(near), True)
    assert results[3].kind == "sample_parse_error"
    assert results[4].kind == "invalid_variable_error"
    assert str(results[4].error).startswith("grader 'check' (string_check) failed on row 4: {{ ")
    assert results[4].parts["name"].score == 1.0  # the others are still told


def test_a_formula_without_a_value_is_the_multi_graders_error() -> None:
    spec = multi("1 / a", a=check("eq"))
    zero, one_ = grade(spec, [{"answer": "x"}] * 2, ["y", "x"])
    assert one_ == Result(1.0, True, parts={"a": Result(1.0, True)})
    assert (zero.score, zero.kind) == (0.0, "other_error")
    assert str(zero.error).startswith("grader 'all' (multi) failed on row 0: calculate_output: /")


def test_a_multi_graders_score_is_what_the_formula_says() -> None:
    spec = multi("a * 3 - 1", a=check("eq"))
    assert [r.score for r in grade(spec, [{"answer": "x"}] * 2, ["y", "x"])] == [-1.0, 2.0]
    kept = multi("a / 5", a=python("return 4"))
    assert one(kept, "", {}, outside="keep").score == 0.8
    assert one(kept, "", {}).kind == "python_grader_runtime_error"


# ---------------------------------------------------------------- batches


def test_malformed_json_is_refused_before_grading() -> None:
    with pytest.raises(UserError, match="^grader.operation is 'is'"):
        grade(check("is"), [], [])


def test_each_output_needs_its_row() -> None:
    with pytest.raises(ValueError):
        grade(check("eq"), [{"answer": "a"}], ["a", "b"])
    assert grade(check("eq"), [], []) == []
    assert grade(python("return 1"), [], []) == []


def test_tool_calls_are_graded() -> None:
    spec = check("eq", "find", "{{ sample.output_tools[0].function.name }}")
    call = {"output_text": "", "output_tools": [{"function": {"name": "find"}}]}
    assert grade(spec, [{}, {}], [call, "find()"])[0] == Result(1.0, True)
    assert grade(spec, [{}], ["find()"])[0].kind == "invalid_variable_error"


def test_deep_answers_do_not_end_a_worker() -> None:
    # JSON that the parser takes and a second encoder would not
    outputs = ["[" * n + "]" * n for n in (90, 400, 900, 950, 980)] + ["{}"]
    results = grade(python("return 1.0"), [{}] * len(outputs), outputs)
    assert all(r.score == 1.0 for r in results)


def test_metrics() -> None:
    spec = multi(
        "(a + b) / 2", a=check("eq"), b=check("eq", "{{ sample.output_json.x }}", "{{ item.x }}")
    )
    rows = [{"answer": '{"x": 1}', "x": 1}] * 4
    results = grade(spec, rows, ['{"x": 1}', '{"x":1}', "no", '{"y": 1}'])
    assert [r.score for r in results] == [1.0, 0.5, 0.0, 0.0]
    found = metrics(results, [3, 4, 5, 8])
    assert found["reward_mean"] == 0.375 and found["error_rate"] == 0.5
    assert found["sample_parse_error_mean"] == found["invalid_variable_error_mean"] == 0.25
    assert sum(found[f"{kind}_mean"] for kind in KINDS) == found["error_rate"]
    assert found["a_reward_mean"] == 0.25 and found["b_reward_mean"] == 0.5
    assert found["a_error_rate"] == 0 and found["b_error_rate"] == 0.5
    assert found["response_tokens_mean"] == 5
    assert "response_tokens_mean" not in metrics(results)
