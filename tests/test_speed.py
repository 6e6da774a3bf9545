"""The benchmark: equal work for all engines, counted operations, readable records."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reft_lib import (
    cli,
    data,
    fused,
    lora,
    models,
    rollout,
    speed,
    speed_case,
    speed_records,
    speed_work,
)
from reft_lib.config import LoraSettings
from reft_lib.errors import UserError
from reft_lib.speed_case import Case, update_flops

SMALL = Case(rows=4, prompt=12, mean=5, most=10, group=2)


def test_the_end_is_as_probable_everywhere():
    """Wherever a text of the data set is cut off."""
    model, tokenizer = models.load("nano", "float32")
    end = tokenizer.eos_token_id
    ids = rollout.pad_left(tokenizer([e.question for e in data.load("embedded", "test")[:20]])[
        "input_ids"], end)[0]  # fmt: skip
    before = model(ids).logits.softmax(-1)[..., end]
    assert before.max() > 100 * before.min()
    speed_case.even_ending(model, end, mean=8)
    after = model(ids).logits.softmax(-1)[..., end]
    torch.testing.assert_close(after, torch.full(after.shape, 1 / 8), rtol=0.02, atol=0)


def test_lengths_are_geometric_with_the_wanted_mean(new_model, tokenizer):
    model = new_model()
    speed_case.even_ending(model, tokenizer.eos_token_id, mean=6)
    lengths = rollout.sample(
        model, tokenizer, [[5, 6, 7]], 100, generator=torch.Generator().manual_seed(0),
        samples_per_prompt=2000,
    ).lengths.float()  # fmt: skip
    assert lengths.mean() == pytest.approx(6, abs=4 * math.sqrt(30 / 2000))  # variance m (m - 1)
    assert (lengths == 1).float().mean() == pytest.approx(1 / 6, abs=0.035)


def test_operations_are_those_that_pytorch_counts(new_model, tokenizer):
    """Both directions of a whole reading; PyTorch counts attention's upper half, too: by hand."""
    policy = lora.add_adapter(new_model(), LoraSettings(rank=4, alpha=8))
    ids = [[5, 6, 7, 8], [9, 10, 11, 12]]
    roll = rollout.sample(policy, tokenizer, ids, 6, generator=torch.Generator().manual_seed(0))
    with fused.plain(), FlopCounterMode(display=False) as counter:
        logp, _ = rollout.score(policy, roll)
        logp.sum().backward()
    counted = sum(
        n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op)
    )
    tokens, responses = roll.sequences.numel(), int(roll.lengths.sum())
    found = update_flops(policy, [roll.sequences.shape[1]] * 2, responses)
    n = roll.sequences.shape[1]
    looks = 3 * 4 * 2 * 32 * 2 * sum(range(1, n + 1))  # layers, width, rows; queries and weights
    # The first of two layers gets its input from the embedding, which needs no gradient: six
    # products fewer of 32 by 32 and of its adapters. Norms are no products.
    fewer = tokens * 2 * 3 * (32 * 32 + 4 * 32)
    assert found - looks - fewer == pytest.approx(counted, rel=0.01)


def record(kind, tokens, seconds, flops=0.0, **changes):
    """A record as :func:`speed.measure` makes it, of one engine beside another half as fast."""
    ours = {"tokens": tokens, "seconds": seconds, "held_mb": [1.0], "flops": flops, "peak_mb": 9.0}
    slow = {**ours, "seconds": [2 * s for s in seconds]}
    return {
        "kind": kind,
        "case": dataclasses.asdict(dataclasses.replace(SMALL, **changes)),
        "device": {},
        "limits": {"bfloat16": 1000.0, "float32": 100.0, "bytes": 1.0},
        "engines": {"trl": slow, "reft_lib": ours},
    }


def test_the_table_by_hand():
    frame = speed_records.table([record("step", [10, 20, 60], [1.0, 2.0, 3.0], flops=500.0)])
    ours = frame[frame["engine"] == "reft_lib"].iloc[0]
    assert (ours["tokens_per_second"], ours["low"], ours["high"]) == (10, 10, 20)
    assert ours["ratio"] == 2 and ours["share"] == 0.25  # 500 / 2 s of 1000 a second
    text = speed_records.as_text([record("step", [10, 20, 60], [1.0, 2.0, 3.0], flops=500.0)])
    assert "10 (10 to 20)" in text and "25%" in text and "2.00" in text


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_growth_is_the_exponent(power):
    sizes = [100, 200, 400, 1600]
    records = [record("step", [n], [0.001 * n**power]) for n in sizes]
    assert speed_records.growth(records) == pytest.approx(power)
    other = [record("step", [n], [5.0], model="other") for n in sizes]
    assert speed_records.growth(records + other) == pytest.approx(power)
    with pytest.raises(UserError, match="two sizes"):
        speed_records.growth(records[:1] + other)


def test_memory_held_and_its_drift():
    """Ten steps: 9 MB at first, 10 in the second tenth, 12 in the last."""
    held = [9.0, 10.0, *[11.0] * 7, 12.0]
    long = record("memory", [1], [1.0])
    long["engines"]["reft_lib"]["held_mb"] = held
    assert speed_records.held([record("step", [1], [1.0]), long]) == (held, pytest.approx(0.2))
    with pytest.raises(UserError, match="no long run of other"):
        speed_records.held([long], "other")


def test_records_are_kept_and_damaged_ones_named(tmp_path, monkeypatch):
    made = []

    def measure(kind, case, rounds, engines):
        made.append((kind, case.rows))
        return record(kind, [10], [1.0], rows=case.rows)

    monkeypatch.setattr(speed, "measure", measure)
    assert len(speed.bench(("nano",), ("step",), out=tmp_path)) == 5
    assert made == [("step", rows) for rows in (16, 32, 64, 128, 256)]
    (tmp_path / "step-nano-32-64-32.json").unlink()
    speed.bench(("nano",), ("step",), out=tmp_path)
    assert made[5:] == [("step", 32)]
    (tmp_path / "step-nano-16-64-32.json").write_text("{}")
    with pytest.raises(UserError, match=r"step-nano-16-64-32\.json: no record"):
        speed_records.read(tmp_path)
    with pytest.raises(UserError, match="not yet run"):
        speed_records.read(tmp_path / "nowhere")


def test_a_measurement_end_to_end_and_errors_by_name():
    found = speed.measure("rollout", SMALL, 2, ("reft_lib",))
    one = found["engines"]["reft_lib"]
    assert len(one["seconds"]) == len(one["tokens"]) == 2 and min(one["seconds"]) > 0
    assert all(4 <= n <= 40 for n in one["tokens"]) and one["peak_mb"] > 100
    assert found["limits"]["float32"] > 1e8 and found["limits"]["bytes"] > 1e7
    json.dumps(found)
    broken = dataclasses.replace(SMALL, model="no-such-model/at-all")
    with pytest.raises(UserError, match="update, plain: UserError: no-such-model/at-all"):
        speed.measure("update", broken, 1, ("plain",))


@pytest.mark.usefixtures("small_world")
def test_all_engines_do_the_same_work():
    """In this process, with gates that open twice: as many tokens from the same prompts."""

    class Twice(speed_case.Gate):
        def __init__(self):
            super().__init__(None)
            self.counts = []

        def wait(self):
            return len(self.counts) < 2

        def done(self, tokens, flops=0.0):
            self.counts.append((tokens, flops))

    counts = {}
    for kind, engines in speed_work.ENGINES.items():
        for name, engine in engines.items():
            if name in ("trl", "generate"):
                continue
            gate = Twice()
            engine(dataclasses.replace(SMALL, model="nano", bf16=False), gate)
            counts[kind, name] = gate.counts
    for kind in speed_work.ENGINES:
        assert counts[kind, "plain"] == counts[kind, "reft_lib"], kind


def test_bad_options_are_one_line(capsys):
    assert cli.main(["bench", "--rounds", "0"]) == 2
    assert "--rounds is 0" in capsys.readouterr().err
    assert cli.main(["bench", "--kinds", "walk"]) == 2
    assert "unknown kind 'walk'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux")
def test_a_process_does_not_count_its_parents_peak():
    held = torch.ones(2**28)  # 1 GiB here
    code = "from reft_lib import speed_case; print(speed_case.peak_memory())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(said.stdout) < held.numel() * 4 / 1e6 < speed_case.peak_memory()
