"""Advantages and losses of PPO's relatives: by hand, by loops, by enumeration, and beside trl."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from reft_lib import relative_losses
from reft_lib.errors import UserError
from reft_lib.relative_losses import (
    batch_advantages,
    group_advantages,
    grpo_loss,
    leave_one_out_advantages,
    reinforce_loss,
)

NAN = float("nan")


def test_advantages_hand_worked():
    """Two groups of four; the second one's responses are all worth 0.1.

    First group: mean 1/2, deviations 1/2 -1/2 -1/2 1/2, sample variance 4 (1/4) / 3 = 1/3.
    Leave-one-out: the others of a 1 have mean 1/3, those of a 0 have 2/3.
    Batch: mean (2 + 0.4) / 8 = 0.3.
    """
    scores = torch.tensor([1, 0, 0, 1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    signs = torch.tensor([1, -1, -1, 1, 0, 0, 0, 0], dtype=torch.float64)
    expected = signs * 0.5 / (math.sqrt(1 / 3) + 1e-4)
    torch.testing.assert_close(group_advantages(scores, 4), expected)
    torch.testing.assert_close(leave_one_out_advantages(scores, 4), signs * 2 / 3)
    torch.testing.assert_close(batch_advantages(scores), scores - 0.3)


@pytest.mark.parametrize("worth", [0.0, 0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("k", [2, 3, 7])
def test_equal_scores_teach_exactly_nothing(worth, k):
    """In float32, where the mean of seven times 0.1 need not be 0.1."""
    scores = torch.full((3 * k,), worth)
    for advantages in (
        group_advantages(scores, k),
        leave_one_out_advantages(scores, k),
        batch_advantages(scores),
    ):
        assert torch.equal(advantages, torch.zeros(3 * k))


@pytest.mark.parametrize("k", [2, 4, 8])
def test_advantages_are_those_of_plain_loops(k):
    scores = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    grpo, rloo = group_advantages(scores, k), leave_one_out_advantages(scores, k)
    for i, r in enumerate(scores.tolist()):
        start = i // k * k
        group = scores[start : start + k].tolist()
        others = group[: i - start] + group[i - start + 1 :]
        spread = statistics.stdev(group) + 1e-4
        assert float(grpo[i]) == pytest.approx((r - statistics.fmean(group)) / spread)
        assert float(rloo[i]) == pytest.approx(r - statistics.fmean(others))


def test_what_cannot_be_compared_is_refused():
    scores = torch.zeros(6)
    for function in (group_advantages, leave_one_out_advantages):
        with pytest.raises(UserError, match="group_size is 1"):
            function(scores, 1)
        with pytest.raises(UserError, match="6 scores cannot be cut into groups of 4"):
            function(scores, 4)
    with pytest.raises(UserError, match="groups of 0"):
        relative_losses.centred(scores, 0)


def some_batch(seed=0, rows=6, width=7):
    """Log-probabilities under three policies, advantages, and a ragged mask, in float64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = 1, width
    mask = torch.arange(width) < lengths[:, None]
    old = -3 * torch.rand(rows, width, generator=generator, dtype=torch.float64)
    near = 0.3 * torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    return old + near[0], old, old + near[1], advantages, mask


def spoiled(x, mask):
    """Put NaN under the padding, as a leaf that records gradients."""
    return torch.where(mask, x, NAN).requires_grad_()


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_grpo_loss_is_that_of_plain_loops(per):
    logp, old, ref, advantages, mask = some_batch()
    clip, beta, rows, n_tokens, clipped = 0.15, 0.3, len(mask), int(mask.sum()), 0
    surrogate = penalty = 0.0
    for i in range(rows):
        n = int(mask[i].sum())
        weight = 1 / (rows * n) if per == "sequence" else 1 / n_tokens
        for t in range(n):
            ratio = math.exp(logp[i, t] - old[i, t])
            a = float(advantages[i])
            bounded = min(max(ratio, 1 - clip), 1 + clip)
            clipped += bounded * a < ratio * a
            surrogate += weight * min(ratio * a, bounded * a)
            x = math.exp(ref[i, t] - logp[i, t])
            penalty += weight * (x - math.log(x) - 1)
    inputs = [spoiled(x, mask) for x in (logp, old, ref)]
    loss, stats = grpo_loss(*inputs, advantages, mask, clip, beta, per)
    assert loss.item() == pytest.approx(-surrogate + beta * penalty, rel=1e-12)
    assert stats["policy_loss"] == pytest.approx(-surrogate, rel=1e-12)
    assert stats["kl_loss"] == pytest.approx(penalty, rel=1e-12)
    assert stats["clip_fraction"] == pytest.approx(clipped / n_tokens) and clipped > 0
    loss.backward()
    gradient = inputs[0].grad
    assert torch.isfinite(gradient).all() and not gradient[~mask].any() and gradient[mask].any()


def test_reinforce_loss_is_that_of_plain_loops():
    logp, old, _, advantages, mask = some_batch(1)
    total = sum(
        float(advantages[i]) * sum(logp[i, : int(mask[i].sum())].tolist()) for i in range(len(mask))
    )
    now = spoiled(logp, mask)
    loss, stats = reinforce_loss(now, spoiled(old, mask), advantages, mask)
    assert loss.item() == pytest.approx(-total / len(mask), rel=1e-12)
    moved = [math.exp(d) - 1 - d for d in (logp - old)[mask].tolist()]
    assert stats["approx_kl"] == pytest.approx(statistics.fmean(moved))
    loss.backward()
    every_token = (-advantages / len(mask))[:, None] * mask
    torch.testing.assert_close(now.grad, every_token)


# A world small enough to enumerate: token 0 ends a response, token 1 goes on, and two tokens are
# the most. So there are three responses: 0, 10 and 11.
RESPONSES = [(0,), (1, 0), (1, 1)]
MASK = torch.tensor([[True, False], [True, True], [True, True]])
WORTH = torch.tensor([0.1, 1.0, 0.4], dtype=torch.float64)
THETA = torch.tensor([[0.3, -0.2], [0.5, 0.9]], dtype=torch.float64)
REFERENCE = torch.tensor([[-0.4, 0.1], [0.2, -0.6]], dtype=torch.float64)


def read(theta):
    """Log-probabilities (3, 2) of the three responses' tokens; 0 under padding."""
    first, second = torch.log_softmax(theta, dim=1)
    zero = torch.zeros((), dtype=torch.float64)
    return torch.stack(
        [torch.stack([first[r[0]], second[r[1]] if len(r) > 1 else zero]) for r in RESPONSES]
    )


def gradient_of(function, theta=THETA):
    theta = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(theta), theta)
    return gradient


def expected_gradient(loss_of_draw, k):
    """Expectation, over all draws of k responses, of the gradient of a loss."""
    log_probability = read(THETA).sum(dim=1)
    total = torch.zeros_like(THETA)
    for draw in itertools.product(range(3), repeat=k):
        draw = torch.tensor(draw)
        gradient = gradient_of(lambda theta, draw=draw: loss_of_draw(theta, draw))
        total += log_probability[draw].sum().exp() * gradient
    return total


def mean_score(theta, beta=0.0):
    """Expected score: what the policy gradient should climb."""
    log_probability, reference = read(theta).sum(dim=1), read(REFERENCE).sum(dim=1)
    return (log_probability.exp() * (WORTH - beta * (log_probability - reference))).sum()


def draw_loss(advantages_of, beta=0.0):
    """REINFORCE's loss of one draw; as in the loop, the KL is in the score."""
    now, reference = read(THETA), read(REFERENCE)
    scores = WORTH - beta * (now - reference).sum(dim=1)

    def loss(theta, draw):
        logp = read(theta)[draw]
        return reinforce_loss(logp, logp, advantages_of(scores[draw]), MASK[draw])[0]

    return loss


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_leave_one_out_does_not_bias_the_gradient(k, beta):
    exact = gradient_of(lambda theta: mean_score(theta, beta))
    loss = draw_loss(lambda scores: leave_one_out_advantages(scores, k), beta)
    torch.testing.assert_close(-expected_gradient(loss, k), exact, rtol=1e-10, atol=1e-12)


def test_the_batch_mean_shrinks_the_gradient_by_its_own_share():
    exact, k = gradient_of(mean_score), 3
    found = -expected_gradient(draw_loss(batch_advantages), k)
    torch.testing.assert_close(found, exact * (k - 1) / k, rtol=1e-10, atol=1e-12)


def test_dividing_by_the_deviation_turns_the_gradient():
    """GRPO's expected step on one question is no multiple of the true gradient."""
    loss = draw_loss(lambda scores: group_advantages(scores, 3))
    found, exact = -expected_gradient(loss, 3).flatten(), gradient_of(mean_score).flatten()
    assert 0.9 < torch.cosine_similarity(found, exact, dim=0) < 0.999


def test_the_gradient_of_k3_is_that_of_the_other_kl():
    """On samples of the policy, as the docstring says: KL(reference || policy), for one token."""
    policy, reference = torch.tensor([[0.9, -1.2, 0.1], [-0.4, 0.8, 0.3]], dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    q = torch.log_softmax(reference, dim=0)

    def k3(theta):
        """Each token of the vocabulary, with the weight that it is sampled with."""
        p, sampled = torch.log_softmax(theta, dim=0), torch.log_softmax(policy, dim=0)
        tokens = torch.stack([p, sampled, q], dim=1).view(3, 3, 1, 1)  # a row for each token
        found = [grpo_loss(*each, torch.zeros(1), mask, beta=1.0)[0] for each in tokens]
        return (sampled.exp() * torch.stack(found)).sum()

    def divergence(p, q):
        return (p.exp() * (p - q)).sum()

    own = divergence(torch.log_softmax(policy, dim=0), q)
    assert float(k3(policy)) == pytest.approx(float(own))  # the value is the KL meant
    found = gradient_of(k3, policy)
    other = gradient_of(lambda theta: divergence(q, torch.log_softmax(theta, dim=0)), policy)
    wanted = gradient_of(lambda theta: divergence(torch.log_softmax(theta, dim=0), q), policy)
    torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-12)
    assert (found - wanted).abs().max() > 0.1 and float(found @ wanted) > 0


def stand_in(logp, **settings):
    """What ``_compute_loss`` of trl 1.16 asks of a trainer; its model is a table of numbers."""
    entropies = torch.zeros_like(logp)
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, entropies, None),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        importance_sampling_level="token",
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        **settings,
    )


def trl_inputs(mask, **more):
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    prompt = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1}
    return {**prompt, "completion_ids": ids, "completion_mask": mask.long(), **more}


@pytest.mark.parametrize(("loss_type", "per"), [("grpo", "sequence"), ("bnpo", "token")])
@pytest.mark.parametrize("beta", [0.0, 0.04, 1.0])
def test_grpo_loss_is_that_of_trl(loss_type, per, beta):
    """Value and gradient, with ratios on both sides of the clip."""
    pytest.importorskip("trl", reason="trl is not installed: our GRPO loss is not held to its own")
    from trl.trainer.grpo_trainer import GRPOTrainer

    logp, old, ref, advantages, mask = some_batch(2, rows=8)
    now, same = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    ours, stats = grpo_loss(now, old, ref, advantages, mask, 0.2, beta, per)
    trainer = stand_in(same, loss_type=loss_type, beta=beta, epsilon_low=0.2, epsilon_high=0.2)
    inputs = trl_inputs(
        mask, advantages=advantages, old_per_token_logps=old, ref_per_token_logps=ref
    )
    theirs = GRPOTrainer._compute_loss(trainer, None, inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(now.grad, same.grad, rtol=1e-12, atol=1e-15)
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    assert stats["clip_fraction"] == pytest.approx(clipped) and clipped > 0


def test_group_advantages_are_those_of_trl():
    """Its formula, with its own standard deviation."""
    pytest.importorskip("trl", reason="trl is not installed: advantages are not held to its own")
    from trl.trainer.utils import nanstd

    scores = torch.randn(12, generator=torch.Generator().manual_seed(0))
    groups = scores.view(-1, 4)
    theirs = (groups - groups.mean(dim=1, keepdim=True)) / (nanstd(groups, 1, True) + 1e-4)
    torch.testing.assert_close(group_advantages(scores, 4), theirs.flatten())


def test_reinforce_gradient_is_that_of_trls_rloo_before_the_first_step():
    """Values differ, as its ratio of whole responses is 1 there; afterwards it clips."""
    pytest.importorskip("trl", reason="trl is not installed: our RLOO loss is not held to its own")
    from trl.trainer.rloo_trainer import RLOOTrainer

    logp, _, _, advantages, mask = some_batch(3)
    ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    reinforce_loss(ours, logp, advantages, mask)[0].backward()
    trainer = stand_in(theirs, epsilon_low=0.2, epsilon_high=0.2)
    inputs = trl_inputs(mask, advantages=advantages, old_logps=(logp * mask).sum(dim=1))
    RLOOTrainer._compute_loss(trainer, None, inputs).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)
