"""Sampling responses from a policy, and scoring them again with gradients.

A rollout is a batch of prompts with one sampled response each. Prompts are padded on the left so
that all responses begin in the same column; position ids are given explicitly, so that a padded
row computes exactly what it would compute alone.

    column   0 ........ P-1 | P ............ T-1
             pad pad q q q  | a a a EOS pad pad      B rows, R = T - P response columns
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reft_lib import llama_decode, losses, models, prompts, ragged
from reft_lib.config import Format
from reft_lib.data import Example
from reft_lib.decode import choose, positions
from reft_lib.errors import UserError
from reft_lib.value import ValueHead


@dataclass
class Rollout:
    """Sampled responses as tensors; B rows, prompt width P, response width R, T = P + R."""

    sequences: Tensor
    """int64 (B, T): prompt and response; the end-of-sequence id stands in all padding."""
    attention_mask: Tensor
    """int64 (B, T): 1 on prompt and response tokens."""
    position_ids: Tensor
    """int64 (B, T): 0 on a row's first real token, then rising by one."""
    response_mask: Tensor
    """bool (B, R): True on generated tokens, EOS included."""
    logprobs: Tensor
    """float32 (B, R): log-probability in nats of each token as sampled; 0 under padding."""
    ended: Tensor
    """bool (B,): False where the response was cut off before EOS."""
    texts: list[str]
    """B responses without EOS."""

    @property
    def prompt_width(self) -> int:
        """P, the column in which every response begins."""
        return self.sequences.shape[1] - self.response_mask.shape[1]

    @property
    def responses(self) -> Tensor:
        """int64 (B, R): the response tokens."""
        return self.sequences[:, self.prompt_width :]

    @property
    def lengths(self) -> Tensor:
        """int64 (B,): generated tokens of each row, EOS included."""
        return self.response_mask.sum(dim=1)


def pad_left(ids: Sequence[Sequence[int]], pad: int, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    """Stack token lists of unequal length.

    Returns
    -------
    tokens, mask : int64 Tensor (B, P), int64 Tensor (B, P)
        The mask is 1 on real tokens.
    """
    width = max(len(row) for row in ids)
    tokens = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    return tokens, mask


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    samples_per_prompt: int = 1,
    uniforms: Tensor | None = None,
) -> Rollout:
    """Sample responses from the whole distribution: no top-k, no top-p.

    Every token is chosen by a random number of its own. What a row says therefore depends on its
    prompt and its numbers alone, not on the rows beside it or on the process that samples it.

    Parameters
    ----------
    model : causal language model
        Its keys and values are cached, so each new token costs one position.
    tokenizer : tokenizer
        Gives the end-of-sequence id and the texts.
    prompt_ids : list of lists of int
        Tokenised prompts (:func:`reft_lib.prompts.encode_prompts`).
    max_new_tokens : int
        Cut-off.
    temperature : float
        1 samples the policy itself; 0 takes the most probable token (greedy).
    generator : torch.Generator, optional
        Source of randomness, on the model's device.
    samples_per_prompt : int
        k; row i * k + j is sample j of prompt i. A prompt is read once, whatever k.
    uniforms : float32 Tensor (B, max_new_tokens), optional
        Numbers in [0, 1) that choose the tokens; drawn from ``generator`` unless given.

    Returns
    -------
    Rollout
        With B = k * len(prompt_ids) rows. ``logprobs`` are those of the sampled distribution,
        which is the policy's own at temperatures 1 and 0.

    Raises
    ------
    UserError
        If a prompt with its response could outgrow the model's context.
    """
    eos, device = tokenizer.eos_token_id, model.device
    prompt, prompt_mask = pad_left(prompt_ids, eos, device)
    limit = models.context_length(model)
    longest = max(len(ids) for ids in prompt_ids)
    if longest + max_new_tokens > limit:
        raise UserError(
            f"a prompt of {longest} tokens with max_new_tokens={max_new_tokens} exceeds "
            f"the model's context of {limit}; shorten the question or lower max_new_tokens"
        )
    k = samples_per_prompt
    decoder = llama_decode.decoder(model, max_new_tokens)
    logits = decoder.read(prompt, prompt_mask, k)
    prompt, prompt_mask = (x.repeat_interleave(k, dim=0) for x in (prompt, prompt_mask))
    rows = len(prompt)
    if uniforms is None and temperature:
        uniforms = torch.rand(rows, max_new_tokens, generator=generator, device=device)
    tokens = torch.full((rows, max_new_tokens), eos, device=device)
    logprobs = torch.zeros(rows, max_new_tokens, device=device)
    mask = torch.zeros(rows, max_new_tokens, dtype=torch.bool, device=device)
    alive = torch.arange(rows, device=device)  # rows that the decoder holds
    running = torch.ones(rows, dtype=torch.bool, device=device)  # which of them have not ended
    for t in range(max_new_tokens):
        numbers = None if uniforms is None else uniforms[alive, t]
        chosen, logp = choose(logits, temperature, numbers)
        tokens[alive, t] = torch.where(running, chosen, eos)
        logprobs[alive, t] = torch.where(running, logp, 0.0)
        mask[alive, t] = running
        running = running & (chosen != eos)
        left = int(running.sum())  # a GPU is waited for here, and nowhere else in a step
        if not left or t + 1 == max_new_tokens:
            break
        if left < 0.75 * len(running):  # drop ended rows: they would cost as much as others
            keep = running.nonzero().squeeze(1)
            decoder.keep(keep)
            alive, chosen, running = alive[keep], chosen[keep], running[keep]
        logits = decoder.step(chosen)
    width = t + 1
    return _assemble(tokenizer, prompt, prompt_mask, tokens[:, :width], mask[:, :width], logprobs)


def _assemble(
    tokenizer: Any, prompt: Tensor, prompt_mask: Tensor, tokens: Tensor, mask: Tensor, logp: Tensor
) -> Rollout:
    attention = torch.cat([prompt_mask, mask.long()], dim=1)
    ended = ((tokens == tokenizer.eos_token_id) & mask).any(dim=1)
    said = (mask.sum(dim=1) - ended.int()).tolist()
    rows = [row[:n] for row, n in zip(tokens.tolist(), said, strict=True)]
    return Rollout(
        sequences=torch.cat([prompt, tokens], dim=1),
        attention_mask=attention,
        position_ids=positions(attention),
        response_mask=mask,
        logprobs=logp[:, : mask.shape[1]],
        ended=ended,
        texts=tokenizer.batch_decode(rows, skip_special_tokens=False),
    )


def minibatch(rollout: Rollout, rows: Tensor) -> Rollout:
    """Return some rows of a rollout, without the columns in which all of them are padding.

    Parameters
    ----------
    rollout : Rollout
    rows : int64 Tensor (b,)
        Indices of the rows, in the order wanted.
    """
    p = rollout.prompt_width
    attention = rollout.attention_mask[rows]
    first = int(attention[:, :p].any(dim=0).int().argmax())
    width = int(rollout.response_mask[rows].any(dim=0).sum())
    columns = slice(first, p + width)
    return Rollout(
        sequences=rollout.sequences[rows, columns],
        attention_mask=attention[:, columns],
        position_ids=rollout.position_ids[rows, columns],
        response_mask=rollout.response_mask[rows, :width],
        logprobs=rollout.logprobs[rows, :width],
        ended=rollout.ended[rows],
        texts=[rollout.texts[i] for i in rows.tolist()],
    )


def score(
    model: Any, batch: Rollout, head: ValueHead | None = None
) -> tuple[Tensor, Tensor | None]:
    """Read whole sequences again: log-probabilities and values of the response tokens.

    The output at column t predicts column t + 1, so what belongs to the response columns
    P .. T-1 is read off columns P-1 .. T-2.

    Parameters
    ----------
    model : causal language model, with or without adapters
    batch : Rollout
    head : ValueHead, optional

    Returns
    -------
    logprobs : float32 Tensor (B, R)
        Of the tokens in the response columns, at temperature 1; 0 under padding.
    values : float32 Tensor (B, R) or None
        The value head's estimate before each response token; None without a head.
    """
    hidden = before_responses(model, batch)
    mask = batch.response_mask
    logits = model.get_output_embeddings()(hidden[mask])  # (N, V): none for padding
    logp = torch.zeros(mask.shape, device=mask.device)
    logp[mask] = losses.token_logprobs(logits, batch.responses[mask])
    return logp, None if head is None else head(hidden)


def before_responses(model: Any, batch: Rollout) -> Tensor:
    """Return the hidden states (B, R, H) that predict the response tokens.

    Without padding and with each prompt once where the model allows it (:mod:`reft_lib.ragged`).
    """
    if ragged.suits(model):
        laid = ragged.lay_out(batch.sequences, batch.attention_mask, batch.response_mask)
        return ragged.before_responses(model, laid)
    hidden = last_hidden(model, batch.sequences, batch.attention_mask, batch.position_ids)
    return hidden[:, batch.prompt_width - 1 : -1]


def last_hidden(model: Any, tokens: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
    """Return the last hidden states (B, T, H) of a causal language model, after its final norm."""
    base = models.unwrapped(model)
    trunk = getattr(base, base.base_model_prefix)
    out = trunk(input_ids=tokens, attention_mask=mask, position_ids=position_ids, use_cache=False)
    return out.last_hidden_state


def encode(
    tokenizer: Any, examples: Sequence[Example], fmt: Format, room: int | None = None
) -> list[list[int]]:
    """Return the tokenised prompts of examples in a format.

    Parameters
    ----------
    tokenizer : tokenizer
    examples : sequence of Example
    fmt : {"ncot", "pcot"}
    room : int, optional
        Tokens that a prompt may have: the model's context less the longest response.

    Raises
    ------
    UserError
        If a prompt is empty or has no room; the row is named.
    """
    ids = prompts.encode_prompts(tokenizer, [prompts.prompt(e, fmt) for e in examples])
    if room is not None:
        for example, row in zip(examples, ids, strict=True):
            prompts.check_length(row, room, example.id)
    return ids
