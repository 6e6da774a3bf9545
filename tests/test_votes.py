"""Kept samples: strategies against counting by hand, and what does not fit is refused."""

from __future__ import annotations

from itertools import combinations

import pytest

from reft_lib.errors import UserError
from reft_lib.evaluate import Answers
from reft_lib.votes import Votes, from_row

ANSWERS = [["7", "3", "3", None], ["5", "5", "8", "5"], [None, "2", "1", "1"]]
RIGHT = ["0110", "1101", "0100"]
SCORES = [[0.9, 0.2, 0.3, 0.99], [0.1, 0.1, 0.6, 0.2], [0.9, 0.8, 0.3, 0.4]]


def votes(scores=SCORES):
    """Return three questions with four samples each."""
    verdicts = [[mark == "1" for mark in marks] for marks in RIGHT]
    texts = [[a or "" for a in group] for group in ANSWERS]
    return Votes(Answers(texts, ANSWERS, [], [], verdicts), ["p", "q", "r"], scores)


def test_strategies_choose_as_by_hand():
    found = {name: a.chosen for name, a in votes().decided(4).items()}
    assert found == {
        "vote": ["3", "5", "1"],
        "wvote": ["7", "8", "2"],  # .9 against .2 + .3; .6 against .4; .8 against .7
        "rerank": ["7", "8", "2"],  # what has no answer takes no part
    }
    assert votes().decided(1)["vote"].chosen == ["7", "5", None]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_accuracies_by_listing(k):
    found, n = votes().accuracies(k), len(RIGHT)
    subsets = [list(combinations(marks, k)) for marks in RIGHT]
    hits = [sum("1" in s for s in group) / len(group) for group in subsets]
    assert found["pass"] == pytest.approx(sum(hits) / n)
    assert set(found) == {"pass", "wvote", "vote", "rerank", "chance"}
    if k == 4:
        assert found["chance"] == pytest.approx((2 / 3 + 3 / 4 + 1 / 3) / n)  # of valid responses
        assert found["vote"] == pytest.approx(2 / 3) and found["rerank"] == pytest.approx(1 / 3)
    curves = votes().curves
    assert {name: curve[k] for name, curve in curves.items()} == found


def test_without_scores_only_votes():
    assert set(votes(None).curves) == {"pass", "vote", "chance"}


def test_telling_questions_are_different_ones_and_the_first_tells_strategies_apart():
    found = votes().telling()
    assert len(set(found)) == len(found) == 3
    assert votes().decided(4)["vote"].correct[found[0]]
    assert not votes().decided(4)["rerank"].correct[found[0]]


def test_a_row_of_a_log_keeps_the_same_samples():
    row = {"decoding": "vote4", "answers": ANSWERS, "right": RIGHT, "scores": SCORES}
    assert from_row(row, ["p", "q", "r", "s"]) == votes()
    assert from_row({"decoding": "vote4", "answers": float("nan")}, ["p"]) is None
    assert from_row({"decoding": "top1", "answers": ANSWERS}, ["p"]) is None


@pytest.mark.parametrize(
    "change",
    [{"right": None}, {"right": RIGHT[:2]}, {"scores": SCORES[:1]}, {"answers": [], "right": []}],
)
def test_a_row_that_does_not_fit_is_refused(change):
    row = {"decoding": "vote4", "answers": ANSWERS, "right": RIGHT, "scores": SCORES, **change}
    with pytest.raises(UserError, match=r"votes: .+"):
        from_row(row, ["p", "q", "r"])


def test_more_samples_than_there_are_is_refused():
    with pytest.raises(UserError, match="has fewer"):
        votes().decided(5)
