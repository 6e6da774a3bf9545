"""Advantages and losses of GRPO, RLOO and REINFORCE, as pure tensor functions.

A score is what one response is worth, an advantage how much better that is than could be expected:
here than other responses did. B responses stand group by group, the ``group_size`` responses to
one question side by side, as :func:`reft_lib.rollout.sample` returns them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reft_lib import kl, losses
from reft_lib.errors import UserError
from reft_lib.losses import Per


def centred(scores: Tensor, group_size: int) -> Tensor:
    """Return each score less the mean of its group, exactly 0 where all of a group are equal.

        c_i = r_i - mean(r_1 .. r_k) = mean_j (r_i - r_j)

    Parameters
    ----------
    scores : float Tensor (B,)
        Groups of ``group_size`` neighbours.
    group_size : int
        k; ``len(scores)`` makes one group of all.

    Returns
    -------
    Tensor (B,)

    Raises
    ------
    UserError
        If the scores cannot be cut into such groups.
    """
    if group_size < 1 or len(scores) % group_size:
        raise UserError(f"{len(scores)} scores cannot be cut into groups of {group_size}")
    groups = scores.view(-1, group_size)
    # Differences first: a mean of equal numbers can differ from them in its last bit, and GRPO
    # would then divide that bit by next to nothing.
    return (groups[:, :, None] - groups[:, None, :]).mean(dim=2).view(-1)


def group_advantages(scores: Tensor, group_size: int, eps: float = 1e-4) -> Tensor:
    """GRPO: how many standard deviations a response is better than its group.

        A_i = (r_i - mean(r_1 .. r_k)) / (std(r_1 .. r_k) + eps)

    Dividing by the standard deviation gives more weight to questions that are nearly always
    right, or nearly always wrong; what is estimated is no longer the gradient of the mean score.

    Parameters
    ----------
    scores : float Tensor (B,)
        Groups of ``group_size`` neighbours.
    group_size : int
        k, at least 2.
    eps : float
        Keeps a group of equal scores at 0.

    Returns
    -------
    Tensor (B,)

    Raises
    ------
    UserError
        If the scores cannot be cut into such groups, or a group would be a single response.

    Notes
    -----
    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1.2. The paper names no eps and
    does not say which standard deviation; here it is the sample's (divided by k - 1), and eps is
    1e-4, as in trl. Liu et al. 2025 ("Understanding R1-Zero-Like Training") leave the division out.
    """
    _check_compared(group_size)
    better = centred(scores, group_size)
    std = scores.view(-1, group_size).std(dim=1)  # (B/k,)
    return better / (std.repeat_interleave(group_size) + eps)


def leave_one_out_advantages(scores: Tensor, group_size: int) -> Tensor:
    """RLOO: how much better a response is than the mean of the *other* responses of its group.

        A_i = r_i - 1/(k-1) sum_{j != i} r_j = k/(k-1) (r_i - mean(r_1 .. r_k))

    The others were sampled independently of response i, so subtracting their mean changes the
    variance of the gradient and not its expectation.

    Parameters
    ----------
    scores : float Tensor (B,)
        Groups of ``group_size`` neighbours.
    group_size : int
        k, at least 2.

    Returns
    -------
    Tensor (B,), exactly 0 where all scores of a group are equal.

    Raises
    ------
    UserError
        If the scores cannot be cut into such groups, or a group would be a single response.

    Notes
    -----
    Ahmadian et al. 2024 (arXiv 2402.14740), section on RLOO; Kool et al. 2019, "Buy 4 REINFORCE
    Samples, Get a Baseline for Free!".
    """
    _check_compared(group_size)
    return centred(scores, group_size) * (group_size / (group_size - 1))


def batch_advantages(scores: Tensor) -> Tensor:
    """REINFORCE with a baseline: how much better a response is than the mean of the batch.

        A_i = r_i - mean(r_1 .. r_B)

    One baseline for easy and hard questions alike. It holds r_i itself, so the expected gradient
    is (B - 1)/B of the true one: for any batch worth the name, no difference.

    Parameters
    ----------
    scores : float Tensor (B,)

    Returns
    -------
    Tensor (B,)

    Notes
    -----
    Williams 1992 (reinforcement baseline). Ahmadian et al. 2024 take the mean of all scores since
    training began; that of the batch needs no memory and follows a policy that improves.
    """
    return centred(scores, len(scores))


def _check_compared(group_size: int) -> None:
    if group_size < 2:
        raise UserError(f"group_size is {group_size}; a response alone has nothing to be held to")


def grpo_loss(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    beta: float = 0.05,
    per: Per = "sequence",
) -> tuple[Tensor, dict[str, float]]:
    """PPO's clipped surrogate with one advantage for all tokens, and the KL as a term of the loss.

        L = -mean min(ratio_t A, clamp(ratio_t, 1 - clip, 1 + clip) A) + beta mean k3_t
        k3_t = pi_ref(a_t)/pi(a_t) - log(pi_ref(a_t)/pi(a_t)) - 1

    The *value* of k3 estimates the token's KL(pi || pi_ref). Its *gradient* on samples of pi does
    not: in expectation it is that of KL(pi_ref || pi), because that pi chose the samples, too, is
    left out. Both vanish where the policies agree, and both pull back.

    Parameters
    ----------
    logp, old_logp, ref_logp : Tensor (B, R)
        Log-probabilities (nats) of the sampled tokens under the policy being trained, the one
        that sampled them, and the warm-up policy.
    advantages : Tensor (B,)
        See :func:`group_advantages`.
    mask : bool Tensor (B, R)
        True on response tokens.
    clip, beta : float
        Half-width of the band of the ratio, and weight of the KL.
    per : "sequence" or "token"
        See :func:`reft_lib.losses.masked_mean`.

    Returns
    -------
    loss : scalar Tensor
    stats : dict of float
        Those of :func:`reft_lib.losses.policy_loss`; ``policy_loss`` and ``kl_loss``, the two
        terms before ``beta``.

    Notes
    -----
    Shao et al. 2024, eq. 3 and 4. In trl it is ``loss_type="grpo"`` (``"bnpo"`` for
    ``per="token"``), which is not its default: that is ``"dapo"`` without KL.
    """
    every_token = advantages[:, None].expand_as(mask)
    policy_loss, stats = losses.policy_loss(logp, old_logp, every_token, mask, clip, per)
    logp, ref_logp = (torch.where(mask, x, 0.0) for x in (logp, ref_logp))
    kl_loss = losses.masked_mean(kl.k3(logp, ref_logp), mask, per)
    stats |= {"policy_loss": policy_loss.item(), "kl_loss": kl_loss.item()}
    return policy_loss + beta * kl_loss, stats


def reinforce_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Raise the log-probability of whole responses in proportion to their advantage.

        L = -(1/B) sum_i A_i log pi(y_i | x_i),     log pi(y | x) = sum_t log pi(a_t | s_t)

    The response is one action: a sum over its tokens, no mean, so a long response moves the policy
    more than a short one of the same advantage. Only the gradient of L means something, not L.

    Parameters
    ----------
    logp : Tensor (B, R)
        Log-probabilities (nats) of the sampled tokens under the policy being trained.
    old_logp : Tensor (B, R)
        The same under the policy that sampled them; for the statistics alone.
    advantages : Tensor (B,)
        See :func:`leave_one_out_advantages` and :func:`batch_advantages`.
    mask : bool Tensor (B, R)
        True on response tokens.

    Returns
    -------
    loss : scalar Tensor
    stats : dict of float
        ``policy_loss``; ``approx_kl``, the k3 estimate of KL(old || new) in nats a token.

    Notes
    -----
    Williams 1992; Ahmadian et al. 2024, who find that clipping seldom acts when a good policy is
    fine-tuned. Implementations differ: trl's RLOO clips the ratio pi(y | x) / pi_old(y | x) of
    whole responses, whose gradient is this one's as long as the policy is the one that sampled.
    """
    logp, old_logp = (torch.where(mask, x, 0.0) for x in (logp, old_logp))
    loss = -(advantages * logp.sum(dim=1)).mean()
    moved = losses.masked_mean(kl.k3(old_logp, logp.detach()), mask, "token")
    return loss, {"policy_loss": loss.item(), "approx_kl": moved.item()}
