"""Run logs: what is written can be read, also after a crash, and on another machine."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from reft_lib import machine, runlog
from reft_lib.errors import UserError
from reft_lib.runlog import RunLog, read_card, read_metrics, read_runs


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3


@dataclass(frozen=True)
class Config:
    name: str = "tiny"
    inner: Inner = Inner()


def write(folder: Path, seed: int = 0, steps: int = 2, **card) -> Path:
    with RunLog(folder, {"method": "sft", "fmt": "ncot", "seed": seed, **card}) as log:
        for step in range(steps):
            log.log(step=step, split="train", loss=1.0 / (step + 1 + seed))
        log.finish(accuracy=0.5)
    return folder


def test_round_trip(tmp_path):
    folder = write(tmp_path / "runs" / "sft-0", config=Config())
    table = read_metrics(folder)
    assert table[["step", "split", "loss"]].values.tolist() == [
        [0, "train", 1.0],
        [1, "train", 0.5],
    ]
    assert (table["seconds"] >= 0).all()
    card = read_card(folder)
    assert card["name"] == "sft-0" and card["method"] == "sft" and card["seed"] == 0
    assert card["config"] == {"name": "tiny", "inner": {"lr": 1e-3}}
    assert card["summary"] == {"accuracy": 0.5} and card["ended"] >= card["started"]
    assert sorted(file.name for file in folder.iterdir()) == ["card.json", "metrics.jsonl"]


def test_card_says_on_what_it_ran(tmp_path):
    card = read_card(write(tmp_path / "a"))
    assert card["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert card["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"transformers", "peft", "numpy"} <= set(card["versions"])
    assert card["device"]["cpu"] and card["device"]["threads"] == torch.get_num_threads()
    assert set(card["git"]) == {"revision", "dirty"}
    assert card["started"].endswith("+00:00") and card["command"]


def test_each_line_is_on_disk_at_once_and_an_unfinished_run_says_so(tmp_path):
    log = RunLog(tmp_path / "a", {})
    log.log(step=1, split="train", loss=2.0)
    assert len(read_metrics(tmp_path / "a")) == 1
    assert read_card(tmp_path / "a")["ended"] is None
    log.close()


def test_an_error_in_the_run_keeps_what_was_logged(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLog(tmp_path / "a", {}) as log:
        log.log(step=1, split="train", loss=2.0)
        _ = 1 / 0
    assert read_metrics(tmp_path / "a")["loss"].tolist() == [2.0]
    assert read_card(tmp_path / "a")["ended"] is None


def test_scalars_and_non_finite_numbers_become_strict_json(tmp_path):
    with RunLog(tmp_path / "a", {"nan": math.nan}) as log:
        log.log(
            step=np.int64(3),
            split="train",
            tensor=torch.tensor(0.5),
            half=torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
            numpy=np.float32(0.25),
            flag=np.bool_(True),
            nan=float("nan"),
            inf=torch.tensor(float("inf")),
            text="/ 3 = 4\u2028\ud800",  # a model's text, kept as it is
        )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "a" / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=refuse)
    del row["seconds"]
    assert row == {
        "step": 3,
        "split": "train",
        "tensor": 0.5,
        "half": [1.0, 2.0],
        "numpy": 0.25,
        "flag": True,
        "nan": None,
        "inf": None,
        "text": "/ 3 = 4\u2028\ud800",
    }
    assert read_card(tmp_path / "a")["nan"] is None


def test_the_card_holds_no_path_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/x.py", f"--out={tmp_path}/o", "--seed", "3"])
    folder = write(
        tmp_path / "a",
        config={
            "model": str(tmp_path / "my model"),
            "data": tmp_path / "sets",
            "near": "data/nano",
        },
        note=f"weights from {tmp_path}/weights.bin, see https://example.org/a/b",
    )
    text = (folder / "card.json").read_text()
    card = json.loads(text)
    assert str(tmp_path) not in text and str(Path.home()) + "/" not in text
    assert card["command"] == "x.py --out=o --seed 3"
    assert card["config"] == {"model": "my model", "data": "sets", "near": "data/nano"}
    assert card["note"] == "weights from weights.bin, see https://example.org/a/b"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("/srv/models/tiny", "tiny"),
        ("--a=/srv/models/tiny", "--a=tiny"),
        ("file:///srv/models/tiny", "tiny"),
        ("'/srv/a', \"/srv/b\"", "'a', \"b\""),
        ("owner/model", "owner/model"),
        ("../up/and/away", "../up/and/away"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("6 / 2 = 3, 1/2/3", "6 / 2 = 3, 1/2/3"),
    ],
)
def test_portable(text, expected):
    assert runlog.portable(text) == expected


def test_a_run_is_not_overwritten_by_accident(tmp_path):
    write(tmp_path / "a", steps=5)
    with pytest.raises(UserError, match="holds a run already"):
        RunLog(tmp_path / "a", {})
    assert len(read_metrics(tmp_path / "a")) == 5
    with RunLog(tmp_path / "a", {"seed": 9}, overwrite=True) as log:
        log.log(step=0, split="test", accuracy=1.0)
    assert len(read_metrics(tmp_path / "a")) == 1 and read_card(tmp_path / "a")["seed"] == 9


def test_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot write a run here") as error:
            RunLog(folder, {})
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_card_is_replaced_whole(tmp_path, monkeypatch):
    """If writing the new card fails, the old one is still there and valid."""
    log = RunLog(tmp_path / "a", {"seed": 1})

    def fail(*_: object) -> None:
        raise OSError("disc full")

    with monkeypatch.context() as patch:
        patch.setattr(runlog.os, "replace", fail)
        with pytest.raises(OSError, match="disc full"):
            log.finish()
    log.close()
    assert read_card(tmp_path / "a")["seed"] == 1 and read_card(tmp_path / "a")["ended"] is None


def test_damaged_lines_are_named_and_the_rest_is_read(tmp_path):
    folder = write(tmp_path / "a", steps=2)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'[1, 2]\n\n{"step": 2, "split": "train", "loss": 7.0}\n{"step": 3, "spl\xff')
    with pytest.warns(UserWarning) as caught:
        table = read_metrics(folder)
    assert table["step"].tolist() == [0, 1, 2] and table["loss"].iloc[-1] == 7.0
    messages = [str(warning.message) for warning in caught]
    assert [message.split(": ")[0] for message in messages] == [
        f"{folder}/metrics.jsonl:3",
        f"{folder}/metrics.jsonl:6",
    ]


def test_missing_or_damaged_card(tmp_path):
    for read in (read_card, read_metrics, read_runs):
        with pytest.raises(UserError, match="nowhere"):
            read(tmp_path / "nowhere")
    folder = write(tmp_path / "a")
    (folder / "card.json").write_text('{"name": ')
    with pytest.raises(UserError, match="card.json: not valid JSON"):
        read_card(folder)
    (folder / "card.json").write_text("[]")
    with pytest.raises(UserError, match="wanted a JSON object"):
        read_card(folder)
    (folder / "card.json").unlink()
    with pytest.raises(UserError, match="no card"):
        read_runs(tmp_path)


def test_missing_metrics(tmp_path):
    folder = write(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no metrics"):
        read_runs(tmp_path)


def test_read_runs_finds_names_and_tags_them(tmp_path):
    for name, seed in (("nano/sft-1", 1), ("nano/sft-0", 0), ("other", 5)):
        write(tmp_path / name, seed=seed)
    table = read_runs(tmp_path)
    assert list(table.columns[:4]) == ["run", "method", "fmt", "seed"]
    assert table["run"].tolist() == ["nano/sft-0"] * 2 + ["nano/sft-1"] * 2 + ["other"] * 2
    assert table["seed"].tolist() == [0, 0, 1, 1, 5, 5]
    assert read_runs(tmp_path / "nano")["run"].unique().tolist() == ["sft-0", "sft-1"]
    assert read_runs(tmp_path / "other")["run"].unique().tolist() == ["other"]
    with pytest.raises(UserError, match="no run here"):
        read_runs(f"{tmp_path}/nothing-*")


def test_read_runs_by_pattern_and_relative(tmp_path, monkeypatch):
    write(tmp_path / "runs" / "a-0")
    write(tmp_path / "runs" / "b-0", seed=1)
    monkeypatch.chdir(tmp_path)
    assert read_runs("runs/*-0")["run"].unique().tolist() == ["a-0", "b-0"]
    assert read_runs("*/b*")["run"].unique().tolist() == ["runs/b-0"]
    monkeypatch.chdir(tmp_path / "runs" / "a-0")
    assert read_runs(".")["run"].unique().tolist() == ["a-0"]


def test_a_metric_is_not_hidden_by_a_tag_of_the_same_name(tmp_path):
    with RunLog(tmp_path / "a", {"seed": 1, "method": "ppo"}) as log:
        log.log(step=0, split="train", seed=77, run="x")
    table = read_runs(tmp_path, keys=("seed", "method", "absent"))
    assert table.iloc[0][["run", "method", "seed"]].tolist() == ["a", "ppo", 77]
    assert list(table.columns).count("run") == list(table.columns).count("seed") == 1


def test_a_run_without_lines_does_not_disturb_the_others(tmp_path):
    write(tmp_path / "a", steps=0)
    write(tmp_path / "b", steps=1)
    assert read_runs(tmp_path)["run"].tolist() == ["b"]


def test_git_state(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    nothing = {"revision": None, "dirty": None}
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    try:
        git("init", "-q")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert machine.git_state(code) == nothing  # nothing tracked
    git("add", ".")
    assert machine.git_state(code) == nothing  # no commit
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert machine.git_state(code) == {"revision": head, "dirty": False}
    (tmp_path / "result.jsonl").write_text("{}")  # outside the code: does not count
    assert machine.git_state(code) == {"revision": head, "dirty": False}
    (code / "a.py").write_text("2")
    assert machine.git_state(code) == {"revision": head, "dirty": True}
    assert machine.git_state(tmp_path / "absent") == nothing


def test_import_is_light():
    script = (
        "import sys, reft_lib.runlog;"
        "print([m for m in ('torch', 'pandas', 'numpy', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_run_goes_on_after_the_lines_that_its_state_counts_on(tmp_path):
    with RunLog(tmp_path / "r", {"method": "x"}) as log:
        for step in range(3):
            log.log(step=step, split="train", loss=step / 2)
        assert log.lines == 3
    started = read_card(tmp_path / "r")["started"]
    with RunLog(tmp_path / "r", {"method": "x"}, overwrite=True, resume=(2, 100.0)) as log:
        log.log(step=2, split="train", loss=9.0)
        assert log.lines == 3
        log.finish(done=True)
    metrics, card = read_metrics(tmp_path / "r"), read_card(tmp_path / "r")
    assert list(metrics["loss"]) == [0.0, 0.5, 9.0]
    assert 100 <= metrics["seconds"].iloc[-1] <= card["seconds"] < 130
    assert card["started"] == started and card["resumed"] == 1 and "earlier" not in card


def test_a_card_keeps_what_was_different_in_earlier_calls(tmp_path):
    calls = [("a", {"gpu": "G"}), ("b", {"gpu": "G"}), ("b", {"gpu": None}), ("b", {"gpu": "G"})]
    for i, (revision, device) in enumerate(calls):
        entries = {"git": {"revision": revision}, "device": device, "command": "c", "versions": {}}
        RunLog(tmp_path / "r", entries, overwrite=True, resume=(0, 0.0) if i else None).close()
    card = read_card(tmp_path / "r")
    assert (card["git"], card["device"], card["resumed"]) == ({"revision": "b"}, {"gpu": "G"}, 3)
    assert card["earlier"] == [
        {"git": {"revision": "a"}},
        {"device": {"gpu": "G"}},
        {"device": {"gpu": None}},
    ]


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    with RunLog(tmp_path / "r", {"seed": 1}) as log:
        log.log(step=0, split="train")
        for how in ({"overwrite": True}, {"overwrite": True, "resume": (0, 0.0)}):
            with pytest.raises(UserError, match="another process is writing this run"):
                RunLog(tmp_path / "r", {"seed": 2}, **how)
        log.log(step=1, split="train")
    assert list(read_metrics(tmp_path / "r")["step"]) == [0, 1]
    assert read_card(tmp_path / "r")["seed"] == 1
    RunLog(tmp_path / "r", {"seed": 2}, overwrite=True).close()
    assert read_metrics(tmp_path / "r").empty


def test_a_log_shorter_than_its_state_says_is_named(tmp_path):
    with RunLog(tmp_path / "r", {"method": "x"}) as log:
        log.log(step=0, split="train")
    with pytest.raises(UserError, match=r"metrics\.jsonl: has fewer than 2 lines"):
        RunLog(tmp_path / "r", {}, overwrite=True, resume=(2, 1.0))


def test_a_field_that_a_stored_configuration_lacks_had_its_default():
    from reft_lib.config import PpoConfig, RunConfig

    stored = runlog.jsonable(RunConfig(seed=3))
    assert runlog.same_config(stored, RunConfig(seed=3))
    assert not runlog.same_config(stored, RunConfig(seed=4))
    del stored["rerank"], stored["ppo"]["clip"], stored["self_train"]
    assert runlog.same_config(stored, RunConfig(seed=3))
    assert not runlog.same_config(stored, RunConfig(seed=3, rerank=True))
    assert not runlog.same_config(stored, RunConfig(seed=3, ppo=PpoConfig(clip=0.3)))
    assert not runlog.same_config(stored | {"gone": 1}, RunConfig(seed=3))
