"""From one score per response to one advantage per token.

Masks here are those of right-padded responses: every row is some True followed only by False.
Rows may differ in length. A mask with holes is not supported, because "the next token" would then
no longer be the next column.
"""

from __future__ import annotations

import torch
from torch import Tensor


def terminal_rewards(scores: Tensor, mask: Tensor) -> Tensor:
    """Place each response's score on its last token, and 0 on all the others.

        r_t = score if t is the last response token, else 0

    Parameters
    ----------
    scores : float Tensor (B,)
        One grade per response, for example 1 right, 0.1 readable but wrong, 0 unreadable.
    mask : bool Tensor (B, R)
        True on response tokens (EOS included), right-padded.

    Returns
    -------
    Tensor (B, R) of the dtype of ``scores``. A row without tokens is all 0.

    Notes
    -----
    ReFT, section 3: the answer can be judged only once it is complete, so the reward of every
    earlier action is 0. A response cut off before EOS gets its score on the token where it stopped.
    """
    column = torch.arange(mask.shape[1], device=mask.device)
    last = mask.sum(dim=1, keepdim=True) - 1  # (B, 1); -1, hence no column, for an empty row
    return torch.where(column == last, scores[:, None], 0.0)


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, and the returns that the value head should learn.

        delta_t = r_t + gamma V_{t+1} - V_t                 V = 0 after the last token
        A_t     = delta_t + gamma lam A_{t+1}               = sum_l (gamma lam)^l delta_{t+l}
        R_t     = A_t + V_t

    lam = 0 trusts the value head (one step ahead), lam = 1 trusts only the rewards (Monte Carlo).

    Parameters
    ----------
    rewards : Tensor (B, R)
        Reward of each token: the terminal score plus the KL penalty.
    values : Tensor (B, R)
        The value head's estimate *before* each token, made when the response was sampled.
    mask : bool Tensor (B, R)
        True on response tokens, right-padded. What stands under padding is never read.
    gamma, lam : float
        Discount, and the weight given to later errors.

    Returns
    -------
    advantages, returns : Tensor (B, R), Tensor (B, R)
        0 under padding; constants, through which no gradient flows.

    Notes
    -----
    Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation", eq. 16; in the same form PPO (Schulman et al. 2017) eq. 11-12 and ReFT, section 3.
    """
    rewards = torch.where(mask, rewards, 0.0)
    values = torch.where(mask, values, 0.0)  # padding now is the "V = 0 after the last token"
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(len(values))  # (B,)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = delta + gamma * lam * next_advantage
        next_value, next_advantage = values[:, t], advantages[:, t]
    return advantages, advantages + values


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the masked tokens of the whole batch.

        y = (x - mean) / sqrt(var + eps)

    ``var`` is the population variance (divided by n, not n - 1) of the response tokens alone, all
    rows together. Call it once per rollout batch, before the batch is cut into minibatches, so
    that a token's advantage does not depend on its neighbours in a minibatch.

    Parameters
    ----------
    x : Tensor (B, R)
    mask : bool Tensor (B, R)
        True on response tokens.
    eps : float
        Keeps a batch of equal values at 0 instead of dividing by 0.

    Returns
    -------
    Tensor (B, R), 0 under padding. Fewer than two tokens have no spread: the result is all 0.
    """
    tokens = x[mask]
    if len(tokens) < 2:
        return torch.zeros_like(x)
    centred = x - tokens.mean()
    scale = torch.rsqrt(tokens.var(correction=0) + eps)
    return torch.where(mask, centred * scale, 0.0)
