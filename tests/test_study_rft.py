"""RFT against SFT by the number of examples, in small: who reads what, nested and disjoint sets."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_compare import TINY

from reft_lib import bench, data, evaluate, lora, runlog, study, study_rft
from reft_lib.bench import Bench
from reft_lib.errors import UserError
from reft_lib.rewards import AnswerReward
from reft_lib.rft_data import reward_from
from reft_lib.rft_graders import REFT, read_answer

SMALL = dataclasses.replace(TINY, fmt="pcot")


@pytest.fixture
def small(small_world) -> Bench:
    return Bench(0, config=SMALL)


def test_every_arm_says_what_it_needs() -> None:
    arms = study_rft.ARMS
    assert {f"{m}-{n}" for m in ("sft", "rft") for n in (16, 64, 256, 1024)} < set(arms)
    assert study_rft.STUDY.arms == arms and study_rft.STUDY.fmt == "pcot"
    assert all(arms[f"rft-{n}"]["examples"] == arms[f"sft-{n}"]["examples"] for n in (16, 1024))


def test_examples_are_nested_disjoint_and_drawn_by_seed() -> None:
    one = Bench(0)
    warm, most = study_rft.chosen(one, 1024)
    assert len(warm) == study_rft.WARM and len({e.id for e in warm + most}) == len(warm) + 1024
    assert not {e.question for e in warm} & {e.question for e in most}
    for n in study_rft.SIZES:
        same_warm, some = study_rft.chosen(one, n)
        assert some == most[:n] and same_warm == warm
    other_warm, others = study_rft.chosen(Bench(1), 1024)
    assert other_warm == warm and others[:16] != most[:16]
    assert study_rft.chosen(one, 0) == (one.splits["train"],) * 2
    with pytest.raises(UserError, match="5000 examples are wanted; .* there are 1680"):
        study_rft.chosen(one, 5000)


def without_annotations(monkeypatch, kept: set[str]) -> None:
    """Take the annotations of all but some questions away."""
    load = data.load

    def bare(dataset, split):
        rows = load(dataset, split)
        nothing = {"ncot": None, "pcot": None, "meta": {}}
        return [e if e.id in kept else dataclasses.replace(e, **nothing) for e in rows]

    monkeypatch.setattr(data, "load", bare)


def test_rft_reads_no_annotation_of_its_examples(small, monkeypatch) -> None:
    warm, examples = study_rft.chosen(small, 2)
    assert small.splits  # loaded while all have annotations
    without_annotations(monkeypatch, {e.id for e in warm})
    arm = {"method": "rft", "examples": 2, "steps": 2, "grader": "partial"}
    found = study_rft.run(small, arm)
    assert found["labels"] == len(warm) and found["answers"] == len(examples) == 2
    assert found["graded"] == 2 * SMALL.ppo.batch_size
    assert found["error_rate"] == 0 and 0 <= found["reward_last"] <= 1
    for arm in (
        {"method": "rft", "examples": 2, "steps": 2, "grader": "alike"},
        {"method": "sft", "examples": 2, "epochs": 1, "lrs": [1e-2]},
    ):
        with pytest.raises(UserError, match="pcot"):
            study_rft.run(small, arm)


def test_figures_of_each_method(small) -> None:
    small_tokens = study_rft.targets(small, small.base()[1], study_rft.chosen(small, 2)[0])
    none = study_rft.run(Bench(0, config=SMALL), {"method": "none", "examples": 2})
    sft = study_rft.run(small, {"method": "sft", "examples": 2, "epochs": 6, "lrs": [1e-2, 1e-3]})
    assert none["trained_tokens"] == SMALL.warmup_epochs * small_tokens < sft["trained_tokens"]
    assert none["sampled_tokens"] == sft["sampled_tokens"] == 0
    assert (none["labels"], sft["labels"]) == (2, 4)
    assert none["delivered"] == sft["delivered"] == none["validation"]
    steps = [x["step"] for x in small.lines if x["split"] == "validation"]
    assert steps == [0, 2, 4, 6] * 2  # one batch an epoch, three validations after the first
    assert sft["lr"] in (1e-2, 1e-3)
    learnt = study_rft.targets(small, small.base()[1], study_rft.chosen(small, 2)[1])
    assert sft["trained_tokens"] == none["trained_tokens"] + 2 * 6 * learnt
    at = Bench(0, config=SMALL)
    rft = study_rft.run(at, {"method": "rft", "examples": 0, "steps": 2, "grader": "partial"})
    assert (rft["labels"], rft["answers"]) == (SMALL.n_train, 0)
    lengths = [x["length"] for x in at.lines if x["split"] == "train"]
    assert rft["sampled_tokens"] == round(SMALL.ppo.batch_size * sum(lengths)) > 0
    logged = [x for x in at.lines if x["split"] == "train"]
    assert all(x["reward_mean"] == pytest.approx(x["reward"]) for x in logged)
    assert {"right_reward_mean", "near_reward_mean", "error_rate"} <= set(logged[0])


def test_with_refts_reward_as_a_grader_it_is_reft(small, monkeypatch, tmp_path) -> None:
    """So the arm ``rft`` differs from ReFT by its grader and by nothing else."""
    made = {
        "grader": lambda name, at: reward_from(REFT, read=read_answer(at.fmt)),
        "answer": lambda name, at: AnswerReward(at.fmt, partial=0.1),
    }
    monkeypatch.setattr(study_rft, "graded", lambda steps, reward: steps)
    monkeypatch.setattr(study_rft, "rewards_of", lambda *arguments: {})
    losses = {}
    for name, reward_of in made.items():
        monkeypatch.setattr(study_rft, "reward_of", reward_of)
        at = Bench(0, config=SMALL)
        study_rft.run(at, {"method": "rft", "examples": 0, "steps": 3, "grader": "partial"})
        losses[name] = [x["policy_loss"] for x in at.lines if x["split"] == "train"]
    assert losses["grader"] == losses["answer"] and len(losses["grader"]) == 3


def test_sft_keeps_the_better_learning_rate(small, monkeypatch) -> None:
    """Both begin with the same weights; the policy of the better one is given back."""
    begun, accuracies = [], iter([0.3, 0.2, 0.3, 0.5, 0.3, 0.4])

    def accuracy(self, policy, *arguments):
        begun.append(torch.cat([p.detach().flatten() for p in lora.trainable_parameters(policy)]))
        return next(accuracies)

    monkeypatch.setattr(Bench, "accuracy", accuracy)
    warm, examples = study_rft.chosen(small, 2)
    policy, tokenizer = small.warm_policy(warm)
    settings = {"epochs": 1, "lrs": [1e-3, 1e-2, 1e-1]}
    best, found = study_rft.best_sft(small, policy, tokenizer, examples, settings)
    assert found == {"validation": 0.5, "best_step": 1, "lr": 1e-2}
    assert torch.equal(begun[0], begun[2]) and torch.equal(begun[0], begun[4])
    kept = torch.cat([p.detach().flatten() for p in lora.trainable_parameters(best)])
    assert torch.equal(kept, begun[3]) and not torch.equal(kept, begun[5])


def test_only_the_fresh_adapter_is_trained(small, monkeypatch) -> None:
    trained, fit = [], Bench.fit

    def watched(self, policy, *arguments, **options):
        trained.append({n for n, p in policy.named_parameters() if p.requires_grad})
        assert all((p == 0).all() for n, p in policy.named_parameters() if "lora_B" in n)
        return fit(self, policy, *arguments, **options)

    monkeypatch.setattr(Bench, "fit", watched)
    for arm in (
        {"method": "sft", "epochs": 1, "lrs": [1e-2]},
        {"method": "rft", "steps": 1, "grader": "partial"},
    ):
        study_rft.run(Bench(0, config=SMALL), {"examples": 2, **arm})
    assert trained[0] == trained[1] and all("lora_" in name for name in trained[0])


def test_units_are_recorded_and_read(small_world, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(bench, "preset", lambda name, **changes: SMALL)
    tiny = dataclasses.replace(
        study_rft.STUDY,
        arms={
            "delivered": {"method": "none", "examples": 2},
            "sft-2": {"method": "sft", "examples": 2, "epochs": 2, "lrs": [1e-2]},
            "rft-2": {"method": "rft", "examples": 2, "steps": 2, "grader": "partial"},
        },
    )
    study.run_study(tiny, seeds=[0], out=tmp_path)
    found = study.summaries(tmp_path).set_index("arm")
    assert list(found.index) == ["delivered", "rft-2", "sft-2"]
    assert found["test"].between(0, 1).all() and found["delivered"].nunique() == 1
    lines = runlog.read_runs(tmp_path, keys=("arm", "seed"))
    assert set(lines[lines.arm == "rft-2"].split) == {"train", "validation", "test", "hard"}


@pytest.mark.parametrize("arm", ["sft", "rft"])
def test_the_test_is_read_once_and_last(small, monkeypatch, arm) -> None:
    read, answer = [], evaluate.answer

    def watched(model, tokenizer, some, *arguments, **options):
        read.append(some[0].id.split("-")[0])
        return answer(model, tokenizer, some, *arguments, **options)

    monkeypatch.setattr(evaluate, "answer", watched)
    settings = {"sft": {"method": "sft", "examples": 2, "epochs": 2, "lrs": [1e-2]}}
    settings["rft"] = {"method": "rft", "examples": 2, "steps": 2, "grader": "partial"}
    study_rft.run(small, settings[arm])
    assert read[-2:] == ["test", "hard"] and set(read[:-2]) == {"validation"}


def test_a_batch_of_one_grader_can_be_learnt(new_model, tokenizer, examples, monkeypatch) -> None:
    """PPO against grader JSON raises what the grader pays for: here, long responses."""
    from reft_lib import ppo
    from reft_lib.config import LoraSettings, PpoConfig, SampleConfig

    spec = {
        "type": "python",
        "name": "length",
        "source": "def grade(sample, item):\n    return min(1.0, len(sample['output_text']) / 60)",
    }
    torch.manual_seed(0)
    policy = lora.add_adapter(new_model(), LoraSettings(rank=8, alpha=16))
    config = PpoConfig(steps=20, batch_size=32, ppo_epochs=2, lr=1e-2, beta=0.0)
    reward = reward_from(spec)
    sampling = SampleConfig(max_new_tokens=8)
    found = [
        m["reward"] for m in ppo.ppo(policy, tokenizer, examples, "ncot", reward, config, sampling)
    ]
    assert sum(found[-3:]) / 3 > sum(found[:3]) / 3 + 0.1
