"""The KL estimators, against the KL computed by summing over every outcome."""

from __future__ import annotations

import math

import pytest
import torch

from reft_lib import kl

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)  # the policy, which samples
Q = torch.tensor([0.1, 0.2, 0.1, 0.6], dtype=torch.float64)  # the reference


def exact(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p || q) by its definition."""
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


def expected(estimator, p: torch.Tensor, q: torch.Tensor) -> float:
    """Expectation of an estimator under p, by enumeration instead of sampling."""
    return (p * estimator(p.log(), q.log())).sum().item()


@pytest.mark.parametrize("estimator", [kl.k1, kl.k3])
def test_k1_and_k3_are_unbiased(estimator):
    assert expected(estimator, P, Q) == pytest.approx(exact(P, Q), rel=1e-6)
    assert expected(estimator, Q, P) == pytest.approx(exact(Q, P), rel=1e-6)
    assert exact(P, Q) != pytest.approx(exact(Q, P), rel=0.02)  # so the direction was tested too


def test_k2_is_biased_by_a_third_order_term():
    assert expected(kl.k2, P, Q) != pytest.approx(exact(P, Q), rel=0.02)
    bias = []
    for step in (0.02, 0.01):  # a policy at a distance, and at half of it
        q = torch.softmax(P.log() + step * torch.tensor([1.0, -0.5, 0.3, 2.0]), dim=0)
        bias.append(abs(expected(kl.k2, P, q) - expected(kl.k1, P, q)))
    assert bias[0] / bias[1] == pytest.approx(2**3, rel=0.1)


def test_hand_values():
    """Policy 1/2, reference 1/4: log-ratio ln 2, and r = 1/2."""
    logp, ref = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    ln2 = 0.6931471805599453
    assert kl.k1(logp, ref).item() == pytest.approx(ln2)
    assert kl.k2(logp, ref).item() == pytest.approx(ln2**2 / 2)
    assert kl.k3(logp, ref).item() == pytest.approx(0.5 - 1 + ln2)


def test_k3_is_never_negative_even_where_float32_rounds():
    size = torch.logspace(-12, 1.5, 100_001)
    log_ratio = torch.cat([size, -size, torch.zeros(1)])
    assert (kl.k3(torch.zeros_like(log_ratio), log_ratio) >= 0).all()


def test_k3_keeps_its_precision_for_nearly_equal_models():
    value = kl.k3(torch.tensor(-1e-3), torch.tensor(0.0)).item()
    assert value == pytest.approx(0.5e-6 + 1e-9 / 6, rel=1e-3)  # e^d - 1 - d, its first two terms


def test_more_confident_than_reference_is_penalised():
    """A policy surer than the reference of its own sample: k1 > 0, reward < 0."""
    logp, ref = torch.tensor([[-0.1, -3.0]]), torch.tensor([[-2.0, -1.0]])
    rewards = kl.kl_rewards(logp, ref, torch.tensor([[True, True]]), beta=0.5)
    assert kl.k1(logp, ref)[0, 0] > 0 > rewards[0, 0]
    assert torch.allclose(rewards, torch.tensor([[-0.5 * 1.9, 0.5 * 2.0]]))
    assert rewards.dtype == torch.float32


def test_rewards_are_zero_under_padding_whatever_stands_there():
    logp = torch.tensor([[-1.0, float("-inf"), float("nan")]])
    rewards = kl.kl_rewards(logp, torch.zeros(1, 3), torch.tensor([[True, False, False]]), 0.1)
    assert torch.equal(rewards, torch.tensor([[0.1, 0.0, 0.0]]))


def test_beta_zero_switches_the_penalty_off():
    rewards = kl.kl_rewards(torch.randn(2, 3), torch.randn(2, 3), torch.ones(2, 3).bool(), 0.0)
    assert rewards.abs().max() == 0
