"""The study of instructions in small: fair arms, counted tokens, every task asked for."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from reft_lib import data, instruct_plots, models, packing, study_instruct
from reft_lib.bench import Bench, one_thread
from reft_lib.config import LoraSettings, RunConfig, SampleConfig, SftConfig
from reft_lib.errors import UserError
from reft_lib.instructions import SEEN, UNSEEN
from reft_lib.study_instruct import ARMS, COMMON, STUDY
from reft_lib.style import describe

TINY = RunConfig(
    name="tiny",
    n_train=2,
    n_validation=2,
    n_test=2,
    n_hard=2,
    warmup_epochs=1,
    bf16=False,
    lora=LoraSettings(rank=4, alpha=8),
    sft=SftConfig(epochs=1, batch_size=8, lr=1e-3),
    sample=SampleConfig(max_new_tokens=3, batch_size=64),
)


@pytest.fixture
def bench(monkeypatch, new_model, tokenizer):
    """A bench with real questions, whose paths instructions need, and a tiny model."""
    rows = [e for e in data.load("embedded", "train")[:12] if e.meta["n_steps"] > 1]
    splits = {
        name: [replace(e, id=f"{name}-{i}") for i, e in enumerate(rows[2 * at : 2 * at + 2])]
        for at, name in enumerate(("train", "validation", "test"))
    }
    splits["hard"] = splits["test"]
    monkeypatch.setattr(models, "load", lambda name, dtype: (new_model(context=1024), tokenizer))
    monkeypatch.setattr(study_instruct, "WIDTH", 500)
    monkeypatch.setattr(study_instruct, "SPEED_STEPS", 1)
    made = Bench(seed=0, fmt="pcot", config=TINY)
    made.__dict__["splits"] = splits
    return made


def test_arms_differ_in_one_thing_and_ask_as_often():
    for name, settings in ARMS.items():
        plain = {k: v for k, v in settings.items() if k != "speed"}
        changed = [k for k, v in plain.items() if v != COMMON[k]]
        assert changed == ([] if name == "mixed" else changed[:1]), name
        assert len(plain["tasks"]) == len(SEEN)
    assert set(ARMS) == set(instruct_plots.LOOKS)


def test_an_arm_trains_asks_and_counts(bench, tokenizer):
    with one_thread():
        found = STUDY.run(bench, {**ARMS["mixed"], "epochs": 1})
    wanted = {f"{g}_{t}" for g in ("seen", "kept_back") for t in SEEN}
    wanted |= {f"unseen_{t}" for t in UNSEEN} | {"last_as_first"}
    assert wanted <= set(found) and all(0 <= found[name] <= 1 for name in wanted)
    assert found["labels"] == 14 and found["sampled_tokens"] == 0
    steps = [line for line in bench.lines if line["split"] == "train"]
    assert [line["step"] for line in steps] == [1, 2]
    assert 0 < found["trained_tokens"] < sum(line["tokens"] for line in steps)
    read = [line["split"] for line in bench.lines if line["split"] != "train"]
    assert read == ["test", "hard", "seen", "kept_back", "unseen"]
    assert found["tokens_per_second_packed"] > 0 and found["tokens_per_second_padded"] > 0


def test_pictures_say_what_they_show():
    pairs = [([5] * 6, [7] * 2), ([8] * 3, [9]), ([3] * 2, [2] * 2)]
    said = describe(instruct_plots.rows_picture(pairs, 8))
    assert "3 examples in 3 padded rows, 33%" in said and "in 2 packed rows, 0% padding" in said
    rows = []
    for seed, share in enumerate((0.25, 0.5)):
        row = {"arm": "mixed", "seed": seed}
        row |= {f"{g}_{t}": share for g in ("seen", "kept_back") for t in SEEN}
        rows.append(row | {f"unseen_{t}": 0.0 for t in UNSEEN})
    said = describe(instruct_plots.task_points(pd.DataFrame(rows)))
    assert "phrasings kept back, solve, mixed: 38%." in said and "tasks kept back, last" in said
    with pytest.raises(UserError, match="no finished unit"):
        instruct_plots.task_points(pd.DataFrame([{"arm": "other", "seed": 0}]))


def test_packing_leaves_less_padding(bench, tokenizer):
    from reft_lib.instruction_tuning import encode, requests

    lengths = [len(p) + len(t) for p, t in encode(tokenizer, requests(bench.splits["train"]), 1024)]
    alone = packing.padding_share(lengths, [[i] for i in range(len(lengths))])
    together = packing.padding_share(lengths, packing.pack(lengths, 500))
    assert together < alone
