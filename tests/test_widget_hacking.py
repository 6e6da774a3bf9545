"""The explorer of reward hacking: peaks and falls are found where made-up logs have them."""

from __future__ import annotations

import json

import pytest

from reft_lib import widget_hacking, widgets
from reft_lib.errors import UserError
from reft_lib.widget_hacking import ITSELF, courses, fate, hacking_explorer, state

STEPS, SPREAD, TOP = 9, 2.0, 5


def gold(beta, step, seed):
    """Return a gold reward that without penalty is highest at step TOP."""
    rise = step if beta else (step if step <= TOP else 2 * TOP - step)
    return 1.0 + SPREAD * (0.1 * rise + 0.01 * seed * (step > 1))


def put(folder, kind="ppo", betas=(0.0,), seed=0, ended=True):
    """Write the log of an arm in which the proxy rises by 0.3 a step."""
    folder.mkdir(parents=True)
    config = {"kind": kind, "beta": list(betas)}
    card = {"arm": kind, "seed": seed, "config": config, "summary": {"gold_spread": SPREAD}}
    if not ended:
        del card["summary"]
    (folder / "card.json").write_text(json.dumps(card))
    lines = [{"step": 1, "split": "train", "phase": "reward model", "loss": 0.6}]
    for beta in betas:
        for step in range(1, STEPS + 1):
            line = {"step": step, "split": "train", "phase": "train", "beta": beta}
            line |= {
                "kl": 0.5 * (step - 1),
                "proxy": 7 + 0.3 * step,
                "gold": gold(beta, step, seed),
            }
            lines.append(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def runs(tmp_path):
    """Three seeds of all arms."""
    for seed in range(3):
        put(tmp_path / f"ppo-seed{seed}", "ppo", (0.05,), seed)
        put(tmp_path / f"betas-seed{seed}", "betas", (0.0, 0.3), seed)
        put(tmp_path / f"gold-seed{seed}", "gold", (0.05,), seed)
        put(tmp_path / f"dpo-seed{seed}", "dpo", (0.1,), seed)
    return tmp_path


def test_courses_are_changes_in_spreads(runs):
    table, left_out = courses(runs)
    assert set(table["name"]) == {"beta 0", "beta 0.05", "beta 0.3", ITSELF} and not left_out
    one = table[(table["name"] == "beta 0") & (table["seed"] == 2)].set_index("step")
    assert one.loc[1, "gold"] == 0 and one.loc[1, "proxy"] == 0
    assert one.loc[TOP, "gold"] == pytest.approx(0.1 * (TOP - 1) + 0.02)
    assert one.loc[STEPS, "proxy"] == pytest.approx(0.3 * (STEPS - 1))
    assert len(table) == 4 * 3 * STEPS


def test_the_peak_and_the_fall_are_told(runs):
    table, _ = courses(runs)
    text = fate(table[table["name"] == "beta 0"])
    # over three steps: (.3 + .4 + .3) / 3 = .333 at the top, .1 at the end, and .01 for the seeds
    assert f"highest around step {TOP} (+0.34 at KL 2.0 nats)" in text
    # the end is the mean of the last three steps, around step 8: (.2 + .1 + .0) / 3
    assert "gold changes by −0.23" in text and "on by +0.90: reward hacking." in text
    assert "at the end: no fall was seen" in fate(table[table["name"] == "beta 0.3"])


def test_one_seed_proves_nothing(runs):
    table, _ = courses(runs)
    text = fate(table[(table["name"] == "beta 0") & (table["seed"] == 1)])
    assert "(one seed)" in text and "chance could explain" in text and "hacking" not in text
    short = table[(table["name"] == "beta 0") & (table["step"] < 3)]
    assert "too few steps" in fate(short)


def test_the_words_hold_the_numbers_of_the_state(runs):
    table, _ = courses(runs)
    text = state(table, "beta 0", 4).text
    assert "trained on the proxy, β = 0, after step 4, mean of 3 seeds" in text
    assert "proxy +0.90, gold +0.31 standard deviations, KL 1.5 nats" in text
    assert "trained on the gold reward itself" in state(table, ITSELF, 4).text
    for name, step in (("beta 0", 0), ("beta 7", 3)):
        with pytest.raises(UserError, match="nothing recorded so early"):
            state(table, name, step)


def test_a_page_has_every_beta_and_begins_with_the_lowest_at_its_end(runs, monkeypatch):
    monkeypatch.setattr(widget_hacking, "image", lambda fig: "<img>")
    monkeypatch.setattr(widget_hacking, "MOST", 2)
    found = hacking_explorer(runs, live=False)
    names = ["beta 0.3", "beta 0.05", "beta 0", ITSELF]
    assert list(found.states) == [f"beta={n}; step={s}" for n in names for s in (1, STEPS)]
    assert "β = 0, after step 9" in found.first.text
    assert widgets.hacking_explorer is hacking_explorer


def test_live_every_step_can_be_reached(runs):
    _, slider, picture = hacking_explorer(runs, live=True).widget.children
    slider.value = 2.0
    assert "after step 2" in picture.value


def test_damaged_and_unfinished_logs_are_named(tmp_path):
    put(tmp_path / "betas-seed0", "betas")
    put(tmp_path / "ppo-seed0", ended=False)
    put(tmp_path / "ppo-seed1")
    (tmp_path / "ppo-seed1" / "card.json").write_text("[]")
    found = hacking_explorer(tmp_path, live=True).first
    assert found.html.count('role="note"') == 2
    assert "Left out: ppo-seed1/card.json: wanted a JSON object" in found.text
    assert "Left out: ppo-seed0: not finished." in found.text


def test_what_has_not_been_run_is_one_line(tmp_path):
    none = "No picture: rlhf: not yet run"
    said = hacking_explorer(tmp_path / "rlhf", live=False).first
    assert said.text.startswith(none) and "\n" not in said.html
    put(tmp_path / "rlhf" / "ppo-seed0", ended=False)
    found = hacking_explorer(tmp_path / "rlhf", live=False).first.text
    assert found == f"{none}; ppo-seed0: not finished"
