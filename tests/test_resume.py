"""A run that is stopped anywhere and taken up again ends as one that never stopped, to the bit."""

from __future__ import annotations

import dataclasses
import json
import random
import time

import pytest
import torch
from safetensors import SafetensorError

from reft_lib import data, resume, runlog, unit
from reft_lib.config import (
    LoraSettings,
    PpoConfig,
    RunConfig,
    SampleConfig,
    SelfTrainConfig,
    SftConfig,
    VerifierConfig,
)
from reft_lib.errors import UserError
from reft_lib.rewards import AnswerReward, Graded

TINY = RunConfig(
    name="tiny",
    n_train=5,
    n_validation=3,
    n_test=4,
    n_hard=2,
    warmup_epochs=2,
    bf16=False,
    lora=LoraSettings(rank=4, alpha=8),
    sft=SftConfig(epochs=3, batch_size=2, lr=1e-2),
    ppo=PpoConfig(steps=4, batch_size=4, eval_every=2, minibatches=2),
    sample=SampleConfig(max_new_tokens=6, batch_size=4, votes=2),
)
ALL = dataclasses.replace(
    TINY,
    methods=("sft", "offline_st", "online_st", "reft"),
    rerank=True,
    self_train=SelfTrainConfig(samples=6, sft_epochs=1, steps=2, batch_size=4, eval_every=2),
    verifier=VerifierConfig(samples=6, epochs=1, held_out=0.3),
)


class Killed(Exception):
    """Stands for a power cut."""


class Fragile(resume.Clock):
    """A clock with a power cut at its n-th tick, and a save at every second one."""

    def __init__(self, cut: int) -> None:
        super().__init__()
        self.cut, self.ticks = cut, 0

    def tick(self, save):
        self.ticks += 1
        if self.ticks == self.cut:
            raise Killed
        if self.ticks % 2 == 0:
            save()


def result(folder):
    """Everything that a run leaves but what a clock wrote."""
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(x).items() if "seconds" not in k} for x in lines]
    summary = runlog.read_card(folder / "run")["summary"]
    for method in summary.values():
        method.pop("minutes")
    files = sorted((folder / "adapters").rglob("*.safetensors"))
    return rows, summary, [path.read_bytes() for path in files]


def run(folder, clock=None, config=TINY):
    unit.run_unit(config, folder / "run", folder / "adapters", clock)


@pytest.mark.parametrize("config", [TINY, ALL], ids=["sft and reft", "every method"])
def test_cut_at_any_tick_it_ends_as_one_long_run(small_world, tmp_path, monkeypatch, config):
    if config is ALL:  # an untrained model is never right, and a verifier needs both kinds
        grade = lambda self, texts, examples: [  # noqa: E731
            Graded(1.0, "5", True) if len(text) % 2 else Graded(0.1, "7", False) for text in texts
        ]
        monkeypatch.setattr(AnswerReward, "__call__", grade)
    counter = Fragile(cut=0)
    run(tmp_path / "long", counter, config)
    long = result(tmp_path / "long")
    assert len(long[2]) == 1 + len(config.methods)
    assert counter.ticks > 20  # steps, and chunks of questions
    for cut in sorted({1, counter.ticks, *random.Random(0).sample(range(2, counter.ticks), 6)}):
        folder = tmp_path / f"cut{cut}"
        with pytest.raises(Killed):
            run(folder, Fragile(cut), config)
        run(folder, None, config)
        assert result(folder) == long, f"cut at tick {cut} of {counter.ticks}"


def test_cut_again_and_again_it_still_ends_as_one_long_run(small_world, tmp_path):
    run(tmp_path / "long")
    rng = random.Random(0)
    for _ in range(100):
        try:
            run(tmp_path / "short", Fragile(rng.randint(3, 6)))
            break
        except Killed:
            continue
    assert result(tmp_path / "short") == result(tmp_path / "long")
    assert runlog.read_card(tmp_path / "short" / "run")["resumed"] >= 3


def test_a_finished_run_leaves_no_state_behind(small_world, tmp_path):
    run(tmp_path)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["card.json", "metrics.jsonl"]


def test_time_that_is_over_stops_the_run_with_its_state(small_world, tmp_path):
    with pytest.raises(resume.OutOfTime):
        run(tmp_path, resume.Clock(minutes=0))
    assert resume.load(tmp_path / "run" / "state") is not None
    assert runlog.read_card(tmp_path / "run")["ended"] is None


def test_the_state_of_another_configuration_is_not_taken_up(small_world, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, Fragile(5))
    other = dataclasses.replace(TINY, seed=1)
    with pytest.raises(UserError, match="unfinished run of another configuration"):
        unit.run_unit(other, tmp_path / "run")


def spoil_notes(folder, **changes):
    path = folder / "run" / "state" / resume.NOTES
    found = json.loads(path.read_text())
    found["notes"] |= changes
    path.write_text(json.dumps(found))
    return found["notes"]


def test_a_state_that_this_machine_cannot_go_on_with_is_one_line(
    small_world, tmp_path, monkeypatch
):
    with pytest.raises(Killed):
        run(tmp_path, Fragile(5))
    kept = (tmp_path / "run" / "metrics.jsonl").read_text()
    notes = spoil_notes(tmp_path, device="cuda")
    with pytest.raises(UserError, match="run began on cuda; go on with --device cuda; or remove"):
        run(tmp_path)
    spoil_notes(tmp_path, device="cpu", progress=notes["progress"] | {"mood": 1})
    with pytest.raises(UserError, match="another version of reft_lib"):
        run(tmp_path)
    spoil_notes(tmp_path, progress=notes["progress"])
    load = data.load
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", lambda dataset, split: load(dataset, split)[::-1])
        with pytest.raises(UserError, match="began with other questions"):
            run(tmp_path)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == kept
    run(tmp_path)


def test_responses_without_a_state_are_not_taken_for_this_runs(small_world, tmp_path):
    run(tmp_path / "long")
    stale = resume.Memo(tmp_path / "short" / "run" / "state", "sft 6 validation", lambda: None)
    stale.put(0, [["?"] * 3, [True] * 3], torch.Generator())
    run(tmp_path / "short")
    assert result(tmp_path / "short") == result(tmp_path / "long")


def test_time_spent_before_a_stop_counts(small_world, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Stopping(resume.Clock):
        """A clock on which every piece of work takes 6 s, and which stops after the n-th."""

        def __init__(self, cut=0):
            super().__init__()
            self.cut, self.ticks = cut, 0

        def tick(self, save):
            now[0] += 6
            self.ticks += 1
            if self.ticks == self.cut:
                save()
                raise resume.OutOfTime

    def took(folder):
        card = runlog.read_card(folder / "run")
        return card["seconds"], [one["minutes"] for one in card["summary"].values()]

    config = dataclasses.replace(ALL, methods=("sft", "offline_st"), rerank=False)
    counter = Stopping()
    run(tmp_path / "long", counter, config)
    seconds, minutes = took(tmp_path / "long")
    assert seconds == 6 * counter.ticks and minutes[1] > 1
    stops, cut = 0, 4  # in steps, validations, tests, and the samples of the warm-up policy
    while True:
        try:
            run(tmp_path / "short", Stopping(cut), config)
            break
        except resume.OutOfTime:
            stops += 1
    assert stops == counter.ticks // cut
    assert took(tmp_path / "short") == (seconds, pytest.approx(minutes))


def test_a_clock_leaves_room_for_the_longest_piece(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    clock, saves = resume.Clock(minutes=1, save_every=25), []
    for at in (10, 20, 30, 40):  # pieces of 10 s
        now[0] = at
        clock.tick(lambda: saves.append(now[0]))
    assert saves == [30]
    now[0] = 48  # 48 + 1.25 * 10 is more than 60
    with pytest.raises(resume.OutOfTime):
        clock.tick(lambda: saves.append(now[0]))
    assert saves == [30, 48]


def test_what_is_loaded_is_what_was_saved(tmp_path):
    tensors = {
        "a": torch.randn(3, 4, dtype=torch.float32),
        "b.c": torch.randn(5).to(torch.bfloat16),
        "d": torch.arange(4, dtype=torch.uint8),
        "e": torch.tensor(7.0),
    }
    notes = {"step": 3, "deep": [1, {"x": None}]}
    resume.save(tmp_path / "s", tensors, notes)
    found, said = resume.load(tmp_path / "s")
    assert said == notes and list(found) == list(tensors)
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype and torch.equal(found[name], x)
    resume.save_notes(tmp_path / "s", {"step": 4})
    found, said = resume.load(tmp_path / "s")
    assert said == {"step": 4} and torch.equal(found["a"], tensors["a"])
    resume.clear(tmp_path / "s")
    assert not (tmp_path / "s").exists() and resume.load(tmp_path / "s") is None


def test_files_stay_below_16_megabytes(tmp_path):
    tensors = {f"t{i}": torch.zeros(1_100_000) for i in range(11)}  # 4.4 MB each
    resume.save(tmp_path, tensors, {})
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) == 4
    assert all(path.stat().st_size < 16_000_000 for path in files)
    assert list(resume.load(tmp_path)[0]) == list(tensors)


@pytest.mark.parametrize("broken", ["replace", "save_file"])
@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_failed_save_leaves_the_old_state(tmp_path, monkeypatch, broken, kind):
    resume.save(tmp_path, {"a": torch.ones(2)}, {"step": 1})

    def fail(*_):
        raise kind("No space left on device")

    import safetensors.torch

    target = resume.os if broken == "replace" else safetensors.torch
    with monkeypatch.context() as patch:
        patch.setattr(target, broken, fail)
        with pytest.raises(UserError, match="No space left"):
            resume.save(tmp_path, {"a": torch.zeros(2)}, {"step": 2})
    found, notes = resume.load(tmp_path)
    assert notes == {"step": 1} and torch.equal(found["a"], torch.ones(2))
    resume.save(tmp_path, {"a": torch.zeros(2)}, {"step": 3})
    assert resume.load(tmp_path)[1] == {"step": 3}
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("spoil", ["no json", "no shard", "cut shard"])
def test_a_damaged_state_is_named(tmp_path, spoil):
    resume.save(tmp_path, {"a": torch.ones(100)}, {})
    (shard,) = tmp_path.glob("*.safetensors")
    if spoil == "no json":
        (tmp_path / resume.NOTES).write_text('{"shards"')
    elif spoil == "no shard":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(UserError, match=r"state\.json: the state of the run is damaged"):
        resume.load(tmp_path)


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="state: the state of the run cannot be written"):
        resume.save(tmp_path / "state", {"a": torch.ones(2)}, {})
    with pytest.raises(UserError, match="state: the state of the run cannot be written"):
        resume.write_text(tmp_path / "state" / "notes.json", "[]")
    with pytest.raises(UserError, match="state: the state of the run cannot be written"):
        memo = resume.Memo(tmp_path / "state", "k", lambda: None)
        memo.put(0, [["y"], [False]], torch.Generator())


def test_a_line_cut_off_in_the_memory_of_an_evaluation_is_dropped(tmp_path):
    generator = torch.Generator().manual_seed(1)
    first = resume.Memo(tmp_path, "k", lambda: None)
    first.put(0, [["x\n"], [True]], generator)
    torch.rand(3, generator=generator)
    first.put(1, [["y"], [False]], generator)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-20])
    again = resume.Memo(tmp_path, "k", lambda: None)
    assert list(again.found) == [0] and again.found[0][0] == [["x\n"], [True]]
    assert torch.equal(again.found[0][1], torch.Generator().manual_seed(1).get_state())
    again.put(1, [["y"], [False]], generator)
    assert list(resume.Memo(tmp_path, "k", lambda: None).found) == [0, 1]
    assert not resume.Memo(tmp_path, "other", lambda: None).found
    resume.forget(tmp_path, "k")
    assert not list(tmp_path.iterdir())


def test_responses_of_an_evaluation_go_into_files_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SHARD_BYTES", 30_000)  # a generator's state alone has 10,112
    generator = torch.Generator().manual_seed(1)
    first = resume.Memo(tmp_path, "k", lambda: None)
    for chunk in range(5):
        first.put(chunk, [[f"text {chunk}"], [True]], generator)
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) == 3 and max(sizes) < 30_000
    again = resume.Memo(tmp_path, "k", lambda: None)
    assert {chunk: found[0][0] for chunk, found in again.found.items()} == {
        chunk: [f"text {chunk}"] for chunk in range(5)
    }
    again.put(5, [["more"], [True]], generator)
    assert list(resume.Memo(tmp_path, "k", lambda: None).found) == list(range(6))
    resume.forget(tmp_path, "k")
    assert not list(tmp_path.iterdir())
