"""Graders for this library's questions, good ones and bad ones, as the JSON they are.

What a grader may see of a response is a choice of its own: all of it, or the answer alone
(:func:`read_answer`). For programs the answer is what the program returns, so a grader that
compares answers need not run programs itself.

:func:`lookalikes` is the probe for graders that compare with a reference solution: it sets right
solutions that look different beside wrong ones that look the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reft_lib import answers, evaluate
from reft_lib.config import Format, SampleConfig
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.grader_models import Conversation, Judge

OUTPUT, ANSWER = "{{ sample.output_text }}", "{{ item.answer }}"

RIGHT: dict[str, Any] = {
    "type": "string_check",
    "name": "right",
    "input": OUTPUT,
    "reference": ANSWER,
    "operation": "eq",
}
"""1 for the right answer; for outputs that are answers."""

NUMBER: dict[str, Any] = {
    "type": "python",
    "name": "number",
    "source": '''def grade(sample, item):
    """1 for any number, 0 for anything else."""
    try:
        float(sample["output_text"])
    except ValueError:
        return 0.0
    return 1.0
''',
}
"""1 for any number; for outputs that are answers."""

NEAR: dict[str, Any] = {
    "type": "python",
    "name": "near",
    "source": '''def grade(sample, item):
    """1 for the right number, less for others by their relative distance from it."""
    try:
        said = float(sample["output_text"])
    except ValueError:
        return 0.0
    right = float(item["answer"])
    return max(0.0, 1.0 - abs(said - right) / max(1.0, abs(right)))
''',
}
"""0 to 1, by how near a number is; for outputs that are answers, where gold ones are numbers."""

REFT: dict[str, Any] = {
    "type": "multi",
    "name": "reft",
    "graders": {"right": RIGHT, "number": NUMBER},
    "calculate_output": "max(right, 0.1 * number)",
}
"""The reward of :class:`reft_lib.rewards.AnswerReward`, number for number."""

PARTIAL: dict[str, Any] = {
    "type": "multi",
    "name": "partial",
    "graders": {"right": RIGHT, "near": NEAR},
    "calculate_output": "0.8 * right + 0.2 * near",
}
"""Like ``REFT``, but a wrong number earns the more the nearer it is: up to 0.2."""


def alike(metric: str = "gleu", field: str = "pcot") -> dict[str, Any]:
    """Return a bad grader: how much a response looks like a reference solution.

    Parameters
    ----------
    metric : str
        See :mod:`reft_lib.grader_text`.
    field : str
        The field of the row that holds the solution.
    """
    return {
        "type": "text_similarity",
        "name": "alike",
        "input": OUTPUT,
        "reference": f"{{{{ item.{field} }}}}",
        "evaluation_metric": metric,
    }


def read_answer(fmt: Format) -> Callable[[str], str]:
    """Return a function from a response to its answer in its one written form.

    It is what ``read`` of :func:`reft_lib.rft_data.reward_from` takes. A response without an answer
    becomes an empty text. The written form is that of :mod:`reft_lib.answers` (``17``, not
    ``17.0``), so gold answers have to be written in it for ``eq`` to do them justice.
    """
    return lambda response: answers.extract(response, fmt) or ""


def judge_by_solving(
    model: Any,
    tokenizer: Any,
    fmt: Format,
    sampling: SampleConfig,
    samples: int = 4,
    seed: int = 0,
) -> Judge:
    """Return a judge for ``score_model`` that solves the question itself, and compares.

    Its score is the share of its own sampled solutions that come to the proposed answer. It is as
    good a judge as it is a solver, and it believes in its own mistakes.

    Parameters
    ----------
    model, tokenizer : the policy that judges
    fmt : {"ncot", "pcot"}
        How it writes its solutions.
    sampling : SampleConfig
    samples : int
        Solutions that it writes of each question.
    seed : int

    Returns
    -------
    Judge
        Of a conversation it reads the last two messages: the question, and the proposed answer.

    Raises
    ------
    UserError
        On being called: if a conversation has fewer than two messages, or it is to choose a label.
    """

    def judge(
        conversations: Sequence[Conversation],
        labels: Sequence[str] | None,
        params: Mapping[str, Any],
    ) -> list[str | None]:
        if labels is not None:
            raise UserError("judge_by_solving gives scores; let a score_model grader ask it")
        if short := [c for c in conversations if len(c) < 2]:
            raise UserError(
                f"judge_by_solving was given {len(short[0])} message; its grader's input must "
                "end with the question and the proposed answer"
            )
        questions = list(dict.fromkeys(c[-2]["content"] for c in conversations))
        asked = [Example(f"asked-{i}", q, "0") for i, q in enumerate(questions)]
        own = evaluate.answer(model, tokenizer, asked, fmt, sampling, samples, seed).answers
        solved = dict(zip(questions, own, strict=True))
        replies: list[str | None] = []
        for conversation in conversations:
            question, proposed = (m["content"] for m in conversation[-2:])
            agree = sum(answers.equal(a, proposed) for a in solved[question])
            replies.append(json.dumps({"result": agree / samples}))
        return replies

    return judge


# ---------------------------------------------------------------- what looks alike


def lookalikes(examples: Sequence[Example]) -> Iterator[tuple[Example, str, bool]]:
    """Yield solutions that set being right and looking alike against each other, as programs.

    For each example with both: every known way to the answer other than its annotation (right, and
    different), and one copy of the annotation with one number changed (wrong, and nearly the same).

    Yields
    ------
    (example, program, right)
    """
    for e in examples:
        others = [path["pcot"] for path in e.meta.get("paths", ()) if path["pcot"] != e.pcot]
        copy = slip(e)
        if others and copy is not None:
            yield from ((e, other, True) for other in others)
            yield e, copy, False


def slip(example: Example) -> str | None:
    """Return the example's program with one number one too high, so that its answer is wrong.

    The last number whose change matters is taken; None if there is none.
    """
    program = example.pcot or ""
    for found in reversed(list(re.finditer(r"\d+", program))):
        changed = f"{program[: found.start()]}{int(found[0]) + 1}{program[found.end() :]}"
        said = answers.extract(changed, "pcot")
        if said is not None and not answers.equal(said, example.answer):
            return changed
    return None
