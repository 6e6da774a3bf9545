"""Generator and discriminator: losses by hand, who learns what, and a game that can be won."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from reft_lib import adversarial, discriminator, lora, rollout, sft
from reft_lib.config import LoraSettings, SampleConfig
from reft_lib.discriminator import Text
from reft_lib.errors import NumericalError, UserError
from reft_lib.method_settings_adversarial import AdversarialConfig

LORA = LoraSettings(rank=4, alpha=8)
SAMPLING = SampleConfig(max_new_tokens=6)
SMALL = AdversarialConfig(
    steps=2, batch_size=4, minibatches=1, micro_batch=3, head_start=0, lr=1e-3, grad_clip=1e9
)
TEXTS = [
    Text(f"text-{i}", f"Tom has {i} apples.", f" Tom buys {i + 1} more apples.") for i in range(8)
]


def adapted(model, scale=0.1):
    """Put an adapter on that has moved away from the reference."""
    policy = lora.add_adapter(model, LORA)
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += scale * torch.randn(p.shape, generator=generator)
    return policy


def new(model, tokenizer, config=SMALL):
    """Return the generator, both players, with a discriminator that already has opinions."""
    policy = adapted(model)
    players = adversarial.begin(policy, tokenizer, config, LORA, seed=1)
    generator = torch.Generator().manual_seed(4)
    for p in lora.adapter_parameters(policy, discriminator.ADAPTER):
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    players.discriminator.head.linear.weight.data *= 30
    return policy, players


def rows_of(tokenizer, texts=TEXTS):
    return discriminator.encode(tokenizer, texts, 200)


def play(policy, tokenizer, n=4, seed=0):
    """Let the generator continue some texts; returns the rollout and both kinds of rows."""
    real = rows_of(tokenizer)[:n]
    generator = torch.Generator().manual_seed(seed)
    sampled = rollout.sample(policy, tokenizer, [p for p, _ in real], 6, generator=generator)
    return sampled, real, adversarial.written(sampled, real)


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def same(before, parameters):
    return all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def test_the_discriminators_loss_by_hand():
    real, fake = torch.tensor([[2.0, 9.0], [-1.0, 1.0]]), torch.tensor([[0.5], [-3.0], [0.0]])
    mask = torch.tensor([[True, False], [True, True]])  # the 9 is padding

    def log_s(x):
        return -math.log(1 + math.exp(-x))

    each = [0.9 * log_s(x) + 0.1 * log_s(-x) for x in (2.0, -1.0, 1.0)]
    told = (each[0] + (each[1] + each[2]) / 2) / 2  # a text, not a token, has one vote
    caught = (log_s(-0.5) + log_s(3.0) + log_s(0.0)) / 3
    all_three = torch.ones(3, 1, dtype=torch.bool)
    loss, stats = discriminator.discriminator_loss(real, fake, mask, all_three, smoothing=0.1)
    assert loss.item() == pytest.approx(-told / 2 - caught / 2)
    assert stats == {
        "real_right": pytest.approx(2 / 3),
        "fake_right": pytest.approx(1.5 / 3),
    }
    zero = discriminator.discriminator_loss(torch.zeros(2, 2), torch.zeros(3, 1), mask, all_three)
    assert zero[0].item() == pytest.approx(math.log(2))


def test_smoothing_makes_certainty_dear():
    fake, one = torch.tensor([[-4.0]]), torch.ones(1, 1, dtype=torch.bool)
    losses = [
        discriminator.discriminator_loss(torch.tensor([[x]]), fake, one, one, 0.1)[0].item()
        for x in (1.0, math.log(9), 6.0)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]  # best at 0.9 : 0.1


def test_it_scores_the_very_tokens_with_its_own_adapter(new_model, tokenizer):
    policy, players = new(new_model(), tokenizer)
    judge = players.discriminator
    sampled, _, fake = play(policy, tokenizer)
    found = discriminator.score(judge, fake, SMALL)
    w, b = (p.detach().double() for p in judge.head.linear.parameters())
    for (prompt, ids), n, logit in zip(fake, sampled.lengths, found, strict=True):
        assert len(ids) == n
        with lora.active(policy, discriminator.ADAPTER), torch.no_grad():
            out = policy(input_ids=torch.tensor([[*prompt, *ids]]), output_hidden_states=True)
        alone = (out.hidden_states[-1][0, -1].double() @ w[0] + b).item()
        assert logit.item() == pytest.approx(alone, abs=1e-4)
    assert policy.active_adapter == "default" and found.std() > 0.1


def test_the_discriminator_learns_a_batch_by_heart_and_moves_nothing_else(new_model, tokenizer):
    config = dataclasses.replace(SMALL, discriminator_lr=1e-2, grad_clip=1.0)
    policy = adapted(new_model())
    players = adversarial.begin(policy, tokenizer, config, LORA)
    judge, own = players.discriminator, lora.adapter_parameters(policy, discriminator.ADAPTER)
    rest = [p for p in policy.parameters() if not any(p is q for q in own)]
    before = copies(rest)
    _, real, fake = play(policy, tokenizer)
    losses = [discriminator.learn(judge, real, fake, config)["discriminator_loss"]
              for _ in range(25)]  # fmt: skip
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and losses[-1] < 0.05
    assert same(before, rest) and all(p.grad is None for p in rest)
    assert discriminator.told_right(discriminator.score(judge, real, config)) == 1
    assert discriminator.told_right(-discriminator.score(judge, fake, config)) == 1


def test_minibatches_of_the_discriminator_hold_real_and_generated_side_by_side(
    new_model, tokenizer, monkeypatch
):
    policy, players = new(new_model(), tokenizer)
    sampled, real, fake = play(policy, tokenizer)
    seen, loss = [], discriminator.discriminator_loss

    def watched(real, fake, *rest):
        seen.append((len(real), len(fake)))
        return loss(real, fake, *rest)

    monkeypatch.setattr(discriminator, "discriminator_loss", watched)
    config = dataclasses.replace(SMALL, minibatches=2, micro_batch=1)
    discriminator.learn(players.discriminator, real, fake, config)
    assert seen == [(1, 1)] * 4


def logp(model, row, n):
    """Return the log-probability of a row's last n tokens."""
    every = torch.log_softmax(model(input_ids=row).logits[0, -n - 1 : -1], dim=-1)
    return every.gather(1, row[0, -n:, None]).sum()


@pytest.mark.parametrize("kind", ["probability", "log-odds"])
def test_the_generators_gradient_is_computed_by_hand(new_model, tokenizer, kind):
    config = dataclasses.replace(SMALL, reward=kind, beta=0.3)
    policy, players = new(new_model(), tokenizer)
    sampled, _, fake = play(policy, tokenizer)
    logits = discriminator.score(players.discriminator, fake, config)
    ref = adversarial.reference_logp(policy, sampled, config)
    base, apart = new_model(), lora.adapter_parameters(policy, discriminator.ADAPTER)
    scores, logps = [], []
    for (prompt, ids), logit in zip(fake, logits.tolist(), strict=True):
        row = torch.tensor([[*prompt, *ids]])

        logps.append(logp(policy, row, len(ids)))
        with torch.no_grad():
            drift = logps[-1] - logp(base, row, len(ids))
        paid = 1 / (1 + math.exp(-logit)) if kind == "probability" else logit
        scores.append(paid - 0.3 * drift.item())
    mean = sum(scores) / 4
    loss = -sum((s - mean) * lp for s, lp in zip(scores, logps, strict=True)) / 4
    own = lora.adapter_parameters(policy, "default")
    expected = torch.autograd.grad(loss, own)
    frozen = copies(apart) + copies(players.discriminator.head.parameters())
    before = copies(own)
    adversarial.learn_to_please(policy, players.generator, sampled, logits, ref, config)
    for p, g in zip(own, expected, strict=True):
        torch.testing.assert_close(p.grad, g, atol=2e-4, rtol=2e-3)
    assert not same(before, own)
    assert same(frozen, [*apart, *players.discriminator.head.parameters()])
    assert all(p.grad is None for p in apart)


def test_a_step_of_likelihood_is_sfts_loss_on_real_texts(new_model, tokenizer):
    policy, players = new(new_model(), tokenizer)
    rows = rows_of(tokenizer, TEXTS[:4])
    batch = sft.collate(rows, tokenizer.eos_token_id)
    expected = sft.loss(policy, batch)
    gradient = torch.autograd.grad(expected, lora.adapter_parameters(policy, "default"))
    found = adversarial.learn_by_heart(policy, tokenizer, players.generator, rows, SMALL)
    assert found["likelihood_loss"] == pytest.approx(expected.item(), rel=1e-4)
    for p, g in zip(lora.adapter_parameters(policy, "default"), gradient, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-5, rtol=1e-3)


def run(new_model, tokenizer, texts=TEXTS, held=TEXTS[:3], config=SMALL, **options):
    policy = adapted(new_model(), scale=0.01)
    own = lora.adapter_parameters(policy, "default")
    before = copies(own)
    found = list(
        adversarial.train(policy, tokenizer, texts, held, config, LORA, SAMPLING, **options)
    )
    for m in found:
        del m["step_seconds"]
    return found, before, own


def test_a_round_reports_both_players_and_what_the_caller_watches(new_model, tokenizer):
    asked = []

    def watch(sampled, texts, logits):
        asked.append((len(sampled.texts), [t.id for t in texts], logits.shape))
        return {"mine": 7.0}

    found, before, own = run(new_model, tokenizer, watch=watch)
    assert [m["step"] for m in found] == [1, 2] and not same(before, own)
    assert asked[0][0] == 4 and asked[0][2] == (4,)
    ids = asked[0][1] + asked[1][1]
    assert sorted(ids) == sorted(t.id for t in TEXTS)  # a pass before any text comes again
    for m in found:
        assert m["mine"] == 7.0 and math.isfinite(m["policy_loss"])
        assert m["right"] == pytest.approx((m["real_right"] + m["fake_right"]) / 2)
        assert 0 <= m["reward"] <= 1 and m["kl_k3"] >= 0 and 0 <= m["self_bleu"] <= 1
    again, _, _ = run(new_model, tokenizer, watch=watch)
    other, _, _ = run(new_model, tokenizer, watch=watch, seed=1)
    assert found == again != other


def test_the_head_start_and_a_mere_watcher_leave_the_generator(new_model, tokenizer):
    early = dataclasses.replace(SMALL, head_start=2, forcing=1)
    found, before, own = run(new_model, tokenizer, config=early)
    assert same(before, own) and not {"policy_loss", "likelihood_loss"} & set(found[-1])
    alone = dataclasses.replace(SMALL, reward="none", forcing=2)
    found, before, own = run(new_model, tokenizer, config=alone)
    assert not same(before, own)
    assert "policy_loss" not in found[0] and "discriminator_loss" in found[0]
    assert found[1]["held_nll"] < found[0]["held_nll"]


def test_the_kl_is_zero_while_nothing_has_moved(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    first = next(adversarial.train(policy, tokenizer, TEXTS, TEXTS[:2], SMALL, LORA, SAMPLING))
    assert first["kl"] == pytest.approx(0.0, abs=1e-4)
    assert first["kl_k3"] == pytest.approx(0.0, abs=1e-6)


def test_the_generator_learns_to_please_an_opponent_that_stands_still(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    config = AdversarialConfig(
        steps=30, batch_size=32, minibatches=1, head_start=0, lr=2e-2, discriminator_lr=1e-2,
        reward="log-odds",
    )  # fmt: skip
    players = adversarial.begin(policy, tokenizer, config, LORA)
    judge, texts = players.discriminator, TEXTS * 4
    _, real, fake = play(policy, tokenizer, n=8)
    for _ in range(10):
        discriminator.learn(judge, real, fake, config)
    judge.loop.optimizer.param_groups[0]["lr"] = 0.0
    found = list(
        adversarial.train(
            policy, tokenizer, texts, TEXTS[:2], config, LORA, SAMPLING, players=players
        )
    )
    odds = [m["log_odds"] for m in found]
    assert sum(odds[-4:]) / 4 > sum(odds[:2]) / 2 + 1
    assert found[-1]["kl"] > 0.1


def test_warm_up_learns_the_texts(new_model, tokenizer):
    policy = lora.add_adapter(new_model(), LORA)
    config = dataclasses.replace(SMALL, lr=1e-2)
    found = [m["likelihood_loss"] for m in adversarial.warm_up(policy, tokenizer, TEXTS, config, 8)]
    assert len(found) == 8 and found[-1] < 0.7 * found[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "praise"}, "unknown reward 'praise'; there are: probability, log-odds, none"),
        ({"batch_size": 4, "minibatches": 3}, "each minibatch needs at least 2 texts"),
        ({"smoothing": 0.5}, "smoothing is 0.5; it must be below 0.5"),
        ({"beta": -1.0}, "beta is -1.0; it must be a number at least 0"),
        ({"steps": 0}, "steps is 0; it must be a number above 0"),
    ],
)
def test_settings_that_cannot_run_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        AdversarialConfig(**changes)


def test_texts_that_cannot_be_used_are_one_line(new_model, tokenizer):
    with pytest.raises(UserError, match="3 real texts and 2 held out; give a batch of each"):
        run(new_model, tokenizer, texts=TEXTS[:3], held=TEXTS[:2])
    with pytest.raises(UserError, match="8 real texts and 0 held out"):
        run(new_model, tokenizer, held=[])
    long = [*TEXTS, Text("long-one", "Tom has 1 apples." * 60, " Tom")]
    with pytest.raises(UserError, match="long-one"):
        run(new_model, tokenizer, texts=long)


def test_a_loss_that_is_not_finite_is_named(new_model, tokenizer):
    policy, players = new(new_model(), tokenizer)
    sampled, real, fake = play(policy, tokenizer)
    players.discriminator.head.linear.bias.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="discriminator, round 3: loss is nan"):
        discriminator.learn(players.discriminator, real, fake, SMALL, 3)
    ref = adversarial.reference_logp(policy, sampled, SMALL)
    with pytest.raises(NumericalError, match="generator, round 0: loss is nan"):
        nan = torch.full((4,), float("nan"))
        adversarial.learn_to_please(policy, players.generator, sampled, nan, ref, SMALL)
