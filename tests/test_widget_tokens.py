"""The token lens: numbers are the record's, colours and words follow the numbers."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

from reft_lib import explorer, lens_log, runlog, widgets
from reft_lib.errors import UserError
from reft_lib.lens import visible
from reft_lib.lens_log import RECORD, Sighting
from reft_lib.lens_record import METRICS
from reft_lib.style import minus
from reft_lib.widget_tokens import QUANTITIES, clipped, lens_html

TOKENS = ["\n    ", "return", " 1", "<|end|>"]
SEEN = Sighting(
    step=5, id="q1", question="How many?", answer="2", given="1", score=0.1, tokens=TOKENS,
    logp=[-0.1, -2.0, 0.0, -0.5], ref_logp=[-0.2, -1.0, 0.0, -0.5],
    kl_rewards=[-0.002, 0.02, 0.0, 0.0], terminal=[0.0, 0.0, 0.0, 0.1],
    values=[0.5, 0.4, 0.3, 0.2], advantages=[-0.4, 0.3, -0.2, -0.1],
    whitened=[-1.2, 0.9, -0.6, 0.3], ratio_turn=[1.0, 1.1, 0.7, 1.3],
    ratio_after=[0.75, 1.25, 1.25, 0.75],
)  # fmt: skip
BETTER = dataclasses.replace(SEEN, step=9, given="2", score=1.0, whitened=[1.2, 0.4, 2.4, 0.0])
BOX = re.compile(r"background:(#\w+);color:#000;border:(\w+) \w+ #\w+;[^>]*><b>(.*?)</b><br>(.*?)<")


def boxes(shown):
    """Return (colour, border, token, number) of every box."""
    return [(c, b, html.unescape(t), n) for c, b, t, n in BOX.findall(shown.html)]


def test_every_token_has_its_number_with_its_sign():
    shown = lens_html([SEEN, BETTER], 1, "advantage, whitened")
    assert [n for *_, n in boxes(shown)] == ["−1.20", "+0.90", "−0.60", "+0.30"]
    assert [t for *_, t, _ in boxes(shown)] == [visible(t) for t in TOKENS]
    assert "↵···· −1.20; return +0.90; ·1 −0.60; <|end|> +0.30." in shown.text
    small = lens_html([SEEN], 1, "reward: KL penalty")
    assert [n for *_, n in boxes(small)] == ["−0.002", "+0.020", "0.000", "0.000"]
    assert "Sum over the response: +0.018." in small.text


def test_colours_share_a_scale_over_all_the_answers():
    shown = lens_html([SEEN, BETTER], 1, "advantage, whitened")
    low, high, low2, _ = (to_rgb(c) for c, *_ in boxes(shown))
    assert low[0] > low[1] > low[2] and high[1] > high[0]  # vermilion below, green above
    assert low2[1] > low[1]  # nearer to white, which is nearer to 0
    assert "full colour 2.4 away from it" in shown.text
    best = [c for c, *_ in boxes(lens_html([SEEN, BETTER], 2, "advantage, whitened"))]
    assert best[3] == "#ffffff" and best[2] == "#009e73"


def test_what_is_clipped_is_marked_and_counted():
    # gain -, +, -, +: only 0.7 with a negative and 1.3 with a positive one went the wanted way
    assert clipped(SEEN, SEEN.ratio_turn) == [False, False, True, True]
    assert clipped(SEEN, SEEN.ratio_after) == [True, True, False, False]
    shown = lens_html([SEEN], 1, "ratio at its turn")
    assert [b for _, b, *_ in boxes(shown)] == ["1px", "1px", "2px", "2px"]
    assert [n for *_, n in boxes(shown)] == ["1.00", "1.10", "0.70✂", "1.30✂"]
    assert "✂ 2 of 4 tokens: outside 1 ± 0.2" in shown.text and "·1 0.70 (clipped)" in shown.text


def test_the_heading_says_when_and_what_it_earned():
    first, last = (lens_html([SEEN, BETTER], i, "value") for i in (1, 2))
    assert "Training step 5, time 1 of 2. How many? Right answer: 2. ✗ answer 1, reward 0.1." in (
        first.text
    )
    assert "Training step 9, time 2 of 2" in last.text and "✓ answer 2, reward 1." in last.text
    none = lens_html([dataclasses.replace(SEEN, given=None, score=0.0)], 1, "value")
    assert "✗ no answer, reward 0." in none.text


def test_a_line_of_the_text_is_a_line_of_boxes():
    two = dataclasses.replace(SEEN, tokens=["a", "\n  ", "b", "c"])
    assert lens_html([two], 1, "value").html.count("<br><span") == 1
    assert lens_html([SEEN], 1, "value").html.count("<br><span") == 0  # none before the first


# ---------------------------------------------------------------- the recorded page


@pytest.fixture(scope="module")
def record():
    return lens_log.read()


@pytest.fixture(scope="module")
def page():
    return widgets.token_lens_explorer(live=False)


def test_the_page_shows_the_record_state_by_state(record, page):
    names = {s.id: f"{s.question[:46].strip()}…" for s in record.sightings}
    assert len(names) == 2 and not record.damaged
    assert len(page.states) == 2 * 7 * len(QUANTITIES) <= explorer.MOST_STATES
    met = dict.fromkeys(names, 0)
    for s in record.sightings:
        met[s.id] += 1
        for quantity, what in QUANTITIES.items():
            state = f"question={names[s.id]}; time={met[s.id]}; quantity={quantity}"
            shown = page.states[state]
            assert f"Training step {s.step}, time {met[s.id]} of 7" in shown
            read = [float(n.replace("−", "-").strip("✂")) for *_, n in BOX.findall(shown)]
            assert read == pytest.approx(getattr(s, what.field), abs=0.0051)
    assert met == dict.fromkeys(names, 7)
    assert sum(map(len, page.states.values())) < 600_000
    assert "time 3 of 7" in page.first.text and "advantage, whitened" in page.first.text


def test_the_record_is_the_recorded_run_itself(record):
    """The very training of data/runs/nano, if it was made with the same versions."""
    runs = Path(RECORD).parents[1]
    there, here = runs / "nano" / "pcot-seed0", RECORD
    if runlog.read_card(there)["versions"] != record.card["versions"]:
        pytest.skip("recorded with other versions")
    a, b = (runlog.read_metrics(folder) for folder in (there, here))
    a = a[(a["split"] == "train") & (a["method"] == "reft")]
    b = b[b["split"] == "train"]
    for name in METRICS:
        assert a[name].tolist() == b[name].tolist()


def test_recorded_numbers_add_up(record):
    settings = record.card["config"]["ppo"]
    for s in record.sightings:
        assert s.step == 1 or any(s.kl_rewards)
        assert s.terminal == [0.0] * (len(s.tokens) - 1) + [s.score]
        running = 0.0
        for t in reversed(range(len(s.tokens))):
            kl = s.logp[t] - s.ref_logp[t]
            assert s.kl_rewards[t] == pytest.approx(-settings["beta"] * kl, abs=2e-5)
            after = s.values[t + 1] if t + 1 < len(s.tokens) else 0.0
            delta = s.kl_rewards[t] + s.terminal[t] + settings["gamma"] * after - s.values[t]
            running = delta + settings["gamma"] * settings["lam"] * running
            assert s.advantages[t] == pytest.approx(running, abs=2e-4)
        # whitening shifts and scales: the order of tokens stays
        order = sorted(range(len(s.tokens)), key=s.advantages.__getitem__)
        white = [s.whitened[t] for t in order]
        assert all(x <= y + 1e-4 for x, y in zip(white, white[1:], strict=False))


def test_live_a_readers_own_rollout(own_rollout, tokenizer, examples):
    experience, settings = own_rollout
    seen = lens_log.sight(experience, 1, tokenizer, examples[1], settings)
    assert seen.whitened == pytest.approx(
        experience.advantages[1, : len(seen.tokens)].tolist(), abs=1e-4
    )
    found = widgets.token_lens_explorer([seen], live=True)
    _, _, quantity, picture = found.widget.children
    assert "One response. " in picture.value and "reward 0.1." in picture.value
    quantity.index = list(QUANTITIES).index("log-probability, policy")
    assert minus(f"{seen.logp[0]:+.2f}") in picture.value
    quantity.index = list(QUANTITIES).index("ratio after the step")
    assert "not known for this response; it needs an update" in picture.value
    after = experience.old_logp + 0.5
    moved = lens_log.sight(experience, 1, tokenizer, examples[1], settings, after=after)
    assert moved.ratio_after == pytest.approx([1.64872] * len(seen.tokens)) and not moved.ratio_turn
    with pytest.raises(UserError, match="empty rollout: no response token in row 9 of 4"):
        lens_log.sight(experience, 9, tokenizer, examples[1], settings)


def test_what_cannot_be_shown_is_one_line(tmp_path):
    def said(record):
        found = widgets.token_lens_explorer(record, live=False).first
        assert 'role="alert"' in found.html and "\n" not in found.text
        return found.text

    assert said([]) == "No picture: empty rollout: no response to look at"
    assert "has not been recorded" in said(tmp_path / "runs" / "unknown")
    assert "has no token" in said([dataclasses.replace(SEEN, tokens=[])])
    assert "3 values for 4 tokens" in said([dataclasses.replace(SEEN, values=[0.0] * 3)])
    assert "180 states" in said([dataclasses.replace(SEEN, step=i) for i in range(20)])
    with pytest.raises(UserError, match="this question was met 1 times"):
        lens_html([SEEN], 2, "value")


def test_a_damaged_record_is_named_and_the_rest_is_shown(tmp_path):
    folder = tmp_path / "lens" / "cut"
    shutil.copytree(RECORD, folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    number = next(i for i, text in enumerate(lines) if '"lens"' in text)
    lines[number] = lines[number][:200]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    found = widgets.token_lens_explorer(folder, live=False)
    assert f"Damaged and left out: lens/cut/metrics.jsonl:{number + 1}." in found.first.html
    assert len(found.states) == 2 * 7 * len(QUANTITIES)
    missing = [text for state, text in found.states.items() if "time=7" in state and "Sam" in state]
    assert missing and all("this question was met 6 times" in text for text in missing)
