"""The chooser: methods apply exactly where the scoreboard's needs are met."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest

from reft_lib import explorer, scoreboard, widgets
from reft_lib.scoreboard import NEEDS, ROWS
from reft_lib.widget_chooser import (
    ELSEWHERE,
    SOLUTIONS,
    WHY,
    WHY_ELSEWHERE,
    Have,
    choice,
    figures,
    lacks,
    method_chooser,
)

BOOK = Path(__file__).resolve().parents[1] / "book"
WORDS = {
    "solutions": ("worked solutions", "warm-up on solutions"),
    "answers": ("right answers",),
    "pairs": ("preferences",),
    "text": ("bare text",),
    "tasks": ("instructions",),
}
"""How the scoreboard says that something is needed."""
ALL = [Have(s, *there) for s in SOLUTIONS for there in product((False, True), repeat=4)]


@pytest.mark.parametrize("needs", NEEDS)
def test_a_method_lacks_what_the_scoreboard_says_and_is_not_there(needs):
    wanted = {name for name, said in WORDS.items() if any(w in NEEDS[needs] for w in said)}
    for have in ALL:
        there = {name for name in WORDS if getattr(have, name) not in (False, "none")}
        assert set(lacks(needs, have)) == wanted - there, have


def test_more_to_learn_from_never_rules_a_method_out():
    for have in ALL:
        more = Have("many", True, True, True, True)
        assert not any(lacks(needs, more) for needs in NEEDS)
        for name in ("answers", "pairs", "text", "tasks"):
            richer = have._replace(**{name: True})
            assert all(set(lacks(n, richer)) <= set(lacks(n, have)) for n in NEEDS)


def test_every_method_has_a_reason_and_a_chapter():
    assert set(WHY) == {row.label for row in ROWS}
    assert set(WHY_ELSEWHERE) == {row.label for row in ELSEWHERE}
    for row in (*ROWS, *ELSEWHERE):
        assert (BOOK / f"{row.chapter}.ipynb").is_file(), row.chapter


@pytest.mark.parametrize("have", ALL[::7])
def test_what_applies_is_listed_with_its_link_and_figure(have):
    said = {row.label: f"{i}.5" for i, row in enumerate(ROWS)}
    found = choice(have, said, [])
    body, _, rest = found.html.partition("<strong>Not without</strong>")
    rows = re.findall(r"<li[^>]*>(.*?)</li>", body)
    listed = [re.match(r"<strong>(.*?)</strong>", r)[1] for r in rows]
    wanted = [row for row in ROWS if not lacks(row.needs, have)]
    wanted += ELSEWHERE if have.text else []
    assert sorted(listed) == sorted(row.label for row in wanted)
    for row in wanted:
        line = rows[listed.index(row.label)]
        assert f'href="{row.chapter}.html"' in line
        figure = said.get(row.label)
        assert f"<em>{f'test: {figure}' if figure else 'another test'}</em>" in line
    below = [item.split(": ")[1] for item in re.findall(r"<li[^>]*>(.*?)</li>", rest)]
    named = [label for labels in below for label in labels.split("; ")]
    assert sorted(named) == sorted(row.label for row in ROWS if lacks(row.needs, have))
    for row in ROWS:
        assert (f"{row.label} ({said[row.label]})" in found.text) == (not lacks(row.needs, have))


def test_a_page_has_every_state_and_begins_with_answers_that_can_be_checked():
    found = method_chooser(live=False)
    assert len(found.states) == len(ALL) == 48 <= explorer.MOST_STATES
    assert "ReFT (PPO)" in found.first.text and "Not without preferences" in found.first.text
    text = found.states["solutions=none; answers=no; pairs=no; text=no; tasks=no"]
    assert "base model" in text and ">SFT</strong>" not in text
    assert sum(map(len, found.states.values())) < 400_000
    assert widgets.method_chooser is method_chooser


def test_live_links_lead_to_notebooks():
    found = method_chooser(live=True)
    assert 'href="05_reft.ipynb"' in found.first.html
    assert [c.description for c in found.widget.children[:-1]][0] == "worked solutions"


def put(runs, row, seed, **summary):
    """Write a finished unit of a study."""
    folder = runs / row.study / f"{row.arm}-seed{seed}"
    folder.mkdir(parents=True)
    card = {"method": "study", "arm": row.arm, "seed": seed, "config": {}, "ended": "x"}
    (folder / "card.json").write_text(json.dumps(card | {"summary": summary}))


def test_figures_are_the_scoreboards_and_a_damaged_study_is_named(tmp_path):
    cost = {"cpu_minutes": 1.5, "trained_tokens": 1000, "sampled_tokens": 0, "hard": 0.1}
    for row, test in ((ROWS[0], 0.25), (ROWS[1], 0.5), (ROWS[8], 0.75)):
        put(tmp_path, row, 0, test=test, **cost)
    said, damaged = figures(tmp_path)
    assert not damaged and said[ROWS[9].label] == "not yet run"
    board = scoreboard.as_words(scoreboard.board(scoreboard.read(tmp_path)))
    for row in ROWS:
        assert said[row.label].startswith(board.loc[row.label, "test, %"])
    assert said["SFT"] == "50.0% (1 seed, 1.5 min)"
    (tmp_path / ROWS[8].study / f"{ROWS[8].arm}-seed0" / "card.json").write_text("{")
    said, damaged = figures(tmp_path)
    assert said["ReFT (PPO)"] == "log damaged" and said["SFT"].startswith("50.0")
    assert len(damaged) == 1 and str(tmp_path) not in damaged[0] and "ppo-seed0" in damaged[0]
    found = choice(Have(), said, damaged)
    assert found.html.count('role="note"') == 1 and "ppo-seed0" in found.text
