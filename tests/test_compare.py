"""The whole comparison in small: fair, repeatable, resumable, test read last and once."""

from __future__ import annotations

import dataclasses
import json

import pytest

from reft_lib import (
    adapter_files,
    compare,
    evaluate,
    lora,
    machine,
    results,
    runlog,
    unit,
)
from reft_lib.config import (
    LoraSettings,
    PpoConfig,
    RunConfig,
    SampleConfig,
    SelfTrainConfig,
    SftConfig,
)
from reft_lib.errors import UserError

TINY = RunConfig(
    name="tiny",
    n_train=4,
    n_validation=4,
    n_test=4,
    n_hard=2,
    warmup_epochs=2,
    bf16=False,
    lora=LoraSettings(rank=4, alpha=8),
    sft=SftConfig(epochs=3, batch_size=2, lr=1e-2),
    ppo=PpoConfig(steps=4, batch_size=4, eval_every=2),
    sample=SampleConfig(max_new_tokens=6, batch_size=8, votes=2),
)


@pytest.fixture
def reads(small_world, monkeypatch):
    """The list of splits as they were read."""
    found: list[str] = []
    answer = evaluate.answer

    def watched(model, tokenizer, some, *args, **options):
        found.append(some[0].id.split("-")[0])
        return answer(model, tokenizer, some, *args, **options)

    monkeypatch.setattr(evaluate, "answer", watched)
    return found


def test_unit_runs_and_reads_the_test_last(reads, tmp_path):
    summary = unit.run_unit(TINY, tmp_path / "ncot-seed0", adapters=tmp_path / "adapters")
    tests = ["test", "test", "hard", "hard"]  # greedy and voted, each once
    sft, reft = reads[:3], reads[7:10]
    assert sft == ["validation"] * 3 and reft == ["validation"] * 3  # epochs 1-3; steps 0, 2, 4
    assert reads == [*sft, *tests, *reft, *tests]
    metrics = runlog.read_metrics(tmp_path / "ncot-seed0")
    train = metrics[metrics["split"] == "train"]
    assert list(train[train["method"] == "sft"]["step"]) == [1, 2, 3]
    assert list(train[train["method"] == "reft"]["step"]) == [1, 2, 3, 4]
    for method in ("sft", "reft"):
        one = metrics[metrics["method"] == method]
        best = summary[method]["best_epoch" if method == "sft" else "best_step"]
        shown = one[one["split"] == "validation"].set_index("step")["accuracy"]
        assert summary[method]["validation"] == shown.max() == shown[best]
        test = one[(one["split"] == "test") & (one["decoding"] == "top1")].iloc[0]
        assert test["accuracy"] == test["verdicts"].count("1") / 4
        assert summary[method]["test_top1"] == test["accuracy"]
        assert len(test["sound"]) == 4 and 0 <= test["right_unsound"] <= test["accuracy"]
        assert one[one["split"] == "validation"]["right_unsound"].notna().all()
    saved = sorted(p.name for p in (tmp_path / "adapters").iterdir())
    assert saved == ["ncot-seed0-reft", "ncot-seed0-sft", "ncot-seed0-warmup"]


def test_the_last_epoch_is_validated_whatever_the_interval(small_world, tmp_path):
    config = dataclasses.replace(
        TINY,
        methods=("sft", "offline_st"),
        warmup_epochs=1,
        sft=dataclasses.replace(TINY.sft, eval_every=2),
        self_train=SelfTrainConfig(samples=2, sft_epochs=1),
    )
    summary = unit.run_unit(config, tmp_path / "run")
    metrics = runlog.read_metrics(tmp_path / "run")
    shown = metrics[metrics["split"] == "validation"]
    assert list(shown[shown["method"] == "sft"]["step"]) == [1, 2, 3]  # warm-up, interval, last
    assert list(shown[shown["method"] == "offline_st"]["step"]) == [1]
    assert summary["offline_st"]["best_epoch"] == 1 and summary["offline_st"]["validation"] >= 0


def test_a_gpu_that_is_not_used_does_not_stand_in_the_card(small_world, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: {"cpu": "C", "gpu": "G"})
    config = dataclasses.replace(TINY, methods=("sft",))
    unit.run_unit(config, tmp_path / "run", device="cpu")
    assert runlog.read_card(tmp_path / "run")["device"] == {"cpu": "C", "gpu": None}


def test_voting_may_read_a_part_of_the_test_and_the_harder_test_has_its_own_cut(
    small_world, tmp_path, monkeypatch
):
    cuts: list[tuple[str, int]] = []
    answer = evaluate.answer

    def watched(model, tokenizer, some, fmt, sampling, **options):
        cuts.append((some[0].id.split("-")[0], sampling.max_new_tokens))
        return answer(model, tokenizer, some, fmt, sampling, **options)

    monkeypatch.setattr(evaluate, "answer", watched)
    config = dataclasses.replace(TINY, n_voted=3, hard_max_new_tokens=7)
    unit.run_unit(config, tmp_path / "ncot-seed0")
    assert set(cuts) == {("validation", 6), ("test", 6), ("hard", 7)}
    metrics = runlog.read_metrics(tmp_path / "ncot-seed0")
    read = {
        (row.split, row.decoding): len(row.verdicts)
        for row in metrics[metrics["split"].isin(["test", "hard"])].itertuples()
    }
    assert read == {
        ("test", "top1"): 4,
        ("test", "vote2"): 3,
        ("hard", "top1"): 2,
        ("hard", "vote2"): 2,  # it has no more
    }


def test_saved_adapters_give_the_tested_policies_again(small_world, tmp_path, new_model, tokenizer):
    compare_log, saved = tmp_path / "ncot-seed0", tmp_path / "adapters"
    summary = unit.run_unit(TINY, compare_log, adapters=saved)
    warm = adapter_files.load_adapter(new_model(), saved / "ncot-seed0-warmup")
    policy = adapter_files.load_adapter(lora.merge(warm), saved / "ncot-seed0-reft")
    shown = runlog.read_metrics(compare_log)
    shown = shown[(shown["split"] == "validation") & (shown["method"] == "reft")]
    best = shown[shown["step"] == summary["reft"]["best_step"]].iloc[0]
    validation = unit.load_splits(TINY)["validation"]
    again = evaluate.answer(policy, tokenizer, validation, "ncot", TINY.sample)
    assert [t[0] for t in again.texts] == best["texts"]


def test_reft_begins_where_the_warm_up_ended(small_world, tmp_path):
    unit.run_unit(TINY, tmp_path / "a")
    metrics = runlog.read_metrics(tmp_path / "a")
    shown = metrics[metrics["split"] == "validation"].set_index(["method", "step"])["texts"]
    assert shown["reft", 0] == shown["sft", TINY.warmup_epochs]
    assert shown["sft", 1] != shown["sft", TINY.warmup_epochs]  # else this would show nothing


def strip(folder):
    """Metrics without what a clock wrote."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def test_same_seed_same_run_other_seed_another(small_world, tmp_path):
    unit.run_unit(TINY, tmp_path / "a")
    unit.run_unit(TINY, tmp_path / "b")
    unit.run_unit(dataclasses.replace(TINY, seed=1), tmp_path / "c")
    assert strip(tmp_path / "a") == strip(tmp_path / "b") != strip(tmp_path / "c")


def test_finished_units_are_kept_and_unfinished_ones_replaced(reads, tmp_path, capsys):
    frame = compare.compare(TINY, seeds=[0, 1], formats=["ncot"], out=tmp_path, jobs=1)
    assert len(frame) == 3 and set(frame["seeds"]) == {2}
    kept = (tmp_path / "ncot-seed0" / "card.json").read_text()
    card = runlog.read_card(tmp_path / "ncot-seed1")
    del card["ended"]  # as if it had died
    (tmp_path / "ncot-seed1" / "card.json").write_text(json.dumps(card))
    reads.clear()
    again = compare.compare(TINY, seeds=[0, 1], formats=["ncot"], out=tmp_path, jobs=1)
    assert reads.count("test") == 4  # one unit, two methods, two decodings
    assert (tmp_path / "ncot-seed0" / "card.json").read_text() == kept
    figures = [c for c in frame if c != "minutes"]
    assert again[figures].equals(frame[figures])
    assert "1 of 2 units are finished" in capsys.readouterr().out


def test_finished_run_of_another_configuration_is_not_overwritten(small_world, tmp_path):
    unit.run_unit(TINY, tmp_path / "ncot-seed0")
    other = dataclasses.replace(TINY, warmup_epochs=1)
    with pytest.raises(UserError, match="another configuration; choose another --out"):
        compare.compare(other, seeds=[0], formats=["ncot"], out=tmp_path, jobs=1)
    assert results.table(tmp_path).iloc[0]["seeds"] == 1


def test_too_few_questions_are_named(small_world):
    with pytest.raises(UserError, match="9"):
        unit.load_splits(dataclasses.replace(TINY, n_test=9))


def test_warm_up_longer_than_sft_is_refused():
    with pytest.raises(UserError, match="warmup_epochs"):
        dataclasses.replace(TINY, warmup_epochs=4)


def test_a_unit_that_fails_side_by_side_with_others_is_named_at_once(tmp_path, capfd):
    config = dataclasses.replace(TINY, n_train=10_000)  # more questions than there are
    with pytest.raises(UserError, match="10000 rows are wanted; it must be from 0 to"):
        compare.compare(config, seeds=[0, 1], formats=["ncot"], out=tmp_path, jobs=2)
    assert "0: 10000 rows are wanted" in capfd.readouterr().out.replace("seed1", "seed0")
