"""The table of what runs took: its figures come from the cards, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reft_lib import compare, hardware
from reft_lib.errors import UserError

CPU = {"cpu": "Chip", "cores": 4, "threads": 1, "gpu": None}
GPU = {"cpu": "Chip", "cores": 4, "threads": 8, "gpu": "Card X"}


def put(runs: Path, name: str, seconds: object, device: object = CPU, **more: object) -> None:
    folder = runs / name
    folder.mkdir(parents=True)
    card = {"method": "compare", "ended": "now", "seconds": seconds, "device": device}
    card |= {"config": {"model": "a/b/nano"}, "summary": {"sft": {}, "reft": {}, "test": 0.5}}
    (folder / "card.json").write_text(json.dumps(card | more))


def test_means_and_extremes_by_device(tmp_path: Path) -> None:
    put(tmp_path, "one/a", 60)
    put(tmp_path, "one/b", 180)
    put(tmp_path, "one/c", 6, GPU)
    put(tmp_path, "two/a", 90)
    frame, faults = hardware.table(tmp_path)
    assert faults == []
    rows = frame.to_dict("records")
    cpu, gpu = "Chip, 1 thread", "Card X"
    assert list(frame.columns) == ["experiment", "model", "trained", cpu, gpu]
    assert rows[0][cpu] == "2.0 (1.0 to 3.0), 2 runs"
    assert rows[0][gpu] == "0.1, 1 run"
    assert (rows[1][cpu], rows[1][gpu]) == ("1.5, 1 run", "not yet run")
    assert rows[0]["model"] == "nano" and rows[0]["trained"] == "SFT, ReFT"


def test_without_a_gpu_the_table_says_so(tmp_path: Path) -> None:
    put(tmp_path, "one/a", 60)
    frame, _ = hardware.table(tmp_path)
    assert list(frame[hardware.ANY_GPU]) == ["not yet run"]


def test_unfinished_runs_and_other_records_do_not_count(tmp_path: Path) -> None:
    put(tmp_path, "one/a", 60)
    put(tmp_path, "one/b", None, ended=None)
    put(tmp_path, "one/c", 600, method="lens")
    found, faults = hardware.durations(tmp_path)
    assert list(found["run"]) == ["a"] and faults == []


def test_arms_of_a_study_are_counted(tmp_path: Path) -> None:
    for arm in ("ppo", "grpo"):
        for seed in (0, 1):
            put(tmp_path, f"rel/{arm}-{seed}", 60, method="study", arm=arm, summary={"test": 1})
    assert hardware.table(tmp_path)[0]["trained"].tolist() == ["one of 2 arms"]


def test_a_damaged_card_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    put(tmp_path, "one/a", 60)
    put(tmp_path, "one/b", 60)
    put(tmp_path, "one/c", "long")
    (tmp_path / "one" / "b" / "card.json").write_text("{")
    frame, faults = hardware.table(tmp_path)
    assert frame["Chip, 1 thread"].tolist() == ["1.0, 1 run"]
    assert len(faults) == 2
    assert "b" in faults[0] and "not valid JSON" in faults[0]
    assert "c" in faults[1] and "seconds" in faults[1]


def test_a_card_without_device_is_unknown() -> None:
    assert hardware.device_name(None) == "unknown"
    assert hardware.device_name({"cpu": None, "threads": 2}) == "unknown, 2 threads"


def test_nothing_recorded_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished runs"):
        hardware.table(tmp_path)


def test_the_recorded_runs_agree_with_their_cards() -> None:
    found, faults = hardware.durations(compare.RUNS)
    assert faults == []
    for row in found.itertuples():
        card = json.loads((compare.RUNS / row.experiment / row.run / "card.json").read_text())
        assert row.minutes == pytest.approx(card["seconds"] / 60)
