"""Value accuracy, with intervals: greedy (top-1), and what k samples of a question are good for.

A response counts as right by the very function that rewards it (:mod:`reft_lib.rewards`), so
training and evaluation cannot disagree.

One set of k samples serves every strategy. :func:`answer` draws it; the strategies are functions of
the result, each of which chooses one response of a question or none:

- :func:`majority`: voting@k, the most frequent answer (Wang et al. 2023);
- :func:`rerank`: reranking@k, the valid response that a verifier trusts most (Cobbe et al. 2021);
- :func:`weighted_vote`: the answer whose responses score highest together (Li et al. 2023);
- :func:`chance`: any valid response, the control that a strategy must beat;
- :func:`pass_at_k`: an oracle that knows the right one, the bound that none can beat.

"Valid" is a response with an answer. The others never vote and are never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import answers, models, rollout, stats
from reft_lib.config import Format, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.resume import Memo
from reft_lib.rewards import AnswerReward, Graded
from reft_lib.shared_rollout import sample_and_grade
from reft_lib.soundness import reasoning


@dataclass(frozen=True)
class Answers:
    """What a policy answered: N questions with k responses each."""

    texts: list[list[str]]
    """N lists of k responses."""
    answers: list[list[str | None]]
    """N lists of k extracted answers in their one written form; None where there is none."""
    chosen: list[str | None]
    """N final answers: the only one (greedy), or the one that a strategy chose."""
    correct: list[bool]
    """N verdicts on the final answers."""
    right: list[list[bool]] = field(default_factory=list)
    """N lists of k verdicts, on every response by itself."""
    ended: list[list[bool]] = field(default_factory=list)
    """N lists of k: False where a response was cut off; empty where that is not known."""

    @property
    def accuracy(self) -> float:
        """Share of questions answered rightly, 0 to 1."""
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy over questions."""
        return stats.wilson(sum(self.correct), len(self.correct))


def answer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    fmt: Format,
    config: SampleConfig,
    votes: int = 1,
    seed: int = 0,
    desc: str = "answer",
    memo: Memo | None = None,
) -> Answers:
    """Let a policy answer questions, greedily or by majority voting.

    Parameters
    ----------
    model, tokenizer : the policy
    examples : sequence of Example
    fmt : {"ncot", "pcot"}
    config : SampleConfig
    votes : int
        1: one greedy response. k > 1: k responses sampled at temperature 1, whose most frequent
        answer is taken (Wang et al. 2023); responses without an answer do not vote.
    seed : int
        Seed of the sampling.
    desc : str
        Name on the progress bar.
    memo : Memo, optional
        Keeps what is sampled, and gives back what was sampled before a stop.

    Returns
    -------
    Answers
        The final answers are the majority's; other strategies take them from there.

    Notes
    -----
    At most ``config.batch_size`` responses are generated side by side, by all processes together
    (:mod:`reft_lib.parallel`). A question is read once for all its responses, unless they are more
    than that: then once for each ``batch_size`` of them.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    room = models.context_length(model) - config.max_new_tokens
    prompt_ids = rollout.encode(tokenizer, examples, fmt, room)
    # Questions of like length side by side: less padding, the same answers.
    order = sorted(range(len(examples)), key=lambda i: len(prompt_ids[i]))
    per_call = max(1, config.batch_size // votes)
    chunks = [
        (order[at : at + per_call], min(config.batch_size, votes - done))
        for at in range(0, len(order), per_call)
        for done in range(0, votes, config.batch_size)
    ]
    texts: list[list[str]] = [[] for _ in examples]
    ended: list[list[bool]] = [[] for _ in examples]
    graded: list[list[Graded]] = [[] for _ in examples]
    for chunk, (rows, k) in enumerate(tqdm(chunks, desc=desc, leave=False, mininterval=1)):
        if memo is not None and chunk in memo.found:
            (said, stopped, verdicts), state = memo.found[chunk]
            generator.set_state(state)
        else:
            sampled, found = sample_and_grade(
                model,
                tokenizer,
                [prompt_ids[i] for i in rows],
                [examples[i] for i in rows],
                AnswerReward(fmt),
                config.max_new_tokens,
                generator,
                temperature=0.0 if votes == 1 else 1.0,
                samples_per_prompt=k,
            )
            said, stopped = sampled.texts, sampled.ended.tolist()
            verdicts = [astuple(g) for g in found]
            if memo is not None:
                memo.put(chunk, (said, stopped, verdicts), generator)
        for j, i in enumerate(rows):
            texts[i] += said[j * k : (j + 1) * k]
            ended[i] += stopped[j * k : (j + 1) * k]
            graded[i] += [Graded(*g) for g in verdicts[j * k : (j + 1) * k]]
    return replace(_answers(texts, graded), ended=ended)


def judge(texts: list[list[str]], examples: Sequence[Example], fmt: Format) -> Answers:
    """Extract, compare and vote: N lists of k responses against N examples."""
    flat = [(text, e) for group, e in zip(texts, examples, strict=True) for text in group]
    verdicts = iter(AnswerReward(fmt)([text for text, _ in flat], [e for _, e in flat]))
    return _answers(texts, [[next(verdicts) for _ in group] for group in texts])


def _answers(texts: list[list[str]], graded: Sequence[Sequence[Graded]]) -> Answers:
    """Let graded responses vote.

    A number where a letter was asked for is no answer: AnswerReward has left it out already.
    """
    found = [[g.answer for g in group] for group in graded]
    right = [[g.correct for g in group] for group in graded]
    return majority(Answers(texts, found, [], [], right))


def first(result: Answers, k: int) -> Answers:
    """Keep the first k responses of every question, and let them vote.

    Raises
    ------
    UserError
        If a question has fewer.
    """
    if not 1 <= k <= min(map(len, result.texts), default=k):
        raise UserError(f"the first {k} responses of a question: it has fewer; sample more")
    part = replace(
        result,
        texts=[group[:k] for group in result.texts],
        answers=[group[:k] for group in result.answers],
        right=[group[:k] for group in result.right],
        ended=[group[:k] for group in result.ended],
    )
    return majority(part)


def majority(result: Answers) -> Answers:
    """Choose the most frequent answer, the earlier one of a tie."""
    return weighted_vote(result, [[1.0] * len(group) for group in result.answers])


def weighted_vote(result: Answers, scores: Sequence[Sequence[float]]) -> Answers:
    """Choose the answer whose responses have the highest sum of scores.

    Parameters
    ----------
    result : Answers
    scores : N sequences of k
        Of each response, at least 0: a verifier's probabilities.
    """
    picks: list[int | None] = []
    for found, score in _scored(result, scores):
        totals: dict[str, float] = {}
        for a, s in zip(found, score, strict=True):
            if a is not None:
                totals[a] = totals.get(a, 0.0) + s
        picks.append(found.index(max(totals, key=totals.__getitem__)) if totals else None)
    return _choose(result, picks)


def rerank(result: Answers, scores: Sequence[Sequence[float]]) -> Answers:
    """Choose the valid response with the highest score, the earlier one of a tie.

    Parameters
    ----------
    result : Answers
    scores : N sequences of k
        Of each response; only their order counts.
    """
    picks = []
    for found, score in _scored(result, scores):
        valid = [j for j, a in enumerate(found) if a is not None]
        picks.append(max(valid, key=score.__getitem__, default=None))
    return _choose(result, picks)


def chance(result: Answers) -> list[float]:
    """Return, for each question, the probability that a valid response drawn blindly is right."""
    return [
        sum(right) / max(1, sum(a is not None for a in found))
        for right, found in zip(result.right, result.answers, strict=True)
    ]


def pass_at_k(result: Answers, k: int) -> list[float]:
    """Return, for each question, the probability that one of k responses is right.

    See :func:`reft_lib.stats.pass_at_k`: any k up to the number of responses, unbiased.
    """
    return [stats.pass_at_k(len(right), sum(right), k) for right in result.right]


def _scored(
    result: Answers, scores: Sequence[Sequence[float]]
) -> list[tuple[list[str | None], Sequence[float]]]:
    """Pair answers with their scores."""
    if [len(group) for group in scores] != [len(group) for group in result.answers]:
        raise UserError("scores: wanted one for each response of each question")
    return list(zip(result.answers, scores, strict=True))


def _choose(result: Answers, picks: Sequence[int | None]) -> Answers:
    """Take the answer of the chosen response of each question; None: it has no answer."""
    chosen = [None if j is None else result.answers[i][j] for i, j in enumerate(picks)]
    correct = [j is not None and result.right[i][j] for i, j in enumerate(picks)]
    return replace(result, chosen=chosen, correct=correct)


def distinct_paths(result: Answers, examples: Sequence[Example], fmt: Format) -> list[int]:
    """Count, for each question, the different correct paths among its k responses (N integers)."""
    counts = []
    for texts, found, e in zip(result.texts, result.answers, examples, strict=True):
        right = {
            reasoning(t, fmt)
            for t, a in zip(texts, found, strict=True)
            if answers.equal(a, e.answer)
        }
        counts.append(len(right))
    return counts


def path_shares(texts: Sequence[str], examples: Sequence[Example], fmt: Format) -> dict[str, float]:
    """Tell which of the problems' known paths responses follow.

    Parameters
    ----------
    texts : sequence of str
        One response for each example.
    examples : sequence of Example
        Embedded problems, whose ``meta["paths"]`` name every known path.
    fmt : {"ncot", "pcot"}

    Returns
    -------
    dict
        Path name to share of responses, 0 to 1; ``other`` is anything else, right or wrong.
    """
    shares: dict[str, float] = {}
    for text, e in zip(texts, examples, strict=True):
        said = reasoning(text, fmt)
        names = [p["name"] for p in e.meta["paths"] if reasoning(p[fmt], fmt) == said]
        name = names[0] if names else "other"
        shares[name] = shares.get(name, 0.0) + 1 / len(texts)
    return shares
