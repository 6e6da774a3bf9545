"""Decoding with models of Llama's architecture, without what a training forward pass needs.

A step of decoding multiplies a few rows with all weights of a model: what counts is how often
memory is read and how many small operations are started. Hence: the adapter is added to the
weights once for a whole rollout (weights in bfloat16 are too coarse for that: there it adds one
thin product), products that read the same input are one product, keys and values are written
into memory set aside beforehand (transformers' cache is copied whole for every token), and nothing
is recorded for gradients.

    plain   7 products, 14 thin ones of the adapter, some 60 operations a layer
    here    4 products, none or 4 thin ones, some 15 operations a layer

A rotation is one operation here: numbers i and i + D/2 of a head, which turn together, stand side
by side, as the two parts of one complex number. For that the rows of the weights that make queries
and keys change places; a product of a query and a key does not notice.

:func:`decoder` falls back to :class:`reft_lib.decode.CachedDecoder` for other models, and for
adapters that are more than a product of two matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reft_lib import fused, models, switch
from reft_lib.decode import CachedDecoder, Decoder
from reft_lib.frozen import Frozen, lowered
from reft_lib.projection import Projection, adapters, paired


def decoder(model: Any, room: int) -> Decoder:
    """Return the fastest decoder that a model allows.

    Parameters
    ----------
    model : causal language model, with or without adapters
    room : int
        Most tokens that each row will be given after its prompt.
    """
    return LlamaDecoder(model, room) if switch.enabled() and suits(model) else CachedDecoder(model)


def suits(model: Any) -> bool:
    """Return whether :class:`LlamaDecoder` computes what this model does."""
    base = models.unwrapped(model)
    config = base.config
    return (
        config.model_type == "llama"
        and base.model.rotary_emb.rope_type == "default"
        and not (config.attention_bias or config.mlp_bias)
        and config.hidden_act == "silu"
        and all(adapters(layer) is not None for layer in _projections(base))
    )


WIDE = 256
"""From this width on, matrices are large enough for bfloat16 to save more than it costs."""
COPIED = 2**30
"""Bytes up to which weights that have the wanted precision are copied to be joined: the smaller a
model, the more it waits for operations to start, and the less for memory to be had."""


@dataclass
class Block:
    """The weights of one layer, (out, in) each; products of the same input stand in one matrix."""

    before_attention: Tensor
    qkv: Projection
    """Queries, keys, values; the first two with pairs (:func:`reft_lib.projection.paired`)."""
    out: Projection
    before_mlp: Tensor
    gate_up: Projection
    down: Projection


class LlamaDecoder:
    """Decode with joined weights and a cache of fixed size; see :class:`reft_lib.decode.Decoder`.

    Matrices of models that are ``WIDE`` or wider are in bfloat16 inside
    :func:`reft_lib.models.autocast`, all others in the weights' own precision; norms, rotations and
    softmax are in float32.
    """

    @torch.no_grad()
    def __init__(self, model: Any, room: int) -> None:
        base = models.unwrapped(model)
        config = base.config
        self.model, self.room, self.eps = model, room, config.rms_norm_eps
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        head = base.lm_head
        wide = config.hidden_size >= WIDE
        self.dtype = dtype = switch.precision(head.weight) if wide else head.weight.dtype
        self.blocks = []
        of_blocks = [w for w in base.model.layers.parameters() if w.dtype == dtype != torch.float32]
        copy = sum(w.numel() * w.element_size() for w in of_blocks) <= COPIED
        for layer in base.model.layers:
            attn, mlp = layer.self_attn, layer.mlp
            qkv = (attn.q_proj, attn.k_proj, attn.v_proj)
            self.blocks.append(
                Block(
                    layer.input_layernorm.weight.float(),
                    Projection(qkv, dtype, 2, self.head_dim, copy),
                    Projection([attn.o_proj], dtype, copy=copy),
                    layer.post_attention_layernorm.weight.float(),
                    Projection([mlp.gate_proj, mlp.up_proj], dtype, copy=copy),
                    Projection([mlp.down_proj], dtype, copy=copy),
                )
            )
        self.embedding = base.model.embed_tokens.weight
        self.norm = base.model.norm.weight.float()
        self.head: Any = head
        if type(head) in (torch.nn.Linear, fused.FusedHead):
            self.head = lowered([head], dtype)
            self.bias = None if head.bias is None else head.bias.to(dtype)
        self.frequencies = base.model.rotary_emb.inv_freq.float()

    def read(self, prompt: Tensor, mask: Tensor, k: int) -> Tensor:
        """See :class:`reft_lib.decode.Decoder`; the model itself reads the prompts."""
        plain = CachedDecoder(self.model)
        logits = plain.read(prompt, mask, k=1).repeat_interleave(k, dim=0)
        rows, width = len(prompt) * k, prompt.shape[1]
        shape = (len(self.blocks), 2, rows, self.groups, width + self.room, self.head_dim)
        self.cache = torch.empty(shape, dtype=self.dtype, device=prompt.device)
        for here, layer in zip(self.cache, plain.cache.layers, strict=True):
            keys = paired(layer.keys.mT, self.head_dim, dim=2).mT
            for j, x in enumerate((keys, layer.values)):
                here[j, :, :, :width] = x.repeat_interleave(k, dim=0)
        self.width = width  # columns of the cache that are filled
        self.position = plain.seen.sum(dim=1).repeat_interleave(k, dim=0)
        unseen = self.cache.new_zeros(rows, 1, 1, width + self.room)
        hidden = mask.repeat_interleave(k, dim=0)[:, None, None] == 0
        unseen[..., :width].masked_fill_(hidden, -torch.inf)
        self.unseen = unseen  # added to the scores: what is padding is not seen
        return logits

    @torch.no_grad()
    def step(self, chosen: Tensor) -> Tensor:
        """See :class:`reft_lib.decode.Decoder`."""
        # The matrices are in the precision wanted; autocast would convert narrow ones every time.
        with torch.autocast(chosen.device.type, enabled=False):
            hidden = self._through_blocks(chosen)
            if isinstance(self.head, Frozen):
                return self.head.times(hidden, self.bias)
        logits: Tensor = self.head(hidden)
        return logits

    def _through_blocks(self, chosen: Tensor) -> Tensor:
        """Return the hidden states (B, H) behind the last norm."""
        rows, groups, d = len(chosen), self.groups, self.head_dim
        angles = (self.position[:, None] * self.frequencies)[:, None]  # (B, 1, D/2)
        turn = torch.polar(torch.ones_like(angles), angles)
        here, end = self.width, self.width + 1
        unseen = self.unseen[..., :end]
        x = functional.embedding(chosen, self.embedding).float()
        for block, cache in zip(self.blocks, self.cache, strict=True):
            qkv = block.qkv.times(self._normed(x, block.before_attention)).float()
            pairs = torch.view_as_complex(qkv.view(rows, -1, d // 2, 2))
            pairs[:, : self.heads + groups].mul_(turn)
            query, new = qkv.view(rows, -1, d).split([self.heads, 2 * groups], dim=1)
            cache[..., here, :] = new.view(rows, 2, groups, d).transpose(0, 1)
            # Each group of keys serves several heads: to the kernel they are its queries.
            mixed = functional.scaled_dot_product_attention(
                query.to(self.dtype).view(rows, groups, -1, d),
                cache[0, :, :, :end], cache[1, :, :, :end], unseen,
            ).reshape(rows, -1)  # fmt: skip
            x = x + block.out.times(mixed)
            wide = block.gate_up.times(self._normed(x, block.before_mlp))
            gate, up = wide.chunk(2, dim=1)
            x = x + block.down.times(functional.silu(gate).mul_(up))
        self.width, self.position = end, self.position + 1
        return self._normed(x, self.norm)

    def keep(self, rows: Tensor) -> None:
        """See :class:`reft_lib.decode.Decoder`."""
        kept = self.cache.new_empty(*self.cache.shape[:2], len(rows), *self.cache.shape[3:])
        kept[..., : self.width, :] = self.cache[..., : self.width, :].index_select(2, rows)
        self.cache = kept
        self.position, self.unseen = self.position[rows], self.unseen[rows]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x (B, H) over its root mean square, in the dtype of matrices."""
        return functional.rms_norm(x, weight.shape, weight, self.eps).to(self.dtype)


def _projections(base: Any) -> list[Any]:
    """Return all linear layers inside the blocks."""
    return [
        projection
        for layer in base.model.layers
        for projection in (
            layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj,
            layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj,
        )
    ]  # fmt: skip
