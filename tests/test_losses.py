"""The losses: hand tables, float64 references, and where gradients must and must not go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reft_lib.errors import UserError
from reft_lib.losses import cross_entropy, masked_mean, policy_loss, token_logprobs, value_loss

NAN, INF = float("nan"), float("inf")
MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [True] + 3 * [False]])


def batch(seed: int = 0):
    """Log-probabilities of two nearby policies, and advantages, (3, 4) each."""
    generator = torch.Generator().manual_seed(seed)
    logp = -torch.rand(3, 4, generator=generator) * 3
    old = logp + 0.3 * torch.randn(3, 4, generator=generator)
    return logp.requires_grad_(), old, torch.randn(3, 4, generator=generator)


# --- means ----------------------------------------------------------------------------------


def test_masked_mean_hand_worked():
    """Rows 1 2 3 and 10: their means 2 and 10 make 6; the four tokens make 16 / 4 = 4."""
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, NAN, NAN]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert masked_mean(x, mask).item() == 6.0
    assert masked_mean(x, mask, "sequence").item() == 6.0
    assert masked_mean(x, mask, "token").item() == 4.0


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_masked_mean_of_empty_rows(per):
    x = torch.tensor([[2.0, 4.0], [9.0, 9.0]], requires_grad=True)
    one = torch.tensor([[True, True], [False, False]])
    assert masked_mean(x, one, per).item() == 3.0  # the empty row has no vote
    nothing = masked_mean(x, torch.zeros(2, 2).bool(), per)
    nothing.backward()
    assert nothing.item() == 0 and x.grad.abs().max() == 0


def test_masked_mean_refuses_an_unknown_kind():
    with pytest.raises(UserError, match="wanted 'sequence' or 'token'"):
        masked_mean(torch.ones(1, 1), torch.ones(1, 1).bool(), "row")  # type: ignore[arg-type]


# --- log-probabilities and cross-entropy ----------------------------------------------------


def test_token_logprobs_equals_float64():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(3, 4, 11, generator=generator)
    tokens = torch.randint(11, (3, 4), generator=generator)
    z = logits.numpy().astype(np.float64)
    chosen = np.take_along_axis(z, tokens.numpy()[..., None], axis=-1)[..., 0]
    expected = chosen - np.log(np.exp(z).sum(axis=-1))
    result = token_logprobs(logits, tokens)
    assert result.dtype == torch.float32 and result.shape == (3, 4)
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-6)


def test_token_logprobs_of_bf16_logits_are_finite_and_exact():
    """The probability of token 1 is e^-2000: softmax followed by log would give -inf."""
    logits = torch.tensor([[[1000.0, -1000.0, 0.0], [3.0, 3.0, -1e4]]], dtype=torch.bfloat16)
    tokens = torch.tensor([[1, 0]])
    assert torch.softmax(logits, -1).log().isinf().any()
    result = token_logprobs(logits.requires_grad_(), tokens)
    # bfloat16 holds 1000 exactly; -1e4 is -9984 there, and makes no difference
    assert result.tolist() == [[-2000.0, pytest.approx(-math.log(2), abs=1e-6)]]
    assert result.dtype == torch.float32
    result.sum().backward()
    assert logits.grad.isfinite().all()


def test_cross_entropy_hand_worked_and_masked():
    """Two labelled positions, p = 1/2 and p = 1/4: mean of ln 2 and ln 4."""
    logits = torch.log(torch.tensor([[[0.5, 0.5, 1e-9], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]]))
    logits.requires_grad_()
    loss = cross_entropy(logits, torch.tensor([[0, 2, -100]]))
    assert loss.item() == pytest.approx(1.5 * math.log(2), rel=1e-6)
    loss.backward()
    assert logits.grad[0, 2].abs().max() == 0 < logits.grad[0, :2].abs().min()


def test_cross_entropy_equals_torch():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, 7, generator=generator, dtype=torch.float32)
    labels = torch.randint(7, (3, 5), generator=generator)
    labels[0, :3], labels[2, 1:] = -100, -100
    expected = F.cross_entropy(logits.double().flatten(0, 1), labels.flatten())
    assert cross_entropy(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert cross_entropy(logits, labels.where(labels >= 0, 9), ignore=9).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_cross_entropy_without_labels_is_zero():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 3), -100))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


# --- policy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_at_ratio_one_it_is_the_mean_advantage_with_the_gradient_of_reinforce(per):
    logp, _, adv = batch()
    loss, stats = policy_loss(logp, logp.detach().clone(), adv, MASK, per=per)
    (gradient,) = torch.autograd.grad(loss, logp)
    (reinforce,) = torch.autograd.grad(-masked_mean(logp * adv, MASK, per), logp)
    assert loss.item() == pytest.approx(-masked_mean(adv, MASK, per).item(), abs=1e-7)
    assert torch.allclose(gradient, reinforce, atol=1e-8) and gradient.abs().max() > 0
    assert stats == {"ratio_mean": 1.0, "ratio_max": 1.0, "clip_fraction": 0.0, "approx_kl": 0.0}


@pytest.mark.parametrize(
    "adv, ratio, loss, gradient",  # gradient: d loss / d logp = -ratio * adv, or 0 where clipped
    [
        (+2.0, 1.0, -2.0, -2.0),
        (+2.0, 1.1, -2.2, -2.2),  # within the band
        (+2.0, 1.5, -2.4, 0.0),  # good, and raised enough: clipped at 1.2
        (+2.0, 0.5, -1.0, -1.0),  # good, yet it fell: not clipped, to be raised again
        (-2.0, 1.0, +2.0, +2.0),
        (-2.0, 0.9, +1.8, +1.8),
        (-2.0, 0.5, +1.6, 0.0),  # bad, and lowered enough: clipped at 0.8
        (-2.0, 1.5, +3.0, +3.0),  # bad, yet it rose: not clipped
        (0.0, 1.5, 0.0, 0.0),
    ],
)
def test_clipping_table(adv, ratio, loss, gradient):
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.tensor([[True]])
    result, stats = policy_loss(logp, torch.zeros(1, 1), torch.tensor([[adv]]), one, clip=0.2)
    result.backward()
    assert result.item() == pytest.approx(loss, abs=1e-6)
    assert logp.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert stats["clip_fraction"] == float(gradient == 0 and adv != 0)
    assert stats["ratio_mean"] == stats["ratio_max"] == pytest.approx(ratio)
    assert stats["approx_kl"] == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_policy_loss_per_sequence_and_per_token():
    """Ratio 1; advantages 1 2 3 and 10: as in the mean's own case, with the sign turned."""
    adv, zero = torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]]), torch.zeros(2, 3)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert policy_loss(zero, zero, adv, mask)[0].item() == -6.0
    assert policy_loss(zero, zero, adv, mask, per="token")[0].item() == -4.0


def test_policy_loss_equals_a_float64_loop():
    logp, old, adv = batch(3)
    rows = []
    for i, n in enumerate(MASK.sum(1).tolist()):
        terms = []
        for t in range(n):
            a, ratio = adv[i, t].item(), math.exp(logp[i, t].item() - old[i, t].item())
            terms.append(min(ratio * a, min(max(ratio, 0.9), 1.1) * a))
        rows.append(sum(terms) / n)
    assert policy_loss(logp, old, adv, MASK, clip=0.1)[0].item() == pytest.approx(
        -sum(rows) / 3, abs=1e-6
    )


@pytest.mark.parametrize("rubbish", [0.0, 1e30, -1e30, INF, NAN])
@pytest.mark.parametrize("per", ["sequence", "token"])
def test_padding_has_no_say_and_gets_no_gradient(per, rubbish):
    logp, old, adv = batch(4)
    clean, clean_stats = policy_loss(logp, old, adv, MASK, per=per)
    (expected,) = torch.autograd.grad(clean, logp)
    dirty_logp = logp.detach().where(MASK, rubbish).requires_grad_()
    dirty, stats = policy_loss(
        dirty_logp, old.where(MASK, -rubbish), adv.where(MASK, rubbish), MASK, per=per
    )
    dirty.backward()
    assert dirty.item() == clean.item() and stats == clean_stats
    assert torch.equal(dirty_logp.grad, expected) and (dirty_logp.grad[~MASK] == 0).all()


def test_a_batch_of_padding_only_is_safe():
    logp, old, adv = batch(5)
    nothing = torch.zeros(3, 4).bool()
    loss, stats = policy_loss(logp, old, adv, nothing)
    loss.backward()
    assert loss.item() == 0 and logp.grad.abs().max() == 0 and not any(stats.values())
    loss, stats = value_loss(logp, old, adv, nothing)
    assert loss.item() == 0 and math.isnan(stats["explained_variance"])


# --- value ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, old, target, loss, gradient",  # gradient: d loss / d value = value - target, or 0
    [
        (0.5, 0.5, 1.0, 0.125, -0.5),  # not moved: plain squared error, 0.5 * 0.5^2
        (0.6, 0.5, 1.0, 0.08, -0.4),  # moved within the band
        (0.9, 0.5, 1.0, 0.045, 0.0),  # moved 0.4 towards 1: held at 0.7, 0.5 * 0.3^2
        (0.1, 0.5, 1.0, 0.405, -0.9),  # moved away: the plain error is the larger
        (0.9, 0.5, 0.0, 0.405, +0.9),  # likewise on the other side
        (0.1, 0.5, 0.0, 0.045, 0.0),  # moved towards 0: held at 0.3
    ],
)
def test_value_clipping_table(value, old, target, loss, gradient):
    v = torch.tensor([[value]], requires_grad=True)
    one = torch.tensor([[True]])
    result, stats = value_loss(v, torch.tensor([[old]]), torch.tensor([[target]]), one, clip=0.2)
    result.backward()
    assert result.item() == pytest.approx(loss, abs=1e-6)
    assert v.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert stats["value_clip_fraction"] == float(gradient == 0)
    assert stats["value_mean"] == pytest.approx(value)


def test_value_loss_without_clip_and_per_token():
    values, returns = torch.tensor([[1.0, 3.0], [2.0, NAN]]), torch.zeros(2, 2)
    mask = torch.tensor([[True, True], [True, False]])
    rows, _ = value_loss(values, returns, returns, mask, clip=INF)
    tokens, _ = value_loss(values, returns, returns, mask, clip=INF, per="token")
    assert rows.item() == 0.5 * ((1 + 9) / 2 + 4) / 2
    assert tokens.item() == pytest.approx(0.5 * (1 + 9 + 4) / 3)


@pytest.mark.parametrize("rubbish", [1e30, INF, NAN])
def test_value_padding_gets_no_gradient(rubbish):
    values, old, returns = batch(6)
    clean, clean_stats = value_loss(values, old, returns, MASK)
    (expected,) = torch.autograd.grad(clean, values)
    dirty_values = values.detach().where(MASK, rubbish).requires_grad_()
    dirty, stats = value_loss(
        dirty_values, old.where(MASK, rubbish), returns.where(MASK, rubbish), MASK
    )
    dirty.backward()
    assert dirty.item() == clean.item() and stats == clean_stats
    assert torch.equal(dirty_values.grad, expected) and (expected[~MASK] == 0).all()


def test_explained_variance():
    returns = torch.tensor([[0.0, 1.0, 2.0, NAN]])
    mask = torch.tensor([[True, True, True, False]])

    def explained(values: list[float]) -> float:
        v = torch.tensor([values])
        return value_loss(v, v, returns, mask)[1]["explained_variance"]

    assert explained([5.0, 6.0, 7.0, 0.0]) == pytest.approx(1)  # a constant offset is forgiven
    assert explained([1.0, 1.0, 1.0, 0.0]) == pytest.approx(0)
    assert explained([2.0, 1.0, 0.0, 0.0]) == pytest.approx(-3)
    flat = value_loss(returns, returns, torch.full((1, 4), 0.7), mask)[1]
    assert math.isnan(flat["explained_variance"])
