"""The replay: its numbers and answers are those of the log at that step."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reft_lib import runlog, widget_replay, widgets
from reft_lib.compare import RUNS
from reft_lib.errors import UserError
from reft_lib.style import describe
from reft_lib.widget_replay import curves_up_to, of_reft, replay, training_replay

STEPS, EVERY = 4, 2
ASKED = [f"Question {i}?" for i in range(6)]


def put(folder, seed=0, fmt="pcot", dataset="embedded"):
    """Write a run log of ReFT: reward 0.1 s + seed / 100 at step s, and so on."""
    folder.mkdir(parents=True)
    card = {"fmt": fmt, "seed": seed, "config": {"dataset": dataset, "n_validation": 6}}
    (folder / "card.json").write_text(json.dumps(card))
    lines = [{"step": 1, "split": "train", "method": "sft", "loss": 0.5, "epoch": 1}]
    for step in range(STEPS + 1):
        if step:
            line = {"reward": 0.1 * step + seed / 100, "accuracy": 0.05 * step, "kl": 0.5 * step}
            line |= {"step": step, "split": "train", "method": "reft", "epoch": step / 2}
            lines.append(line | {"length": 20.0 - step})
        if step % EVERY == 0:
            texts = [f"{fmt} step {step} <{i}>" for i in range(6)]
            correct = [i < step for i in range(6)]
            line = {"accuracy": 0.2 + 0.1 * step, "texts": texts, "correct": correct}
            line |= {"step": step, "split": "validation", "method": "reft", "epoch": step / 2}
            lines.append(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def rows(tmp_path):
    """The rows of two seeds."""
    put(tmp_path / "pcot-seed0")
    put(tmp_path / "pcot-seed1", 1)
    return of_reft(runlog.read_runs(tmp_path))


def test_the_words_are_the_means_at_that_step(rows):
    text = describe(curves_up_to(rows, 3))
    assert "P-CoT (programs) after step 3 of 4, mean of 2 seeds" in text
    assert "reward 0.30" in text or "reward 0.31" in text  # 0.305, as it is rounded
    assert "right answers 0.15" in text and "validation accuracy 0.40" in text
    assert "KL to the warm-up policy 1.50 (nats a response)" in text
    assert "length of a response 17.0 (tokens)" in text
    assert "reward" not in describe(curves_up_to(rows, 0))  # before the first step


def test_the_answers_are_those_of_the_last_validation(rows):
    for step, at, right in ((2, 2, 2), (3, 2, 2), (4, 4, 4)):
        found = replay(rows, ASKED, step)
        assert (
            f"Answers of pcot-seed0 after step {at}, epoch {at / 2:g}: {right} of 5" in found.text
        )
        assert found.html.count("✓ right") == right and found.html.count("✗ wrong") == 5 - right
        assert f"pcot step {at} &lt;0&gt;" in found.html and "Question 5?" not in found.html
    assert "Question 1 right, 2 right, 3 wrong, 4 wrong, 5 wrong." in replay(rows, ASKED, 2).text


def test_before_the_first_validation_there_is_nothing_to_show(rows):
    with pytest.raises(UserError, match="no validation until step 1"):
        replay(rows[rows["step"] > 1], ASKED, 1)


def test_a_page_has_both_formats_and_every_validation(tmp_path, monkeypatch):
    put(tmp_path / "ncot-seed0", fmt="ncot")
    put(tmp_path / "pcot-seed0")
    monkeypatch.setattr(widget_replay, "image", lambda fig: "<img>")
    found = training_replay(tmp_path, live=False, questions=ASKED)
    assert list(found.states) == [f"fmt={f}; step={s}" for f in ("ncot", "pcot") for s in (0, 2, 4)]
    assert "pcot step 4" in found.states["fmt=pcot; step=4"]
    assert widgets.training_replay is training_replay


def test_live_every_step_can_be_reached(tmp_path):
    put(tmp_path / "pcot-seed0")
    _, slider, picture = training_replay(tmp_path, live=True, questions=ASKED).widget.children
    assert "after step 4 of 4" in picture.value
    slider.value = 3.0
    assert "after step 3 of 4" in picture.value and "pcot step 2" in picture.value


def test_a_damaged_log_is_named_and_the_rest_is_shown(tmp_path):
    put(tmp_path / "pcot-seed0")
    put(tmp_path / "pcot-seed1", 1)
    (tmp_path / "pcot-seed1" / "card.json").write_text("{")
    with open(tmp_path / "pcot-seed0" / "metrics.jsonl", "a") as file:
        file.write('{"step": 5\n')
    found = training_replay(tmp_path, live=True, questions=ASKED).first
    assert "1 seed" in found.text and found.html.count('role="note"') == 2
    assert "Left out: pcot-seed0/metrics.jsonl:9:" in found.text
    assert "Left out: pcot-seed1/card.json: not valid JSON" in found.text


def test_what_cannot_be_shown_is_one_line(tmp_path):
    said = training_replay(tmp_path / "none", live=False).first.text
    assert said == "No picture: none: not yet run, no run log there"
    put(tmp_path / "mine" / "pcot-seed0", dataset="svamp")
    said = training_replay(tmp_path / "mine", live=False).first.text
    assert said == "No picture: questions of svamp: give them as questions="
    log = tmp_path / "mine" / "pcot-seed0" / "metrics.jsonl"
    log.write_text('{"step": 1, "split": "train", "method": "sft", "loss": 1}\n')
    assert (
        "have no accuracy, correct, " in training_replay(tmp_path / "mine", live=False).first.text
    )


def test_the_recorded_runs_as_the_log_has_them():
    table = of_reft(runlog.read_runs(RUNS / "nano"))
    here = table[table["fmt"] == "ncot"]
    asked = widget_replay.validation_questions(runlog.read_card(RUNS / "nano" / "ncot-seed0"))
    text = replay(here, asked, 10).text
    lines = (RUNS / "nano").glob("ncot-*/metrics.jsonl")
    logged = [json.loads(line) for path in lines for line in path.read_text().splitlines()]
    mine = [x for x in logged if x["split"] == "train" and x.get("method") == "reft"]
    kl = np.mean([x["kl"] for x in mine if x["step"] == 10])
    assert f"KL to the warm-up policy {kl:.2f}" in text and "mean of 5 seeds" in text
    # the stored verdicts belong to the stored questions
    row = here[(here["run"] == "ncot-seed0") & (here["split"] == "validation")].iloc[-1]
    said = [
        text.rsplit(" ", 1)[1] == e.answer for text, e in zip(row["texts"], asked, strict=False)
    ]
    assert said == row["correct"]
