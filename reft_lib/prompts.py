"""The texts that a policy reads and writes, and their token ids.

Formats of the ReFT paper (Luong et al. 2024, section 4.1 and its code): the question is followed
by ``Answer reasoning:``; the response is a chain of thought in words that ends in a trigger and the
answer (N-CoT), or the body of a Python function ``solution()`` (P-CoT). A program's head stands in
the prompt, the same one in training, evaluation and sampling.

Prompt and target are tokenised apart and their ids joined. Tokenised as one text, the tokens at the
seam could differ from those that sampling sees, and a policy would be trained on states that
it never meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reft_lib.answers import PROGRAM_SEED, TRIGGER
from reft_lib.config import Format
from reft_lib.data import Example
from reft_lib.errors import UserError

__all__ = [
    "PROGRAM_SEED",
    "TRIGGER",
    "check_length",
    "encode_pair",
    "encode_prompts",
    "program",
    "prompt",
    "target",
]


def _check_format(fmt: str) -> None:
    if fmt not in ("ncot", "pcot"):
        raise UserError(f"unknown format {fmt!r}; there are: ncot, pcot")


def prompt(example: Example | str, fmt: Format) -> str:
    r"""Return what the policy is given.

    Parameters
    ----------
    example : Example or str
        An example, or a question alone.
    fmt : {"ncot", "pcot"}
        Format of the response to come.

    Returns
    -------
    str
        ``"Question:\n{q}\nAnswer reasoning:\n"``, and for programs ``"def solution():"`` after it.

    Raises
    ------
    UserError
        If the question is empty or the format unknown.
    """
    _check_format(fmt)
    question = example if isinstance(example, str) else example.question
    if not question.strip():
        where = "a question" if isinstance(example, str) else f"the question of {example.id}"
        raise UserError(f"{where} is empty; it must have some text")
    head = f"Question:\n{question}\nAnswer reasoning:\n"
    return head + PROGRAM_SEED if fmt == "pcot" else head


def target(example: Example, fmt: Format) -> str:
    """Return the annotated response, without the end-of-sequence token.

    Raises
    ------
    UserError
        If the example has no annotation in this format.
    """
    _check_format(fmt)
    cot = example.cot(fmt)
    return cot + TRIGGER + example.answer if fmt == "ncot" else cot


def program(response: str, fmt: Format = "pcot") -> str:
    """Return the whole source text of a sampled program, its head included."""
    if fmt != "pcot":
        raise UserError(f"a response of format {fmt!r} is no program; programs are pcot")
    return PROGRAM_SEED + response


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each prompt, unpadded.

    A beginning-of-sequence token is there if the tokenizer is one that adds it; an
    end-of-sequence token never is, or the policy would be asked to go on after the end.
    """
    if not prompts:
        return []
    encoded = tokenizer(list(prompts))["input_ids"]
    eos = tokenizer.eos_token_id
    return [list(ids[:-1] if ids and ids[-1] == eos else ids) for ids in encoded]


def encode_pair(tokenizer: Any, prompt: str, target: str) -> tuple[list[int], list[int]]:
    """Return (prompt ids, target ids), the end-of-sequence id closing the target.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Needs an ``eos_token_id``.
    prompt, target : str
        Tokenised apart from each other.

    Raises
    ------
    UserError
        If the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token; set its eos_token")
    target_ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    return encode_prompts(tokenizer, [prompt])[0], [*target_ids, tokenizer.eos_token_id]


def check_length(prompt_ids: Sequence[int], max_prompt_tokens: int, example_id: str) -> None:
    """Raise :class:`UserError`, naming the row, if a prompt is empty or too long."""
    if not prompt_ids:
        raise UserError(f"the prompt of {example_id} has no tokens; its question must have text")
    if len(prompt_ids) > max_prompt_tokens:
        raise UserError(
            f"the prompt of {example_id} has {len(prompt_ids)} tokens, more than the"
            f" {max_prompt_tokens} that fit; shorten the question or leave the row out"
        )
