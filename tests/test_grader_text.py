"""Similarities against values worked by hand, and against brute force."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reft_lib import grader_text
from reft_lib.errors import UserError
from reft_lib.grader_template import GraderError
from reft_lib.grader_text import MAX_TEXT, METRICS, cosine, similarity

IS, SAT = "the cat is on the mat", "the cat sat on the mat"
ROOT = (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25

CASES: list[tuple[str, str, str, float, str]] = [
    ("fuzzy_match", "Paris", "Paris", 1.0, "equal"),
    ("fuzzy_match", "PARIS.", "paris", 1.0, "case and signs do not count"),
    ("fuzzy_match", "ab", "ac", 0.5, "2 of 4 letters are in common order"),
    ("fuzzy_match", "kitten", "sitting", 8 / 13, "ittn: 2 * 4 of 13 letters"),
    ("fuzzy_match", "abc", "xyz", 0.0, "nothing in common"),
    ("fuzzy_match", "wuzzy fuzzy", "fuzzy wuzzy", 0.95, "sorted words, times 0.95"),
    ("bleu", SAT, SAT, 1.0, "equal"),
    ("bleu", IS, SAT, ROOT, "5/6, 3/5, 1/4, and half of 1/3 for no four-gram"),
    ("bleu", "the cat", "the cat sat on", math.exp(-1), "all right, but half as long"),
    ("bleu", "a", "a", 1.0, "one word, which has no longer n-grams"),
    ("bleu", "dogs", "cats", 0.0, "nothing in common"),
    ("gleu", SAT, SAT, 1.0, "equal"),
    ("gleu", IS, SAT, 9 / 18, "5 + 3 + 1 + 0 of 6 + 5 + 4 + 3 n-grams"),
    ("gleu", "the cat", SAT, 3 / 18, "recall is the smaller"),
    ("gleu", SAT, "the cat", 3 / 18, "precision is the smaller"),
    ("gleu", "the the the the the the the", "the cat is on the mat", 2 / 22, "each counts once"),
    ("meteor", IS, SAT, 5 / 6 * (1 - 0.5 * (2 / 5) ** 3), "5 of 6 words in 2 chunks"),
    ("meteor", SAT, SAT, 1 - 0.5 * (1 / 6) ** 3, "all words in one chunk"),
    ("meteor", "dogs run", "dog running", 1 - 0.5 * (1 / 2) ** 3, "equal stems"),
    ("meteor", "cat sat", SAT, 10 / 28 * (1 - 0.5 / 8), "P = 1, R = 1/3: 10PR / (R + 9P)"),
    ("meteor", "the cat", SAT, 10 / 28 * (1 - 0.5), "the last 'the' is taken: two chunks"),
    ("meteor", "the car", "an automobile", 0.0, "no synonyms without WordNet"),
    ("rouge_1", IS, SAT, 5 / 6, "5 of 6 words"),
    ("rouge_1", "The CAT!", "the cat", 1.0, "case and signs do not count"),
    ("rouge_1", "the cat", SAT, 0.5, "P = 1, R = 1/3"),
    ("rouge_2", IS, SAT, 3 / 5, "3 of 5 pairs"),
    ("rouge_3", IS, SAT, 1 / 4, "on the mat"),
    ("rouge_4", IS, SAT, 0.0, "no four words in a row"),
    ("rouge_4", IS, IS + " again", 2 * 3 / 7, "3 of 3 and 3 of 4"),
    ("rouge_5", IS, IS + " again", 2 * 2 / 5, "2 of 2 and 2 of 3"),
    ("rouge_5", "a b c d", "a b c d", 0.0, "too short for five words"),
    ("rouge_l", IS, SAT, 5 / 6, "5 of 6 words in order"),
    ("rouge_l", "mat the on cat the", "the cat on the mat", 0.6, "the, cat, the"),
    ("rouge_1", "mat the on cat the", "the cat on the mat", 1.0, "order does not count"),
    ("rouge_1", "dogs", "dog", 0.0, "no stemming"),
]


@pytest.mark.parametrize(("metric", "text", "reference", "expected", "why"), CASES)
def test_worked_by_hand(metric: str, text: str, reference: str, expected: float, why: str) -> None:
    assert similarity(metric, text, reference) == pytest.approx(expected, abs=1e-12), why


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("pair", [("", ""), ("", "a"), ("a", ""), (" \n", " \n")])
def test_an_empty_text_is_like_nothing(metric: str, pair: tuple[str, str]) -> None:
    assert similarity(metric, *pair) == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "text", ["\ud800", "\x00", "...", "a" * MAX_TEXT, "\u2028 x", "🙂 🙂", "{{", "١٢٣ ".strip()]
)
def test_odd_texts_do_no_harm(metric: str, text: str) -> None:
    assert 0 <= similarity(metric, text, "a cat ...") <= 1
    assert 0 <= similarity(metric, "a cat ...", text) <= 1


def test_too_long_a_text_is_not_compared() -> None:
    with pytest.raises(GraderError, match="20001 characters"):
        similarity("rouge_l", "a" * (MAX_TEXT + 1), "a")


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(UserError, match="there are: fuzzy_match, bleu, .*cosine"):
        similarity("bert_score", "a", "b")


def test_a_failing_library_is_the_graders_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grader_text.METRICS, "bleu", lambda a, b: 1 / 0)
    with pytest.raises(GraderError, match="bleu: ZeroDivisionError"):
        similarity("bleu", "a", "b")


# ---------------------------------------------------------------- against brute force

WORDS = st.lists(st.sampled_from(["a", "bee", "cat", "Dog", "7"]), min_size=1, max_size=9)


def ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


@settings(deadline=None)
@given(WORDS, WORDS, st.integers(1, 5))
def test_rouge_counts_common_ngrams(a: list[str], b: list[str], n: int) -> None:
    x, y = (ngrams(re.findall("[a-z0-9]+", " ".join(t).lower()), n) for t in (a, b))
    common = (x & y).total()
    expected = 2 * common / (x.total() + y.total()) if common else 0.0
    assert similarity(f"rouge_{n}", " ".join(a), " ".join(b)) == pytest.approx(expected)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_gleu_is_the_smaller_of_precision_and_recall(a: list[str], b: list[str]) -> None:
    x, y = (sum((ngrams(t, n) for n in range(1, 5)), Counter()) for t in (a, b))
    expected = (x & y).total() / max(x.total(), y.total())
    assert similarity("gleu", " ".join(a), " ".join(b)) == pytest.approx(expected)


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


@settings(deadline=None, max_examples=40)
@given(WORDS, WORDS)
def test_rouge_l_is_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    common = longest_common([w.lower() for w in a], [w.lower() for w in b])
    expected = 2 * common / (len(a) + len(b))
    assert similarity("rouge_l", " ".join(a), " ".join(b)) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=20), st.text(max_size=20))
def test_every_metric_stays_between_0_and_1(a: str, b: str) -> None:
    for metric in METRICS:
        assert 0 <= similarity(metric, a, b) <= 1, metric


# ---------------------------------------------------------------- cosine

VECTORS = {"east": (1, 0), "north": (0, 2), "both": (3, 4), "west": (-1, 0), "none": (0, 0)}


def embed(texts):  # type: ignore[no-untyped-def]
    return [VECTORS[text] for text in texts]


def test_cosines_by_hand() -> None:
    pairs = [
        ("east", "east"), ("east", "north"), ("both", "east"), ("both", "north"),
        ("east", "west"), ("none", "east"), ("", "east"), ("", ""),
    ]  # fmt: skip
    assert cosine(pairs, embed) == pytest.approx([1, 0, 0.6, 0.8, 0, 0, 0, 0])


def test_each_text_is_embedded_once() -> None:
    seen: list[str] = []

    def watched(texts):  # type: ignore[no-untyped-def]
        seen.extend(texts)
        return embed(texts)

    cosine([("east", "north"), ("north", "east"), ("", "both")], watched)
    assert seen == ["east", "north"]
    assert cosine([], watched) == [] and cosine([("", "a")], watched) == [0.0]
    assert len(seen) == 2


def test_large_vectors_do_not_overflow() -> None:
    assert cosine([("a", "b")], lambda texts: [(1e200, 0), (1e200, 1e200)]) == pytest.approx(
        [math.sqrt(0.5)]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda texts: [],
        lambda texts: [(1, 0)],
        lambda texts: [(1, 0), (1,)],
        lambda texts: [(), ()],
        lambda texts: [(1, float("nan")), (1, 0)],
    ],
)
def test_an_embedder_that_returns_something_else_is_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="one finite vector for each text"):
        cosine([("east", "north")], wrong)


def test_libraries_are_imported_on_first_use() -> None:
    code = (
        "import sys, reft_lib.graders; "
        "print([m for m in ('nltk', 'rouge_score', 'sacrebleu', 'rapidfuzz', 'torch')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "[]", done.stderr
