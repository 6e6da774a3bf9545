"""Packing: the same loss and gradients as padding, and nothing seen across a border."""

from __future__ import annotations

import random

import pytest
import torch

from reft_lib import lora, packing, sft
from reft_lib.config import LoraSettings
from reft_lib.errors import UserError

PAD = 0


def some_pairs(n, vocab, seed=0):
    rng = random.Random(seed)
    return [
        ([rng.randrange(1, vocab) for _ in range(rng.randint(1, 30))],
         [rng.randrange(1, vocab) for _ in range(rng.randint(1, 12))])
        for _ in range(n)
    ]  # fmt: skip


def adapted(model):
    """Put an adapter on that does something, so that its gradients are not zero."""
    policy = lora.add_adapter(model, LoraSettings(rank=4, alpha=8))
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    return policy


def test_a_hand_worked_batch():
    pairs = [([5, 6], [7]), ([8], [9, 4]), ([3], [2])]
    batch = packing.collate(pairs, width=5, pad=PAD)
    # 3 + 2 tokens fill the first row; the other example of 3 stands alone
    assert batch.tokens.tolist() == [[5, 6, 7, 3, 2], [8, 9, 4, 0, 0]]
    none = sft.IGNORE
    assert batch.labels.tolist() == [[none, none, 7, none, 2], [none, 9, 4, none, none]]
    assert batch.segments.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 0]]
    assert packing.attention(batch.segments)[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_every_example_is_in_one_row_and_no_row_is_too_long():
    rng = random.Random(1)
    lengths = [rng.randint(1, 60) for _ in range(200)]
    rows = packing.pack(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(200))
    used = [sum(lengths[i] for i in row) for row in rows]
    fewest = -(-sum(lengths) // 100)
    assert max(used) <= 100 and len(rows) <= 11 / 9 * fewest + 1
    with pytest.raises(UserError, match="example 2 has 101 tokens; a packed row holds 100"):
        packing.pack([5, 100, 101], 100)


def test_share_of_padding():
    # three rows cut to 4 hold 12 places, 7 of them used; packed into rows of 4 and 3, 8 places
    assert packing.padding_share([4, 2, 1], [[0], [1], [2]]) == pytest.approx(5 / 12)
    assert packing.padding_share([4, 2, 1], [[0], [1, 2]]) == pytest.approx(1 / 8)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_packed_and_padded_are_equal(new_model, attn):
    """Loss and every gradient, in float64, whatever the attention's implementation."""
    model = new_model()
    model.set_attn_implementation(attn)
    policy = adapted(model).double()
    pairs = some_pairs(14, model.config.vocab_size)
    found = []
    for batch, loss in (
        (sft.collate(pairs, PAD), sft.loss),
        (packing.collate(pairs, 64, PAD), packing.loss),
    ):
        value = loss(policy, batch)
        policy.zero_grad()
        value.backward()
        found.append((value.item(), [p.grad.clone() for p in lora.adapter_parameters(policy)]))
    (a, ga), (b, gb) = found
    assert packing.collate(pairs, 64, PAD).segments.max() > 1  # something is packed indeed
    assert a == pytest.approx(b, rel=1e-6)  # losses are made in float32
    for x, y in zip(ga, gb, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-7)
    frozen = [p for n, p in policy.named_parameters() if ".lora_" not in n]
    assert all(p.grad is None for p in frozen) and any(g.abs().max() > 0 for g in ga)


def test_loss_is_the_models_own(new_model):
    """Example by example through the plain model, summed over target tokens by hand."""
    model, pairs = new_model(), some_pairs(5, 300, seed=2)
    total, count = 0.0, 0
    with torch.no_grad():
        for p, t in pairs:
            logp = model(torch.tensor([[*p, *t]])).logits[0].log_softmax(-1)
            total -= sum(logp[len(p) + i - 1, token].item() for i, token in enumerate(t))
            count += len(t)
        packed = packing.loss(model, packing.collate(pairs, 100, PAD))
    assert packed.item() == pytest.approx(total / count, rel=1e-5)


def test_without_the_mask_examples_would_leak(new_model):
    """The control: behind each other without borders, the loss is another one."""
    model, pairs = new_model(), some_pairs(8, 300)
    batch = packing.collate(pairs, 120, PAD)
    with torch.no_grad():
        right = packing.loss(model, batch)
        batch.segments = (batch.segments > 0).long()
        leaking = packing.loss(model, batch)
        batch.position_ids = torch.arange(batch.tokens.shape[1]).repeat(len(batch.tokens), 1)
        flowing = packing.loss(model, batch)
    assert abs(right - leaking) > 1e-3 and abs(leaking - flowing) > 1e-4


def test_what_stands_beside_an_example_does_not_matter(new_model):
    model, (one, two, three) = new_model(), some_pairs(3, 300, seed=4)
    none = sft.IGNORE

    def first_alone(other):
        batch = packing.collate([one, other], 100, PAD)
        mine = batch.segments == (1 if sum(map(len, one)) >= sum(map(len, other)) else 2)
        batch.labels[~mine] = none
        return packing.loss(model, batch)

    with torch.no_grad():
        alone = packing.loss(model, packing.collate([one], 100, PAD))
        for other in (two, three):
            torch.testing.assert_close(first_alone(other), alone, rtol=1e-5, atol=1e-6)
