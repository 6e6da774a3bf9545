"""Beta, lambda, gamma: the picture's numbers are those of the equations, and its words say them."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil

import pytest

from reft_lib import lens_log, widget_returns, widgets
from reft_lib.errors import UserError
from reft_lib.lens_log import RECORD, WholeBatch
from reft_lib.style import describe
from reft_lib.widget_returns import BETAS, GAMMAS, LAMBDAS, returns_figure, shaped

SMALL = WholeBatch(
    logp=[[-0.1, -0.5, -0.2], [-1.0]],
    ref_logp=[[-0.3, -0.4, -0.2], [-0.5]],
    values=[[0.4, 0.5, 0.7], [0.2]],
    scores=[1.0, 0.1],
    row=0,
    tokens=["\n    ", "return", " 7"],
)


@pytest.fixture(scope="module")
def batch():
    return lens_log.read().batch


def by_hand(batch, beta, lam, gamma):
    """Return rewards, advantages and returns of every row by the textbook's sums."""
    found = []
    for logp, ref, values, score in zip(
        batch.logp, batch.ref_logp, batch.values, batch.scores, strict=True
    ):
        n = len(logp)
        r = [-beta * (logp[t] - ref[t]) + (score if t == n - 1 else 0.0) for t in range(n)]
        v = [*values, 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        gain = [sum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]
        found.append((r, gain, [g + x for g, x in zip(gain, values, strict=True)]))
    return found


@pytest.mark.parametrize(
    ("beta", "lam", "gamma"), [(0.0, 1.0, 1.0), (0.3, 0.0, 0.9), (0.05, 0.95, 0.95)]
)
@pytest.mark.parametrize("name", ["small", "recorded"])
def test_numbers_by_the_textbook(batch, name, beta, lam, gamma):
    which = SMALL if name == "small" else batch
    rows = by_hand(which, beta, lam, gamma)
    rewards, gain, returns = rows[which.row]
    s = shaped(which, beta, lam, gamma)
    assert s.rewards.tolist() == pytest.approx(rewards, abs=1e-5)
    assert s.advantages.tolist() == pytest.approx(gain, abs=1e-5)
    assert s.returns.tolist() == pytest.approx(returns, abs=1e-5)
    every = [g for _, row, _ in rows for g in row]
    mean = sum(every) / len(every)
    spread = math.sqrt(sum((g - mean) ** 2 for g in every) / len(every))
    assert s.whitened.tolist() == pytest.approx([(g - mean) / spread for g in gain], abs=1e-3)


def test_at_the_training_s_own_settings_it_is_what_training_saw(batch):
    record = lens_log.read()
    ppo_settings = record.card["config"]["ppo"]
    s = shaped(batch, ppo_settings["beta"], ppo_settings["lam"], ppo_settings["gamma"])
    seen = next(x for x in record.sightings if x.step == batch.step and x.tokens == batch.tokens)
    assert s.advantages.tolist() == pytest.approx(seen.advantages, abs=1e-4)
    assert s.whitened.tolist() == pytest.approx(seen.whitened, abs=1e-3)


def test_the_picture_draws_the_numbers_and_the_words_say_them():
    fig = returns_figure(SMALL, 0.3, 0.5, 0.9)
    ((rewards, gain, returns), _) = by_hand(SMALL, 0.3, 0.5, 0.9)
    above, below = fig.axes
    bars, line = above.lines[:2]
    assert [y for y in bars.get_ydata() if y == y][1::2] == pytest.approx(rewards, abs=1e-6)
    assert line.get_ydata().tolist() == pytest.approx(returns, abs=1e-6)
    assert [y for y in below.lines[0].get_ydata() if y == y][1::2] == pytest.approx(gain, abs=1e-6)
    assert [t.get_text() for t in below.get_xticklabels()] == ["↵", "return", "7"]
    text = describe(fig)
    assert "3 tokens of a response with terminal reward 1, at beta 0.3, lambda 0.5" in text
    assert f"so all rewards to {sum(rewards):+.3f}" in text
    assert f"The return is {returns[0]:+.3f} at the first token and {returns[-1]:+.3f}" in text
    low, high = min(gain), max(gain)
    assert f"to {high:+.3f} at {['↵····', 'return', '·7'][gain.index(high)]}" in text
    assert f"from {low:+.3f} at" in text.replace("−", "-")


def test_the_page_holds_every_state():
    found = widgets.returns_explorer(SMALL, live=False)
    assert set(found.states) == {
        f"beta={b:g}; lam={x:g}; gamma={g:g}"
        for b, x, g in itertools.product(BETAS, LAMBDAS, GAMMAS)
    }
    shown = found.states["beta=0.1; lam=0.5; gamma=1"]
    assert "at beta 0.1, lambda 0.5, gamma 1." in shown and "β = 0.1, λ = 0.5, γ = 1" in shown
    assert "at beta 0.02, lambda 0.95, gamma 1." in found.first.text
    assert "whitened over the 2 responses of its batch" in found.first.html


def test_the_recorded_page_is_small_and_its_axes_stand_still(batch):
    limits = widget_returns._limits(batch)
    figs = [returns_figure(batch, b, 0.95, 1.0, limits) for b in (0.0, 0.3)]
    ends = [[ax.get_ylim() for ax in fig.axes] for fig in figs]
    assert ends[0] == ends[1] == [pytest.approx(x) for x in limits]
    size = len(widget_returns.explore(
        lambda beta: figs[0], live=False, beta=widgets.Knob("b", (0.0,))
    ).first.html)  # fmt: skip
    assert 75 * size < 1_050_000


def test_live_the_knobs_are_continuous():
    found = widgets.returns_explorer(SMALL, live=True)
    beta, _, gamma, picture = found.widget.children
    beta.value, gamma.value = 0.17, 0.93
    assert "at beta 0.17, lambda 0.95, gamma 0.93." in picture.value


def test_a_readers_own_rollout(own_rollout, tokenizer):
    experience, settings = own_rollout
    made = lens_log.batch_of(experience, 3, tokenizer)
    s = shaped(made, settings.beta, settings.lam, settings.gamma)
    n = len(made.tokens)
    assert s.whitened.tolist() == pytest.approx(experience.advantages[3, :n].tolist(), abs=1e-3)
    assert s.returns.tolist() == pytest.approx(experience.returns[3, :n].tolist(), abs=1e-4)
    with pytest.raises(UserError, match="empty rollout"):
        lens_log.batch_of(experience, 4, tokenizer)


def test_what_cannot_be_shown_is_one_line(tmp_path, monkeypatch):
    long = [-0.1] * 41
    many = WholeBatch([long], [long], [long], [1.0], 0, ["x"] * 41)
    found = widgets.returns_explorer(many, live=False).first
    assert found.text == "No picture: 41 tokens; follow a response of at most 40"
    found = widgets.returns_explorer(tmp_path / "runs" / "gone", live=False).first
    assert re.search(r"runs/gone has not been recorded; .*record-lens", found.text)
    folder = tmp_path / "lens" / "cut"
    shutil.copytree(RECORD, folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["split"] == "batch"
    lines[-1] = lines[-1][:99]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    found = widgets.returns_explorer(folder, live=False).first
    assert f"holds no whole batch (lens/cut/metrics.jsonl:{len(lines)} is damaged)" in found.text
    for bad in ((-0.1, 1.0, 1.0), (0.1, 1.1, 1.0), (0.1, 1.0, -0.5)):
        with pytest.raises(UserError, match="wanted beta at least 0"):
            returns_figure(SMALL, *bad)
