"""Small models, a small tokenizer and hand-made examples, shared by the tests."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reft_lib import data, lora, models, ppo, rollout
from reft_lib.config import LoraSettings, PpoConfig
from reft_lib.data import Example
from reft_lib.pretrain import train_tokenizer
from reft_lib.rewards import Graded

TEXTS = [
    "Question:\nTom has 12 apples. Tom buys 5 more apples. How many apples does Tom have now?\n"
    "Answer reasoning:\n12 + 5 = 17 after buying.\nTherefore, the answer is: 17",
    "def solution():\n    total = 12 + 5\n    return total",
] * 40


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer whose words come from two examples."""
    return train_tokenizer(TEXTS, 400)


@pytest.fixture
def new_model(tokenizer):
    """A function that makes the same small model each time."""

    def make(seed: int = 1, context: int = 256) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,  # its embedding would be zero, and so could never be predicted
            initializer_range=0.2,  # distributions that are clearly not uniform
        )
        return LlamaForCausalLM(config).eval()

    return make


def grouped(tokenizer, heads: int = 4, groups: int = 2, **more) -> LlamaForCausalLM:
    """Return a model whose heads share keys and values, as SmolLM2's do."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=256,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None, initializer_range=0.2, **more,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def adapted(model, std: float = 0.1, seed: int = 3):
    """Put an adapter on that does something."""
    policy = lora.add_adapter(model, LoraSettings(rank=4, alpha=8))
    torch.manual_seed(seed)
    for p in lora.trainable_parameters(policy):
        torch.nn.init.normal_(p, std=std)
    return policy


@pytest.fixture
def examples() -> list[Example]:
    """Four questions of unequal length with both annotations."""
    rows = [
        ("Tom has 12 apples. Tom buys 5 more apples. How many apples does Tom have now?", 12, 5),
        ("Tom has 3 apples. Tom buys 4. How many?", 3, 4),
        ("Tom buys 1 apples and 1 more. How many apples does Tom have?", 1, 1),
        ("How many are 20 and 7?", 20, 7),
    ]
    return [
        Example(
            id=f"made-{i}",
            question=question,
            answer=str(a + b),
            ncot=f"{a} + {b} = {a + b} after buying.",
            pcot=f"\n    total = {a} + {b}\n    return total",
            meta={},
        )
        for i, (question, a, b) in enumerate(rows)
    ]


@pytest.fixture
def own_rollout(new_model, tokenizer, examples):
    """PPO's experience of four responses, as a reader would gather it, and the settings."""
    policy = lora.add_adapter(new_model(), LoraSettings())
    settings = PpoConfig(batch_size=4, micro_batch=4)
    ids = rollout.encode(tokenizer, examples, "ncot")
    sampled = rollout.sample(policy, tokenizer, ids, 5, generator=torch.Generator().manual_seed(0))
    graded = [Graded(x, "1", x == 1) for x in (1.0, 0.1, 0.0, 1.0)]
    head = ppo.new_value_head(policy, settings, 0)
    return ppo.gather(policy, head, sampled, graded, settings), settings


@pytest.fixture
def small_world(monkeypatch, new_model, tokenizer, examples):
    """Replace the base model and the embedded problems by tiny ones: five rows in each split."""
    named = {
        name: [
            dataclasses.replace(
                examples[i % 4],
                id=f"{name}-{i}",
                question=f"{i}: {examples[i % 4].question}",
                meta={"paths": []},
            )
            for i in range(5)
        ]
        for name in ("train", "validation", "test", "hard")
    }
    monkeypatch.setattr(models, "load", lambda name, dtype: (new_model(), tokenizer))
    monkeypatch.setattr(data, "load", lambda dataset, split: named[split])
