"""Our questions and our reward in the forms that other trainers read: trl, verl, OpenRLHF.

Each of the three wants rows of its own form, and a reward function with a signature of its own.
What a response is worth is decided in one place all the same, :mod:`reft_lib.rewards`; nothing here
grades anything. An example travels inside its row, whole (:func:`fields`), because a reward needs
more of it than the answer: multiple choice is read beside the question's options. Prompts are plain
text, the same as everywhere in this library.

======== ============================================= ========================================
trainer  what it calls                                 what was checked here
======== ============================================= ========================================
trl      ``f(prompts, completions, ..., **columns)``   runs: trl 1.16 trains with it in the tests
verl     ``compute_score(data_source, solution_str,``  called as its source calls it; not run
         ``ground_truth, extra_info)``
OpenRLHF ``reward_func(queries, prompts, labels)``     called as its source calls it; not run
======== ============================================= ========================================

Here stand what all share and trl's side; :mod:`reft_lib.handover_ray` has the other two's, and
:mod:`reft_lib.handover_files` writes the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reft_lib import prompts as texts
from reft_lib.config import Format
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.rewards import AnswerReward, Graded, RewardFn

FIELDS = ("id", "question", "answer", "meta")
"""What of an example a reward may read, each as text: all but the annotations. Of an embedded
problem ``meta`` lists the valid solutions; a trainer shows a policy the prompt alone."""


def fields(example: Example) -> dict[str, str]:
    """Return the parts of an example that a reward may need, as texts.

    ``meta`` becomes JSON: its entries differ from row to row, which columns of a table cannot.
    """
    meta = json.dumps(example.meta, ensure_ascii=False)
    return {"id": example.id, "question": example.question, "answer": example.answer, "meta": meta}


def example(row: Mapping[str, Any]) -> Example:
    """Return the example that :func:`fields` took apart; :class:`UserError` if it is not whole."""
    _check(row, FIELDS)
    return Example(row["id"], row["question"], row["answer"], meta=json.loads(row["meta"]))


def grade(response: str, row: Mapping[str, Any]) -> Graded:
    """Grade one response with :class:`~reft_lib.rewards.AnswerReward`, as its row says.

    Parameters
    ----------
    response : str
        Without prompt and end-of-sequence token.
    row : mapping
        The example's :data:`FIELDS`, and ``fmt`` and ``partial``, the reward's settings.

    Raises
    ------
    UserError
        If one of these is missing: the row was not made by this module.
    """
    _check(row, ("fmt", "partial"))
    return AnswerReward(row["fmt"], float(row["partial"]))([response], [example(row)])[0]


def _check(row: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if name not in row:
            raise UserError(f"a row has no {name!r}; make the rows with reft_lib.handover")


def trl_rows(examples: Sequence[Example], fmt: Format) -> list[dict[str, str]]:
    """Return rows for trl's GRPOTrainer or RLOOTrainer: ``prompt``, and an example's fields.

    ``datasets.Dataset.from_list`` makes the trainer's ``train_dataset`` of them. trl tokenises a
    prompt that is plain text as this library does, a beginning-of-sequence token included.
    """
    return [{"prompt": texts.prompt(e, fmt), **fields(e)} for e in examples]


def trl_reward(reward: RewardFn) -> Callable[..., list[float]]:
    """Return a reward function for trl's ``reward_funcs``.

    Parameters
    ----------
    reward : RewardFn
        Any of this library's rewards, for example ``AnswerReward("ncot")`` or a grader's.

    Returns
    -------
    callable
        Called with ``prompts``, ``completions``, ``completion_ids`` and the columns of the dataset,
        each a list with one entry for every response, it returns their rewards. trl logs it under
        the reward's own name, and beside it ``accuracy``: a mean of rewards would count the
        partial ones in.

    Notes
    -----
    Signature: ``GRPOTrainer._calculate_rewards`` of trl 1.16.0.
    """

    def score(completions: Sequence[Any], **columns: Any) -> list[float]:
        _check(columns, FIELDS)
        rows = zip(*(columns[name] for name in FIELDS), strict=True)
        asked = [example(dict(zip(FIELDS, row, strict=True))) for row in rows]
        # In a conversation a completion is a list of messages; the last one is the answer.
        said = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        graded = reward(said, asked)
        if log := columns.get("log_metric"):
            log("accuracy", sum(g.correct for g in graded) / len(graded))
        return [g.reward for g in graded]

    score.__name__ = getattr(reward, "__name__", type(reward).__name__)
    return score
