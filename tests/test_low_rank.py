"""LoRA layers as one function, and several of them as one layer, are those of peft."""

from __future__ import annotations

import pytest
import torch
from conftest import adapted

from reft_lib import fused, lora, low_rank, models
from reft_lib.frozen import Frozen

NEED_BF16 = pytest.mark.skipif(not models.has_fast_bf16(), reason="autocast is off: no fast bf16")


@pytest.fixture
def layers(new_model):
    """Queries, keys and values of a layer, the first two with the same adapter."""
    attn = adapted(new_model()).get_base_model().model.layers[1].self_attn
    return attn.q_proj, attn.k_proj, attn.v_proj


def test_gradients_of_a_layer_are_those_of_autograd_in_double_precision():
    torch.manual_seed(0)
    x, w, bias = torch.randn(2, 3, 5).double(), torch.randn(4, 5).double(), torch.randn(4).double()
    a, b = torch.randn(2, 5).double(), torch.randn(4, 2).double()
    for t in (x, a, b):
        t.requires_grad_()
    for this in (None, bias):
        y = low_rank.LowRank.apply(x, Frozen([w], torch.float64), this, a, 0.7, b)
        by_hand = torch.nn.functional.linear(x, w, this) + 0.7 * (x @ a.T) @ b.T
        torch.testing.assert_close(y, by_hand)
        weights = torch.randn_like(y)
        ours = torch.autograd.grad((y * weights).sum(), (x, a, b))
        theirs = torch.autograd.grad((by_hand * weights).sum(), (x, a, b))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_several_layers_are_one_with_blocks():
    torch.manual_seed(0)
    x, ws = torch.randn(6, 5).double(), [torch.randn(n, 5).double() for n in (4, 3)]
    a, bs = torch.randn(5, 5).double(), [torch.randn(4, 2).double(), torch.randn(3, 3).double()]
    for t in (x, a, *bs):
        t.requires_grad_()
    y = low_rank.LowRank.apply(x, Frozen(ws, torch.float64), None, a, 0.7, *bs)
    by_hand = x @ torch.cat(ws).T + 0.7 * x @ a.T @ torch.block_diag(*bs).T
    torch.testing.assert_close(y, by_hand)
    weights = torch.randn_like(y)
    ours = torch.autograd.grad((y * weights).sum(), (x, a, *bs))
    theirs = torch.autograd.grad((by_hand * weights).sum(), (x, a, *bs))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


@NEED_BF16
def test_layers_side_by_side_are_the_layers_one_by_one(layers):
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    trained = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    assert len(trained) == 6
    found = []
    for how in ("joined", "one by one", "exact"):
        with models.autocast("cpu", how != "exact"):
            if how == "joined":
                y = low_rank.joined(x, layers)
            else:
                y = torch.cat([layer(x) for layer in layers], dim=-1)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        grads = torch.autograd.grad((y * weights).sum(), (x, *trained))
        found.append([y.detach(), *grads])
    assert found[0][0].shape == (2, 5, 96) and found[0][0].dtype == torch.bfloat16
    for one, other, exact in zip(*found, strict=True):
        assert one.shape == other.shape
        assert (one - exact).norm() < 1.5 * (other - exact).norm() + 1e-6
        assert exact.norm() > 20 * (one - exact).norm()


@NEED_BF16
def test_the_reference_has_no_adapter(new_model):
    policy = adapted(new_model())
    attn = policy.get_base_model().model.layers[0].self_attn
    layers, x = (attn.q_proj, attn.k_proj), torch.randn(3, 32)
    with models.autocast("cpu"), lora.reference(policy), torch.no_grad():
        found = low_rank.joined(x, layers)
        bare = torch.cat([x.bfloat16() @ p.base_layer.weight.bfloat16().T for p in layers], dim=-1)
    torch.testing.assert_close(found, bare, rtol=0.02, atol=0.02)
    with models.autocast("cpu"), torch.no_grad():
        assert not torch.allclose(low_rank.joined(x, layers), found, atol=0.1)


@NEED_BF16
def test_layers_in_bfloat16_are_joined_too(new_model):
    """Of these a copy in oneDNN's order is kept in any case."""
    attn = adapted(new_model().to(torch.bfloat16)).get_base_model().model.layers[0].self_attn
    layers, x = (attn.q_proj, attn.k_proj), torch.randn(3, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        found = low_rank.joined(x, layers)
        with fused.plain():
            plain = torch.cat([layer(x) for layer in layers], dim=-1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain, rtol=0.02, atol=0.02)


@NEED_BF16
def test_what_does_not_go_together_is_not_joined(layers):
    x = torch.randn(3, 32)
    assert low_rank.joined(x, layers) is None  # float32: a joined copy would be one more
    with models.autocast("cpu"):
        assert low_rank.joined(x, layers) is not None
        with fused.plain():
            assert low_rank.joined(x, layers) is None
        plain = torch.nn.Linear(32, 32)
        assert low_rank.joined(x, (layers[0], plain)) is None
        layers[1].base_layer.weight.requires_grad_(True)
        assert low_rank.joined(x, layers) is None
