"""The reward as a table of responses and scores, in both formats."""

from __future__ import annotations

import pytest

from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.prompts import target
from reft_lib.rewards import AnswerReward, Graded, read_answers

T = "9 + 9\nTherefore, the answer is: "

WORDS: list[tuple[str, str, float, str]] = [
    (T + "18", "18", 1.0, "right"),
    (T + "18.00", "18", 1.0, "right, with decimals"),
    (T + "18.01", "18", 1.0, "within the tolerance"),
    (T + "18.02", "18", 0.1, "outside the tolerance"),
    (T + "1,450", "1450", 1.0, "ledger: 0 in the official code, in words"),
    (T + "$18", "18", 1.0, "ledger: 0 in the official code, in words"),
    (T + "18 apples.", "18", 1.0, "a unit"),
    (T + "-3", "-3", 1.0, "a negative answer"),
    (T + "3", "-3", 0.1, "the sign is wrong"),
    (T + "3/4", "0.75", 1.0, "a fraction"),
    (T + "50%", "50", 1.0, "per cent is a unit"),
    (T + "17", "18", 0.1, "wrong, but an answer"),
    (T + "none", "18", 0.0, "ledger: 0.1 for programs in the official code"),
    (T + "nan", "18", 0.0, "ledger: 0.1 in the official code"),
    (T + "inf", "18", 0.0, "not finite"),
    (T + "18 or 19", "18", 0.0, "no decision, no answer"),
    (T, "18", 0.0, "cut off after the trigger"),
    (T + "17\n" + T + "18", "18", 1.0, "the last trigger counts"),
    (T + "18\n" + T + "17", "18", 0.1, "the last trigger counts"),
    ("9 + 9 = 18", "18", 0.0, "the number without the trigger"),
    ("", "18", 0.0, "nothing"),
    (T + "B", "18", 0.0, "a letter where a number is asked for"),
    (T + "b", "B", 1.0, "the right letter"),
    (T + "(B)", "B", 1.0, "the right letter in brackets"),
    (T + "A", "B", 0.0, "a wrong letter earns nothing"),
    (T + "18", "B", 0.0, "a number where a letter is asked for"),
    (T + "0.01", "0.005", 0.1, "ledger: 1 in the official code, for twice the right number"),
]

PROGRAMS: list[tuple[str, str, float, str]] = [
    ("\n    return 9 + 9", "18", 1.0, "right"),
    ("\n    return 54 / 3", "18", 1.0, "right, a float"),
    ("\n    return '1,450'", "1450", 1.0, "a string with a separator"),
    ("\n    return '$18'", "18", 1.0, "a string with a currency"),
    ("\n    return 1 / 3", "0.333", 1.0, "within the tolerance"),
    ("\n    return 17", "18", 0.1, "wrong, but an answer"),
    ("\n    return None", "18", 0.0, "ledger: the string 'none' earned 0.1"),
    ("\n    return 'none'", "18", 0.0, "ledger: the string 'none' earned 0.1"),
    ("\n    return float('nan')", "18", 0.0, "ledger: nan earned 0.1"),
    ("\n    return float('inf')", "18", 0.0, "not finite"),
    ("\n    return True", "1", 0.0, "a truth value is no number"),
    ("\n    return 1 / 0", "18", 0.0, "fails"),
    ("\n    return (", "18", 0.0, "is no Python"),
    ("\n    import os\n    return 18", "18", 0.0, "asks for what is not allowed"),
    ("\n    x = 18", "18", 0.0, "returns nothing"),
    ("", "18", 0.0, "nothing"),
    ("\n    return 'b'", "B", 1.0, "the right letter"),
    ("\n    return 'a'", "B", 0.0, "a wrong letter earns nothing"),
]


def grade(table: list[tuple[str, str, float, str]], reward: AnswerReward) -> list[Graded]:
    examples = [Example(f"row{i}", "q?", gold) for i, (_, gold, _, _) in enumerate(table)]
    return reward([text for text, _, _, _ in table], examples)


@pytest.mark.parametrize(
    ("table", "reward"), [(WORDS, AnswerReward("ncot")), (PROGRAMS, AnswerReward("pcot"))]
)
def test_scores(table: list[tuple[str, str, float, str]], reward: AnswerReward) -> None:
    graded = grade(table, reward)
    got = [(reason, g.reward) for (_, _, _, reason), g in zip(table, graded, strict=True)]
    assert got == [(reason, score) for _, _, score, reason in table]
    for g in graded:
        assert g.correct == (g.reward == 1.0)
        assert g.answer is not None or g.reward == 0.0


def test_partial_reward_can_be_turned_off() -> None:
    off = grade(WORDS, AnswerReward("ncot", partial=0.0))
    on = grade(WORDS, AnswerReward("ncot"))
    assert [g.reward for g in off] == [1.0 if g.correct else 0.0 for g in on]
    assert [g.answer for g in off] == [g.answer for g in on]  # what was said is still told


def test_accuracy_does_not_count_partial_rewards() -> None:
    # ledger: the official code logs the mean reward as accuracy
    graded = grade([(T + "17", "18", 0.1, "")] * 10, AnswerReward("ncot"))
    assert sum(g.correct for g in graded) == 0
    assert sum(g.reward for g in graded) == pytest.approx(1.0)


def test_tolerance_is_an_option() -> None:
    table = [(T + "18.4", "18", 0.0, "")]
    assert grade(table, AnswerReward("ncot", tol=0.5))[0].correct
    assert not grade(table, AnswerReward("ncot"))[0].correct


@pytest.mark.parametrize("fmt", ["ncot", "pcot"])
def test_an_annotation_earns_the_whole_reward(fmt) -> None:  # type: ignore[no-untyped-def]
    example = Example("a", "q?", "18", ncot="9 + 9 = 18", pcot="\n    return 9 + 9")
    assert AnswerReward(fmt)([target(example, fmt)], [example]) == [Graded(1.0, "18", True)]


def test_each_answer_is_read_as_its_question_asks() -> None:
    options = "how much ?\na ) 17 , b ) 18 , c ) 19"
    examples = [Example("n", "q?", "18"), Example("l", options, "b"), Example("m", options, "c")]
    words = [T + "b ) 18", T + "b ) 18", T + "18"]
    assert read_answers(words, examples, "ncot") == ["18", "B", "B"]
    assert [g.reward for g in AnswerReward("ncot")(words, examples)] == [1.0, 1.0, 0.0]
    programs = ["\n    return 9 + 9"] * 3  # a program computes the number, which picks the option
    assert read_answers(programs, examples, "pcot") == ["18", "B", "B"]
    assert [g.reward for g in AnswerReward("pcot")(programs, examples)] == [1.0, 1.0, 0.0]
    assert read_answers([T + "20"] * 2, examples[:2], "ncot") == ["20", None]


@pytest.mark.parametrize("partial", [-0.1, 1.0, 2.0, float("nan")])
def test_a_partial_reward_must_lie_between_none_and_all(partial: float) -> None:
    with pytest.raises(UserError, match="at least 0 and below 1"):
        AnswerReward("ncot", partial=partial)


def test_each_response_needs_its_example() -> None:
    with pytest.raises(ValueError):
        AnswerReward("ncot")([T + "18"], [])
    assert AnswerReward("pcot")([], []) == []
