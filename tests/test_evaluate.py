"""Greedy accuracy, what k samples are good for, and the counting of reasoning paths."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch

from reft_lib import answers, evaluate, fused
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
    assert result.right == [
        [True, True, False],
        [False, True, False],
        [False, False, True],
        [False] * 3,
    ]


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
    assert evaluate.reasoning(first, "ncot") == "12+5=17; 17*2=34"
    assert evaluate.reasoning("(2 + 3) * 4 = 20.", "ncot") == "(2+3)*4=20"
    a, b = "\n    x = 1+2\n    return x", "\n    x = 1 + 2\n\n    return x"
    assert evaluate.reasoning(a, "pcot") == evaluate.reasoning(b, "pcot")


def test_reasoning_without_equations_is_its_words():
    """Else all chains of thought without an equation would be one path."""
    a, b = f"He has twelve,\n  then 17.{END}17", f"Five more make 17.{END}17"
    assert (
        evaluate.reasoning(a, "ncot") == "He has twelve, then 17." != evaluate.reasoning(b, "ncot")
    )


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
            ended = torch.ones(len(texts), dtype=torch.bool)

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


def test_letters_are_judged_where_the_gold_answer_is_one():
    """As the reward does: the wrong kind of answer is none, and does not vote."""
    choice = Example("1", "q", "B", None, None, {})
    number = Example("2", "q", "7", None, None, {})
    texts = [[f"x{END}{a}" for a in ("b ) 27", "27", "27", "C")], [f"x{END}{a}" for a in "ABB7"]]
    result = evaluate.judge(texts, [choice, number], "ncot")
    assert result.answers == [["B", None, None, "C"], [None, None, None, "7"]]
    assert result.correct == [True, True]


@pytest.fixture
def drawn(examples):
    """Four questions with gold answers 17, 7, 2, 27 and four responses each."""
    given = [[17, 5, 5, None], [None, 9, 7, 8], [None] * 4, [27, 27, 27, 3]]
    texts = [["?" if a is None else f"x{END}{a}" for a in group] for group in given]
    return evaluate.judge(texts, examples, "ncot")


def test_the_majority_by_hand_and_against_vote(drawn):
    assert drawn.chosen == ["5", "9", None, "27"]  # a tie goes to the first
    assert drawn.correct == [False, False, False, True]
    rng = random.Random(0)
    pool = [None, "1", "2", "-0.5", "0.333333333333", "1450", "C"]
    groups = [rng.choices(pool, k=rng.randint(1, 9)) for _ in range(300)]
    result = evaluate.Answers(groups, groups, [], [], [[False] * len(g) for g in groups])
    assert evaluate.majority(result).chosen == [answers.vote(g) for g in groups]


def test_reranking_takes_the_highest_valid_score(drawn):
    scores = [[0.9, 0.5, 0.5, 1.0], [1.0, 0.2, 0.7, 0.7], [1.0] * 4, [0.1, 0.1, 0.1, 0.2]]
    result = evaluate.rerank(drawn, scores)
    assert result.chosen == ["17", "7", None, "3"]  # "?" has the highest score twice; 7 ties with 8
    assert result.correct == [True, True, False, False]
    assert result.texts == drawn.texts and drawn.chosen[0] == "5"  # the samples stay, for others
    scaled = [[s * 100 - 7 for s in group] for group in scores]
    assert evaluate.rerank(drawn, scaled).chosen == result.chosen  # only the order counts


def test_weighted_votes_add_scores(drawn):
    sure = [[0.9, 0.4, 0.4, 1.0], [1.0, 0.2, 0.5, 0.4], [1.0] * 4, [0.1, 0.1, 0.1, 0.2]]
    assert evaluate.weighted_vote(drawn, sure).chosen == ["17", "7", None, "27"]
    unsure = [[0.9, 0.5, 0.5, 1.0], *sure[1:]]
    assert evaluate.weighted_vote(drawn, unsure).chosen[0] == "5"
    even = [[0.3] * 4] * 4
    assert evaluate.weighted_vote(drawn, even).chosen == drawn.chosen


@pytest.mark.parametrize("scores", [[[1.0] * 4] * 3, [[1.0] * 4] * 3 + [[1.0] * 3]])
def test_every_response_needs_a_score(drawn, scores):
    for strategy in (evaluate.rerank, evaluate.weighted_vote):
        with pytest.raises(UserError, match="one for each response"):
            strategy(drawn, scores)


def test_chance_is_what_blind_choices_average_to(drawn):
    """Reranking with every order of the valid responses, averaged."""
    blind = [0.0] * 4
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        result = evaluate.rerank(drawn, [[float(s) for s in order]] * 4)
        blind = [b + c / len(orders) for b, c in zip(blind, result.correct, strict=True)]
    assert evaluate.chance(drawn) == pytest.approx(blind)
    assert evaluate.chance(drawn) == pytest.approx([1 / 3, 1 / 3, 0, 3 / 4])


def test_pass_at_k_is_the_bound_and_rises(drawn):
    assert evaluate.pass_at_k(drawn, 1) == [0.25, 0.25, 0.0, 0.75]
    assert evaluate.pass_at_k(drawn, 2) == pytest.approx([1 / 2, 1 / 2, 0, 1])
    everything = evaluate.pass_at_k(drawn, 4)
    assert everything == [1.0, 1.0, 0.0, 1.0]
    for k in (1, 2, 3):
        pairs = zip(evaluate.pass_at_k(drawn, k), evaluate.pass_at_k(drawn, k + 1), strict=True)
        assert all(a <= b for a, b in pairs)
    rng = random.Random(1)
    for _ in range(20):
        scores = [[rng.random() for _ in range(4)] for _ in range(4)]
        for strategy in (evaluate.rerank, evaluate.weighted_vote):
            chosen = strategy(drawn, scores).correct
            assert all(c <= p for c, p in zip(chosen, everything, strict=True))


def test_the_first_of_many_samples_are_a_smaller_set(drawn):
    drawn = replace(drawn, ended=[[True, False, True, True]] * 4)
    two = evaluate.first(drawn, 2)
    assert two.texts[3] == drawn.texts[3][:2] and two.ended[0] == [True, False]
    assert two.chosen == ["17", "9", None, "27"] and two.correct == [True, False, False, True]
    assert evaluate.first(drawn, 1).chosen == ["17", None, None, "27"]
    for k in (0, 5):
        with pytest.raises(UserError, match=f"the first {k} responses"):
            evaluate.first(drawn, k)


def widths_read(model, calls):
    """Note the (rows, columns) of every forward pass."""
    model.model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: calls.append(tuple(inputs[0].shape))
    )
    return model


def test_a_question_is_read_once_for_all_its_samples(new_model, tokenizer, examples):
    calls: list[tuple[int, int]] = []
    model = widths_read(new_model(), calls)
    config = SampleConfig(max_new_tokens=3, batch_size=200)
    with fused.plain():  # every token through the model, where it can be counted
        result = evaluate.answer(model, tokenizer, examples, "ncot", config, votes=100)
    assert [len(t) for t in result.texts] == [100] * 4
    prompts = [c for c in calls if c[1] > 1]
    assert [rows for rows, _ in prompts] == [2, 2]  # four questions, not four hundred
    assert all(width == 1 and rows <= 200 for rows, width in calls if (rows, width) not in prompts)
    assert len(calls) == 2 + 2 * 2  # and two more tokens of each


def test_no_more_rows_than_the_batch_however_many_samples(new_model, tokenizer, examples):
    calls: list[tuple[int, int]] = []
    model = widths_read(new_model(), calls)
    config = SampleConfig(max_new_tokens=6, batch_size=8)
    with fused.plain():  # every token through the model, where it can be counted
        result = evaluate.answer(model, tokenizer, examples[:2], "ncot", config, votes=20)
    assert [len(t) for t in result.texts] == [20, 20] == [len(e) for e in result.ended]
    assert max(rows for rows, _ in calls) == 8
    assert sum(width > 1 for _, width in calls) == 2 * 3  # 8 + 8 + 4 samples of each question
    assert len({tuple(result.texts[0][i : i + 4]) for i in range(0, 20, 4)}) == 5  # all differ


def test_cut_off_responses_are_marked(new_model, tokenizer, examples, monkeypatch):
    """The mark stands beside its text, whatever order questions were read in."""
    seen: list[tuple[str, bool]] = []
    sample = evaluate.rollout.sample

    def watched(*args, **options):
        rolled = sample(*args, **options)
        seen.extend(zip(rolled.texts, rolled.ended.tolist(), strict=True))
        return rolled

    monkeypatch.setattr(evaluate.rollout, "sample", watched)
    config = SampleConfig(max_new_tokens=12, batch_size=64)
    result = evaluate.answer(new_model(), tokenizer, examples, "ncot", config, votes=32)
    kept = [
        pair
        for texts, ended in zip(result.texts, result.ended, strict=True)
        for pair in zip(texts, ended, strict=True)
    ]
    assert sorted(kept) == sorted(seen) and len({ended for _, ended in seen}) == 2
