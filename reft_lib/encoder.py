"""A small bidirectional encoder, for what a model that writes from left to right cannot do.

It is a ``BertForMaskedLM`` of transformers with nano's tokens and one more, ``[MASK]``. None is
shipped. An encoder must exist before it can be fine-tuned, so one is pretrained on nano's own
pretraining text by masked language modelling (:func:`reft_lib.masked.train`, with all weights
trainable), in a minute or two on one core: far less than nano had.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

from reft_lib import corpus, language_modelling, lora
from reft_lib.config import LoraSettings
from reft_lib.errors import UserError
from reft_lib.language_modelling import TextConfig

MASK = "[MASK]"
DENSE = r".*\.(query|key|value|dense)"
"""The encoder's layers that get an adapter: all but embeddings and the output layer."""


@dataclass(frozen=True)
class EncoderConfig(TextConfig):
    """The encoder's shape, and its pretraining. The defaults take about two minutes on one core."""

    steps: int = 600
    lr: float = 2e-3
    lr_warmup_steps: int = 50
    batch_size: int = 32
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    mlp: int = 384
    context: int = 160
    """Longest row; as long as any window or question here."""
    documents: int = 20_000
    """Documents of the pretraining text."""


def with_mask(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that has ``[MASK]``, which takes the space before it, too.

    A word's token begins with the space before the word, so the mask stands for both.
    """
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(tokenizer)
    mask = AddedToken(MASK, lstrip=True, special=True, normalized=False)
    tokenizer.add_special_tokens({"mask_token": mask})
    return tokenizer


def new_encoder(tokenizer: Any, config: EncoderConfig, seed: int = 0) -> Any:
    """Return a freshly initialised ``BertForMaskedLM`` for a tokenizer that has a mask.

    Raises
    ------
    UserError
        If the tokenizer has no mask; see :func:`with_mask`.
    """
    from transformers import BertConfig, BertForMaskedLM

    if tokenizer.mask_token_id is None:
        raise UserError("the tokenizer has no mask token; give what encoder.with_mask returns")
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.mlp,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.context,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with lora.seeded(seed):
        return BertForMaskedLM(shape).eval()


def add_adapter(model: Any, settings: LoraSettings, seed: int = 0) -> Any:
    """Put a LoRA adapter on the dense layers of an encoder; its other weights are frozen.

    :func:`reft_lib.lora.add_adapter` is for models that generate, which an encoder does not.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=DENSE, lora_dropout=0.0
    )
    with lora.seeded(seed):
        return get_peft_model(model, config)


def pretraining_rows(tokenizer: Any, config: EncoderConfig) -> list[list[int]]:
    """Return the encoder's pretraining text in windows of tokens; the same for every seed."""
    texts = list(itertools.islice(corpus.documents(0), config.documents))
    return language_modelling.windows(tokenizer, texts, config.window)
