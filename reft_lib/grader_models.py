"""Local models in the service of graders: a causal language model as judge, or as embedder.

A *judge* is any callable of type :data:`Judge`: it reads conversations and answers each with a
text. :func:`local_judge` makes one of a model on this machine. Asked to choose among labels, it
does not generate freely: it takes the label that is most probable when every token must go on
with one of the labels, as structured output has it. So a long label loses nothing by its length.

An *embedder* turns texts into vectors (:data:`reft_lib.grader_text.Embed`). :func:`local_embed`
takes the mean of the last hidden states over a text's tokens. A causal language model was not
trained to embed: such cosines are all rather high, and good for ranking at best. A caller with a
real embedding model gives that instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from reft_lib import decode, models, prompts, rollout
from reft_lib.errors import UserError
from reft_lib.grader_text import Embed

Conversation = list[dict[str, str]]
"""Messages, each with ``role`` and ``content``."""
Judge = Callable[
    [Sequence[Conversation], Sequence[str] | None, Mapping[str, Any]], Sequence[str | None]
]
"""(conversations, labels to choose from or None, the grader's ``sampling_params``) -> one text for
each conversation; None where the judge could not answer."""
_HOSTED = ("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-")
_LONGEST = 512  # tokens of an answer, unless sampling_params say otherwise


@lru_cache(maxsize=2)
def load_judge(name: str) -> Judge:
    """Return a judge by the name of its model (:func:`reft_lib.models.load`), kept in memory.

    Raises
    ------
    UserError
        If it is a hosted model's name, or the model cannot be loaded.
    """
    return local_judge(*_load(name))


@lru_cache(maxsize=2)
def load_embed(name: str) -> Embed:
    """Return an embedder by the name of its model; errors as in :func:`load_judge`."""
    return local_embed(*_load(name))


def _load(name: str) -> tuple[Any, Any]:
    if name.startswith(_HOSTED):
        raise UserError(
            f"{name} is a hosted model, which nothing here can reach; give a local model's name, "
            "such as smollm2-135m-instruct, or a callable"
        )
    return models.load(name)


def local_judge(model: Any, tokenizer: Any, batch_size: int = 8) -> Judge:
    """Return a judge that is a causal language model on this machine.

    Of ``sampling_params`` it takes ``temperature`` (0, the most probable answer, if not given:
    a reward should not depend on luck), ``seed`` and ``max_completions_tokens`` (at most what the
    context leaves). There is no top-p here and no reasoning effort; both are passed over.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokenizer : tokenizer
        Its chat template lays out a conversation, if it has one; else each message is a line
        ``role: content``.
    batch_size : int
        Conversations read at a time.
    """

    def answer(
        conversations: Sequence[Conversation],
        labels: Sequence[str] | None,
        sampling: Mapping[str, Any],
    ) -> list[str | None]:
        context = models.context_length(model)
        ids = [_encode(tokenizer, conversation) for conversation in conversations]
        generator = torch.Generator(model.device).manual_seed(int(sampling.get("seed") or 0))
        wanted = int(sampling.get("max_completions_tokens") or min(_LONGEST, context // 4))
        answers: list[str | None] = [None] * len(ids)
        if labels is not None:
            endings = [_ending(tokenizer, label) for label in labels]
            room = context - max(map(len, endings))
        else:
            room = context - wanted
        fitting = [i for i, row in enumerate(ids) if 0 < len(row) <= room]
        for start in range(0, len(fitting), batch_size):
            batch = fitting[start : start + batch_size]
            rows = [ids[i] for i in batch]
            if labels is not None:
                texts = [labels[best] for best in _most_probable(model, tokenizer, rows, endings)]
            else:
                temperature = float(sampling.get("temperature") or 0.0)
                texts = rollout.sample(model, tokenizer, rows, wanted, temperature, generator).texts
            for i, text in zip(batch, texts, strict=True):
                answers[i] = text
        return answers

    return answer


def _encode(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Return the tokens of a conversation, up to where the judge's answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        lines = [f"{message['role']}: {message['content']}" for message in conversation]
        return prompts.encode_prompts(tokenizer, ["\n".join([*lines, "assistant:"])])[0]
    plain = [  # chat templates know the role under its older name
        {**message, "role": "system" if message["role"] == "developer" else message["role"]}
        for message in conversation
    ]
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _ending(tokenizer: Any, label: str) -> list[int]:
    """Return the tokens of a label as an answer, with the end of the answer."""
    gap = "" if getattr(tokenizer, "chat_template", None) else " "
    return prompts.encode_pair(tokenizer, "x", gap + label)[1]


@torch.no_grad()
def _most_probable(
    model: Any, tokenizer: Any, rows: Sequence[list[int]], endings: Sequence[list[int]]
) -> list[int]:
    """Return for each row the index of the ending that is most probable among the endings."""
    scores = []
    for ending in endings:
        tokens, mask = rollout.pad_left(
            [[*row, *ending] for row in rows], tokenizer.eos_token_id, model.device
        )
        out = model(input_ids=tokens, attention_mask=mask, position_ids=decode.positions(mask))
        n = len(ending)  # padding is on the left, so the ending fills the last n columns
        logits = out.logits[:, -n - 1 : -1].float()  # (B, n, V)
        total = torch.zeros(len(rows), device=logits.device)
        for t, token in enumerate(ending):
            allowed = sorted({e[t] for e in endings if len(e) > t and e[:t] == ending[:t]})
            among = torch.log_softmax(logits[:, t, allowed], dim=-1)  # (B, len(allowed))
            total += among[:, allowed.index(token)]
        scores.append(total)
    return [int(i) for i in torch.stack(scores, dim=1).argmax(dim=1)]


def local_embed(model: Any, tokenizer: Any, batch_size: int = 16) -> Embed:
    """Return an embedder: the mean of a model's last hidden states over a text's tokens.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
    tokenizer : tokenizer
    batch_size : int
        Texts read at a time. A text longer than the model's context is cut off.
    """

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        room = models.context_length(model)
        ids = [row[:room] for row in prompts.encode_prompts(tokenizer, texts)]
        for start in range(0, len(ids), batch_size):
            tokens, mask = rollout.pad_left(
                ids[start : start + batch_size], tokenizer.eos_token_id, model.device
            )
            hidden = rollout.last_hidden(model, tokens, mask, decode.positions(mask))  # (B, T, H)
            weights = mask[:, :, None].to(hidden.dtype)
            mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
            vectors += mean.float().tolist()
        return vectors

    return embed
