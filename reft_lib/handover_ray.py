"""Our questions and our reward for verl and OpenRLHF, which take a function from a file.

Both run under Ray, load one Python file and take one function out of it. Neither is imported here,
and neither was run: the functions are called in the tests as the two libraries' sources call them.
Which files of theirs were read is said below, with the commits; options and forms change there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reft_lib import prompts as texts
from reft_lib.config import Format
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.handover import fields, grade

PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A chat template that adds nothing, for a trainer that insists on one."""


def marks(tokenizer: Any) -> dict[str, str]:
    """Return the texts of the tokens that stand around a prompt and a response.

    Returns
    -------
    dict
        ``bos``, empty where the tokenizer begins no text with a token, and ``end``.
    """
    ids = texts.encode_prompts(tokenizer, ["a"])[0]
    begins = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    return {"bos": tokenizer.bos_token if begins else "", "end": tokenizer.eos_token or ""}


def chat_template(tokenizer: Any) -> str:
    """Return the template with which a chat of one message becomes this library's prompt ids."""
    return ("{{ bos_token }}" if marks(tokenizer)["bos"] else "") + PLAIN_TEMPLATE


def verl_rows(
    examples: Sequence[Example], fmt: Format, source: str, split: str, partial: float = 0.1
) -> list[dict[str, Any]]:
    """Return rows for verl's parquet files.

    Parameters
    ----------
    examples : sequence of Example
    fmt : {"ncot", "pcot"}
    source, split : str
        Name of the data set, by which verl groups its validation metrics, and of its part.
    partial : float
        Reward of a wrong number.

    Returns
    -------
    list of dict
        ``data_source``, ``prompt`` (a conversation of one message: verl applies the tokenizer's
        chat template, so give it one that adds nothing), ``ability``, ``reward_model`` with
        ``ground_truth``, and ``extra_info``, which the reward reads.

    Notes
    -----
    Read in verl-project/verl: ``docs/preparation/prepare_data.rst`` (a2113a3),
    ``verl/utils/dataset/rl_dataset.py`` (035e476). Not run here.
    """
    settings = {"fmt": fmt, "partial": partial}
    return [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": texts.prompt(e, fmt)}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": e.answer},
            "extra_info": {"split": split, "index": i, **settings, **fields(e)},
        }
        for i, e in enumerate(examples)
    ]


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **others: Any,
) -> dict[str, float]:
    """Grade one response for verl, whose ``reward.custom_reward_function`` names this function.

    Parameters
    ----------
    data_source, ground_truth : str
        As in :func:`verl_rows`.
    solution_str : str
        The response, decoded without special tokens.
    extra_info : mapping
        As in :func:`verl_rows`; verl adds entries of its own.
    **others
        What verl passes only where a reward model runs beside: not used.

    Returns
    -------
    dict
        ``score``, the reward, and ``acc``, 1 or 0, which verl logs apart from it.

    Raises
    ------
    UserError
        If the row has no ``extra_info`` of this module.

    Notes
    -----
    Read in verl-project/verl: ``docs/preparation/reward_function.rst`` (0515376),
    ``verl/trainer/ppo/reward.py`` (302f740), and
    ``verl/experimental/reward_loop/reward_manager/naive.py`` (247f1ac), which calls a function like
    this one with keywords, in a thread, and takes a number or a dictionary. Not run here.
    """
    row = {**(extra_info or {}), "answer": ground_truth}
    graded = grade(solution_str, row)
    return {"score": graded.reward, "acc": float(graded.correct)}


def openrlhf_rows(
    examples: Sequence[Example], fmt: Format, partial: float = 0.1, bos: str = "", end: str = ""
) -> list[dict[str, str]]:
    """Return rows for OpenRLHF: ``input``, and ``label``, the only thing that a reward is given.

    Parameters
    ----------
    examples : sequence of Example
    fmt : {"ncot", "pcot"}
    partial : float
        Reward of a wrong number.
    bos, end : str
        Of :func:`marks`. OpenRLHF adds no special token to a prompt, so one that this library's
        prompts begin with must be written out; and it leaves the end in the text to be graded.

    Notes
    -----
    Read in OpenRLHF/OpenRLHF: ``openrlhf/datasets/prompts_dataset.py`` and
    ``openrlhf/utils/agent.py`` (both 04655bc). Not run here.
    """
    settings = {"fmt": fmt, "partial": partial, "end": end}
    return [
        {
            "input": bos + texts.prompt(e, fmt),
            "label": json.dumps({**fields(e), **settings}, ensure_ascii=False),
        }
        for e in examples
    ]


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], **others: Any
) -> dict[str, Any]:
    """Grade responses for OpenRLHF, whose ``--reward.remote_url`` names this function's file.

    Parameters
    ----------
    queries : sequence of str
        Prompt and response as one text, special tokens included.
    prompts, labels : sequence of str
        As in :func:`openrlhf_rows`.
    **others
        Not used.

    Returns
    -------
    dict
        ``rewards`` (n,), ``scores`` (n,), 1 or 0, by which OpenRLHF can filter questions, and
        ``extra_logs`` with the ``accuracy``.

    Raises
    ------
    UserError
        If a query does not hold its prompt, or a label was not made here. OpenRLHF logs an
        exception and goes on without a reward; look for it in its log.

    Notes
    -----
    Read in OpenRLHF/OpenRLHF: ``examples/python/reward_func.py`` (494850f) and
    ``openrlhf/utils/agent.py`` (04655bc), which calls with one row at a time. Not run here.
    """
    import torch

    graded = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        try:
            row = dict(json.loads(label))
        except (TypeError, ValueError):
            raise UserError(f"label {label[:40]!r} is not of openrlhf_rows") from None
        _, found, response = query.partition(prompt)  # the first place: a response may repeat it
        if not found:
            raise UserError(f"{row['id']}: the query does not hold the prompt; was it cut?")
        graded.append(grade(response.removesuffix(row["end"]), row))
    scores = torch.tensor([float(g.correct) for g in graded])
    return {
        "rewards": torch.tensor([g.reward for g in graded]),
        "scores": scores,
        "extra_logs": {"accuracy": float(scores.mean())},
    }
