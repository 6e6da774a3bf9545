"""The scoreboard: means, paired gains, what is missing, what was too expensive."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from test_compare import TINY

from reft_lib import bench, runlog, scoreboard, studies, study, study_baselines
from reft_lib.errors import UserError
from reft_lib.scoreboard import NEEDS, ROWS


def unit(folder, where, arm, seed, test, minutes=1.0):
    card = {"method": "study", "study": where, "arm": arm, "seed": seed, "config": {}}
    with runlog.RunLog(folder / where / f"{arm}-seed{seed}", card) as log:
        log.finish(
            cpu_minutes=minutes, test=test, hard=0.1, trained_tokens=4000, sampled_tokens=seed
        )


@pytest.fixture
def recorded(tmp_path):
    """Three seeds of SFT, of which GRPO has two, ten points better; the base model once."""
    for seed, accuracy in enumerate((0.50, 0.60, 0.70)):
        unit(tmp_path, "baselines", "sft", seed, accuracy)
        if seed:
            unit(tmp_path, "relatives", "grpo", seed, accuracy + 0.1, minutes=5.0)
    unit(tmp_path, "baselines", "base", 0, 0.02)
    return tmp_path


def test_board_has_means_and_paired_gains(recorded):
    table = scoreboard.board(scoreboard.read(recorded))
    assert list(table.index) == [row.label for row in ROWS]
    assert table.loc["SFT", "seeds"] == 3 and table.loc["SFT", "test"] == pytest.approx(60.0)
    # t(0.975, 2 degrees of freedom) = 4.3027; the standard error is 10 / sqrt(3)
    assert table.loc["SFT", "test_pm"] == pytest.approx(4.3027 * 10 / 3**0.5, rel=1e-4)
    assert pd.isna(table.loc["SFT", "gain"])
    # GRPO has seeds 1 and 2: against SFT of those seeds it is 10 points up, both times
    assert table.loc["GRPO", "gain"] == pytest.approx(10.0)
    assert table.loc["GRPO", "gain_pm"] == pytest.approx(0.0, abs=1e-9)
    assert table.loc["GRPO", "test"] == pytest.approx(75.0)
    assert table.loc["GRPO", "sampled"] == pytest.approx(0.0015)
    assert table.loc["RLOO", "seeds"] == 0 and pd.isna(table.loc["RLOO", "test"])


def test_what_is_missing_and_what_is_too_dear_is_said(recorded):
    table = scoreboard.board(scoreboard.read(recorded))
    assert scoreboard.over_budget(table) == ["GRPO"]
    words = scoreboard.as_words(table)
    assert words.loc["RLOO", "test, %"] == "not yet run" and words.loc["RLOO", "minutes"] == ""
    assert words.loc["GRPO", "less SFT"] == "+10.0 ± 0.0"
    assert words.loc["base model", "test, %"] == "2.0"  # one seed has no interval


def test_picture_draws_what_has_been_run(recorded):
    table = scoreboard.board(scoreboard.read(recorded))
    fig = scoreboard.picture(table)
    drawn = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert drawn == ["base model", "SFT", "GRPO"]
    assert [bar.get_width() for bar in fig.axes[1].patches] == pytest.approx([1.0, 1.0, 5.0])


def test_nothing_recorded(tmp_path):
    table = scoreboard.board(scoreboard.read(tmp_path))
    assert (table["seeds"] == 0).all() and len(table) == len(ROWS)
    assert set(scoreboard.as_words(table)["test, %"]) == {"not yet run"}
    with pytest.raises(UserError, match="no method has been run"):
        scoreboard.picture(table)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_every_row_is_an_arm_of_a_study_and_has_a_chapter(row):
    assert row.arm in studies.get(row.study).arms
    assert row.needs in NEEDS
    book = scoreboard.RUNS.parents[1] / "book"
    assert (book / f"{row.chapter}.ipynb").exists()


@pytest.mark.parametrize("arm", study_baselines.STUDY.arms)
def test_baselines_run_in_small(arm, small_world, monkeypatch, tmp_path):
    small = dataclasses.replace(TINY, fmt="pcot")
    few = dataclasses.replace(
        study_baselines.SETTINGS, samples=2, steps=2, batch_size=4, minibatches=2, eval_every=1
    )
    monkeypatch.setattr(bench, "preset", lambda name, **changes: small)
    monkeypatch.setattr(study_baselines, "SETTINGS", few)
    study.run_study(study_baselines.STUDY, [0], [arm], tmp_path)
    found = study.summaries(tmp_path).iloc[0]
    for name in ("validation", "test", "hard"):
        assert 0 <= found[name] <= 1
    if arm == "base":
        assert found["trained_tokens"] == found["sampled_tokens"] == found["labels"] == 0
    else:
        assert found["trained_tokens"] > 0 and found["labels"] == 4
    assert (found["sampled_tokens"] > 0) == (found["graded"] > 0) == arm.endswith("-st")


def test_trained_tokens_of_sft_are_its_targets(small_world, monkeypatch):
    small = dataclasses.replace(TINY, fmt="pcot")
    at = bench.Bench(0, config=small)
    found = study_baselines.run(at, {"kind": "sft"})
    _, tokenizer = at.base()
    once = sum(len(tokenizer.encode(f"{e.pcot}")) + 1 for e in at.splits["train"])
    assert found["trained_tokens"] == small.sft.epochs * once
