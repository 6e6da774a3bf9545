"""What a step of reinforcement learning costs, on paper: operations, bytes, memory.

A step has four phases: the prompts are *read*, the responses are *decoded*, both networks *score*
them (the policy and its reference, as :func:`reft_lib.ppo.gather` does), and the policy is
*updated*. :mod:`reft_lib.gpu_time` makes seconds of the counts.

Counted: a matrix product of (m, k) and (k, n) is 2mkn operations; attention is causal, so a token
at place t multiplies with t keys and t values. Left out: norms, softmax, sampling, optimiser,
grading, padding, and the traffic between GPUs while decoding. Kaplan et al. (2020), section 2.1,
count in this way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reft_lib.errors import UserError
from reft_lib.memory import BYTES, SHAPES, Shape, kept_bytes

MODELS = {
    "0.135B": SHAPES["smollm2-135m-instruct"],
    "7B": SHAPES["codellama/CodeLlama-7b-hf"],
    # Llama 3 70B (Grattafiori et al. 2024, table 3), with the vocabulary of its configuration
    "70B": Shape(80, 8192, 28_672, 64, 8, 128_256, tied=False),
}
"""Shapes to compare: SmolLM2-135M, CodeLlama-7B (the paper's model) and Llama 3 70B."""


@dataclass(frozen=True)
class Plan:
    """One step of reinforcement learning with LoRA."""

    shape: Shape
    rows: int = 256
    """Responses of a step, B."""
    prompt: int = 160
    """Tokens of a prompt, P."""
    response: int = 256
    """Tokens of a response, R."""
    micro: int = 8
    """Rows of a micro-batch on one GPU, b."""
    epochs: int = 2
    """Passes over the responses in the update."""
    rank: int = 16
    weights: str = "bfloat16"
    checkpointing: bool = False
    """Whether the backward pass computes activations anew instead of keeping them."""
    gpus: int = 1
    split: int = 1
    """GPUs over which one copy of the weights is spread; 1: every GPU holds all of them."""

    def __post_init__(self) -> None:
        """Refuse what cannot be divided."""
        if min(self.rows, self.prompt, self.response, self.micro, self.rank) < 1:
            raise UserError("rows, prompt, response, micro and rank must be at least 1")
        if self.weights not in BYTES:
            raise UserError(f"unknown weights {self.weights!r}; there are: {', '.join(BYTES)}")
        if self.split < 1 or self.gpus % self.split:
            raise UserError(f"{self.gpus} GPUs cannot hold copies of {self.split} GPUs each")
        if self.rows % (self.gpus // self.split):
            raise UserError(f"{self.rows} rows cannot be dealt to {self.gpus // self.split} copies")

    @property
    def blocks(self) -> int:
        """Weights in the matrices of all blocks."""
        return self.shape.layers * sum(i * o for i, o in self.shape.linears)

    @property
    def head(self) -> int:
        """Weights of the language-model head."""
        return self.shape.vocab * self.shape.hidden


def looks(layers: int, hidden: int, tokens: int, before: int = 0) -> int:
    """Return the operations of :func:`attention` for a number of layers and a hidden width."""
    return 4 * layers * hidden * sum(range(before + 1, before + tokens + 1))


def attention(plan: Plan, tokens: int, before: int = 0) -> int:
    """Return the operations of attention for some tokens of one row, in all layers.

    The token at place t (from 1) multiplies its query with t keys, and t weights with t values:
    4 h t operations in a layer.
    """
    return looks(plan.shape.layers, plan.shape.hidden, tokens, before)


def products(blocks: int, adapter: int, head: int, tokens: int, logits: int) -> tuple[float, float]:
    """Return the operations of all products with weights, forwards and backwards.

    Forwards every weight costs 2 operations a token. Backwards a frozen weight costs 2 (the
    gradient passes through it) and a trained one 4 (its own gradient too).

    Parameters
    ----------
    blocks, adapter, head : int
        Weights: frozen ones in the blocks, trained ones, frozen ones of the head.
    tokens, logits : int
        Tokens that are read, and those of them whose logits are computed.
    """
    forward = 2.0 * (blocks + adapter) * tokens + 2.0 * head * logits
    return forward, forward + 2.0 * adapter * tokens


def operations(plan: Plan) -> dict[str, float]:
    """Return the operations of each phase of a step, on all GPUs together.

    Those of :func:`products`, where logits are computed at the R places of the response alone, and
    those of :func:`attention`, twice as many backwards as forwards.

    Returns
    -------
    dict
        ``read``, ``decode``, ``score`` (policy and reference), ``update``.
    """
    adapter, tokens = plan.shape.adapter(plan.rank), plan.prompt + plan.response
    per_token, per_logit = 2 * (plan.blocks + adapter), 2 * plan.head
    whole = attention(plan, tokens)
    later = plan.response - 1  # the first response token comes with the reading of the prompt
    forward, backward = products(plan.blocks, adapter, plan.head, tokens, plan.response)
    forward, backward = forward + whole, backward + 2 * whole
    # the reference runs without the adapter
    reference = forward - tokens * 2 * adapter
    again = forward - plan.response * per_logit if plan.checkpointing else 0
    return {
        "read": float(
            plan.rows * (plan.prompt * per_token + attention(plan, plan.prompt) + per_logit)
        ),
        "decode": float(
            plan.rows * (later * (per_token + per_logit) + attention(plan, later, plan.prompt))
        ),
        "score": float(plan.rows * (forward + reference)),
        "update": float(plan.rows * plan.epochs * (forward + backward + again)),
    }


def decoded_bytes(plan: Plan) -> float:
    """Return the bytes that decoding must read from one GPU's memory.

    For each of the R - 1 later tokens: its share of the weights once for all of its rows, and of
    the keys and values of all tokens before.
    """
    size, later = BYTES[plan.weights], plan.response - 1
    weights = size * (plan.blocks + plan.head) + 4 * plan.shape.adapter(plan.rank)
    rows = plan.rows // (plan.gpus // plan.split)
    places = sum(range(plan.prompt, plan.prompt + later))
    cache = 2 * size * plan.shape.layers * plan.shape.kv * rows * places
    return (later * weights + cache) / plan.split


def gathered_bytes(plan: Plan) -> float:
    """Return the bytes of weights that one GPU receives from others, for scoring and update.

    Where a copy is spread (FSDP), every pass over a micro-batch first gathers the other GPUs' part:
    twice in scoring (policy, reference), twice in each epoch of the update (forward, backward).
    """
    passes = math.ceil(plan.rows / (plan.gpus * plan.micro)) * (2 + 2 * plan.epochs)
    others = (plan.split - 1) / plan.split
    return passes * others * BYTES[plan.weights] * plan.shape.parameters


def memory(plan: Plan) -> dict[str, float]:
    """Return the bytes on one GPU; sampling and update do not coincide.

    Returns
    -------
    dict
        ``weights`` (spread over ``split`` GPUs), ``adapter`` (float32: itself, gradient, two
        moments), ``cache`` (keys and values of its rows), ``activations``, ``logits``, ``total``.

    Notes
    -----
    A spread copy needs one layer's weights at a time besides its own part; they are counted with
    the weights. With checkpointing a layer keeps its input alone, and one layer at a time the rest.
    """
    shape, size = plan.shape, BYTES[plan.weights]
    tokens = plan.micro * (plan.prompt + plan.response)
    rows = plan.rows // (plan.gpus // plan.split)
    activations = kept_bytes(shape, tokens, plan.rank, plan.weights)
    if plan.checkpointing:
        inputs = size * tokens * shape.layers * shape.hidden
        activations = inputs + activations / shape.layers
    gathered = 0.0 if plan.split == 1 else size * plan.blocks / shape.layers
    found = {
        "weights": size * shape.parameters / plan.split + gathered,
        "adapter": 16.0 * shape.adapter(plan.rank),
        "cache": 2.0 * size * shape.layers * shape.kv * (plan.prompt + plan.response) * rows
        / plan.split,
        "activations": activations,
        "logits": plan.micro * plan.response * shape.vocab * 2.0 * size,
    }  # fmt: skip
    fixed = found["weights"] + found["adapter"]
    found["total"] = fixed + max(found["cache"], found["activations"] + found["logits"])
    return found


def full_fine_tuning(shape: Shape) -> float:
    """Return the bytes for training all weights with AdamW in mixed precision, without activations.

    16 bytes a weight: 2 for itself and 2 for its gradient in bfloat16; in float32 itself once more
    and two moments (Rajbhandari et al. 2020, section 3.1).
    """
    return 16.0 * shape.parameters
