"""The losses that supervised fine-tuning and PPO minimise, as pure tensor functions.

Inputs are set to 0 under padding *before* anything is computed from them, never after: inf * 0 is
NaN, and the gradient of a masked result would still pass through whatever stood there.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reft_lib import kl, switch
from reft_lib.errors import UserError
from reft_lib.vocabulary import TokenLogprobs

Per = Literal["sequence", "token"]


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability (nats) that the model gave to each token that actually came.

        log p(a_t) = z_t[a_t] - log sum_v exp(z_t[v])

    Parameters
    ----------
    logits : Tensor (..., V)
        Usually (B, R, V). ``logits[:, t]`` must be the prediction *of* ``tokens[:, t]``, that is,
        the model's output one position earlier.
    tokens : int64 Tensor (...)
        Usually (B, R).

    Returns
    -------
    float32 Tensor (...). Computed in float32 whatever the dtype of the logits: bfloat16 has 8
    significant bits, too few for the ratio of two nearly equal probabilities.

    Notes
    -----
    Rows (N, V) go through :class:`reft_lib.vocabulary.TokenLogprobs`, which holds less memory.
    """
    if logits.dim() == 2 and switch.enabled():
        rows: Tensor = TokenLogprobs.apply(logits, tokens)
        return rows
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens[..., None]).squeeze(-1)


def cross_entropy(logits: Tensor, labels: Tensor, ignore: int = -100) -> Tensor:
    """Mean negative log-probability (nats) of the labelled tokens: the loss of SFT.

        L = -(1/N) sum_t log p(label_t)        over the N positions where label_t != ignore

    Parameters
    ----------
    logits : Tensor (B, T, V)
        Already aligned: ``logits[:, t]`` predicts ``labels[:, t]``; the shift is the caller's.
    labels : int64 Tensor (B, T)
        ``ignore`` where nothing is to be learnt: the question and the padding.

    Returns
    -------
    float32 scalar; 0 where no position is labelled.

    Notes
    -----
    ReFT, section 3 (warm-up). The mean runs over tokens, so a long chain of thought weighs more.
    """
    wanted = labels != ignore
    logp = token_logprobs(logits[wanted], labels[wanted])  # (N,): the vocabulary of N rows only
    return -logp.sum() / wanted.sum().clamp(min=1)


def masked_mean(x: Tensor, mask: Tensor, per: Per = "sequence") -> Tensor:
    """Mean over response tokens, where either every response or every token counts the same.

        sequence:  (1/B) sum_i (1/n_i) sum_t x_it      each response one vote, long or short (ReFT)
        token:     sum_it x_it / sum_i n_i             each token one vote

    Parameters
    ----------
    x : Tensor (B, R)
    mask : bool Tensor (B, R)
        True on response tokens; n_i is their number in row i.
    per : "sequence" or "token"

    Returns
    -------
    Scalar. A row without tokens has no vote; 0 where no row has any.
    """
    x = torch.where(mask, x, 0.0)
    if per == "token":
        return x.sum() / mask.sum().clamp(min=1)
    if per != "sequence":
        raise UserError(f"per = {per!r}; wanted 'sequence' or 'token'")
    length = mask.sum(dim=1)
    row_means = x.sum(dim=1) / length.clamp(min=1)
    return row_means.sum() / (length > 0).sum().clamp(min=1)


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    per: Per = "sequence",
) -> tuple[Tensor, dict[str, float]]:
    """PPO's clipped surrogate: raise what went well and lower what did not, but not too far.

        ratio_t = pi(a_t | s_t) / pi_old(a_t | s_t)
        L       = -mean min(ratio_t A_t, clamp(ratio_t, 1 - clip, 1 + clip) A_t)

    The minimum makes clipping one-sided. Once a token has moved beyond the bound in the direction
    its advantage asks for, its gradient is 0; one that has moved the wrong way keeps its gradient.

    Parameters
    ----------
    logp : Tensor (B, R)
        Log-probabilities of the sampled tokens under the policy being trained.
    old_logp : Tensor (B, R)
        The same under the policy that sampled them.
    advantages : Tensor (B, R)
        Whitened advantages.
    mask : bool Tensor (B, R)
        True on response tokens.
    clip : float
        Half-width of the band in which the ratio may move.
    per : "sequence" or "token"
        See :func:`masked_mean`.

    Returns
    -------
    loss : scalar Tensor
    stats : dict of float, over response tokens
        ``ratio_mean``, ``ratio_max``; ``clip_fraction``, the share whose gradient the clip has
        removed; ``approx_kl``, the k3 estimate of KL(old || new) in nats.

    Notes
    -----
    PPO (Schulman et al. 2017, arXiv 1707.06347) eq. 7; ReFT, section 3.
    """
    log_ratio = torch.where(mask, logp - old_logp, 0.0)
    advantages = torch.where(mask, advantages, 0.0)
    ratio = log_ratio.exp()
    free = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = -masked_mean(torch.minimum(free, clipped), mask, per)
    with torch.no_grad():
        stats = {
            "ratio_mean": masked_mean(ratio, mask, "token").item(),
            "ratio_max": torch.where(mask, ratio, 0.0).max().item(),
            "clip_fraction": masked_mean((clipped < free).float(), mask, "token").item(),
            "approx_kl": masked_mean(kl.k3(old_logp, logp), mask, "token").item(),
        }
    return loss, stats


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    per: Per = "sequence",
) -> tuple[Tensor, dict[str, float]]:
    """Squared error of the value head, kept from running away from its old estimate.

        V_clip = V_old + clamp(V - V_old, -clip, clip)
        L      = mean 1/2 max((V - R)^2, (V_clip - R)^2)

    The maximum is pessimistic: a value that has already moved by more than ``clip`` towards the
    return gets no gradient, one that has moved away from it keeps its own. ``float("inf")``
    switches clipping off.

    Parameters
    ----------
    values, old_values : Tensor (B, R)
        The value head's estimates now, and when the response was sampled.
    returns : Tensor (B, R)
        Targets R from :func:`reft_lib.advantage.gae`.
    mask : bool Tensor (B, R)
        True on response tokens.
    clip : float
        How far a value may move within one rollout batch, in units of reward.
    per : "sequence" or "token"
        See :func:`masked_mean`.

    Returns
    -------
    loss : scalar Tensor
    stats : dict of float, over response tokens
        ``value_mean``; ``value_clip_fraction``, the share whose gradient the clip has removed;
        ``explained_variance``, 1 - var(R - V) / var(R): 1 is perfect, 0 is no better than a
        constant, below 0 is worse (NaN where the returns do not vary).

    Notes
    -----
    ReFT, section 3, and its code. The PPO paper itself does not clip values (eq. 9); the practice
    comes from OpenAI's Baselines.
    """
    values, old_values, returns = (torch.where(mask, x, 0.0) for x in (values, old_values, returns))
    near = old_values + (values - old_values).clamp(-clip, clip)
    free, clipped = (values - returns) ** 2, (near - returns) ** 2
    loss = 0.5 * masked_mean(torch.maximum(free, clipped), mask, per)
    with torch.no_grad():
        stats = {
            "value_mean": masked_mean(values, mask, "token").item(),
            "value_clip_fraction": masked_mean((clipped > free).float(), mask, "token").item(),
            "explained_variance": _explained_variance(values[mask], returns[mask]),
        }
    return loss, stats


def _explained_variance(values: Tensor, returns: Tensor) -> float:
    """Share of the variance of ``returns`` (N,) that ``values`` (N,) predict; NaN if there is none.

    Equal returns can still differ in their last bit, hence a threshold instead of ``> 0``.
    """
    if len(returns) == 0 or (total := returns.var(correction=0).item()) < 1e-12:
        return float("nan")
    return 1 - (returns - values).var(correction=0).item() / total
