"""The study of PPO's relatives in small: fair arms, counted tokens, noise on the same rollouts."""

from __future__ import annotations

import math

import pytest

from reft_lib import prompts, study_relatives, unit
from reft_lib.bench import Bench, one_thread
from reft_lib.config import PRESETS, LoraSettings, PpoConfig, RunConfig, SampleConfig, SftConfig
from reft_lib.method_settings import RelativesConfig
from reft_lib.runlog import read_metrics
from reft_lib.study_relatives import GROUPS, METHODS, NOISE, STUDY

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
ARMS = {
    "ppo": {"kind": "ppo", "group_size": 1, "steps": 3, "minibatches": 2, "lr": 1e-2},
    "grpo": {"kind": "grpo", "group_size": 4, "steps": 2, "minibatches": 1, "lr": 1e-3},
    "rloo": {"kind": "rloo", "group_size": 2, "steps": 2, "minibatches": 1, "lr": 1e-3},
    "reinforce": {"kind": "reinforce", "group_size": 1, "steps": 2, "minibatches": 1, "lr": 1e-3},
}


@pytest.fixture
def bench(small_world) -> Bench:
    return Bench(seed=0, fmt="ncot", config=TINY)


def test_arms_are_fair():
    """As many responses a step, the same rewards and penalty; what differs stands in the arm."""
    nano = PRESETS["nano"]
    config = RunConfig(**{**vars(nano), "fmt": "pcot"})
    ppo = study_relatives.of_ppo(config, METHODS["ppo"])
    assert {**vars(ppo), "beta": nano.beta_programs} == {
        **vars(nano.ppo), "beta": nano.beta_programs,
    }  # fmt: skip
    for name, settings in {**METHODS, **GROUPS}.items():
        if name == "ppo":
            continue
        chosen = study_relatives.of(config, settings)
        assert isinstance(chosen, RelativesConfig) and chosen.update_epochs == 1
        for shared in ("batch_size", "beta", "partial_reward", "clip", "grad_clip", "eval_every"):
            assert getattr(chosen, shared) == getattr(ppo, shared), (name, shared)
        for own in ("kind", "group_size", "steps", "lr", "minibatches"):
            assert getattr(chosen, own) == settings[own]
    assert set(STUDY.arms) == {*METHODS, *GROUPS, "noise"}
    sizes = {settings["group_size"] for settings in GROUPS.values()}
    assert METHODS["grpo"]["group_size"] not in sizes and len(sizes) == len(GROUPS)
    alike = [{**settings, "group_size": 0} for settings in GROUPS.values()]
    assert all(settings == {**METHODS["grpo"], "group_size": 0} for settings in alike)


def test_the_ppo_arm_is_the_recorded_second_phase(bench, tmp_path):
    with one_thread():
        wanted = unit.run_unit(TINY, tmp_path / "unit")["reft"]
        found = STUDY.run(bench, ARMS["ppo"])
    assert found["validation"] == wanted["validation"] and found["best_step"] == wanted["best_step"]
    assert (found["test"], found["hard"]) == (wanted["test_top1"], wanted["hard_top1"])
    logged = read_metrics(tmp_path / "unit")
    logged = logged[(logged["method"] == "reft") & (logged["split"] == "train")]
    mine = [line for line in bench.lines if line["split"] == "train"]
    for name in ("reward", "kl", "entropy", "policy_loss", "value_loss", "grad_norm"):
        assert [line[name] for line in mine] == pytest.approx(list(logged[name])), name


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_trains_tests_and_counts(bench, tokenizer, name):
    found = STUDY.run(bench, ARMS[name])
    steps = [line for line in bench.lines if line["split"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, ARMS[name]["steps"] + 1))
    minutes = [line["minutes"] for line in bench.lines if "minutes" in line]
    assert len(minutes) == len(steps) + 1 and minutes == sorted(minutes) and minutes[0] > 0
    assert ("flat_groups" in steps[0]) == (name != "ppo")
    assert found["graded"] == 4 * ARMS[name]["steps"] and found["labels"] == 4
    assert found["sampled_tokens"] == round(sum(4 * line["length"] for line in steps))
    targets = [prompts.target(e, "ncot") for e in bench.splits["train"]]
    warm = sum(len(tokenizer(t)["input_ids"]) + 1 for t in targets)  # and the end of sequence
    assert found["trained_tokens"] == 2 * warm + found["sampled_tokens"]
    for split in ("validation", "test", "hard"):
        assert 0 <= found[split] <= 1
    assert [line["split"] for line in bench.lines][-2:] == ["test", "hard"]


def test_noise_is_measured_for_every_method_on_the_same_policy(bench):
    small = {**NOISE, "group_size": 2, "questions": 2, "batches": 3, "steps": 2}
    found = STUDY.run(bench, small)
    for name in (*METHODS, "none"):
        assert found[f"{name}_trace"] > 0 and math.isfinite(found[f"{name}_signal"]), name
    assert len(found) == 2 * 5 and bench.trained_minutes == pytest.approx(bench.minutes, abs=0.1)
    assert not [line for line in bench.lines if line["split"] in ("test", "hard")]
    assert [line["step"] for line in bench.lines] == [1, 2]
