"""Pairs that are read together: each response once, every pair once a pass, the same loss."""

from __future__ import annotations

import collections
import itertools
import random

import pytest
import torch

from reft_lib import dpo, lora, pairwise, reward_model, scorer
from reft_lib.config import LoraSettings
from reft_lib.data import Example
from reft_lib.loop import new_loop
from reft_lib.method_settings_rlhf import DpoConfig, RewardConfig
from reft_lib.preferences import Pair

LORA = LoraSettings(rank=4, alpha=8)
END = "\nTherefore, the answer is: "


def ranked(n, k):
    """Return all pairs of k responses to each of n questions, the shorter one preferred."""
    pairs = []
    for i in range(n):
        e = Example(f"q-{i}", f"How many are {i} and 7?", str(i + 7))
        texts = [f"{i} + 7 = {i + 7}{' after buying' * j}.{END}{i + 7}" for j in range(k)]
        pairs += [Pair(e, a, b) for a, b in itertools.combinations(texts, 2)]
    return pairs


@pytest.fixture
def encoded(new_model, tokenizer):
    def encode(pairs):
        return pairwise.encode_pairs(new_model(), tokenizer, "ncot", pairs)

    return encode


def test_each_response_is_read_once_however_many_pairs_it_is_in(encoded):
    pairs = ranked(3, 4)
    random.Random(0).shuffle(pairs)
    rows = encoded(pairs)
    (part,) = pairwise.micro_batches(rows, 32, 0, "cpu")
    assert len(rows) == 18 and len(part.batch.tokens) == 12 and part.share == 1.0
    for (chosen, rejected), i, j in zip(rows, part.chosen, part.rejected, strict=True):
        for row, place in ((chosen, i), (rejected, j)):
            n = scorer.width(row)
            assert part.batch.mask[place].sum() == n
            assert part.batch.tokens[place, :n].tolist() == [*row[0], *row[1]]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_fit_and_hold_every_pair_once(encoded, size):
    rows = encoded(ranked(4, 3))
    random.Random(1).shuffle(rows)
    parts = list(pairwise.micro_batches(rows, size, 0, "cpu"))
    assert all(len(part.batch.tokens) <= 2 * size for part in parts)
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    found = collections.Counter()
    for part in parts:
        assert part.share == len(part.chosen) / len(rows)
        texts = [
            tuple(t[m].tolist())
            for t, m in zip(part.batch.tokens, part.batch.mask.bool(), strict=True)
        ]
        assert len(set(texts)) == len(texts)
        found.update((texts[i], texts[j]) for i, j in zip(part.chosen, part.rejected, strict=True))
    assert found == collections.Counter(((*a[0], *a[1]), (*b[0], *b[1])) for a, b in rows)
    assert len(parts) == 1 if size == 7 else len(parts) > 1
    if size == 2:  # a question's three responses do not fit four places together with others
        assert len(parts) == 4


def test_a_pass_visits_every_pair_once_question_after_question(encoded):
    pairs = ranked(5, 3)
    order = list(range(len(pairs)))
    random.Random(2).shuffle(order)
    rows = encoded([pairs[i] for i in order])
    questions = pairwise.by_question(rows)
    assert sorted(i for q in questions for i in q) == list(range(15)) and len(questions) == 5
    of = {i: n for n, q in enumerate(questions) for i in q}
    loop = new_loop([torch.zeros(1, requires_grad=True)], 1.0, 0, "cpu")
    passes = []
    for _ in range(2):
        batches = [pairwise.draw(loop, questions, 4) for _ in range(4)]
        assert [len(b) for b in batches] == [4, 4, 4, 3]
        passes.append([i for b in batches for i in b])
        assert sorted(passes[-1]) == list(range(15))
        runs = [q for q, _ in itertools.groupby(passes[-1], key=of.__getitem__)]
        assert sorted(runs) == list(range(5))  # each question's pairs stand together
    assert passes[0] != passes[1]


def test_reading_together_gives_the_loss_and_gradient_of_reading_apart(new_model, tokenizer):
    pairs = ranked(2, 3)
    grads, losses = [], []
    for together in (True, False):
        config = RewardConfig(epochs=1, batch_size=6, lr=0.0, grad_clip=1e9)
        reward, loop = reward_model.begin(new_model(), tokenizer, "ncot", config, LORA)
        generator = torch.Generator().manual_seed(5)
        own = lora.adapter_parameters(reward.model, reward_model.ADAPTER)
        for p in own:
            p.data += 0.2 * torch.randn(p.shape, generator=generator)
        rows = pairwise.encode_pairs(reward.model, tokenizer, "ncot", pairs)
        if not together:  # copies: nothing is recognised as being there already
            rows = [tuple((list(a), list(b)) for a, b in pair) for pair in rows]
        (part,) = pairwise.micro_batches(rows, 32, 0, "cpu")
        assert len(part.batch.tokens) == (6 if together else 12)
        losses.append(reward_model.update(reward, loop.optimizer, rows))
        grads.append([p.grad.clone() for p in [*own, reward.head.linear.weight]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_dpo_reads_them_together_too(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    pairs, config = ranked(2, 4), DpoConfig(beta=0.4)
    together = dpo.validate(policy, tokenizer, pairs, "ncot", config)
    apart = [dpo.validate(policy, tokenizer, [p], "ncot", config) for p in pairs]
    for name, x in together.items():
        assert x == pytest.approx(sum(one[name] for one in apart) / len(pairs), rel=1e-4), name
