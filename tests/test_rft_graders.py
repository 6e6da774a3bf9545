"""The book's graders: what each pays on a table of cases, the judge, and what looks alike."""

from __future__ import annotations

import dataclasses
import json

import pytest

from reft_lib import answers, evaluate, rft_graders
from reft_lib.config import SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.evaluate import Answers
from reft_lib.grader_run import Helpers
from reft_lib.graders import grade
from reft_lib.rewards import AnswerReward
from reft_lib.rft_data import reward_from
from reft_lib.rft_graders import NEAR, PARTIAL, REFT, RIGHT, alike, judge_by_solving, read_answer

SAID = {
    "ncot": [
        "12 + 5 = 17.\nTherefore, the answer is: 17",
        "Therefore, the answer is: 17.0",
        "Therefore, the answer is: 18",
        "Therefore, the answer is: -3/4",
        "Therefore, the answer is: many",
        "17",
        "",
    ],
    "pcot": [
        "\n    return 12 + 5",
        "\n    return 34 / 2",
        "\n    return 18",
        "\n    return 'none'",
        "\n    return 1 / 0",
        "\n    retrun 17",
        "",
    ],
}


@pytest.mark.parametrize("fmt", ["ncot", "pcot"])
def test_the_reward_of_reft_as_a_grader(fmt, examples: list[Example]) -> None:
    asked = [examples[0]] * len(SAID[fmt])
    wanted = AnswerReward(fmt)(SAID[fmt], asked)
    assert [g.reward for g in wanted].count(0.1) and [g.reward for g in wanted].count(1.0)
    reward = reward_from(REFT, read=read_answer(fmt))
    assert reward(SAID[fmt], asked) == wanted
    assert reward.history[-1]["error_rate"] == 0


@pytest.mark.parametrize(
    ("output", "right", "near", "partial"),
    [
        ("20", 1, 1, 1),
        ("20.0", 0, 1, 0.2),  # answers are compared as text, in their one written form
        ("19", 0, 0.95, 0.19),
        ("30", 0, 0.5, 0.1),
        ("40", 0, 0, 0),
        ("-20", 0, 0, 0),
        ("many", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_partial_credit(output: str, right: float, near: float, partial: float) -> None:
    row = {"answer": "20"}
    scores = [grade(g, [row], [output])[0].score for g in (RIGHT, NEAR, PARTIAL)]
    assert scores == pytest.approx([right, near, partial])


def test_nearness_to_zero_is_absolute() -> None:
    found = grade(NEAR, [{"answer": "0"}] * 3, ["0", "0.25", "7"])
    assert [r.score for r in found] == [1, 0.75, 0]


def test_alike_pays_for_looks(examples: list[Example]) -> None:
    reward = reward_from(alike("gleu"))
    right = "\n    return 5 + 12"
    wrong = str(examples[0].pcot).replace("12", "13")
    same, looks, differs = reward([str(examples[0].pcot), wrong, right], [examples[0]] * 3)
    assert same.reward == 1 > looks.reward > differs.reward


def test_the_judge_scores_by_its_own_solutions(monkeypatch) -> None:
    own = {"a?": ["1", "1", None, "2"], "b?": ["3", "3", "3", "3"]}
    asked = []

    def answer(model, tokenizer, examples, fmt, sampling, samples, seed):
        asked.append([e.question for e in examples])
        groups = [own[e.question] for e in examples]
        return Answers([[]], groups, [], [])

    monkeypatch.setattr(evaluate, "answer", answer)
    judge = judge_by_solving(None, None, "pcot", SampleConfig(), samples=4)
    talks = [
        [{"role": "developer", "content": "x"}, {"role": "user", "content": q},
         {"role": "user", "content": a}]
        for q, a in (("a?", "1"), ("a?", "2.0"), ("b?", "3"), ("b?", ""))
    ]  # fmt: skip
    replies = judge(talks, None, {})
    assert [json.loads(str(r))["result"] for r in replies] == [0.5, 0.25, 1, 0]
    assert asked == [["a?", "b?"]]  # each question once
    with pytest.raises(UserError, match="gives scores"):
        judge(talks, ["yes", "no"], {})
    with pytest.raises(UserError, match="1 message; .* the question and the proposed answer"):
        judge([talks[0][:1]], None, {})


def test_a_model_judges(new_model, tokenizer, examples: list[Example]) -> None:
    judge = judge_by_solving(
        new_model(), tokenizer, "ncot", SampleConfig(max_new_tokens=4, batch_size=8), samples=2
    )
    content = ("{{ item.messages[0].content }}", "{{ sample.output_text }}")
    spec = {
        "type": "score_model",
        "model": "policy",
        "input": [{"role": "user", "content": text} for text in content],
    }
    row = {"messages": [{"role": "user", "content": examples[0].question}]}
    found = grade(spec, [row], ["17"], Helpers(judge=judge))
    assert found[0].error is None and found[0].score == 0  # it writes no answer in four tokens


def test_a_slip_changes_one_number_and_the_answer(examples: list[Example]) -> None:
    e = examples[0]
    assert rft_graders.slip(e) == "\n    total = 12 + 6\n    return total"
    last_does_not_matter = dataclasses.replace(e, pcot="\n    return 17 + 0 * 3")
    assert rft_graders.slip(last_does_not_matter) == "\n    return 17 + 1 * 3"
    assert rft_graders.slip(dataclasses.replace(e, pcot="\n    return answer")) is None
    assert rft_graders.slip(dataclasses.replace(e, pcot=None)) is None


def test_lookalikes_are_what_they_are_called(examples: list[Example]) -> None:
    e = examples[0]
    paths = [{"pcot": e.pcot}, {"pcot": "\n    return 12 + 5"}, {"pcot": "\n    return 5 + 12"}]
    many = dataclasses.replace(e, meta={"paths": paths})
    found = list(rft_graders.lookalikes([e, many]))
    assert [(one.id, right) for one, _, right in found] == [(e.id, x) for x in (True, True, False)]
    for one, program, right in found:
        assert answers.equal(answers.extract(program, "pcot"), one.answer) is right
        assert program != one.pcot
