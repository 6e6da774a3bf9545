"""The voting explorer: its numbers are those of the samples, and of the record they came from."""

from __future__ import annotations

import html
import json
import re

import pytest

from reft_lib import data, runlog, stats, widget_votes, widgets
from reft_lib.compare import RUNS
from reft_lib.evaluate import Answers
from reft_lib.votes import Votes
from reft_lib.widget_votes import recorded, state, tally, voting_explorer

TEST = data.subset(data.load("embedded", "test"), 3)
GOLD = [e.answer for e in TEST]
RECORD = RUNS / "nano-votes"


def samples(n=4, scores=True):
    """Return three questions: right by all, by the first only, by none (of any number)."""
    wrong = ["901", "902", "903", "904", "905", "906", "907", "908"]
    found = [[GOLD[0]] * n, [GOLD[1], *wrong[: n - 1]], [None, *wrong[: n - 1]]]
    right = [[a == g for a in group] for group, g in zip(found, GOLD, strict=True)]
    trust = [[0.1 * (j + 1) for j in range(n)]] * 3 if scores else None
    return Votes(Answers([[""] * n] * 3, found, [], [], right), TEST, trust)


def put(folder, method="sft", **changes):
    """Write a run log that keeps the samples."""
    folder.mkdir(parents=True)
    config = {"dataset": "embedded", "n_test": 3}
    card = {"fmt": "pcot", "seed": 0, "config": config}
    (folder / "card.json").write_text(json.dumps(card))
    kept = samples()
    right = ["".join("01"[r] for r in group) for group in kept.answers.right]
    row = {"step": 0, "split": "test", "method": method, "decoding": "vote4"}
    row |= {"answers": kept.answers.answers, "right": right, "scores": kept.scores, **changes}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def test_votes_are_counted_and_the_right_answer_is_always_there():
    kept = samples()
    assert tally(kept, 1, 3) == {GOLD[1]: (1, True), "901": (1, False), "902": (1, False)}
    assert tally(kept, 2, 1) == {None: (1, False), GOLD[2]: (0, True)}
    assert sum(n for n, _ in tally(kept, 2, 4).values()) == 4


def test_the_words_hold_the_numbers_of_the_state():
    text = state(samples(), "mine", 4, 1).text
    # right: the vote goes to the first of a tie; the highest score is the last sample's
    assert "the first 4 of 4 samples of 3 questions" in text
    assert "voting 66.7%" in text and "reranking 33.3%" in text and "pass 66.7%" in text
    assert f"voting chooses {GOLD[1]}, right" in text and "reranking chooses 903, wrong" in text
    assert TEST[1].question in text and f"{GOLD[1]} (right) 1" in text
    assert "voting 66.7%" in state(samples(), "mine", 1, 0).text


def test_a_page_has_every_k_and_question_and_begins_with_all_samples():
    found = voting_explorer(live=False, samples={"mine": samples(2)})
    asked = samples(2).telling()
    assert list(found.states) == [f"k={k}; question={q}" for k in (1, 2) for q in asked]
    assert "the first 2 of 2" in found.first.text
    lo, hi = stats.wilson(2, 3)  # two of three questions by voting
    assert f"With 3 questions a point's 95% interval is about ±{50 * (hi - lo):.0f}" in (
        html.unescape(found.first.html)
    )
    assert widgets.voting_explorer is voting_explorer


def test_methods_and_formats_have_lists_where_there_are_several(tmp_path, monkeypatch):
    put(tmp_path / "pcot-seed0")
    put(tmp_path / "pcot-seed1", "reft")
    monkeypatch.setattr(widget_votes, "image", lambda fig: "<img>")
    found = voting_explorer(tmp_path, live=False)
    assert "method=reft; k=2; question=0" in found.states
    assert len(found.states) == 2 * 3 * len(samples().telling())


def test_live_k_is_any_whole_number(monkeypatch):
    found = voting_explorer(live=True, samples={"mine": samples()})
    slider, _, picture = found.widget.children
    slider.value = 3.0
    assert "With 3 of 4 samples" in picture.value


def test_a_damaged_log_is_named_and_the_rest_is_shown(tmp_path):
    put(tmp_path / "pcot-seed0")
    put(tmp_path / "pcot-seed1", "reft", right=["1"])
    put(tmp_path / "pcot-seed2", "warm-up")
    (tmp_path / "pcot-seed2" / "card.json").write_text("{")
    found, damaged = recorded(tmp_path)
    assert list(found["pcot"]) == ["sft"]
    assert [line.split(":")[0] for line in damaged] == [
        "pcot-seed2/card.json",
        "pcot-seed1, reft",
    ]
    shown = state(found["pcot"]["sft"], "SFT", 2, 0, damaged)
    assert shown.html.count('role="note"') == 2 and "Left out: pcot-seed1, reft" in shown.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"runs": "no-such-folder"}, "no-such-folder: not yet run"),
        ({"samples": {}}, "no samples of any policy"),
    ],
)
def test_what_cannot_be_shown_is_one_line(given, said):
    found = voting_explorer(live=False, **given)
    assert found.first.text.startswith("No picture: ") and said in found.first.text


def test_a_log_without_samples_is_one_line(tmp_path):
    put(tmp_path / "runs" / "pcot-seed0", decoding="top1")
    found = voting_explorer(tmp_path / "runs", live=False)
    assert found.first.text == "No picture: runs: no samples were kept"


@pytest.mark.skipif(not RECORD.is_dir(), reason="no samples are recorded")
def test_the_recorded_samples_are_those_of_the_recorded_comparison():
    found, damaged = recorded(RECORD)
    assert found and not damaged
    for fmt, policies in found.items():
        rows = runlog.read_metrics(RUNS / "nano-baselines" / f"{fmt}-seed0")
        rows = rows[rows["split"] == "test"].set_index(["method", "decoding"])
        for method, kept in policies.items():
            if method not in rows.index:
                continue  # the warm-up policy has no row of its own
            now = kept.accuracies(kept.n)
            for strategy in set(now) - {"pass"}:
                wanted = rows.loc[(method, f"{strategy}{kept.n}"), "accuracy"]
                assert now[strategy] == pytest.approx(wanted), (fmt, method, strategy)
            passed = rows.loc[(method, f"vote{kept.n}"), "pass_at"]
            for k, share in kept.curves["pass"].items():
                assert share == pytest.approx(passed[str(k)])


def test_pictures_are_small():
    shown = state(samples(), "mine", 4, 1)
    assert len(shown.html) < 25_000 and re.search(r'alt="mine, the first 4', shown.html)
