"""A small bidirectional encoder, for what a model that writes from left to right cannot do.

It is a ``BertForMaskedLM`` of transformers with nano's tokens and one more, ``[MASK]``. One is
shipped in ``data/encoder``; :mod:`reft_lib.pretrain_encoder` made it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reft_lib import lora, models
from reft_lib.config import LoraSettings
from reft_lib.errors import UserError
from reft_lib.settings import Checked

ENCODER_FOLDER = Path(__file__).resolve().parent.parent / "data" / "encoder"
"""Where the shipped encoder is."""

MASK = "[MASK]"
DENSE = r".*\.(query|key|value|dense)"
"""The encoder's layers that get an adapter: all but embeddings and the output layer."""


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """The encoder's shape."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    mlp: int = 384
    context: int = 160
    """Longest row; as long as any window or question here."""


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


def load(folder: Path = ENCODER_FOLDER) -> tuple[Any, Any]:
    """Load the shipped encoder and its tokenizer, which is nano's with a mask.

    Raises
    ------
    UserError
        If there is no encoder in the folder.
    """
    from transformers import AutoTokenizer, BertForMaskedLM

    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no encoder; make it with: python -m reft_lib pretrain-encoder"
        )
    with models.quiet():
        tokenizer = AutoTokenizer.from_pretrained(models.NANO_FOLDER, local_files_only=True)
        model = BertForMaskedLM.from_pretrained(folder, local_files_only=True)
    return model.eval(), with_mask(tokenizer)


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
