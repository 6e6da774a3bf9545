"""One call with a time limit, or many: the same run. And a true kill, of a true process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reft_lib import cli, reproduce, resume, runlog
from reft_lib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "--preset nano --n-train 16 --n-validation 4 --n-test 6 --n-hard 2 --n-voted 2 --sft.epochs 3 "
    "--sft.batch-size 8 --warmup-epochs 2 --ppo.steps 3 --ppo.batch-size 8 --ppo.minibatches 2 "
    "--ppo.eval-every 1 --sample.max-new-tokens 24 --hard-max-new-tokens 24 --sample.votes 2"
).split()


@pytest.fixture
def call():
    """A function that starts the command; what still runs at the test's end is killed."""
    started = []
    yield lambda out, *more: started.append(start(out, *more)) or started[-1]
    for process in started:
        process.kill()


def start(out, *more):
    command = [sys.executable, "-m", "reft_lib", "reproduce", *SMALL, "--out", str(out), *more]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=out)


def told(out):
    """What a run has measured, without what a clock wrote."""
    rows = map(json.loads, (out / "ncot-seed0" / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(800)  # three processes, perhaps on a machine that is busy
def test_a_killed_process_goes_on_and_ends_as_one_that_was_not(tmp_path, call):
    long, short = tmp_path / "long", tmp_path / "short"
    long.mkdir()
    short.mkdir()
    assert call(long).wait(240) == 0
    killed = call(short)
    metrics = short / "ncot-seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while killed.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and '"reft"' in metrics.read_text():
            break  # within ReFT
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert runlog.read_card(short / "ncot-seed0")["ended"] is None
    again = call(short, "--resume")
    assert again.wait(240) == 0
    assert told(short) == told(long)
    assert runlog.read_card(short / "ncot-seed0")["resumed"] == 1


def test_time_runs_out_again_and_again_and_the_run_still_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")

    class Ticks(resume.Clock):
        """A clock on which every piece of work takes a ninth of the time."""

        def __init__(self, minutes=None):
            super().__init__()
            self.left = 9

        def tick(self, save):
            self.left -= 1
            if self.left == 0:
                save()
                raise resume.OutOfTime

    monkeypatch.setattr(resume, "Clock", Ticks)
    arguments = ["reproduce", *SMALL, "--out", str(tmp_path), "--minutes", "9"]
    assert cli.main(arguments) == 0
    assert "stopped in sft, at step" in capsys.readouterr().out
    assert cli.main(arguments) == 2  # without --resume
    assert "holds an unfinished run; add --resume" in capsys.readouterr().err
    for calls in range(1, 20):  # noqa: B007
        assert cli.main([*arguments, "--resume"]) == 0
        said = capsys.readouterr().out
        if "top-1" in said:
            break
        assert "the same call with --resume goes on" in said
    assert 2 <= calls < 19
    assert cli.main(arguments) == 0
    assert "is finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--minutes", "0"], "--minutes is 0.0; it must be a number above 0"),
        (["--minutes", "nan"], "--minutes is nan"),
        (["--name", "x"], "--name is not for reproduce"),
        (["--device", "tpu"], "device"),
        (["--trackers", "tensorbord"], "unknown tracker 'tensorbord'"),
    ],
)
def test_bad_options_are_one_line(more, message, tmp_path, capsys):
    assert cli.main(["reproduce", *SMALL, "--out", str(tmp_path), *more]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_where_a_run_stopped_is_said(tmp_path):
    assert reproduce.where(tmp_path) == "stopped before its first step"
    progress = {"method": "reft", "trained": False, "loop": {"step": 7}, "seconds": 90}
    progress["summary"] = {"sft": {}}
    resume.save(tmp_path / "state", {}, {"progress": progress})
    assert reproduce.where(tmp_path) == "stopped in reft, at step 7, after 1.5 minutes"
    resume.save(tmp_path / "state", {}, {"progress": progress | {"trained": True}})
    assert "stopped in reft, its tests are going on" in reproduce.where(tmp_path)
    resume.save(tmp_path / "state", {}, {"progress": progress | {"method": "sft"}})
    assert "stopped between sft and the next method" in reproduce.where(tmp_path)


def test_a_bad_device_is_refused_before_anything_is_written(tmp_path):
    from reft_lib.config import preset

    with pytest.raises(UserError, match="unknown device"):
        reproduce.reproduce(preset("nano", n_train=4), tmp_path / "x", device="tpu")
    assert not (tmp_path / "x").exists()
