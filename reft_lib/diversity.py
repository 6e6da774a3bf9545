"""How varied a set of texts is: numbers that fall, or rise, when a generator repeats itself.

A generator can please its judge by one good text written over and over. No average of scores shows
that; these do, because they compare the texts of a batch with each other. All depend on how many
texts there are and how long they are, so compare batches of like size.

A word here is a run of letters or digits, or any other sign by itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from reft_lib.errors import UserError

WORD = re.compile(r"\w+|[^\w\s]")
ORDER = 4
"""Longest n-gram of BLEU."""


def words(text: str) -> list[str]:
    """Return the words and signs of a text."""
    return WORD.findall(text)


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return every run of n neighbouring tokens, in order."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def unique(texts: Sequence[str]) -> float:
    """Return how many different texts there are for each text; 1: none comes twice.

    Raises
    ------
    UserError
        If there is no text.
    """
    _check(texts, 1)
    return len(set(texts)) / len(texts)


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Return the share of different n-grams among all n-grams of some texts, 0 to 1.

    Parameters
    ----------
    texts : sequence of str
    n : int
        Length of the n-grams in words.

    Returns
    -------
    float
        0 where no text has n words.

    Raises
    ------
    UserError
        If there is no text, or n is below 1.

    Notes
    -----
    Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models",
    section 5: distinct-1 and distinct-2.
    """
    _check(texts, 1)
    if n < 1:
        raise UserError(f"n is {n}; an n-gram has at least 1 word")
    found = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(found)) / max(1, len(found))


def self_bleu(texts: Sequence[str]) -> float:
    """Return how well each text can be pieced together from the others: mean BLEU, 0 to 1.

        self-BLEU = (1/N) sum_i BLEU(text_i; all other texts as references)

    0: no two texts share a word; 1: every text is there twice. Templates alone make it high, so
    its value for real texts belongs beside it.

    Parameters
    ----------
    texts : sequence of str
        At least two.

    Raises
    ------
    UserError
        If there are fewer than two texts.

    Notes
    -----
    Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation Models". BLEU-4 of a
    sentence (Papineni et al. 2002) as sacrebleu computes it: an order without a match counts
    1 / (2^k total), k being how many such orders there have been; orders that are longer than the
    text are left out.
    """
    _check(texts, 2)
    tokens = [words(text) for text in texts]
    counts = [[Counter(ngrams(t, n)) for t in tokens] for n in range(1, ORDER + 1)]
    most = [_two_largest(of_order) for of_order in counts]
    total = 0.0
    for i, text in enumerate(tokens):
        logs: list[float] = []
        unmatched = 0
        for n in range(1, ORDER + 1):
            grams = max(0, len(text) - n + 1)
            if not grams:
                break
            own, top = counts[n - 1][i], most[n - 1]
            # The largest count among the *other* texts: the second largest, if the first is i's.
            matches = sum(min(c, top[g][top[g][2] == i]) for g, c in own.items())
            if n == 1 and matches == 0:
                logs = []
                break
            unmatched += matches == 0
            logs.append(math.log(matches / grams if matches else 1 / (2**unmatched * grams)))
        if logs:
            others = [len(t) for j, t in enumerate(tokens) if j != i]
            nearest = min(others, key=lambda length: (abs(length - len(text)), length))
            brevity = min(0.0, 1 - nearest / len(text))
            total += math.exp(brevity + sum(logs) / len(logs))
    return total / len(texts)


def _two_largest(counts: Sequence[Counter]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Return, for each n-gram, its largest count in a text, the second largest, and where."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, counter in enumerate(counts):
        for gram, c in counter.items():
            first, second, where = found.get(gram, (0, 0, -1))
            found[gram] = (c, first, i) if c > first else (first, max(second, c), where)
    return found


def _check(texts: Sequence[str], least: int) -> None:
    if len(texts) < least:
        raise UserError(f"{len(texts)} texts; diversity is measured on at least {least}")


def summary(texts: Sequence[str]) -> dict[str, float]:
    """Return ``distinct_2``, ``unique`` and ``self_bleu`` of at least two texts."""
    return {
        "distinct_2": distinct(texts, 2),
        "unique": unique(texts),
        "self_bleu": self_bleu(texts),
    }
