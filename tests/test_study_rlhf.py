"""The study of RLHF in small: what is shared by its arms, what they measure, what they count."""

from __future__ import annotations

import math

import pytest
import torch

from reft_lib import dpo, lora, ppo, rollout, samples, study_rlhf
from reft_lib.bench import Bench, one_thread
from reft_lib.config import LoraSettings, PpoConfig, RunConfig, SampleConfig, SftConfig
from reft_lib.method_settings_rlhf import RaterConfig, RewardConfig
from reft_lib.preferences import GoldReward, Pair
from reft_lib.study_rlhf import CONTROLS, METHODS, STUDY

TINY = RunConfig(
    name="tiny",
    n_train=4,
    n_validation=4,
    n_test=4,
    n_hard=2,
    warmup_epochs=2,
    bf16=False,
    lora=LoraSettings(rank=4, alpha=8),
    sft=SftConfig(epochs=2, batch_size=2, lr=1e-2),
    ppo=PpoConfig(steps=3, batch_size=4, ppo_epochs=1, minibatches=2, lr=1e-2, eval_every=2),
    sample=SampleConfig(max_new_tokens=6, batch_size=8, votes=2),
)
SMALL = {"samples": 3, "steps": 2, "epochs": 2, "lr": 1e-2, "undecided": 0.0}
"""An untrained model is never right, so that no pair of its responses is clear."""
ARMS = {
    name: {key: SMALL.get(key, x) for key, x in settings.items()}
    for name, settings in {**METHODS, **CONTROLS}.items()
}


@pytest.fixture
def bench(small_world) -> Bench:
    return Bench(seed=0, fmt="ncot", config=TINY)


def run(bench, name, **changes):
    with one_thread():
        return STUDY.run(bench, {**ARMS[name], **changes})


def lines(bench, split="train", phase="train"):
    return [x for x in bench.lines if x["split"] == split and x.get("phase") == phase]


def test_arms_differ_in_what_they_name():
    assert set(STUDY.arms) == {*METHODS, *CONTROLS} and not set(METHODS) & set(CONTROLS)
    asked = [{k: x for k, x in s.items() if k in study_rlhf.ASKED} for s in STUDY.arms.values()]
    assert all(one == study_rlhf.ASKED for one in asked[:-1])  # the same pairs but for the noise
    assert {**asked[-1], "flip": 0.0} == study_rlhf.ASKED and asked[-1]["flip"] > 0
    ppo_arm, betas = METHODS["ppo"], CONTROLS["betas"]
    assert ppo_arm["beta"] not in betas["beta"] and 0.0 in betas["beta"]
    assert {**betas, "beta": 0, "kind": ""} == {**ppo_arm, "beta": 0, "kind": ""}


def test_ppo_follows_the_learned_reward_and_shows_the_gold_one(bench, tokenizer):
    found = run(bench, "ppo")
    steps = lines(bench)
    assert len(steps) == 2 and {x["beta"] for x in steps} == {METHODS["ppo"]["beta"]}
    for x in steps:
        assert x["reward"] == pytest.approx(x["proxy"]) and math.isfinite(x["gold"])
    assert steps[0]["kl"] == 0.0 and steps[1]["kl"] != 0.0
    assert {x["split"] for x in bench.lines} == {"train", "validation", "held", "test", "hard"}
    for name in ("validation", "test", "hard", "held_accuracy", "ceiling_accuracy"):
        assert 0 <= found[name] <= 1, name
    assert found["labels"] == 4 and found["pairs"] > 0 and found["gold_spread"] > 0
    sampled_by_ppo = round(4 * sum(x["length"] for x in steps))
    assert found["sampled_tokens"] > sampled_by_ppo
    warm = sum(
        len(tokenizer(e.ncot + "\nTherefore, the answer is: " + e.answer)["input_ids"]) + 1
        for e in bench.splits["train"]
    )
    assert found["trained_tokens"] == 2 * warm + sampled_by_ppo  # the policy's, no reward model's


def test_what_the_reward_model_is_held_against_is_recorded(bench):
    found = run(bench, "noisy")
    (held,) = (x for x in bench.lines if x["split"] == "held")
    p = held["p"]
    assert len(p) == found["held"] > 0
    agreed = sum((x > 0.5) + 0.5 * (x == 0.5) for x in p) / len(p)
    assert found["held_accuracy"] == pytest.approx(agreed)
    assert found["held_loss"] == pytest.approx(-sum(map(math.log, p)) / len(p), abs=1e-3)
    rows = lines(bench, phase="reward model")
    assert [x["step"] for x in rows] == [1, 2]
    assert "test" not in found and not lines(bench)


def test_every_beta_begins_at_the_same_policy(bench):
    run(bench, "betas", beta=[0.0, 50.0, 0.0])
    steps = lines(bench)
    assert [(x["step"], x["beta"]) for x in steps] == [
        (1, 0.0), (2, 0.0), (1, 50.0), (2, 50.0), (1, 0.0), (2, 0.0),
    ]  # fmt: skip
    first = [{k: x[k] for k in ("proxy", "gold", "kl", "length")} for x in steps[::2]]
    assert first[0] == first[1] == first[2] and first[0]["kl"] == 0.0
    later = [x["grad_norm"] for x in steps[1::2]]
    assert later[0] == later[2] != later[1]


def test_the_control_follows_the_gold_reward_itself(bench):
    found = run(bench, "gold")
    for x in lines(bench):
        assert x["proxy"] * found["gold_spread"] == pytest.approx(x["gold"], abs=1e-5)
    assert "held_accuracy" not in found and "test" not in found


def test_dpo_learns_from_the_training_part_of_the_same_pairs(bench, tokenizer, monkeypatch):
    read = []
    plain = dpo.dpo_steps

    def watched(policy, tok, pairs, *rest):
        read.append(list(pairs))
        return plain(policy, tok, pairs, *rest)

    monkeypatch.setattr(dpo, "dpo_steps", watched)
    found = run(bench, "dpo")
    steps = lines(bench)
    assert steps[1]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # after the place at step 0
    policy, _ = bench.warm_policy()
    asked = study_rlhf.ask(bench, policy, tokenizer, ARMS["dpo"])
    training, held = samples.split(asked.pairs, RewardConfig().held_out, bench.seed)
    assert read == [training] and found["held"] == len(held)
    placed = [x["step"] for x in steps if "gold" in x]
    assert placed[0] == 0 and placed[-1] == steps[-1]["step"] == max(x["step"] for x in steps)
    texts = {(p.example.id, text) for p in training for text in (p.chosen, p.rejected)}
    tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for _, text in texts)
    assert study_rlhf.read_tokens(tokenizer, training) == tokens
    assert {"validation", "test", "hard", "held_accuracy"} <= set(found)


def test_pairs_that_are_too_close_are_left_out(bench):
    policy, tokenizer = bench.warm_policy()
    every = study_rlhf.ask(bench, policy, tokenizer, ARMS["gold"]).pairs
    far = study_rlhf.ask(bench, policy, tokenizer, {**ARMS["gold"], "undecided": 9.0}).pairs
    assert every and not far


def test_a_policys_place_is_what_ppo_would_measure(bench, monkeypatch):
    policy, tokenizer = bench.warm_policy()
    start = study_rlhf.place(bench, policy, tokenizer, RaterConfig())
    assert start["kl"] == pytest.approx(0.0, abs=1e-4)
    generator = torch.Generator().manual_seed(3)
    for p in lora.trainable_parameters(policy):
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    kept, plain = [], rollout.sample

    def watched(*arguments, **options):
        kept.append(plain(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(rollout, "sample", watched)
    found = study_rlhf.place(bench, policy, tokenizer, RaterConfig())
    examples = bench.splits["train"]
    graded = GoldReward("ncot")(kept[0].texts, examples)
    head = ppo.begin(policy, TINY.ppo).head
    summary = ppo.summarise(ppo.gather(policy, head, kept[0], graded, TINY.ppo))
    assert abs(found["kl"]) > 0.01
    assert found["kl"] == pytest.approx(summary["kl"], rel=1e-3)
    assert found["gold"] == pytest.approx(summary["reward"])
    assert found["accuracy"] == summary["accuracy"] and found["length"] == summary["length"]


def test_pairs_hang_on_the_seed_alone(bench):
    policy, tokenizer = bench.warm_policy()
    one, two = (study_rlhf.ask(bench, policy, tokenizer, ARMS["ppo"]) for _ in range(2))
    assert one == two and all(isinstance(p, Pair) for p in one.pairs)
    noisy = study_rlhf.ask(bench, policy, tokenizer, {**ARMS["ppo"], "flip": 0.4})
    shown = [[{p.chosen, p.rejected} for p in asked.pairs] for asked in (one, noisy)]
    assert shown[0] == shown[1]
