"""Frozen weights, converted, joined and ordered, multiply as they are written."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from conftest import adapted

from reft_lib import frozen, fused, models
from reft_lib.frozen import Frozen, Product, lowered

NEED_BF16 = pytest.mark.skipif(not models.has_fast_bf16(), reason="autocast is off: no fast bf16")


@pytest.fixture
def layers(new_model):
    """Queries, keys and values of a layer."""
    attn = adapted(new_model()).get_base_model().model.layers[1].self_attn
    return attn.q_proj, attn.k_proj, attn.v_proj


@pytest.fixture(params=[True, False], ids=["ordered", "as they are"])
def order(request, monkeypatch):
    """Weights in order, where that is possible, and as they are."""
    if request.param and not frozen.can_order():
        pytest.skip("PyTorch cannot order weights here")
    monkeypatch.setattr(frozen, "can_order", lambda: request.param)
    return request.param


@pytest.mark.parametrize("rows", [0, 1, 7, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_are_those_with_the_whole_matrix(order, rows, dtype):
    torch.manual_seed(0)
    parts = [torch.randn(48, 40), torch.randn(16, 40)]
    whole, bias = torch.cat(parts).to(dtype).double(), torch.randn(64, dtype=dtype)
    x, g = torch.randn(rows, 40, dtype=dtype), torch.randn(rows, 64, dtype=dtype)
    weight = Frozen(parts, dtype)
    assert weight.ordered == (order and dtype == torch.bfloat16)
    near = {torch.bfloat16: 2**-8, torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    for found, exact in (
        (weight.times(x), x.double() @ whole.T),
        (weight.times(x, bias), x.double() @ whole.T + bias.double()),
        (weight.back(g), g.double() @ whole),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=near, atol=20 * near)


@NEED_BF16
@pytest.mark.parametrize("of", ["a slice", "a transpose"])
def test_operands_may_lie_as_they_like(order, of):
    torch.manual_seed(0)
    weight = Frozen([torch.randn(64, 40)], torch.bfloat16)
    x = (
        torch.randn(9, 80).bfloat16()[:, ::2]
        if of == "a slice"
        else torch.randn(40, 9).bfloat16().T
    )
    assert not x.is_contiguous()
    torch.testing.assert_close(weight.times(x), weight.times(x.contiguous()), rtol=0, atol=0)


def test_the_gradient_is_that_of_a_linear_layer(order):
    torch.manual_seed(0)
    w, bias, x = torch.randn(6, 4), torch.randn(6), torch.randn(2, 3, 4, requires_grad=True)
    y = Product.apply(x, Frozen([w], torch.float32), bias)
    expected = torch.nn.functional.linear(x, w, bias)
    torch.testing.assert_close(y, expected)
    g = torch.randn_like(y)
    (ours,), (theirs,) = (torch.autograd.grad((out * g).sum(), x) for out in (y, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_frozen_head_is_the_plain_one_to_rounding(new_model):
    policy = fused.fuse(adapted(new_model()))
    head = policy.get_base_model().lm_head
    x = torch.randn(5, 32, requires_grad=True)
    found = []
    for how in ("ours", "plain", "exact"):
        with models.autocast("cpu", how != "exact"):
            if how == "ours":
                y = head(x)
            else:
                y = torch.nn.functional.linear(x, head.weight)
        found.append([y.detach().float(), *torch.autograd.grad((y**2).sum().float(), x)])
    for one, other, exact in zip(*found, strict=True):
        assert (one - exact).norm() <= 1.5 * (other - exact).norm() + 1e-5


def test_what_was_converted_is_kept_until_a_weight_changes(layers):
    one = lowered(layers, torch.bfloat16)
    before = one.times(torch.eye(32).bfloat16())
    assert lowered(layers, torch.bfloat16) is one and before.shape == (32, 96)
    alone = lowered(layers[:1], torch.bfloat16)
    assert lowered(layers, torch.bfloat16) is one  # neither takes the other's place
    assert lowered(layers[:1], torch.bfloat16) is alone
    with torch.no_grad():
        layers[2].base_layer.weight.mul_(2)
    after = lowered(layers, torch.bfloat16).times(torch.eye(32).bfloat16())
    torch.testing.assert_close(after[:, 64:], 2 * before[:, 64:])
    torch.testing.assert_close(after[:, :64], before[:, :64])
    assert lowered(layers[:1], torch.float32) is not lowered(layers[:1], torch.float32)


def test_what_is_kept_neither_keeps_a_layer_nor_goes_with_its_copy(layers):
    lowered(layers[:1], torch.bfloat16).times(torch.eye(32).bfloat16())
    count = len(frozen._kept)
    other = copy.deepcopy(layers[0])
    assert other not in frozen._kept
    lowered([other], torch.bfloat16)
    assert len(frozen._kept) == count + 1
    del other
    gc.collect()
    assert len(frozen._kept) == count
