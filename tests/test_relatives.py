"""GRPO, RLOO and REINFORCE in their loop: groups, gradients, one task they can learn."""

from __future__ import annotations

import dataclasses
import json
import statistics

import pytest
import torch

from reft_lib import lora, ppo, relatives, rollout
from reft_lib.config import LoraSettings, PpoConfig, SampleConfig
from reft_lib.errors import NumericalError, UserError
from reft_lib.loop import Loop
from reft_lib.method_settings import RelativesConfig
from reft_lib.rewards import Graded

LORA = LoraSettings(rank=8, alpha=16)
KINDS = ("grpo", "rloo", "reinforce")
SAMPLING = SampleConfig(max_new_tokens=8)


def settings(kind, **changes):
    small = {"group_size": 4, "steps": 2, "batch_size": 8, "micro_batch": 3, "lr": 1e-3}
    return RelativesConfig(kind=kind, **{**small, **changes})


def grade(texts, examples):
    """Reward responses by their length, so that rewards differ."""
    return [Graded(len(t) % 3 / 2, t or None, len(t) % 3 == 2) for t in texts]


def with_e(texts, examples):
    return [Graded(float("e" in t), t or None, "e" in t) for t in texts]


def alternate(texts, examples):
    """Reward every other response, whatever it says: every group has both kinds."""
    return [Graded(float(i % 2), t or None, i % 2 == 1) for i, t in enumerate(texts)]


def adapted(model, scale=0.1):
    """Put an adapter on that has moved away from the reference."""
    policy = lora.add_adapter(model, LORA)
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += scale * torch.randn(p.shape, generator=generator)
    return policy


def experience(policy, tokenizer, examples, config, reward=grade):
    """Sample two questions' groups, grade and gather them."""
    sampled, graded = relatives.sample_groups(
        policy, tokenizer, examples[: config.questions], "ncot", reward, config.group_size,
        SAMPLING, torch.Generator().manual_seed(0),
    )  # fmt: skip
    return relatives.gather(policy, sampled, graded, config)


def test_settings_that_could_not_run_are_refused():
    with pytest.raises(UserError, match="unknown kind 'ppo'; there are: grpo, rloo, reinforce"):
        RelativesConfig(kind="ppo")
    for kind in ("grpo", "rloo"):
        with pytest.raises(UserError, match=f"group_size is 1; {kind} compares"):
            RelativesConfig(kind=kind, group_size=1)
    with pytest.raises(UserError, match="batch_size is 10.*multiple of group_size, which is 4"):
        RelativesConfig(group_size=4, batch_size=10)
    with pytest.raises(UserError, match="at least 2"):
        RelativesConfig(kind="reinforce", group_size=1, batch_size=1)
    with pytest.raises(UserError, match="clip is 0"):
        RelativesConfig(clip=0)
    assert RelativesConfig(group_size=8, batch_size=256).questions == 32
    assert RelativesConfig(kind="reinforce", group_size=1, beta=0.0).questions == 256


def test_a_group_is_responses_to_one_question_and_graded_with_its_example(
    new_model, tokenizer, examples
):
    seen = []

    def reward(texts, batch):
        seen.append([e.id for e in batch])
        return with_e(texts, batch)

    policy, config = lora.add_adapter(new_model(), LORA), settings("grpo")
    exp = experience(policy, tokenizer, examples, config, reward)
    assert seen == [["made-0"] * 4 + ["made-1"] * 4]
    for row, wanted in enumerate(seen[0]):
        question = next(e.question for e in examples if e.id == wanted)
        assert question in tokenizer.decode(exp.rollout.sequences[row])
    assert len(set(exp.rollout.texts[:4])) > 1  # sampled each for itself


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_put_together_as_the_equations_say(new_model, tokenizer, examples, kind):
    config = settings(kind, beta=0.3)
    exp = experience(adapted(new_model()), tokenizer, examples, config)
    mask = exp.rollout.response_mask
    scores = [g.reward for g in exp.graded]
    if kind != "grpo":
        for i in range(8):
            n = int(mask[i].sum())
            scores[i] -= 0.3 * sum(float(exp.old_logp[i, t] - exp.ref_logp[i, t]) for t in range(n))
    assert (exp.old_logp - exp.ref_logp).abs().max() > 0.01
    assert exp.scores.tolist() == pytest.approx(scores, abs=1e-5)
    for i, r in enumerate(scores):
        group = scores[i // 4 * 4 : i // 4 * 4 + 4]
        if kind == "grpo":
            wanted = (r - statistics.fmean(group)) / (statistics.stdev(group) + 1e-4)
        elif kind == "rloo":
            wanted = r - (sum(group) - r) / 3
        else:
            wanted = r - statistics.fmean(scores)
        assert float(exp.advantages[i]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_first_step_meets_ratios_of_exactly_one(new_model, tokenizer, examples, epochs):
    """Read again where a second pass will need them; where there is none, as they were sampled."""
    policy = adapted(new_model())
    config = settings("grpo", lr=1e-30, update_epochs=epochs)
    exp = experience(policy, tokenizer, examples, config)
    (rows,) = ppo.split_rows(exp.rollout, 1)
    for some in rows.split(config.micro_batch):
        part = rollout.minibatch(exp.rollout, some)
        logp, _ = rollout.score(policy, part)
        old = exp.old_logp[some, : logp.shape[1]]
        assert torch.equal(logp, old) or epochs == 1
        torch.testing.assert_close(logp, old, rtol=1e-4, atol=1e-5)
    stats = relatives.update(policy, relatives.begin(policy, config), exp, rows, config)
    assert stats["ratio_max"] == 1 and stats["clip_fraction"] == stats["approx_kl"] == 0
    assert stats["policy_loss"] == pytest.approx(-float(exp.advantages.mean()), abs=1e-6)
    assert stats["kl_loss"] > 0 and stats["grad_norm"] > 0


@pytest.mark.parametrize(
    ("kind", "per"), [("grpo", "sequence"), ("grpo", "token"), ("rloo", "sequence")]
)
def test_micro_batches_add_up_to_the_whole(new_model, tokenizer, examples, kind, per):
    grads = []
    for micro in (8, 3, 1):
        config, policy = settings(kind, micro_batch=micro, mean_per=per), adapted(new_model())
        exp = experience(policy, tokenizer, examples, config)
        exp.old_logp = exp.old_logp + 0.1  # away from ratio 1
        relatives.backward(policy, exp, torch.arange(8), config)
        grads.append([p.grad for p in lora.trainable_parameters(policy)])
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_adapter_alone(new_model, tokenizer, examples, kind):
    policy, config = lora.add_adapter(new_model(), LORA), settings(kind)
    before = {n: p.clone() for n, p in policy.named_parameters()}
    exp = experience(policy, tokenizer, examples, config, alternate)
    relatives.update(policy, relatives.begin(policy, config), exp, torch.arange(8), config)
    for name, p in policy.named_parameters():
        if ".lora_B." in name:  # A's gradient is 0 as long as B is
            assert p.grad.abs().max() > 0 and not torch.equal(p, before[name])
        elif ".lora_A." not in name:
            assert p.grad is None and torch.equal(p, before[name])
    assert len(relatives.begin(policy, config).optimizer.param_groups[0]["params"]) == sum(
        ".lora_" in name for name in before
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_can_be_learnt(new_model, tokenizer, examples, kind):
    """The same responses again and again: rewarded ones become likelier, the others less so."""
    policy, config = lora.add_adapter(new_model(), LORA), settings(kind, lr=5e-3, beta=0.0)
    exp = experience(policy, tokenizer, examples, config, alternate)
    good = exp.advantages > 0
    assert good.sum() == 4
    loop = relatives.begin(policy, config)
    for _ in range(8):
        relatives.update(policy, loop, exp, torch.arange(8), config)
    with torch.no_grad():
        logp, _ = rollout.score(policy, exp.rollout)
    gain = ((logp - exp.old_logp) * exp.rollout.response_mask).sum(dim=1)
    assert gain[good].mean() > 0.2 and gain[exp.advantages < 0].mean() < -0.2


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_flat_groups_are_counted_and_teach_nothing(new_model, tokenizer, examples, kind):
    def reward(texts, batch):
        """Reward all of the first question alike, and one of the second."""
        return [Graded(float(i < 4 or i == 6), t, i < 4) for i, t in enumerate(texts)]

    policy, config = adapted(new_model()), settings(kind, beta=0.0)
    exp = experience(policy, tokenizer, examples, config, reward)
    assert relatives.summarise(exp, 4)["flat_groups"] == 0.5
    assert not exp.advantages[:4].any() and exp.advantages[4:].all()
    relatives.backward(policy, exp, torch.arange(4), config)
    assert not any(p.grad.any() for p in lora.trainable_parameters(policy))


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_beta_holds_the_policy_back(new_model, tokenizer, examples, kind):
    def kl_after(beta):
        policy = lora.add_adapter(new_model(), LORA)
        config = settings(kind, steps=8, batch_size=32, micro_batch=32, lr=1e-2, beta=beta)
        *_, last = relatives.train(policy, tokenizer, examples, "ncot", with_e, config, SAMPLING)
        return last["kl_k3"]

    assert kl_after(1.0) < 0.4 * kl_after(0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_is_rewarded(new_model, tokenizer, examples, kind):
    """Responses with an "e" in them: some have one by chance, in the end nearly all."""
    policy = lora.add_adapter(new_model(), LORA)
    config = RelativesConfig(kind, group_size=8, steps=18, batch_size=64, lr=2e-2, beta=0.0)
    history = list(relatives.train(policy, tokenizer, examples, "ncot", with_e, config, SAMPLING))
    assert [m["step"] for m in history] == list(range(1, 19))
    late = [m["accuracy"] for m in history[-4:]]
    assert history[0]["accuracy"] < 0.7 and sum(late) / 4 > 0.8, late


def test_metrics_are_ppos_where_they_mean_the_same(new_model, tokenizer, examples):
    """REINFORCE with one response a question asks and samples what PPO does."""
    shared = {"steps": 1, "batch_size": 8, "lr": 1e-3}
    policy = lora.add_adapter(new_model(), LORA)
    of_ppo = next(
        ppo.ppo(policy, tokenizer, examples, "ncot", grade, PpoConfig(**shared), SAMPLING, 3)
    )
    for kind, group_size in (("reinforce", 1), ("grpo", 4)):
        policy = lora.add_adapter(new_model(), LORA)
        config = RelativesConfig(kind, group_size, **shared)
        found = next(
            relatives.train(policy, tokenizer, examples, "ncot", grade, config, SAMPLING, 3)
        )
        before_updates = {*list(of_ppo)[:9]}
        assert "ended" in before_updates and before_updates <= set(found)
        missing = {n for n in set(of_ppo) - set(found) if "value" not in n}
        assert missing <= {"explained_variance", "ratio_mean", "ratio_max", "clip_fraction"}
        assert kind != "grpo" or missing == {"explained_variance"}
        if group_size == 1:
            for name in before_updates:
                assert found[name] == pytest.approx(of_ppo[name], rel=1e-5), name


@pytest.mark.parametrize("kind", ["grpo", "reinforce"])
def test_a_restored_loop_goes_on_where_it_stopped(new_model, tokenizer, examples, kind):
    config = settings(kind, steps=3, batch_size=12, minibatches=2, update_epochs=2)

    def run(policy, loop, steps, seed=1):
        changed = dataclasses.replace(config, steps=steps)
        found = []
        for m in relatives.train(
            policy, tokenizer, examples, "ncot", grade, changed, SAMPLING, seed, loop=loop
        ):
            m.pop("step_seconds")
            found.append(m)
            torch.rand(7)  # what an evaluation in between might do
        return found

    def fresh(seed) -> tuple[object, Loop]:
        policy = lora.add_adapter(new_model(), LORA)
        return policy, relatives.begin(policy, config, seed)

    policy, loop = fresh(1)
    whole = run(policy, loop, 3)
    assert repr(whole) != repr(run(*fresh(2), 3))

    policy, loop = fresh(1)
    first = run(policy, loop, 1)
    tensors, notes = loop.state()
    tensors = {n: x.clone() for n, x in tensors.items()}
    kept = [p.detach().clone() for p in lora.trainable_parameters(policy)]
    other, again = fresh(5)
    for p, x in zip(lora.trainable_parameters(other), kept, strict=True):
        p.data.copy_(x)
    again.restore(tensors, json.loads(json.dumps(notes)))
    assert repr(first + run(other, again, 3)) == repr(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_stops_and_keeps_the_policy(new_model, tokenizer, examples, kind):
    policy = lora.add_adapter(new_model(), LORA)
    before = [p.clone() for p in lora.trainable_parameters(policy)]
    reward = lambda texts, _: [Graded(float("inf"), "1", False) for _ in texts]  # noqa: E731
    wanted = rf"{kind.upper()} step 1: loss is nan; lower relatives\.lr"
    with pytest.raises(NumericalError, match=wanted):
        next(relatives.train(policy, tokenizer, examples, "ncot", reward, settings(kind), SAMPLING))
    for a, b in zip(before, lora.trainable_parameters(policy), strict=True):
        assert torch.equal(a, b)
