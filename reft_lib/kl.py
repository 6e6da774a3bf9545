"""How far the policy has moved from the reference, estimated from its own samples.

We cannot sum over every possible response, but we do know, for each token that the policy sampled,
the log-probability it gave and the one the reference gives. Three estimators of

    KL(policy || reference) = E_{x ~ policy}[ log policy(x) - log reference(x) ]

are made from those two numbers alone. In all of them ``logp`` belongs to the model that *sampled*
the token and ``ref`` to the model it is compared with; exchanged, they estimate another quantity.

Source: J. Schulman, "Approximating KL Divergence", 2020, joschu.net/blog/kl-approx.html.
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(logp: Tensor, ref: Tensor) -> Tensor:
    """Log-ratio of a sampled token: unbiased, but noisy and often negative, which no KL is.

        k1 = log policy(x) - log reference(x)

    Positive where the policy is surer of its own sample than the reference is.

    Parameters
    ----------
    logp, ref : Tensor (B, R)
        Log-probabilities (nats) of the sampled tokens under the sampling policy and the reference.

    Returns
    -------
    Tensor (B, R), in nats.
    """
    return logp - ref


def k2(logp: Tensor, ref: Tensor) -> Tensor:
    """Half the squared log-ratio: never negative and quiet, but biased.

        k2 = (log policy(x) - log reference(x))^2 / 2

    The bias is of third order in the log-ratio, so it vanishes faster than the KL itself as the
    two models come together. Shapes as in :func:`k1`.
    """
    return 0.5 * (logp - ref) ** 2


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """Log-ratio plus a term of mean zero: unbiased *and* never negative.

        k3 = r - 1 - log r,    r = reference(x) / policy(x)

    E[r - 1] = 0 under the policy's own samples, so adding it to k1 = -log r changes no mean, and
    r - 1 >= log r makes every term non-negative. Shapes as in :func:`k1`.
    """
    log_ratio = ref - logp
    # expm1(x) = e^x - 1 without the cancellation that e^x - 1 suffers near 0, where policies start.
    return torch.expm1(log_ratio) - log_ratio


def kl_rewards(old_logp: Tensor, ref_logp: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Per-token reward that pulls the policy back to the reference: ``-beta * k1``.

        r_t = -beta (log pi_old(a_t | s_t) - log pi_ref(a_t | s_t))

    Parameters
    ----------
    old_logp, ref_logp : Tensor (B, R)
        Log-probabilities (nats) of the sampled tokens, under the policy that sampled them and
        under the frozen warm-up policy.
    mask : bool Tensor (B, R)
        True on response tokens, EOS included.
    beta : float
        Strength of the penalty; 0 switches it off.

    Returns
    -------
    Tensor (B, R), 0 under padding.

    Notes
    -----
    ReFT, section 3: the reward minus beta times the KL from the warm-up policy. The paper writes
    the KL of the whole distribution; its code uses this one-sample estimate, and so do we.
    """
    return torch.where(mask, -beta * k1(old_logp, ref_logp), 0.0)
