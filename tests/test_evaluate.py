"""Greedy and voted accuracy, and the counting of reasoning paths."""

from __future__ import annotations

import pytest

from reft_lib import evaluate
from reft_lib.config import SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError

END = "\nTherefore, the answer is: "


def test_judging_by_hand(examples):
    """Gold answers 17, 7, 2, 27; three responses each."""
    texts = [
        [f"a{END}17", f"b{END}17", f"c{END}5"],  # two of three right
        [f"a{END}8", f"b{END}7", f"c{END}8"],  # outvoted
        ["no answer", "none", f"c{END}2"],  # those without an answer do not vote
        ["no answer", "none", ""],  # nobody votes: wrong, never right
    ]
    result = evaluate.judge(texts, examples, "ncot")
    assert result.correct == [True, False, True, False]
    assert result.accuracy == 0.5
    low, high = result.interval
    assert 0 < low < 0.5 < high < 1
    assert result.answers[2][:2] == [None, None] and result.chosen[3] is None


def test_one_response_is_its_own_majority(examples):
    texts = [[f"x{END}{n}"] for n in ("17.00", "$7", "3", "27 apples")]
    assert evaluate.judge(texts, examples, "ncot").correct == [True, True, False, True]


def test_programs_are_run(examples):
    bodies = [
        "\n    return 12 + 5",
        "\n    return 1 / 0",
        "\n    x = 1\n    return x + 1",
        "\n    ",
    ]
    result = evaluate.judge([[b] for b in bodies], examples, "pcot")
    assert result.correct == [True, False, True, False]


def test_reasoning_ignores_words_and_spaces():
    first = f"Buying makes 12 + 5 = 17. Then 17 * 2 = 34.{END}34"
    second = f"So 12 + 5 = 17. Price: 17 * 2 = 34.{END}34"
    assert evaluate.reasoning(first, "ncot") == evaluate.reasoning(second, "ncot")
    assert evaluate.reasoning(first, "ncot") == "12 + 5 = 17; 17 * 2 = 34"
    assert evaluate.reasoning("(2 + 3) * 4 = 20.", "ncot") == "(2 + 3) * 4 = 20"
    a, b = "\n    x = 1+2\n    return x", "\n    x = 1 + 2\n\n    return x"
    assert evaluate.reasoning(a, "pcot") == evaluate.reasoning(b, "pcot")


def test_distinct_paths_counts_correct_ones_once(examples):
    group = [
        f"12 + 5 = 17.{END}17",
        f"So 12 + 5 = 17.{END}17",  # the same path in other words
        f"5 + 12 = 17.{END}17",
        f"12 + 5 = 18.{END}18",  # wrong
    ]
    result = evaluate.judge([group], examples[:1], "ncot")
    assert evaluate.distinct_paths(result, examples[:1], "ncot") == [2]


def test_path_shares_by_hand():
    paths = [
        {"name": "steps", "ncot": "12 + 5 = 17. 17 * 2 = 34.", "pcot": ""},
        {"name": "whole", "ncot": "(12 + 5) * 2 = 34.", "pcot": ""},
    ]
    e = Example("1", "q", "34", None, None, {"paths": paths})
    said = [
        f"We have (12 + 5) * 2 = 34.{END}34",
        f"12 + 5 = 17. 17 * 2 = 34.{END}34",
        "5 + 5 = 10.",
    ]
    shares = evaluate.path_shares([*said, said[1]], [e] * 4, "ncot")
    assert shares == {"whole": 0.25, "steps": 0.5, "other": 0.25}


def test_answer_does_not_depend_on_the_batch(new_model, tokenizer, examples):
    model = new_model()
    small = SampleConfig(max_new_tokens=10, batch_size=1)
    large = SampleConfig(max_new_tokens=10, batch_size=4)
    one = evaluate.answer(model, tokenizer, examples, "ncot", small)
    two = evaluate.answer(model, tokenizer, examples, "ncot", large)
    assert one.texts == two.texts  # greedy, in the order of the examples
    voted = evaluate.answer(model, tokenizer, examples, "ncot", large, votes=3, seed=1)
    again = evaluate.answer(model, tokenizer, examples, "ncot", large, votes=3, seed=1)
    assert [len(t) for t in voted.texts] == [3] * 4 and voted.texts == again.texts
    assert voted.texts != evaluate.answer(
        model, tokenizer, examples, "ncot", large, votes=3, seed=2
    ).texts  # fmt: skip


def test_answers_stand_beside_their_questions(new_model, tokenizer, examples, monkeypatch):
    """Questions are sorted by length inside; the result must not be."""

    def echo(model, tokenizer, prompt_ids, *args, samples_per_prompt=1, **options):
        class Fake:
            texts = [tokenizer.decode(ids) for ids in prompt_ids for _ in range(samples_per_prompt)]

        return Fake

    monkeypatch.setattr(evaluate.rollout, "sample", echo)
    config = SampleConfig(batch_size=2)
    for votes in (1, 2):
        result = evaluate.answer(new_model(), tokenizer, examples, "ncot", config, votes=votes)
        for texts, e in zip(result.texts, examples, strict=True):
            assert len(texts) == votes and all(e.question in t for t in texts)


def test_interval_is_wilsons(examples):
    result = evaluate.Answers([], [], [], [True] * 8 + [False] * 2)
    assert result.accuracy == pytest.approx(0.8)
    assert result.interval == pytest.approx((0.4902, 0.9433), abs=1e-3)


def test_a_question_beyond_the_context_is_named(new_model, tokenizer, examples):
    with pytest.raises(UserError, match="made-0 has .* tokens, more than the 20"):
        evaluate.answer(
            new_model(context=30), tokenizer, examples, "ncot", SampleConfig(max_new_tokens=10)
        )
