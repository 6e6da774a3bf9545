"""The loop of instruction fine-tuning, and its measurement: requests in, accuracy per task out."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from reft_lib import lora, models, packing, prompts, rollout, sft
from reft_lib.config import SampleConfig, SftConfig
from reft_lib.data import Example
from reft_lib.errors import NumericalError, UserError
from reft_lib.instruction_words import LANGUAGES
from reft_lib.instructions import SEEN, TASKS, Request
from reft_lib.loop import Loop

CHAT = (
    "{% for message in messages %}"
    "{{ {'user': 'Question:\n', 'assistant': 'Answer reasoning:\n'}[message['role']] }}"
    "{{ message['content'] + ('\n' if message['role'] == 'user' else eos_token) }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Answer reasoning:\n' }}{% endif %}"
)
"""Nano's chat template, in the template language of tokenizers: the form in which it met questions
before, so that a request without an instruction is the plain prompt of :mod:`reft_lib.prompts`."""


def requests(
    examples: Sequence[Example],
    tasks: Sequence[str] = SEEN,
    seed: int = 0,
    language: str = "plain",
    kept_back: bool = False,
    variety: int = 0,
) -> list[Request]:
    """Ask for each task once about each example, in phrasings that are drawn.

    Parameters
    ----------
    examples : sequence of Example
        Embedded problems.
    tasks : sequence of str
        Keys of ``TASKS``; one that stands twice is asked for twice.
    seed : int
        Of all that is drawn: phrasings, wrong solutions.
    language : {"plain", "english"}
    kept_back : bool
        Draw from the phrasings that no training uses.
    variety : int
        Use this many of the seen phrasings, from the first (0: all).

    Raises
    ------
    UserError
        If there is no such task or language, or no phrasing is kept back.
    """
    if language not in LANGUAGES:
        raise UserError(f"unknown language {language!r}; there are: {', '.join(LANGUAGES)}")
    found = []
    for at, task in enumerate(tasks):
        if task not in TASKS:
            raise UserError(f"unknown task {task!r}; there are: {', '.join(TASKS)}")
        phrasings = LANGUAGES[language][task]
        choice = phrasings.kept_back if kept_back else phrasings.seen[: variety or None]
        if not choice:
            raise UserError(f"no phrasing of task {task!r} is kept back: it is in no training")
        rng = random.Random(f"{task}-{at}-{seed}")
        for e in examples:
            below, response = TASKS[task].make(e, rng)
            instruction = rng.choice(choice)
            text = "\n".join(part for part in (e.question, below, instruction) if part)
            found.append(Request(f"{e.id}/{task}", task, text, response, e, instruction))
    return found


def prompt(tokenizer: Any, text: str) -> str:
    """Put what a user says into the model's chat template, or into ``CHAT`` if it has none.

    The text ends where the response begins.
    """
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(
        message,
        chat_template=tokenizer.chat_template or CHAT,
        tokenize=False,
        add_generation_prompt=True,
    )


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of :func:`prompt`; the template has put all special tokens in."""
    return list(tokenizer(prompt(tokenizer, text), add_special_tokens=False)["input_ids"])


def encode(tokenizer: Any, asked: Sequence[Request], context: int) -> list[packing.Pair]:
    """Return (prompt ids, response ids with the end) of every request.

    Raises
    ------
    UserError
        If one is longer than the model's context.
    """
    pairs = []
    for r in asked:
        ids = encode_prompt(tokenizer, r.text)
        _, target = prompts.encode_pair(tokenizer, "", r.response)
        prompts.check_length(ids, context - len(target), r.id)
        pairs.append((ids, target))
    return pairs


def tune(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Request],
    config: SftConfig,
    seed: int = 0,
    bf16: bool = False,
    width: int = 0,
    loop: Loop | None = None,
) -> Iterator[dict[str, float]]:
    """Train the model's adapter on requests, in place; yields after every optimiser step.

    Parameters
    ----------
    model, tokenizer : the policy
    asked : sequence of Request
    config : SftConfig
        ``batch_size`` counts requests, whether padded or packed.
    seed : int
        Of the order of requests.
    bf16 : bool
        Run matrix products in bfloat16.
    width : int
        Pack requests into rows of so many tokens; 0 pads them, one in a row.
    loop : Loop, optional
        What :func:`reft_lib.sft.begin` made, perhaps restored.

    Yields
    ------
    dict
        ``loss`` (nats a token), ``grad_norm``, ``tokens`` (without padding), ``step_seconds``.

    Raises
    ------
    NumericalError
        If a loss is not finite.
    """
    loop = loop or sft.begin(model, config, seed)
    pairs = encode(tokenizer, asked, models.context_length(model))
    while loop.step < config.epochs * sft.steps_per_epoch(len(pairs), config):
        started = time.monotonic()
        rows = [pairs[i] for i in loop.draw(len(pairs), config.batch_size)]
        loop.optimizer.zero_grad()
        total = 0.0
        for part, share in sft.micro_batches(rows, config.micro_batch):
            with models.autocast(model.device, bf16):
                if width:
                    packed = packing.collate(part, width, tokenizer.eos_token_id, model.device)
                    part_loss = packing.loss(model, packed) * share
                else:
                    padded = sft.collate(part, tokenizer.eos_token_id, model.device)
                    part_loss = sft.loss(model, padded) * share
            if not torch.isfinite(part_loss):
                raise NumericalError(f"step {loop.step}: loss is {part_loss.item()}; lower sft.lr")
            part_loss.backward()
            total += part_loss.item()
        loop.step += 1
        loop.warm_up(config.lr, config.lr_warmup_steps)
        weights = lora.trainable_parameters(model)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, config.grad_clip))
        loop.optimizer.step()
        yield {
            "loss": total,
            "grad_norm": norm,
            "tokens": sum(len(p) + len(t) for p, t in rows),
            "step_seconds": time.monotonic() - started,
        }


def answer(model: Any, tokenizer: Any, asked: Sequence[Request], config: SampleConfig) -> list[str]:
    """Return the model's greedy response to every request, in the order given."""
    room = models.context_length(model) - config.max_new_tokens
    ids = [encode_prompt(tokenizer, r.text) for r in asked]
    for row, r in zip(ids, asked, strict=True):
        prompts.check_length(row, room, r.id)
    order = sorted(range(len(asked)), key=lambda i: len(ids[i]))
    texts = [""] * len(asked)
    for at in range(0, len(order), config.batch_size):
        rows = order[at : at + config.batch_size]
        sampled = rollout.sample(
            model, tokenizer, [ids[i] for i in rows], config.max_new_tokens, temperature=0.0
        )
        for i, text in zip(rows, sampled.texts, strict=True):
            texts[i] = text
    return texts


def judge(texts: Sequence[str], asked: Sequence[Request]) -> list[bool]:
    """Say of every response whether it does what was asked."""
    return [TASKS[r.task].check(text, r) for text, r in zip(texts, asked, strict=True)]


def by_task(verdicts: Sequence[bool], asked: Sequence[Request]) -> dict[str, float]:
    """Return the share of right responses (0 to 1) of each task, in the order of the requests."""
    groups: dict[str, list[bool]] = {}
    for right, r in zip(verdicts, asked, strict=True):
        groups.setdefault(r.task, []).append(right)
    return {task: sum(group) / len(group) for task, group in groups.items()}
