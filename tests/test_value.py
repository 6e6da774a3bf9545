"""The value head."""

from __future__ import annotations

import pytest
import torch

from reft_lib.value import ValueHead


def test_it_is_one_linear_layer():
    head = ValueHead(3)
    head.load_state_dict(
        {"linear.weight": torch.tensor([[1.0, -2.0, 0.5]]), "linear.bias": torch.tensor([0.25])}
    )
    hidden = torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.0, 4.0]]])
    assert torch.equal(head(hidden), torch.tensor([[-0.25, 2.25]]))


def test_it_starts_small_and_by_the_seed():
    torch.manual_seed(3)
    first = ValueHead(2000)
    torch.manual_seed(3)
    second = ValueHead(2000)
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert first.linear.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert first.linear.bias.item() == 0


@pytest.mark.parametrize("detach", [False, True])
def test_detach_keeps_the_value_gradient_out_of_the_trunk(detach):
    head, hidden = ValueHead(4, detach=detach), torch.randn(2, 3, 4, requires_grad=True)
    head(hidden).sum().backward()
    assert head.linear.weight.grad.abs().max() > 0
    assert (hidden.grad is None) == detach


def test_values_are_float32_even_under_autocast():
    torch.manual_seed(0)
    head, hidden = ValueHead(64), torch.randn(2, 3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(hidden)
    assert inside.dtype == torch.float32 and torch.equal(inside, head(hidden))
    assert head(hidden.bfloat16()).dtype == torch.float32
    assert head(hidden).shape == (2, 3)
