"""Small operations in blocks are PyTorch's own, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from reft_lib import elementwise


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that twelve rows are several blocks, the last one shorter."""
    monkeypatch.setattr(elementwise, "BLOCK", 5 * 6)


def held_together(ours, theirs, *inputs):
    """Compare two functions, and the gradients of an uneven sum of what they return."""
    found = []
    for work in (ours, theirs):
        y = work(*inputs)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        found.append([y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def drawn(*shape):
    """Return random numbers that want a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_blocks_cover_all_rows_once():
    x, y = torch.arange(72.0).view(12, 6), torch.zeros(12)
    found = list(elementwise.blocks(x, y))
    assert [len(part) for part, _ in found] == [5, 5, 2]
    assert torch.equal(torch.cat([part for part, _ in found]), x)
    for part, sums in found:  # views: what is written to them is written to the whole
        sums += part.sum(dim=1)
    assert torch.equal(y, x.sum(dim=1))
    assert len(list(elementwise.blocks(x, most=1))) == 12  # a row at least
    assert sum(len(part) for (part,) in elementwise.blocks(x[:0])) == 0


def test_blocks_elsewhere_are_large():
    """On a GPU they bound memory alone, whatever size suits a CPU's cache."""
    x = torch.empty(3 * 2**13, 2**14, device="meta")
    assert [len(part) for (part,) in elementwise.blocks(x, most=1)] == [2**13] * 3


def test_a_norm():
    w = torch.rand(6)
    held_together(
        lambda x: elementwise.Norm.apply(x, w, 1e-5, torch.float32),
        lambda x: w * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5),
        drawn(3, 4, 6),
    )


def test_a_gate():
    def plain(both):
        g, u = both.chunk(2, dim=-1)
        return functional.silu(g) * u

    held_together(elementwise.Gated.apply, plain, drawn(2, 6, 8))


def test_a_gate_by_hand():
    both = torch.tensor([[0.0, 2.0, 5.0, 3.0]])  # gates 0 and 2, values 5 and 3
    y = elementwise.Gated.apply(both)
    torch.testing.assert_close(y, torch.tensor([[0.0, 3 * 2 / (1 + torch.e**-2)]]))


@pytest.mark.parametrize("rows", [1, 2])
def test_rotations_are_those_of_llama(rows):
    """Angles of each row, or the same for all."""
    half = 2 * torch.rand(rows, 6, 2, generator=torch.Generator().manual_seed(2))
    angles = torch.cat([half, half], dim=-1)
    cos, sin = angles.cos(), angles.sin()
    held_together(
        lambda x: elementwise.Rotated.apply(x, cos, sin),
        lambda x: apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)[0],
        drawn(2, 6, 3, 4),
    )


def test_a_quarter_turn_by_hand():
    zero, one = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    y = elementwise.Rotated.apply(torch.tensor([[[[3.0, 4.0]]]]), zero, one)
    assert y.flatten().tolist() == [-4.0, 3.0]


def test_low_precision_is_that_of_the_result_not_of_the_arithmetic():
    x = drawn(12, 6).bfloat16().detach()
    w = torch.rand(6)
    exact = elementwise.Norm.apply(x.float(), w, 1e-5, torch.float32)
    found = elementwise.Norm.apply(x, w, 1e-5, torch.bfloat16)
    torch.testing.assert_close(found, exact.bfloat16(), rtol=0, atol=0)
