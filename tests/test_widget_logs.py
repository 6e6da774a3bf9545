"""Run logs for widgets: a damaged one is named, the rest is read."""

from __future__ import annotations

import json

import pytest

from reft_lib.errors import UserError
from reft_lib.widget_logs import notes, readable, thinned


def put(folder, card, lines):
    """Write a run log by hand."""
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(card if isinstance(card, str) else json.dumps(card))
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + "\n")


def test_what_can_be_read_is_read_and_what_cannot_is_named(tmp_path):
    put(tmp_path / "a", {"fmt": "ncot", "seed": 0}, [{"step": 1, "x": 2.0}])
    put(tmp_path / "b", {"fmt": "pcot", "seed": 1}, ['{"step": 1', {"step": 2, "x": 3.0}])
    put(tmp_path / "c", '{"fmt": "pc', [{"step": 1, "x": 9.0}])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "card.json").write_text("{}")
    table, cards, damaged = readable(tmp_path, ("fmt", "seed"))
    assert list(table["x"]) == [2.0, 3.0] and list(table["run"]) == ["a", "b"]
    assert list(table["fmt"]) == ["ncot", "pcot"] and list(cards) == ["a", "b"]
    starts = ("b/metrics.jsonl:1: not a JSON object", "c/card.json: not valid", "d/metrics.jsonl:")
    assert len(damaged) == len(starts)
    for line, start in zip(damaged, starts, strict=True):
        assert line.startswith(start) and str(tmp_path) not in line and "\n" not in line


def test_a_single_run_is_a_folder_too(tmp_path):
    put(tmp_path / "mine", {"fmt": "ncot"}, [{"step": 1}])
    table, cards, damaged = readable(tmp_path / "mine")
    assert list(table["run"]) == list(cards) == ["mine"] and not damaged


@pytest.mark.parametrize("broken", [False, True])
def test_no_run_at_all_is_an_error_without_a_path(tmp_path, broken):
    if broken:
        put(tmp_path / "runs" / "a", "no card", [])
    with pytest.raises(UserError) as caught:
        readable(tmp_path / "runs")
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).startswith("a/card.json" if broken else "runs: not yet run")


def test_notes_are_a_line_each_and_safe():
    assert notes([]) == ""
    assert notes(["a<b", "c"]).count("<p") == 2 and "a&lt;b" in notes(["a<b"])


@pytest.mark.parametrize(("n", "most"), [(3, 5), (5, 5), (36, 5), (100, 12)])
def test_thinned_keeps_both_ends_and_no_more_than_asked(n, most):
    found = thinned(range(n), most)
    assert (found[0], found[-1], len(found)) == (0, n - 1, min(n, most))
    gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1
