"""The state of a loop: rows are drawn in passes, and all of it survives a trip through a file."""

from __future__ import annotations

import json
import random

import pytest
import torch

from reft_lib.loop import Loop
from reft_lib.value import ValueHead


def new_loop(seed=0, with_head=True):
    torch.manual_seed(seed)
    head = ValueHead(4) if with_head else None
    weight = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = torch.optim.AdamW([weight, *(head.parameters() if head else [])], lr=0.1)
    loop = Loop(optimizer, random.Random(seed), torch.Generator().manual_seed(seed), head)
    return loop, weight


@pytest.mark.parametrize(("n", "size"), [(10, 4), (8, 4), (3, 5), (1, 1)])
def test_the_last_batch_of_a_pass_may_be_smaller(n, size):
    loop, _ = new_loop()
    for _ in range(3):
        drawn = []
        while len(drawn) < n:
            rows = loop.draw(n, size)
            assert len(rows) == min(size, n - len(drawn))
            drawn += rows
        assert sorted(drawn) == list(range(n))


@pytest.mark.parametrize(("n", "size"), [(4, 3), (4, 4), (3, 7)])
def test_whole_batches_go_on_in_the_next_pass(n, size):
    loop, _ = new_loop()
    drawn = []
    for _ in range(n):
        rows = loop.draw(n, size, whole=True)
        assert len(rows) == size
        drawn += rows
    for at in range(0, n * size, n):  # every row once before any comes again
        assert sorted(drawn[at : at + n]) == list(range(n))


def test_orders_differ_between_passes_and_seeds():
    loop, other = new_loop(0)[0], new_loop(1)[0]
    first, second = loop.draw(20, 20), loop.draw(20, 20)
    assert first != second != other.draw(20, 20)


def advance(loop, weight):
    """Take a step that depends on everything a loop holds."""
    rows = loop.draw(7, 3)
    noise = torch.rand(4, generator=loop.generator)
    loss = (weight[rows[0] % 3] * noise).sum() + loop.head(weight[None]).square().sum()
    loop.optimizer.zero_grad()
    loss.backward()
    loop.optimizer.step()
    loop.step += 1
    return loss.item()


def test_a_restored_loop_does_what_it_would_have_done():
    loop, weight = new_loop()
    for _ in range(4):
        advance(loop, weight)
    tensors, notes = loop.state()
    tensors = {name: x.clone() for name, x in tensors.items()}
    notes, kept = json.loads(json.dumps(notes)), weight.detach().clone()
    expected = [advance(loop, weight) for _ in range(4)]

    again, weight = new_loop(seed=5)
    weight.data.copy_(kept)
    again.restore(tensors, notes)
    assert again.step == 4
    assert [advance(again, weight) for _ in range(4)] == expected


def test_before_the_first_step_there_is_a_state_too():
    loop, weight = new_loop()
    tensors, notes = loop.state()
    kept = json.dumps(notes)
    assert not [name for name in tensors if name.startswith("optimizer.")]
    tensors = {name: x.clone() for name, x in tensors.items()}  # else they move with the head
    expected = [advance(loop, weight) for _ in range(3)]
    assert json.dumps(notes) == kept, "the notes of a state do not move with the loop"
    again, same = new_loop()
    again.restore(tensors, json.loads(json.dumps(notes)))
    assert [advance(again, same) for _ in range(3)] == expected
