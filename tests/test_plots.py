"""Pictures: what they contain, what their alternative text says, and that they are repeatable."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from reft_lib import bars, diagrams, lens, pages, plots, strategy_plots, style
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.results import table

ROOT = Path(__file__).resolve().parent.parent
SEEDS, WARMUP = 3, 2


def validation(method: str, epoch: float, accuracy: float, **more: Any) -> dict[str, Any]:
    texts = [f"{method} epoch {epoch:g} question {i}" for i in range(3)]
    row = {"split": "validation", "method": method, "epoch": epoch, "accuracy": accuracy}
    return {**row, "texts": texts, "correct": [method == "reft", epoch >= 3, False], **more}


def runs() -> pd.DataFrame:
    """Make the rows of six runs whose means are known: seed s adds s hundredths."""
    rows: list[dict[str, Any]] = []
    for fmt, extra in (("ncot", 0.0), ("pcot", 0.1)):
        for seed in range(SEEDS):
            key = {"run": f"{fmt}-seed{seed}", "fmt": fmt, "seed": seed}
            plus = extra + seed / 100
            for epoch in (1, 2, 3, 4):
                loss = {"split": "train", "method": "sft", "epoch": epoch, "loss": 2 / epoch}
                rows += [key | loss, key | validation("sft", epoch, epoch / 20 + plus)]
            for step in (0, 4, 8):
                rows.append(key | validation("reft", step / 4, 0.1 + step / 20 + plus))
            for step in range(1, 9):
                train = {"split": "train", "method": "reft", "step": step, "kl": step / 10}
                train |= {"reward": 0.2 + plus, "accuracy": 0.1 + plus, "length": 40.0 - step}
                rows.append(key | train | {"clip_fraction": 0.05, "value_loss": 0.1})
            for method, paths in (("sft", 2.0), ("reft", 1.5)):
                shares = {"steps": 0.5, "other": 0.5} if method == "sft" else {"steps": 1.0}
                voted = {"split": "test", "method": method, "decoding": "vote16"}
                measured = {"distinct_paths": paths + plus, "path_shares": shares}
                rows.append(key | voted | measured)
    return pd.DataFrame(rows)


def results(seeds: int = 5) -> pd.DataFrame:
    pm = 2.5 if seeds > 1 else float("nan")
    values = {"sft": (41.2, 9.4), "reft": (55.3, 8.1), "reft - sft": (14.1, -1.3)}
    return pd.DataFrame(
        {"fmt": fmt, "method": method, "seeds": seeds, "minutes": 1.0}
        | {"test_top1": top, "test_top1_pm": pm, "hard_vote16": hard, "hard_vote16_pm": pm}
        for fmt in ("ncot", "pcot")
        for method, (top, hard) in values.items()
    )


def four_methods(formats: tuple[str, ...] = ("ncot", "pcot")) -> pd.DataFrame:
    """Make test rows of four methods, each ten points above the last, seeds two points apart."""
    rows: list[dict[str, Any]] = []
    for fmt in formats:
        for i, method in enumerate(strategy_plots.METHODS):
            for seed in range(SEEDS):
                key = {"run": f"{fmt}-seed{seed}", "fmt": fmt, "method": method}
                base = 0.3 + i / 10 + seed / 50
                for j, name in enumerate(("top1", "chance16", "rerank16", "vote16", "wvote16")):
                    accuracy = base + j / 100
                    rows.append(
                        key | {"split": "test", "decoding": name, "accuracy": accuracy, "k": 2**j}
                    )
                for step in (1, 2, 3):
                    train = {"split": "train", "step": step, "accuracy": base + step / 100}
                    rows.append(key | train | {"entropy": (4 - i) / 10})
    return pd.DataFrame(rows)


STRATEGIES = [
    {"strategy": name, "k": 2**i, "accuracy": 0.2 + 0.05 * slope * i}
    for slope, name in enumerate(("chance", "rerank", "vote", "wvote", "pass"))
    for i in range(3)
]
METHODS = four_methods()
RUNS = runs()
NCOT = RUNS[RUNS["fmt"] == "ncot"]
TOKENS = ["Question", ":", "\n", "He", " has", " 4", "2", ".", "<|end|>"]
CARD = {"loss_curve": [[0, 6.9], [50, 3.0], [99, 1.25]], "config": {"vocab": 1024}}

FIGURES: dict[str, Callable[[], Figure]] = {
    "processes": diagrams.processes,
    "processes with numbers": lambda: diagrams.processes(2, 10),
    "clip_objective": diagrams.clip_objective,
    "gae_weights": diagrams.gae_weights,
    "loss_mask": lambda: lens.loss_mask(TOKENS * 4, ([False] * 3 + [True] * 6) * 4),
    "token_lens": lambda: lens.token_lens(
        TOKENS * 2, {"log-probability": np.linspace(-2, 0, 18), "whitened advantage": [-0.01] * 18}
    ),
    "learning_curves": lambda: plots.learning_curves(RUNS, WARMUP),
    "ppo_curves": lambda: plots.ppo_curves(NCOT),
    "sft_curve": lambda: plots.sft_curve(NCOT),
    "pretraining_curve": lambda: plots.pretraining_curve(CARD | {"held_out_loss": 1.3}),
    "results_bars": lambda: bars.results_bars(results()),
    "results_bars, one seed": lambda: bars.results_bars(results(1)),
    "distinct_paths": lambda: bars.distinct_paths(RUNS),
    "path_shares": lambda: bars.path_shares(RUNS),
    "by_decoding": lambda: strategy_plots.by_decoding(METHODS),
    "by_decoding, one seed": lambda: strategy_plots.by_decoding(
        METHODS[METHODS["run"] == "pcot-seed0"], ["vote16", "top1"]
    ),
    "against_k": lambda: strategy_plots.against_k(STRATEGIES),
    "against_k by method": lambda: strategy_plots.against_k(METHODS, "method"),
    "sampling_curves": lambda: strategy_plots.sampling_curves(
        METHODS[METHODS["method"].isin(["online_st", "reft"])]
    ),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return {name: make() for name, make in FIGURES.items()}


def visible_texts(fig: Figure) -> list[tuple[Text, Any]]:
    """Return the figure's texts with their places in pixels, ticks outside the axes left out."""
    fig.draw_without_rendering()
    shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
    places = [(t, t.get_window_extent()) for t in shown]
    ticks = {
        label
        for ax in fig.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
    }
    return [(t, box) for t, box in places if t not in ticks]


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_small_cut_off_or_over_another(name: str, drawn: dict[str, Figure]) -> None:
    fig = drawn[name]
    with style.style():
        texts = visible_texts(fig)
    assert all(t.get_fontsize() >= 9 for t in fig.findobj(Text))
    for i, (text, box) in enumerate(texts):
        inside = fig.bbox.padded(2)
        assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1), text
        for other, place in texts[i + 1 :]:
            # One pixel may be shared: extents include the room for letters that reach down.
            wide = min(box.x1, place.x1) - max(box.x0, place.x0)
            high = min(box.y1, place.y1) - max(box.y0, place.y0)
            assert wide <= 1 or high <= 1, f"{text.get_text()!r} over {other.get_text()!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_gives_the_same_bytes(name: str, drawn: dict[str, Figure]) -> None:
    first = style.to_bytes(drawn[name])
    assert first == style.to_bytes(FIGURES[name]())
    assert not re.search(rb"dc:date|<text|https?://(?!www\.w3|purl|creativecommons)", first)


def test_a_readers_settings_change_nothing(drawn: dict[str, Figure]) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.hashsalt": None}):
        fig = plots.sft_curve(NCOT)
        assert style.to_bytes(fig) == style.to_bytes(drawn["sft_curve"])
        assert matplotlib.rcParams["font.size"] == 20


def lightness(colour: str) -> float:
    """Return CIE L* of a colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return 116 * y ** (1 / 3) - 16


def test_sft_and_reft_differ_without_colour() -> None:
    light, dark = (lightness(style.COLOURS[m]) for m in ("sft", "reft"))
    assert light - dark > 20
    for looks in (style.LINES, style.MARKERS, style.HATCHES):
        assert len({looks[m] for m in ("sft", "reft", "warm-up")}) == 3


def test_alternative_texts_hold_the_numbers(drawn: dict[str, Figure]) -> None:
    expected = {
        # seeds add 0, 1 and 2 hundredths: the mean is one above the formula
        "learning_curves": [
            "SFT, mean of 3 seeds: from 6.0% at epoch 1 to 21.0% at epoch 4",
            "ReFT, mean of 3 seeds: from 11.0% at epoch 2 to 51.0% at epoch 4",
            "P-CoT (programs) ReFT, mean of 3 seeds: from 21.0%",
        ],
        "ppo_curves": ["reward from 0.21 to 0.21", "kl from 0.1 to 0.8", "length from 39 to 32"],
        "sft_curve": ["from 2.000 to 0.500 nats", "best at epoch 4 with 21.0%"],
        "pretraining_curve": ["6.90 nats a token at step 0, 1.25 at step 99", "6.93", "1.30"],
        "results_bars": ["SFT 41.2%, ReFT 55.3%, difference +14.1 ±2.5.", "−1.3 ±2.5"],
        "results_bars, one seed": ["difference +14.1."],
        "distinct_paths": ["N-CoT (words) SFT 2.01 ±0.02", "P-CoT (programs) ReFT 1.61"],
        "path_shares": ["SFT: steps 50%, other 50%", "ReFT: steps 100%, other 0%"],
        # the middle one of three seeds is the mean; t(2 degrees) is 4.303
        "by_decoding": ["N-CoT (words), greedy: SFT 32.0% ±5.0, offline", "ReFT 66.0% ±5.0."],
        "by_decoding, one seed": ["P-CoT (programs), voting@16: SFT 33.0%, offline"],
        "against_k": ["pass@k, 1 seed: 20.0% at k = 1, 60.0% at k = 4", "chance, 1 seed: 20.0%"],
        "against_k by method": ["P-CoT (programs) ReFT, mean of 3 seeds: 62.0% at k = 1, 66.0%"],
        "sampling_curves": [
            "ReFT, mean of 3 seeds: samples right from 63% to 65%, entropy from 0.10"
        ],
        "clip_objective": ["up to the ratio 1.2", "below the ratio 0.8"],
        "gae_weights": ["0.38 at lambda 0.95"],  # 0.95 ** 19
        "loss_mask": ["36 tokens", "12 are read", "24 are shaded"],
        "token_lens": ["log-probability: from -2 at Question to 0 at <|end|>, sum -18"],
        "processes with numbers": ["for 10 epochs", "for 2 epochs"],
    }
    for name, parts in expected.items():
        alt = style.describe(drawn[name])
        assert [part for part in parts if part not in alt] == [], alt


def test_learning_curves_have_a_line_a_seed_and_start_reft_after_the_warm_up() -> None:
    for ax in plots.learning_curves(RUNS, WARMUP).axes:
        colours = [to_hex(line.get_color()).upper() for line in ax.lines]
        for method in ("sft", "reft"):
            thick, thin = style.COLOURS[method], style.tint(method, 0.5).upper()
            assert (colours.count(thick), colours.count(thin)) == (1, SEEDS)
        mean = ax.lines[colours.index(style.COLOURS["reft"])]
        assert np.asarray(mean.get_xdata()).tolist() == [WARMUP, WARMUP + 1, WARMUP + 2]


def test_one_run_has_no_thin_lines_and_a_live_list_will_do() -> None:
    rows = NCOT[(NCOT["run"] == "ncot-seed0") & (NCOT["method"] == "reft")]
    rows = rows[rows["split"] == "train"].drop(columns=["run", "fmt", "seed", "split", "method"])
    fig = plots.ppo_curves(rows.to_dict("records"))
    assert [len(ax.lines) for ax in fig.axes] == [2, 1, 1, 2]
    assert "1 seed" in style.describe(fig)


def test_mean_leaves_out_epochs_that_some_seeds_lack() -> None:
    unfinished = NCOT[(NCOT["run"] != "ncot-seed2") | (NCOT["epoch"] != 4)]
    assert "to 16.0% at epoch 3" in style.describe(plots.learning_curves(unfinished, WARMUP))


def test_result_bars_have_their_heights_whiskers_and_differences() -> None:
    fig = bars.results_bars(results())
    assert len(fig.axes) == 2
    for ax in fig.axes:
        assert [round(float(p.get_height()), 1) for p in ax.patches] == [41.2, 55.3, 9.4, 8.1]
        assert [t.get_text() for t in ax.texts] == ["+14.1\n±2.5", "−1.3\n±2.5"]
        ends = [np.ptp(c.get_segments()[0][:, 1]) for c in ax.collections]
        assert ends == pytest.approx([5.0] * 4)
        labels = [t.get_text() for t in ax.get_xticklabels()]
        assert labels == ["test\ntop-1\n41.2→55.3", "harder\nvoting@16\n9.4→8.1"]
    assert not bars.results_bars(results(1)).axes[0].collections, "one seed has no interval"


def test_methods_and_strategies_differ_without_colour() -> None:
    for group in (strategy_plots.METHODS, tuple(strategy_plots.STRATEGIES)):
        assert len({style.MARKERS[name] for name in group}) == len(group)
        assert len({style.LINES[name] for name in group}) >= len(group) - 1


def test_decodings_have_points_at_their_means_and_whiskers() -> None:
    fig = strategy_plots.by_decoding(METHODS, ["vote16", "top1"])
    for ax in fig.axes:
        assert [t.get_text() for t in ax.get_yticklabels()] in (["voting@16", "greedy"], ["", ""])
        boxes = [c for c in ax.containers if c.has_xerr]
        centres = [c.lines[0].get_xdata()[0] for c in boxes]
        assert centres == pytest.approx([35, 45, 55, 65, 32, 42, 52, 62])
        places = [float(c.lines[0].get_ydata()[0]) for c in boxes]
        assert places == sorted(places) and all(round(y) == i // 4 for i, y in enumerate(places)), (
            "a method's point stands in the row of its decoding"
        )
        half = 4.302653 * 2 / 3**0.5
        ends = [np.ptp(c.lines[2][0].get_segments()[0][:, 0]) / 2 for c in boxes]
        assert ends == pytest.approx([half] * 8, rel=1e-5)
    alone = strategy_plots.by_decoding(METHODS[METHODS["run"] == "pcot-seed0"])
    assert not any(c.has_xerr for c in alone.axes[0].containers), "one seed has no interval"


def test_lines_against_k_are_means_on_a_scale_of_doublings() -> None:
    (ax,) = strategy_plots.against_k(STRATEGIES).axes
    assert ax.get_xscale() == "log" and [t.get_text() for t in ax.get_xticklabels()] == list("124")
    by_label = {line.get_label(): np.asarray(line.get_ydata()) for line in ax.lines}
    assert by_label["reranking@k"] == pytest.approx([20, 25, 30])
    left, right = strategy_plots.against_k(METHODS, "method").axes
    assert left.get_ylim() == right.get_ylim() and len(right.lines) == 4 * (SEEDS + 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("top1", "greedy"),
        ("vote16", "voting@16"),
        ("wvote8", "weighted voting@8"),
        ("rerank100", "reranking@100"),
        ("pass4", "pass@4"),
        ("chance16", "chance"),
        ("beam4", "beam4"),
    ],
)
def test_decodings_in_words(name: str, text: str) -> None:
    assert strategy_plots.decoding(name) == text


@pytest.mark.parametrize("eps", [0.1, 0.2])
def test_clip_objective_is_the_formula(eps: float) -> None:
    axes = diagrams.clip_objective(eps).axes
    for ax, sign in zip(axes[:2], (1, -1), strict=True):
        line = next(x for x in ax.lines if x.get_label() == "clipped objective")
        ratio, found = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        wanted = np.minimum(ratio * sign, np.clip(ratio, 1 - eps, 1 + eps) * sign)
        assert found == pytest.approx(wanted, abs=1e-9)
    for ax, sign in zip(axes[2:], (1, -1), strict=True):
        slope = np.asarray(ax.lines[0].get_ydata())
        values, counts = np.unique(slope[np.isfinite(slope)].round(6), return_counts=True)
        assert values.tolist() == sorted([0, sign]) and counts.min() > 50


def test_gae_weights_are_powers_of_lambda() -> None:
    line = diagrams.gae_weights([0.9], length=5).axes[0].lines[0]
    assert np.asarray(line.get_ydata()) == pytest.approx(0.9 ** np.arange(4, -1, -1))


def test_loss_mask_shades_what_is_learnt_and_keeps_lines_inside() -> None:
    fig = lens.loss_mask(["word"] * 60, [False] * 30 + [True] * 30)
    boxes: list[Any] = list(fig.axes[0].patches)[:60]
    assert [to_hex(b.get_facecolor()) == "#ffffff" for b in boxes] == [True] * 30 + [False] * 30
    assert max(b.get_x() + b.get_width() for b in boxes) <= lens.WIDTH
    assert len({b.get_y() for b in boxes}) > 1


def test_token_lens_prints_a_number_a_cell_and_wraps() -> None:
    rows = {"value": np.full(18, 0.5), "ratio": [1.0] * 17 + [float("nan")]}
    fig = lens.token_lens(TOKENS * 2, rows)
    said = [t.get_text() for t in fig.axes[0].texts]
    assert (said.count(".50"), said.count("1.00"), said.count("value")) == (18, 17, 2)
    cells: list[Any] = list(fig.axes[0].patches)
    whites = [c for c in cells if to_hex(c.get_facecolor()) == "#ffffff"]
    assert len(cells) == 36 and len(whites) == 18, "a ratio of 1 and an empty cell are white"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.123, "−.12"), (0.999, "1.00"), (1.049, "1.05"), (-1.26, "−1.3"), (-31.4, "−31")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert lens.short(value) == text


def test_small_rows_are_printed_in_hundredths() -> None:
    said = [t.get_text() for t in lens.token_lens(["a", "b"], {"KL": [0.02, -0.015]}).axes[0].texts]
    assert {"KL, in 1/100", "2.00", "−1.5"} <= set(said)


def test_answers_by_epoch_is_a_table_with_signs_and_words() -> None:
    one = RUNS[RUNS["run"] == "ncot-seed0"]
    asked = Example("q0", "Is 1 < 2?", "42", None, None, {})
    table = pages.answers_by_epoch(one, [asked, "second", "third"], (1, 4), WARMUP)
    text = table._repr_html_()
    assert (text.count("✓ right"), text.count("✗ wrong")) == (2, 10)
    assert text.count('scope="col"') == 3 and text.count('scope="rowgroup"') == 3
    assert text.count('scope="row"') == 6 and text.count("<caption") == 1
    assert "Is 1 &lt; 2? Right answer: 42." in text
    # Epoch 1 lies in the warm-up, which is SFT's; epoch 4 is ReFT's own epoch 2.
    assert text.count("sft epoch 1 question 0") == 2 and text.count("reft epoch 2 question 0") == 1
    assert "epoch 1: SFT 0, ReFT 0; epoch 4: SFT 1, ReFT 1." in repr(table)


def test_answers_by_epoch_tells_which_validation_it_took() -> None:
    one = RUNS[RUNS["run"] == "ncot-seed0"]
    text = pages.answers_by_epoch(one, ["a", "b", "c"], epochs=(5,), pick=[2]).html
    assert text.count("(epoch 4)") == 1 and text.count("(epoch 2)") == 1


def test_show_carries_picture_and_alternative_text(drawn: dict[str, Figure]) -> None:
    shown = pages.show(drawn["loss_mask"], caption="a < b")
    assert 'alt="A text of 36 tokens' in shown.html and "a &lt; b</figcaption>" in shown.html
    assert "&lt;|end|&gt;" in shown.html, "the alternative text is escaped"
    assert "data:image/svg+xml;base64," in shown.html and "http" not in shown.html
    assert repr(shown) == style.describe(drawn["loss_mask"])


def without(column: str) -> pd.DataFrame:
    return NCOT.drop(columns=column)


BAD: dict[str, Callable[[], Any]] = {
    "no rows": lambda: plots.learning_curves(pd.DataFrame(), WARMUP),
    "no column accuracy": lambda: plots.learning_curves(without("accuracy"), WARMUP),
    "no rows with validation": lambda: plots.learning_curves(
        NCOT[NCOT["split"] == "train"], WARMUP
    ),
    "ReFT begins at 31.0%, but SFT has 11.0% at epoch 2": lambda: plots.learning_curves(
        NCOT.assign(accuracy=NCOT["accuracy"] + 0.2 * (NCOT["method"] == "reft")), WARMUP
    ),
    "wanted a table": lambda: plots.ppo_curves(3),
    "no column kl": lambda: plots.ppo_curves(without("kl")),
    "rows of ncot and pcot": lambda: plots.ppo_curves(RUNS),
    "sft_curve: rows of ncot": lambda: plots.sft_curve(RUNS),
    "no loss_curve": lambda: plots.pretraining_curve({"loss_curve": [["x"]]}),
    "make it with results.table": lambda: bars.results_bars(
        results().drop(columns="hard_vote16_pm").drop(columns="test_top1_pm")
    ),
    "not a table of results": lambda: bars.results_bars(results()[:2]),
    "no rows with hard": lambda: bars.distinct_paths(RUNS, "hard"),
    "wanted a dict": lambda: bars.path_shares(NCOT.assign(path_shares=1.0)),
    "no rows with decoding beam": lambda: strategy_plots.by_decoding(METHODS, ["beam"]),
    "strategy beam; there are: pass": lambda: strategy_plots.against_k(
        [{"strategy": "beam", "k": 1, "accuracy": 0.5}]
    ),
    "no column entropy": lambda: strategy_plots.sampling_curves(METHODS.drop(columns="entropy")),
    "3 tokens and 2 marks": lambda: lens.loss_mask(["a"] * 3, [True] * 2),
    "has 1 values for 2 tokens": lambda: lens.token_lens(["a", "b"], {"value": [1]}),
    "at least one token": lambda: lens.token_lens([], {}),
    "between 0 and 1": lambda: diagrams.clip_objective(1.5),
    "lambdas in": lambda: diagrams.gae_weights([1.2]),
    "several runs": lambda: pages.answers_by_epoch(RUNS, ["a"]),
    "no validation row of 'reft'": lambda: pages.answers_by_epoch(
        NCOT[(NCOT["run"] == "ncot-seed0") & (NCOT["method"] == "sft")], ["a"]
    ),
    "among the first 3": lambda: pages.answers_by_epoch(
        NCOT[NCOT["run"] == "ncot-seed0"], ["a"] * 12, pick=[7]
    ),
    "no alternative text": lambda: style.describe(Figure()),
    "wanted svg or png": lambda: style.to_bytes(Figure(), "pdf"),
}


@pytest.mark.parametrize("part", BAD)
def test_bad_input_is_told_in_one_line(part: str) -> None:
    with pytest.raises(UserError) as caught:
        BAD[part]()
    assert part in str(caught.value) and "\n" not in str(caught.value)


def readme_tool() -> Any:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "tools" / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool, out = readme_tool(), tmp_path / "images"
    arguments = ["--runs", str(tmp_path), "--out", str(out)]
    assert tool.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no finished runs" in said and not out.exists()
    for seed in (0, 1):
        summary = {
            m: {"test_top1": x + seed / 50, "minutes": 1} for m, x in (("sft", 0.4), ("reft", 0.5))
        }
        card = {"method": "compare", "fmt": "ncot", "ended": "now", "summary": summary}
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "card.json").write_text(json.dumps(card))
    assert tool.main(arguments) == 0
    assert "SFT 41.0%, ReFT 51.0%, difference +10.0" in capsys.readouterr().out
    assert (out / "result.svg").read_bytes().startswith(b"<?xml")
    assert (out / "result.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_tells_what_the_recorded_runs_hold() -> None:
    tool, readme = readme_tool(), (ROOT / "README.md").read_text("utf-8")
    alt = style.describe(bars.results_bars(table(ROOT / "data" / "runs" / "nano")))
    assert tool.describe_in(readme, alt) == readme, "python tools/figures.py writes it"
    assert tool.describe_in(readme, "other") != readme
    with pytest.raises(UserError, match="0 times"):
        tool.describe_in("no picture", alt)


@pytest.mark.parametrize(
    ("x", "digits", "text"),
    [
        (10.66, 1, "+10.7"),
        (-0.5, 1, "−0.5"),
        (0.04, 1, "0.0"),
        (-0.04, 1, "0.0"),
        (-0.04, 2, "−0.04"),
        (100.0, 0, "+100"),
    ],
)
def test_a_difference_carries_its_sign_unless_it_rounds_to_zero(x, digits, text):
    assert style.signed(x, digits) == text
