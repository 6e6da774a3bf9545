"""The work of the benchmark: its size, its model, its prompts, and how it is timed.

Responses have to be uneven in length, and equally so for all engines. The model's own would depend
on its training. Here its head is almost flat, every token as probable as any other, but for the
end-of-sequence token, whose probability is 1 / mean length: lengths are geometric whatever samples
them, cut at ``most``, and the head costs what any head costs.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from reft_lib import cost, data, lora, models
from reft_lib.config import LoraSettings
from reft_lib.data import Example

LORA = LoraSettings(rank=16, alpha=32)
FLAT = 0.001
"""By this the weights of the head are multiplied: logits are within some hundredths of 0."""


Work = tuple[float, float]
"""Operations and bytes that something takes at the least; 0: not counted."""


@dataclass(frozen=True)
class Case:
    """How much work a measurement is."""

    model: str = "nano"
    rows: int = 64
    """Responses side by side."""
    prompt: int = 64
    """Tokens of a prompt, all but the format's own words."""
    mean: int = 32
    """Mean length of responses in tokens."""
    most: int = 128
    """Responses are cut here."""
    group: int = 8
    """Whole steps: responses to the same prompt."""
    micro: int = 0
    """Padded rows that memory allows to be read at once in an update; 0: as many as wanted."""
    at_once: int = 32
    """Rows that are wanted at once in an update."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model's frozen weights."""
    bf16: bool = True
    """Whether training computes in bfloat16."""
    device: str = "auto"


class Gate:
    """Opens when the parent process asks for a piece of work, and times it."""

    def __init__(self, pipe: Any, trim: bool = False, on_gpu: bool = False) -> None:
        self.pipe, self.began, self.trim, self.on_gpu = pipe, 0.0, trim, on_gpu

    def wait(self) -> bool:
        """Wait until asked; false when nothing more is wanted."""
        wanted = bool(self.pipe.recv())
        if self.on_gpu and not self.began:  # what preparing took does not count
            torch.cuda.reset_peak_memory_stats()
        self.began = time.perf_counter()
        return wanted

    def done(self, tokens: int, work: Callable[[], Work]) -> None:
        """Tell how long it took, how much it was, and this process's memory.

        ``work`` is asked afterwards for the operations and bytes that it takes at the least.
        """
        if self.on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.began
        flops, moved = work()
        found = {"seconds": seconds, "tokens": tokens, "flops": flops, "moved": moved}
        memory = {
            "peak_mb": peak_memory(self.on_gpu),
            "held_mb": held_memory(self.trim, self.on_gpu),
        }
        self.pipe.send(found | memory)


def peak_memory(on_gpu: bool = False) -> float:
    """Return the most memory in MB (10^6 bytes) that this process has held, or PyTorch on the GPU.

    Shared libraries count; Python with torch and transformers alone is some hundred MB.
    """
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 1e6
    try:  # getrusage counts what a process was before it became this program: its parent
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):  # not Linux
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def held_memory(trim: bool = False, on_gpu: bool = False) -> float:
    """Return the memory in MB that this process holds now, or PyTorch on the GPU.

    0 where the system does not tell.

    With ``trim`` the C library first gives back what it keeps for later, where it can do so: what
    remains is in use.
    """
    if on_gpu:
        return torch.cuda.memory_allocated() / 1e6
    if trim and sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def weights(policy: Any) -> tuple[int, int, int]:
    """Return the numbers of weights in products: of the blocks, the adapter, the head."""
    base = policy.get_base_model()
    adapter = sum(p.numel() for p in lora.trainable_parameters(policy))
    head, embedding = base.lm_head.weight.numel(), base.get_input_embeddings().weight.numel()
    tied = base.lm_head.weight is base.get_input_embeddings().weight
    matrices = sum(p.numel() for p in policy.parameters() if p.dim() == 2)  # norms are no products
    frozen = matrices - adapter - embedding
    return frozen - (0 if tied else head), adapter, head


def update_work(policy: Any, lengths: Sequence[int], responses: int) -> Work:
    """Return the operations that one reading with gradient must do; bytes are left out.

    Those of :func:`reft_lib.cost.products`, where the head sees response tokens alone, and of
    attention, where each token looks back at those before it and at itself.

    Parameters
    ----------
    policy : peft.PeftModel
    lengths : sequence of int
        Tokens that are read, of each row.
    responses : int
        Response tokens of all rows.
    """
    blocks, adapter, head = weights(policy)
    # attention backwards: twice as many
    looks = 3 * sum(_looks(policy, n) for n in lengths)
    return sum(cost.products(blocks, adapter, head, sum(lengths), responses)) + looks, 0.0


def rollout_work(
    policy: Any, prompts: Sequence[int], lengths: Sequence[int], size: int = 2
) -> Work:
    """Return the operations that a rollout must do, and the bytes that it must read.

    The adapter is merged. Every prompt is read, and of every response all tokens but the last. For
    each token of the longest response all weights are read from memory once, and for each token
    of a row the keys and values of those before it.

    Parameters
    ----------
    policy : peft.PeftModel
    prompts, lengths : sequence of int
        Tokens of each row's prompt and response.
    size : int
        Bytes of a weight, a key or a value.
    """
    blocks, _, head = weights(policy)
    config = policy.get_base_model().config
    rows = list(zip(prompts, lengths, strict=True))
    read = sum(p + n - 1 for p, n in rows)
    flops = cost.products(blocks, 0, head, read, sum(lengths))[0]
    flops += sum(_looks(policy, p + n - 1) for p, n in rows)
    kept = 2 * config.num_hidden_layers * config.num_key_value_heads * _head_dim(config)
    places = sum(sum(range(p, p + n - 1)) for p, n in rows)
    return flops, float(size * ((blocks + head) * max(lengths) + kept * places))


def step_work(counts: tuple[int, int, int], prompts: float, rows: int, tokens: int) -> Work:
    """Return the operations that a step of GRPO must do, without attention; bytes are left out.

    Rollout with a merged adapter, reference, and one update, each of which reads every prompt once.

    Parameters
    ----------
    counts : (int, int, int)
        Weights of blocks, adapter and head (:func:`weights`).
    prompts : float
        Tokens of the prompts, each counted once.
    rows : int
        Responses.
    tokens : int
        Tokens of all responses.
    """
    blocks, adapter, head = counts
    read = round(prompts) + tokens - rows
    forward = cost.products(blocks, 0, head, read, tokens)[0]  # rollout, and reference
    return 2 * forward + sum(cost.products(blocks, adapter, head, read, tokens)), 0.0


def _looks(policy: Any, tokens: int) -> int:
    config = policy.get_base_model().config
    width = config.num_attention_heads * _head_dim(config)
    return cost.looks(config.num_hidden_layers, width, tokens)


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def policy_of(case: Case) -> tuple[Any, Any]:
    """Return the policy with an adapter that is not zero and an even ending; and its tokenizer."""
    model, tokenizer = models.load(case.model, case.weights)
    even_ending(model, tokenizer.eos_token_id, case.mean)
    policy = lora.add_adapter(model.to(models.pick_device(case.device)), LORA)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in lora.trainable_parameters(policy):
            p.add_(0.01 * torch.randn(p.shape, generator=generator).to(p.device))
    return policy, tokenizer


def even_ending(model: Any, eos: int, mean: float) -> None:
    """Give a model a head of its own by which responses end alike wherever they are.

    Of a vocabulary of V the other V - 1 tokens have logits near 0, and together the odds
    ``mean - 1`` against the end.
    """
    vocabulary, width = model.lm_head.weight.shape
    head = nn.Linear(width, vocabulary, device="meta")
    odds = torch.zeros(vocabulary)
    odds[eos] = math.log(vocabulary - 1) - math.log(mean - 1)
    head.weight = nn.Parameter(FLAT * model.lm_head.weight.detach(), requires_grad=False)
    head.bias = nn.Parameter(odds.to(head.weight), requires_grad=False)
    model.set_output_embeddings(head)
    model.config.tie_word_embeddings = False


def questions(case: Case, tokenizer: Any) -> list[Example]:
    """Return ``rows`` different questions, cut or joined to the wanted number of tokens."""
    source = [e.question for e in data.load("embedded", "train")]
    found = []
    for i in range(case.rows):
        ids: list[int] = []
        while len(ids) < case.prompt:
            ids += tokenizer(source[(i + 7 * len(ids)) % len(source)])["input_ids"]
        text = tokenizer.decode(ids[: case.prompt], skip_special_tokens=True)
        found.append(Example(id=str(i), question=text, answer="1"))
    return found
