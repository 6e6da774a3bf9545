"""How much GPU memory a run needs, estimated from the shape of its model.

Four things take memory: the frozen weights; the adapter with its gradient and AdamW's two moments;
while sampling, the keys and values of every token; while updating, what a forward pass keeps for
the backward one, and the logits. The last two do not coincide, so the larger of them counts.

What a forward pass keeps was counted, tensor by tensor, for adapters on all linear layers and
attention that does not store its weights; the coefficients below are fitted to those counts (the
tests count again, at another shape).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reft_lib.config import RunConfig
from reft_lib.errors import UserError


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like language model."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = True
    """Whether input and output embeddings are one matrix."""
    biases: bool = False
    """Whether queries, keys and values have biases, as in Qwen2."""

    @property
    def kv(self) -> int:
        """Width of the keys of a token in one layer."""
        return self.hidden * self.kv_heads // self.heads

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the seven linear layers of a block."""
        h, m = self.hidden, self.mlp
        return [(h, h), (h, self.kv), (h, self.kv), (h, h), (h, m), (h, m), (m, h)]

    @property
    def parameters(self) -> int:
        """Number of weights."""
        block = sum(i * o for i, o in self.linears) + 2 * self.hidden
        block += (self.hidden + 2 * self.kv) * self.biases
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.layers * block + embeddings + self.hidden

    def adapter(self, rank: int) -> int:
        """Number of weights of an adapter on all linear layers."""
        return self.layers * rank * sum(i + o for i, o in self.linears)


SHAPES = {
    "nano": Shape(4, 128, 384, 4, 4, 839),
    "smollm2-135m-instruct": Shape(30, 576, 1536, 9, 3, 49_152),
    "HuggingFaceTB/SmolLM2-1.7B": Shape(24, 2048, 8192, 32, 32, 49_152),
    "Qwen/Qwen2.5-0.5B": Shape(24, 896, 4864, 14, 2, 151_936, biases=True),
    "Qwen/Qwen2.5-1.5B": Shape(28, 1536, 8960, 12, 2, 151_936, biases=True),
    "codellama/CodeLlama-7b-hf": Shape(32, 4096, 11_008, 32, 32, 32_016, tied=False),
}
"""Shapes of the presets' models, as their configurations on the hub give them."""

BYTES = {"float32": 4, "bfloat16": 2}
# Bytes kept per token and layer: of hidden width, of MLP width, of key width, and of the rank.
# Fitted to five shapes with fused layers, within 1%, one by one as on a GPU: joined they keep less.
KEPT = {"float32": (25.3, 15.9, 7.5, 29.4), "bfloat16": (16.7, 8.0, 3.7, 14.8)}


def kept_bytes(shape: Shape, tokens: int, rank: int, weights: str) -> float:
    """Return the bytes that a forward pass through the blocks keeps for the backward pass."""
    h, m, k, r = KEPT[weights]
    each = h * shape.hidden + m * shape.mlp + k * shape.kv + r * rank
    copies = 2 * shape.adapter(rank) if weights == "bfloat16" else 0  # of the float32 adapter
    return tokens * shape.layers * each + copies


def estimate(config: RunConfig, prompt_tokens: int = 160) -> dict[str, float]:
    """Estimate the memory of a run in GiB.

    Parameters
    ----------
    config : RunConfig
        Its model must be one of ``SHAPES``.
    prompt_tokens : int
        Tokens of a long prompt; responses count with their largest length.

    Returns
    -------
    dict
        ``weights``, ``adapter``, ``sampling``, ``update``, where there is one ``verifier``, and
        ``total``. Left out are copies of weights in bfloat16: of float32 ones 2 bytes a weight,
        of others those that are joined while sampling (:mod:`reft_lib.projection`), at most 1 GiB.

    Raises
    ------
    UserError
        If the shape of the model is not known.
    """
    if config.model not in SHAPES:
        raise UserError(
            f"the shape of {config.model!r} is not known; there are: {', '.join(SHAPES)}"
        )
    shape, sample, rank = SHAPES[config.model], config.sample, config.lora.rank
    size = BYTES[config.weights]
    length = prompt_tokens + sample.max_new_tokens
    rows = max(config.ppo.batch_size, sample.batch_size)
    micro = max(min(c.micro_batch, c.batch_size) for c in (config.sft, config.ppo))
    found = {
        "weights": float(size * shape.parameters),
        # float32: itself, gradient, two moments; the best so far, the warm-up's, the reference
        "adapter": (28.0 + 16.0 * (config.ppo.value_trunk == "separate")) * shape.adapter(rank),
        "sampling": 2.0 * size * shape.layers * shape.kv * length * rows,
        # logits of the responses and their gradient
        "update": kept_bytes(shape, micro * length, rank, config.weights)
        + micro * sample.max_new_tokens * shape.vocab * 2.0 * size,
    }
    if config.rerank:  # a verifier has a trunk of its own: weights, adapter, what training keeps
        rows = min(config.verifier.micro_batch, config.verifier.batch_size)
        found["verifier"] = found["weights"] + 16.0 * shape.adapter(rank)
        found["update"] = max(
            found["update"], kept_bytes(shape, rows * length, rank, config.weights)
        )
    fixed = sum(found.get(name, 0.0) for name in ("weights", "adapter", "verifier"))
    found["total"] = fixed + max(found["sampling"], found["update"])
    return {name: x / math.pow(2, 30) for name, x in found.items()}
