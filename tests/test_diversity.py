"""Diversity against sacrebleu and by hand; wording against every shipped question."""

from __future__ import annotations

import random

import pytest
import sacrebleu

from reft_lib import data, diversity, wording
from reft_lib.errors import UserError


def by_sacrebleu(texts: list[str]) -> float:
    spaced = [" ".join(diversity.words(t)) for t in texts]
    scores = [
        sacrebleu.sentence_bleu(t, spaced[:i] + spaced[i + 1 :], tokenize="none").score / 100
        for i, t in enumerate(spaced)
    ]
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(6))
def test_self_bleu_is_that_of_sacrebleu(seed):
    dice = random.Random(seed)
    texts = [
        " ".join(dice.choices(["Tom", "has", "3", "apples", "and", "."], k=dice.randint(1, 9)))
        for _ in range(dice.randint(2, 9))
    ]
    assert diversity.self_bleu(texts) == pytest.approx(by_sacrebleu(texts), abs=1e-9)


def test_self_bleu_of_questions_is_that_of_sacrebleu():
    texts = [e.question for e in data.load("embedded", "validation")[:12]]
    assert diversity.self_bleu(texts) == pytest.approx(by_sacrebleu(texts), abs=1e-9)


def test_one_text_over_and_over_and_none_alike():
    same, other = ["Tom has 3 apples."] * 4, ["a b c d e", "f g h i j"]
    assert diversity.summary(same) == {
        "distinct_2": 4 / 16,
        "unique": 1 / 4,
        "self_bleu": pytest.approx(1.0),
    }
    assert diversity.summary(other) == {"distinct_2": 1.0, "unique": 1.0, "self_bleu": 0.0}


def test_distinct_n_by_hand():
    texts = ["a b a b", "b a c"]  # ab ba ab | ba ac
    assert diversity.distinct(texts, 2) == 3 / 5
    assert diversity.distinct(texts, 1) == 3 / 7
    assert diversity.distinct(["a", ""], 2) == 0.0
    assert diversity.self_bleu(["", "a b"]) == 0.0


def test_too_few_texts_are_one_line():
    with pytest.raises(UserError, match="1 texts; diversity is measured on at least 2"):
        diversity.self_bleu(["a"])
    with pytest.raises(UserError, match="0 texts"):
        diversity.distinct([])
    with pytest.raises(UserError, match="n is 0"):
        diversity.distinct(["a"], 0)


def test_every_shipped_question_is_worded_as_a_problem():
    examples = data.load("embedded", "validation") + data.load("embedded", "hard")
    assert all(wording.is_problem(e.question) for e in examples)
    # "Tom gets 3 cards from Ben" is said of both, depending on who is the person of the story.
    twins = {"give": "receive", "sell": "buy"}
    for e in examples[:100]:
        kinds, unread = wording.read(e.question)
        said = [twins.get(k, k) for k in kinds if k != "distractor"]
        assert said == [twins.get(k, k) for k in e.meta["kinds"]] and not unread


STORY = "Tom has 9 apples. Tom loses 2 of the apples. How many apples does Tom have now?"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Tom loses 2", "Tom lost 2"),  # not the task's words
        ("2 of the apples", "2 of the stamps"),  # other things
        (" How many apples does Tom have now?", ""),  # nothing asked
        ("Tom loses", "How many apples does Tom have now? Tom loses"),  # asked twice
        ("Tom loses 2 of the apples.", "Tom has 4 apples."),  # begun twice
        ("now?", "now?\nresult = 7"),  # goes on after the question
        ("Tom has 9 apples. ", ""),  # no beginning
        (STORY, ""),
    ],
)
def test_what_is_no_problem(old, new):
    assert wording.is_problem(STORY) and not wording.is_problem(STORY.replace(old, new))


def test_effective_kinds_by_hand():
    lose, ask = "Tom loses 2 of the apples.", "How many apples does Tom have now?"
    opening = "Tom has 9 apples."
    assert wording.effective_kinds([f"{opening} {lose} {ask}"] * 3) == pytest.approx(2.0)
    assert wording.effective_kinds([f"{opening} {ask}"] * 2) == pytest.approx(1.0)
    assert wording.effective_kinds([opening, "Nothing of this."]) == 0.0
