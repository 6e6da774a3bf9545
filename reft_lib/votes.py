"""Samples of many questions, kept: what voting and its rivals make of the first k of them.

A run log keeps them in the rows of split ``test`` whose decoding is ``vote<n>``: ``answers`` and
``right``, for each question a list of n answers and a string of n verdicts (0 or 1), and if a
verifier read them ``scores``. Rows without these columns keep accuracies alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reft_lib import evaluate
from reft_lib.errors import UserError
from reft_lib.evaluate import Answers


@dataclass(frozen=True)
class Votes:
    """A policy's samples of N questions, n each, and what is known of them besides."""

    answers: Answers
    questions: Sequence[Any]
    """N examples or texts."""
    scores: Sequence[Sequence[float]] | None = None
    """A verifier's, of each sample, 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse what is empty, or of unequal lengths.

        Raises
        ------
        UserError
            If so.
        """
        shape = [len(group) for group in self.answers.answers]
        if not shape or 0 in shape:
            raise UserError("votes: no samples; draw some with evaluate.answer(..., votes=16)")
        same = [len(self.questions) == len(shape), [len(g) for g in self.answers.right] == shape]
        if self.scores is not None:
            same.append([len(group) for group in self.scores] == shape)
        if not all(same):
            raise UserError("votes: wanted a question, verdicts and scores for the same samples")

    @property
    def n(self) -> int:
        """Samples of each question."""
        return min(map(len, self.answers.answers))

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """Accuracy (0 to 1) by strategy and k, for k = 1, 2, 4, ... up to all samples."""
        ks = [2**i for i in range(self.n.bit_length())]
        found = {k: self.accuracies(k) for k in ks}
        return {name: {k: found[k][name] for k in ks} for name in found[1]}

    def decided(self, k: int) -> dict[str, Answers]:
        """Let each strategy choose among the first k samples of every question.

        Returns
        -------
        dict
            ``vote``, and with scores ``wvote`` and ``rerank``.

        Raises
        ------
        UserError
            If there are fewer samples, or ``k`` is not positive.
        """
        some = evaluate.first(self.answers, k)
        if self.scores is None:
            return {"vote": some}
        trust = [list(group[:k]) for group in self.scores]
        weighted = evaluate.weighted_vote(some, trust)
        return {"wvote": weighted, "vote": some, "rerank": evaluate.rerank(some, trust)}

    def accuracies(self, k: int) -> dict[str, float]:
        """Return the accuracy (0 to 1) of each strategy with the first k samples.

        Besides those of :meth:`decided` there are ``pass`` and ``chance``: that one of k samples
        is right, and that one drawn blindly is.
        """
        n, found = len(self.questions), self.decided(k)
        passed = sum(evaluate.pass_at_k(self.answers, k)) / n
        blind = sum(evaluate.chance(found["vote"])) / n
        return {"pass": passed, **{s: a.accuracy for s, a in found.items()}, "chance": blind}

    def telling(self, most: int = 3) -> list[int]:
        """Choose questions on which the strategies can be told apart, then easy and hard ones."""
        found, share = self.decided(self.n), [sum(g) / len(g) for g in self.answers.right]
        vote, rank = found["vote"].correct, found.get("rerank", found["vote"]).correct
        everyone = range(len(share))
        kinds = (
            [i for i in everyone if vote[i] and not rank[i]],
            [i for i in everyone if vote[i] and share[i] < 0.5],
            [i for i in everyone if not vote[i] and (rank[i] or share[i] > 0.25)],
            [i for i in everyone if vote[i] and share[i] >= 0.8],
            [i for i in everyone if not vote[i] and share[i] > 0],
            list(everyone),
        )
        chosen: list[int] = []
        for kind in kinds:
            fresh = [i for i in kind if i not in chosen]
            if fresh and len(chosen) < most:
                chosen.append(fresh[0])
        return chosen


def from_row(row: Any, questions: Sequence[Any]) -> Votes | None:
    """Return the samples that a row of a run log keeps; None if it keeps none.

    Parameters
    ----------
    row : mapping
    questions : sequence of Example or str
        The questions of the split, in order; the row may hold the first of them.

    Raises
    ------
    UserError
        If the row's lists do not fit together.
    """
    found = row.get("answers")
    if not re.fullmatch(r"vote\d+", str(row.get("decoding"))) or not isinstance(found, list):
        return None
    right, scores = row.get("right"), row.get("scores")
    if not isinstance(right, list) or len(questions) < len(found):
        raise UserError("votes: answers without their verdicts, or more than there are questions")
    verdicts = [[mark == "1" for mark in marks] for marks in right]
    texts = [[answer or "" for answer in group] for group in found]
    answers = Answers(texts, found, [], [], verdicts)
    return Votes(answers, questions[: len(found)], scores if isinstance(scores, list) else None)
