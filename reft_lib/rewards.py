"""The reward of ReFT: 1 for the right answer, a little for some answer, nothing for none.

A reward function is any callable of type :data:`RewardFn`. It says what a response is worth;
where the worth is put (on the last token) is the business of :mod:`reft_lib.advantage`.
Accuracy is kept apart from reward: an average of rewards would count the partial ones in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reft_lib.answers import TOLERANCE, Runner, canonical, choice, equal, options, pick, stated_many
from reft_lib.config import Format
from reft_lib.data import Example
from reft_lib.errors import UserError


@dataclass(frozen=True)
class Graded:
    """What a response is worth, and why."""

    reward: float
    """The terminal reward."""
    answer: str | None
    """The extracted answer in its one written form; None if there is none."""
    correct: bool
    """Whether that answer is right."""


RewardFn = Callable[[Sequence[str], Sequence[Example]], list[Graded]]
"""(responses, their examples) -> one :class:`Graded` each."""


def read_answers(
    responses: Sequence[str],
    examples: Sequence[Example],
    fmt: Format,
    run: Runner | None = None,
) -> list[str | None]:
    """Return the answer of each response, read as its question asks for it.

    Where the gold answer is a letter, the question is multiple choice and the answer is a letter,
    or the number of one of the question's options, which stands for its letter; elsewhere it is a
    number. Evaluation uses this function too, so that it cannot disagree with the reward.

    Parameters
    ----------
    responses : sequence of str
        Texts as sampled, without prompt and end-of-sequence token.
    examples : sequence of Example
        The example of each response, in the same order.
    fmt : {"ncot", "pcot"}
    run : callable, optional
        Runs programs; see :func:`reft_lib.answers.extract_many`.

    Returns
    -------
    list of str or None
        Answers in their one written form; None where there is none of the kind asked for.

    Raises
    ------
    ValueError
        If there are not as many examples as responses.
    """
    stated = stated_many(responses, fmt, run)
    return [
        canonical(text) if choice(e.answer) is None else pick(text, options(e.question))
        for text, e in zip(stated, examples, strict=True)
    ]


@dataclass(frozen=True)
class AnswerReward:
    """Compare the final answer with the gold one (Luong et al. 2024, section 3.2).

    A right answer earns 1. A wrong one earns ``partial`` if the gold answer is a number: a
    number was given at least, which helps while right answers are rare. Where the gold answer is a
    letter a wrong letter earns nothing, since naming any letter is no achievement. No answer of the
    kind asked for (also "none", ``nan`` and a program that fails) earns 0.

    Parameters
    ----------
    fmt : {"ncot", "pcot"}
        Format of the responses.
    partial : float
        Reward of a wrong number, at least 0 and below 1; 0 turns the partial reward off.
    tol : float
        Numbers this close are equal.
    """

    fmt: Format
    partial: float = 0.1
    tol: float = TOLERANCE

    def __post_init__(self) -> None:
        """Refuse a partial reward that would beat or fall below the plain ones."""
        if not 0 <= self.partial < 1:
            raise UserError(f"partial reward is {self.partial}; it must be at least 0 and below 1")

    def __call__(self, responses: Sequence[str], examples: Sequence[Example]) -> list[Graded]:
        """Grade each response against its example's answer.

        Parameters
        ----------
        responses : sequence of str
            Texts as sampled, without prompt and end-of-sequence token.
        examples : sequence of Example
            The example of each response, in the same order.

        Raises
        ------
        ValueError
            If there are not as many examples as responses.
        """
        answers = read_answers(responses, examples, self.fmt)
        return [self.grade(a, e.answer) for a, e in zip(answers, examples, strict=True)]

    def grade(self, answer: str | None, gold: str) -> Graded:
        """Grade one extracted answer."""
        if answer is None:
            return Graded(0.0, None, False)
        if equal(answer, gold, self.tol):
            return Graded(1.0, answer, True)
        return Graded(0.0 if choice(gold) else self.partial, answer, False)
