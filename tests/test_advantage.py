"""Rewards, GAE and whitening, against hand-worked cases and plain float64 loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reft_lib.advantage import gae, terminal_rewards, whiten

NAN = float("nan")


def ragged(seed: int, rows: int = 5, width: int = 9):
    """Random rewards, values and a right-padded mask with rows of 1 to ``width`` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = 1, width  # the extremes are always there
    mask = torch.arange(width) < lengths[:, None]
    rewards, values = torch.randn(2, rows, width, generator=generator)
    return rewards, values, mask


def loop_gae(rewards, values, mask, gamma, lam):
    """GAE by its definition: for each row and token, the sum over all later TD errors."""
    rewards, values, mask = (x.numpy().astype(np.float64) for x in (rewards, values, mask))
    advantages = np.zeros_like(values)
    for i in range(len(values)):
        n = int(mask[i].sum())
        for t in range(n):
            for k in range(t, n):
                after = values[i, k + 1] if k + 1 < n else 0.0
                delta = rewards[i, k] + gamma * after - values[i, k]
                advantages[i, t] += (gamma * lam) ** (k - t) * delta
    return advantages


def test_terminal_rewards_sit_on_the_last_token():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]).bool()
    rewards = terminal_rewards(torch.tensor([1.0, 0.1, 0.5, 9.0]), mask)
    assert torch.equal(rewards, torch.tensor([[0, 0, 1.0], [0.1, 0, 0], [0, 0.5, 0], [0, 0, 0]]))
    assert rewards.dtype == torch.float32


def test_gae_hand_worked():
    """Three tokens, gamma 1, lam 1/2, score 1 at the end; one padded column of rubbish.

    V = 0.5, 0.4, 0.8; r = 0, -0.1, 1
    delta_2 = 1 + 0 - 0.8 = 0.2            A_2 = 0.2
    delta_1 = -0.1 + 0.8 - 0.4 = 0.3       A_1 = 0.3 + 0.5 * 0.2 = 0.4
    delta_0 = 0 + 0.4 - 0.5 = -0.1         A_0 = -0.1 + 0.5 * 0.4 = 0.1
    R = A + V = 0.6, 0.8, 1.0
    """
    rewards = torch.tensor([[0.0, -0.1, 1.0, 7.0]])
    values = torch.tensor([[0.5, 0.4, 0.8, NAN]])
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    assert torch.allclose(advantages, torch.tensor([[0.1, 0.4, 0.2, 0.0]]), atol=1e-7)
    assert torch.allclose(returns, torch.tensor([[0.6, 0.8, 1.0, 0.0]]), atol=1e-7)


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("seed", range(5))
def test_gae_equals_float64_loop(seed, gamma, lam):
    rewards, values, mask = ragged(seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    expected = loop_gae(rewards, values, mask, gamma, lam)
    np.testing.assert_allclose(advantages.numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(
        returns.numpy(), (expected + values.numpy()) * mask.numpy(), atol=2e-6
    )
    assert advantages.dtype == returns.dtype == torch.float32


def test_lambda_one_is_monte_carlo_return_minus_value():
    rewards, values, mask = ragged(7)
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=1.0)
    for i, n in enumerate(mask.sum(1).tolist()):
        for t in range(n):
            to_come = sum(0.9 ** (k - t) * rewards[i, k].item() for k in range(t, n))
            assert returns[i, t].item() == pytest.approx(to_come, abs=1e-5)
            assert advantages[i, t].item() == pytest.approx(to_come - values[i, t].item(), abs=1e-5)


def test_lambda_zero_is_the_one_step_error():
    rewards, values, mask = ragged(8)
    advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    for i, n in enumerate(mask.sum(1).tolist()):
        for t in range(n):
            after = values[i, t + 1].item() if t + 1 < n else 0.0
            error = rewards[i, t].item() + 0.9 * after - values[i, t].item()
            assert advantages[i, t].item() == pytest.approx(error, abs=1e-6)


def test_gae_never_reads_padding_and_never_writes_to_it():
    rewards, values, mask = ragged(9)
    clean = gae(rewards, values, mask)
    dirty = gae(rewards.where(mask, NAN), values.where(mask, float("inf")), mask)
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
        assert (a[~mask] == 0).all()


def test_gae_is_a_constant_and_leaves_its_inputs_alone():
    rewards, values, mask = ragged(10)
    before = rewards.clone(), values.clone()
    advantages, returns = gae(rewards, values.requires_grad_(), mask)
    assert not advantages.requires_grad and not returns.requires_grad
    assert torch.equal(rewards, before[0]) and torch.equal(values, before[1])


def test_gae_of_an_empty_row_is_zero():
    advantages, returns = gae(torch.ones(1, 3), torch.ones(1, 3), torch.zeros(1, 3).bool())
    assert advantages.abs().max() == 0 == returns.abs().max()


def test_whiten_has_mean_0_and_variance_1_over_response_tokens():
    x, _, mask = ragged(11)
    whitened = whiten(5 + 3 * x, mask)
    tokens = whitened.numpy()[mask.numpy()].astype(np.float64)
    assert tokens.mean() == pytest.approx(0, abs=1e-6)
    assert tokens.var() == pytest.approx(1, abs=1e-5)  # NumPy's var divides by n
    assert (whitened[~mask] == 0).all() and whitened.dtype == torch.float32


def test_whiten_hand_worked():
    """1, 2, 3, 6 in a ragged batch: mean 3, population variance (4 + 1 + 0 + 9) / 4 = 3.5."""
    x = torch.tensor([[1.0, 2.0, 3.0], [6.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    expected = torch.tensor([[-2.0, -1.0, 0.0], [3.0, 0.0, 0.0]]) / 3.5**0.5
    assert torch.allclose(whiten(x, mask), expected)


def test_whiten_ignores_what_stands_under_padding():
    x, _, mask = ragged(12)
    for rubbish in (0.0, 1e30, NAN, float("inf")):
        assert torch.equal(whiten(x, mask), whiten(x.where(mask, rubbish), mask))


def test_whiten_without_spread():
    x = torch.full((2, 3), 0.5)
    assert whiten(x, torch.ones(2, 3).bool()).abs().max() == 0
    one = torch.tensor([[True, False, False], [False, False, False]])
    assert whiten(x, one).abs().max() == 0
    assert whiten(x, torch.zeros(2, 3).bool()).abs().max() == 0
