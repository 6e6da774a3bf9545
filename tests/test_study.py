"""Studies: arms and seeds with run logs of their own, and the bench that they share."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from test_compare import TINY

from reft_lib import (
    bench,
    evaluate,
    lora,
    phases,
    ppo,
    resume,
    runlog,
    studies,
    study,
    task,
    unit,
)
from reft_lib.bench import Bench
from reft_lib.errors import UserError
from reft_lib.rewards import AnswerReward
from reft_lib.study import Study

SMALL = dataclasses.replace(TINY, fmt="pcot")


@pytest.fixture
def small(small_world) -> Bench:
    return Bench(0, config=SMALL)


def by_settings(at: Bench, settings: dict) -> dict:
    at.record(step=1, split="train", loss=settings["x"])
    return {"figure": settings["x"] + at.seed}


@pytest.fixture
def two_arms(small_world, monkeypatch) -> Study:
    monkeypatch.setattr(bench, "preset", lambda name, **changes: SMALL)
    return Study("small", "does it run?", {"one": {"x": 1}, "two": {"x": 2}}, by_settings)


def test_a_study_runs_every_arm_with_every_seed_once(two_arms, tmp_path, capsys):
    study.run_study(two_arms, seeds=[0, 1], out=tmp_path)
    found = study.summaries(tmp_path)
    shown = list(found[["arm", "seed", "x", "figure"]].itertuples(index=False, name=None))
    assert shown == [("one", 0, 1, 1), ("one", 1, 1, 2), ("two", 0, 2, 2), ("two", 1, 2, 3)]
    assert (found["cpu_minutes"] >= 0).all()
    lines = runlog.read_runs(tmp_path, keys=("arm", "seed"))
    assert list(lines["loss"]) == [1, 1, 2, 2] and list(lines["arm"]) == ["one"] * 2 + ["two"] * 2
    card = runlog.read_card(tmp_path / "two-seed1")
    assert card["study"] == "small" and set(card["data"]) == {"train", "validation", "test", "hard"}
    assert card["device"]["threads"] == 1  # whatever the process had before
    ended = card["ended"]
    capsys.readouterr()
    study.run_study(two_arms, seeds=[0, 1, 2], arms=["two"], out=tmp_path)
    assert "2 of 3 units are finished" in capsys.readouterr().out
    assert runlog.read_card(tmp_path / "two-seed1")["ended"] == ended
    assert len(study.summaries(tmp_path)) == 5


def test_an_unfinished_unit_begins_anew_and_is_no_result(two_arms, tmp_path):
    def dies(at, settings):
        at.record(step=1, split="train", loss=0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run_study(dataclasses.replace(two_arms, run=dies), [0], ["one"], tmp_path)
    assert list(study.summaries(tmp_path).columns) == ["arm", "seed"]
    study.run_study(two_arms, [0], ["one"], tmp_path)
    assert list(runlog.read_metrics(tmp_path / "one-seed0")["loss"]) == [1]


def test_other_settings_are_never_mixed(two_arms, tmp_path):
    study.run_study(two_arms, [0], ["one"], tmp_path)
    changed = dataclasses.replace(two_arms, arms={"one": {"x": 5}})
    with pytest.raises(UserError, match="one-seed0: holds a finished unit of other settings"):
        study.run_study(changed, [0], out=tmp_path)


def test_unknown_arm_is_named(two_arms, tmp_path):
    with pytest.raises(UserError, match="small has no arm 'three'; there are: one, two"):
        study.run_study(two_arms, [0], ["three"], tmp_path)


def test_threads_are_given_back(two_arms, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        study.run_study(two_arms, [0], ["one"], tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_nothing_recorded_is_an_empty_table(tmp_path):
    found = study.summaries(tmp_path / "nowhere")
    assert len(found) == 0 and list(found.columns) == ["arm", "seed"]


def test_warm_policy_is_the_one_with_which_reft_begins(small, tmp_path):
    unit.run_unit(dataclasses.replace(SMALL, methods=("sft",)), tmp_path / "pcot-seed0")
    # SFT of the unit goes on after the warm-up; its warm adapter is not kept, so train it apart
    log = runlog.RunLog(tmp_path / "again", {})
    again = task.Task(SMALL, small.splits, log, resume.Clock())
    phase = phases.begin_sft(again)
    for _ in range(int(SMALL.warmup_epochs * phase.per_epoch)):
        next(phase.steps)
    again.warm = task.adapter_weights(phase.policy)
    wanted, _ = phases.warm_policy(again, SMALL.seed + 1)
    found, _ = small.warm_policy()
    theirs = wanted.state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in found.state_dict().items())


def test_fewer_epochs_and_other_rows_make_another_warm_policy(small):
    def weights(**options):
        policy, _ = small.warm_policy(**options)
        return torch.cat([p.detach().flatten() for p in policy.parameters()])

    one = weights(epochs=0.5)  # half an epoch: one of the two steps
    assert not torch.equal(one, weights(epochs=1))
    assert not torch.equal(one, weights(rows=small.splits["train"][:2], epochs=1))
    assert torch.equal(one, weights(epochs=0.5))


def test_fit_keeps_the_best_checkpoint_on_validation(small, monkeypatch):
    policy, tokenizer = small.adapted()
    accuracies = iter([0.2, 0.6, 0.4])
    monkeypatch.setattr(Bench, "accuracy", lambda *arguments: next(accuracies))

    def steps():
        for step in range(1, 5):
            with torch.no_grad():
                for p in lora.trainable_parameters(policy):
                    p.fill_(step)
            yield {"step": step, "loss": 1 / step}

    found = small.fit(policy, tokenizer, steps(), total=4, eval_every=2, phase="made")
    assert found == {"validation": 0.6, "best_step": 2}
    assert all((p == 2).all() for p in lora.trainable_parameters(policy))
    of_train = [x for x in small.lines if x["split"] == "train"]
    assert [(x["step"], x["loss"], x["phase"]) for x in of_train] == [
        (step, 1 / step, "made") for step in range(1, 5)
    ]
    assert [x["step"] for x in small.lines if x["split"] == "validation"] == [0, 2, 4]


def test_fit_with_ppo_is_what_a_unit_does(small, tmp_path):
    """The same warm-up, the same steps, the same best validation as a unit of the comparison."""
    unit.run_unit(SMALL, tmp_path / "pcot-seed0")
    lines = runlog.read_metrics(tmp_path / "pcot-seed0")
    theirs = lines[(lines["method"] == "reft") & (lines["split"] == "train")]
    policy, tokenizer = small.warm_policy()
    settings = dataclasses.replace(SMALL.ppo, beta=SMALL.beta_programs)
    steps = ppo.ppo(
        policy, tokenizer, small.splits["train"], "pcot", AnswerReward("pcot"), settings,
        SMALL.sample, SMALL.seed,
    )  # fmt: skip
    small.fit(policy, tokenizer, steps, settings.steps, settings.eval_every)
    mine = [line for line in small.lines if line["split"] == "train"]
    assert [x["kl"] for x in mine] == list(theirs["kl"])
    assert [x["policy_loss"] for x in mine] == list(theirs["policy_loss"])


def test_tests_are_read_with_their_own_limits_and_end_the_clock(small, monkeypatch):
    policy, tokenizer = small.adapted()
    limits, answer = [], evaluate.answer

    def watched(model, tok, some, fmt, sampling, **options):
        assert not hasattr(model, "peft_config")
        limits.append((some[0].id.split("-")[0], sampling.max_new_tokens))
        return answer(model, tok, some, fmt, sampling, **options)

    monkeypatch.setattr(evaluate, "answer", watched)
    found = small.test(policy, tokenizer)
    tokens = SMALL.sample.max_new_tokens
    assert limits == [("test", tokens), ("hard", SMALL.hard_max_new_tokens)]
    spent = small.trained_minutes
    assert spent is not None and spent <= small.minutes
    assert [(x["split"], x["accuracy"]) for x in small.lines] == list(found.items())
    assert [len(x["verdicts"]) for x in small.lines] == [4, 2]


def test_a_record_goes_into_the_log_as_well(small, tmp_path):
    with runlog.RunLog(tmp_path / "run", {}) as log:
        small.log = log
        small.record(step=3, split="train", loss=0.5)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert {k: line[k] for k in ("step", "split", "loss")} == small.lines[0]


@pytest.mark.parametrize("name", studies.names())
def test_every_study_says_what_it_is(name):
    found = studies.get(name)
    assert found.name == name and "\n" not in found.about and found.about
    assert found.arms == runlog.jsonable(found.arms)  # so that a card compares equal
    assert all(re.fullmatch(r"[\w.-]+", arm) for arm in found.arms)


def test_an_unknown_study_is_named():
    with pytest.raises(UserError, match="unknown study 'nothing'; there are: "):
        studies.get("nothing")
