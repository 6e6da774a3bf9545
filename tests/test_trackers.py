"""Metrics reach accelerate's trackers as they reach the run log."""

from __future__ import annotations

import pytest
from accelerate.tracking import GeneralTracker

from reft_lib import runlog, trackers
from reft_lib.errors import UserError


class Notebook(GeneralTracker):
    """A tracker that remembers."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.lines, self.config, self.finished = [], None, False

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        self.lines.append((step, values))

    def finish(self):
        self.finished = True


def test_every_line_of_the_run_log_is_seen(tmp_path):
    notebook = Notebook()
    watch, finish = trackers.start([notebook], tmp_path, {"lr": 0.1, "sft": {"epochs": 3}})
    with runlog.RunLog(tmp_path / "run", {"method": "x"}) as log:
        log.watchers.append(watch)
        log.log(step=1, split="train", method="reft", reward=0.5, texts=["a"], ended=True)
        log.log(step=0, split="test", method="sft", decoding="top1", accuracy=0.25)
    finish()
    assert notebook.config == {"lr": 0.1} and notebook.finished
    (first, seen), (second, tested) = notebook.lines
    assert (first, second) == (1, 2)
    assert seen.pop("reft/train/seconds") >= 0
    assert seen == {"reft/train/reward": 0.5, "reft/train/step": 1.0}
    assert tested["sft/test/top1/accuracy"] == 0.25


def test_an_unknown_tracker_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'; there are: .*tensorboard"):
        trackers.start(["tensorbord"], tmp_path, {})


def test_a_tracker_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    def refuse(self, values):
        raise RuntimeError("api_key not configured\nsecond line")

    monkeypatch.setattr(Notebook, "store_init_configuration", refuse)
    with pytest.raises(UserError, match="not start .api_key not configured.; set") as caught:
        trackers.start([Notebook()], tmp_path, {})
    assert "\n" not in str(caught.value)


def test_a_tracker_without_its_package_is_named(tmp_path, monkeypatch):
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [])
    with pytest.raises(UserError, match="pip install wandb"):
        trackers.start(["wandb"], tmp_path, {})
