"""Sampling and grading, split over processes; with one process, nothing is split.

All processes draw the random numbers of the whole batch and use those of their own rows. Because a
response depends on its prompt and its numbers alone (:func:`reft_lib.rollout.sample`), N processes
sample together what one would. Then each gets the responses of the others: tokens are few beside
what it costs to make them, and with the whole batch at hand whitening and metrics need no sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from reft_lib import decode, models, parallel, rollout
from reft_lib.data import Example
from reft_lib.rewards import Graded, RewardFn
from reft_lib.rollout import Rollout


def sample_and_grade(
    policy: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[int]],
    examples: Sequence[Example],
    reward: RewardFn,
    max_new_tokens: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    samples_per_prompt: int = 1,
    bf16: bool = False,
) -> tuple[Rollout, list[Graded]]:
    """Sample responses to all prompts and grade them.

    Parameters
    ----------
    policy, tokenizer, prompt_ids, max_new_tokens, generator, temperature, samples_per_prompt
        See :func:`reft_lib.rollout.sample`. All but the policy's device must be the same in every
        process, the generator's state included.
    examples : sequence of Example
        One for each prompt.
    reward : RewardFn
        Must grade each response by itself: it sees those of its own process alone.
    bf16 : bool
        Run matrix products of sampling in bfloat16.

    Returns
    -------
    Rollout, list of Graded
        Of the whole batch, the same in every process.
    """
    n, k = len(prompt_ids), samples_per_prompt
    uniforms = None
    if temperature:
        uniforms = torch.rand(n * k, max_new_tokens, generator=generator, device=policy.device)
        uniforms = parallel.mine(uniforms.view(n, k, -1)).flatten(0, 1)
    own, found = parallel.mine(prompt_ids), []
    if own:
        with models.autocast(policy.device, bf16):
            sampled = rollout.sample(
                policy, tokenizer, own, max_new_tokens, temperature,
                samples_per_prompt=k, uniforms=uniforms,
            )  # fmt: skip
        asked = [e for e in parallel.mine(examples) for _ in range(k)]
        found = [(sampled, reward(sampled.texts, asked))]
    if parallel.world() == 1:
        return found[0]
    found = sum(parallel.gather([(move(part, "cpu"), graded) for part, graded in found]), [])
    whole = join([part for part, _ in found], tokenizer.eos_token_id)
    return move(whole, policy.device), [g for _, graded in found for g in graded]


def move(part: Rollout, device: Any) -> Rollout:
    """Return a rollout with its tensors on a device."""
    moved: dict[str, Any] = {k: x.to(device) for k, x in vars(part).items() if torch.is_tensor(x)}
    return replace(part, **moved)


def join(parts: Sequence[Rollout], eos: int) -> Rollout:
    """Put rollouts of different widths under each other.

    Parameters
    ----------
    parts : sequence of Rollout
        At least one.
    eos : int
        The end-of-sequence id, which stands in padding.
    """
    left = max(part.prompt_width for part in parts)
    right = max(part.response_mask.shape[1] for part in parts)

    def stack(name: str, fill: int = 0) -> Tensor:
        rows = []
        for part in parts:
            x = getattr(part, name)
            after = right - part.response_mask.shape[1]
            before = left - part.prompt_width if x.shape[1] == part.sequences.shape[1] else 0
            rows.append(pad(x, (before, after), value=fill))
        return torch.cat(rows)

    attention = stack("attention_mask")
    return Rollout(
        sequences=stack("sequences", eos),
        attention_mask=attention,
        position_ids=decode.positions(attention),
        response_mask=stack("response_mask"),
        logprobs=stack("logprobs"),
        ended=torch.cat([part.ended for part in parts]),
        texts=[text for part in parts for text in part.texts],
    )
