"""Pictures of reward hacking and ablations: their heights, whiskers, texts, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from reft_lib import ablation_plots, style
from reft_lib.errors import UserError

ASKED = {"number": 0.02, "option": 0.1}


def rows(seeds: int = 3) -> pd.DataFrame:
    """Make rows of known means: seed s adds s hundredths to accuracy, unsound stays as it is."""
    found: list[dict[str, Any]] = []
    for kind, unsound in ASKED.items():
        for seed in range(seeds):
            key = {"kind": kind, "run": f"seed{seed}", "fmt": "ncot", "seed": seed}
            for method, base in (("sft", 0.4), ("reft", 0.5)):
                row = {"split": "test", "method": method, "decoding": "top1"}
                row |= {"accuracy": base + seed / 100, "right_unsound": unsound}
                found += [key | row, key | row | {"decoding": "vote16", "accuracy": 0.9}]
            for step in (0, 5, 10):
                row = {"split": "validation", "method": "reft", "step": step}
                row |= {"accuracy": 0.3 + step / 100 + seed / 100, "right_unsound": unsound}
                found.append(key | row)
            for step in range(1, 11):
                found.append(key | {"split": "train", "method": "reft", "step": step, "kl": step})
    return pd.DataFrame(found)


def variants(*names: str) -> pd.DataFrame:
    """Make one table of several variants; each adds a tenth to the accuracy of the one before."""
    base = rows()[lambda t: t["kind"] == "number"].drop(columns="kind")
    tables = [
        base.assign(variant=name, accuracy=base["accuracy"] + i / 10, kl=base["kl"] * (1 + i))
        for i, name in enumerate(names)
    ]
    return pd.concat(tables, ignore_index=True)


WARM = pd.DataFrame(
    {"epochs": epochs, "method": method, "accuracy": base + epochs / 100 + seed / 50}
    for epochs in (1, 3, 12)
    for method, base in (("sft", 0.3), ("reft", 0.5))
    for seed in range(2 if epochs < 12 else 1)
)
GAPS = {"no partial reward": [1.0, 2.0, 3.0], "beta 0": [-4.0, -5.0, -6.0], "one seed": [-0.5]}
FIGURES: dict[str, Callable[[], Figure]] = {
    "bars": lambda: ablation_plots.soundness_bars(rows()),
    "bars, one seed": lambda: ablation_plots.soundness_bars(rows(1)),
    "bars, one kind": lambda: ablation_plots.soundness_bars(rows()[lambda t: t.kind == "option"]),
    "curves": lambda: ablation_plots.soundness_curves(rows()),
    "ablation": lambda: ablation_plots.ablation_curves(variants("standard", "beta 0")),
    "four": lambda: ablation_plots.ablation_curves(variants("standard", "a", "b", "c")),
    "differences": lambda: ablation_plots.differences(GAPS),
    "warm-up": lambda: ablation_plots.warmup_curve(WARM),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return {name: make() for name, make in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_small_or_cut_off(name: str, drawn: dict[str, Figure]) -> None:
    fig = drawn[name]
    with style.style():
        fig.draw_without_rendering()
        unseen = {
            label
            for ax in fig.axes
            for axis in (ax.xaxis, ax.yaxis)
            for tick in axis.get_major_ticks()
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
            for label in (tick.label1, tick.label2)
        }
        shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
        shown = [t for t in shown if t not in unseen]
        boxes = [(t.get_text(), t.get_fontsize(), t.get_window_extent()) for t in shown]
    for text, size, box in boxes:
        inside = fig.bbox.padded(2)
        assert size >= 9 and inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1), (
            text
        )


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_gives_the_same_bytes(name: str, drawn: dict[str, Figure]) -> None:
    assert style.to_bytes(drawn[name]) == style.to_bytes(FIGURES[name]())


def test_alternative_texts_hold_the_numbers(drawn: dict[str, Figure]) -> None:
    expected = {
        # three seeds 0, 1, 2 hundredths apart: t of 2 degrees 4.303 times 1 / sqrt(3)
        "bars": [
            "option, ReFT: 51.0 ±2.5% right, of which 41.0 ±2.5 sound and 10.0 ±0.0 unsound.",
            "number, SFT: 41.0 ±2.5% right, of which 39.0 ±2.5 sound and 2.0 ±0.0 unsound.",
        ],
        "bars, one seed": ["option, ReFT: 50.0% right, of which 40.0 sound and 10.0 unsound."],
        "curves": [
            "option, right and sound: from 21.0% at step 0 to 31.0% at step 10.",
            "number, right, but unsound: from 2.0% at step 0 to 2.0% at step 10.",
        ],
        "ablation": [
            "Validation accuracy, standard, 3 seeds: from 31.0 to 41.0 %, highest 41.0.",
            "Validation accuracy, beta 0, 3 seeds: from 41.0 to 51.0 %",
            "KL to the warm-up policy, beta 0, 3 seeds: from 2.0 to 20.0 nats a response",
        ],
        "differences": [
            "no partial reward, 3 seeds: +2.0 ±2.5 points.",
            "beta 0, 3 seeds: −5.0 ±2.5 points.",
            "one seed, 1 seed: −0.5 points.",
        ],
        "warm-up": ["SFT after 1: 32.0 ±12.7%.", "ReFT after 12: 62.0%."],
    }
    for name, parts in expected.items():
        alt = style.describe(drawn[name])
        assert [part for part in parts if part not in alt] == [], alt


def test_bars_are_stacked_and_the_unsound_part_is_hatched(drawn: dict[str, Figure]) -> None:
    for ax, unsound in zip(drawn["bars"].axes, ASKED.values(), strict=True):
        found: list[Any] = list(ax.patches)
        for low, high, right in ((found[0], found[1], 41.0), (found[2], found[3], 51.0)):
            assert low.get_height() == pytest.approx(right - 100 * unsound)
            assert high.get_y() == pytest.approx(low.get_height())
            assert high.get_height() == pytest.approx(100 * unsound)
            assert high.get_hatch() == ablation_plots.UNSOUND != low.get_hatch()
            assert to_hex(high.get_facecolor()) == "#ffffff"
        assert len(ax.collections) == 4, "a whisker for the sound part, one for the sum"
    assert not drawn["bars, one seed"].axes[0].collections, "one seed has no interval"
    labels = [t.get_text() for t in drawn["bars"].axes[1].get_xticklabels()]
    assert labels == ["SFT\n31.0 + 10.0", "ReFT\n41.0 + 10.0"]


def test_curves_have_a_line_a_seed_and_differ_without_colour(drawn: dict[str, Figure]) -> None:
    for ax in drawn["four"].axes:
        thick = [line for line in ax.lines if line.get_linewidth() > 2]
        assert (len(thick), len(ax.lines)) == (4, 4 + 4 * 3)
        for looks in ([x.get_linestyle() for x in thick], [x.get_marker() for x in thick]):
            assert len(set(looks)) == 4
    accuracy = np.asarray(drawn["ablation"].axes[0].lines[3].get_ydata())
    assert accuracy == pytest.approx([31, 36, 41])


def test_differences_have_their_intervals_and_seeds(drawn: dict[str, Figure]) -> None:
    ax = drawn["differences"].axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(GAPS)
    assert [t.get_text() for t in ax.texts] == ["+2.0 ±2.5", "−5.0 ±2.5", "−0.5"]
    drawn_values = [np.asarray(line.get_xdata()).tolist() for line in ax.lines]
    for values in GAPS.values():
        assert values in drawn_values
    assert sum(len(x) == 2 and x != [0, 0] for x in drawn_values) == 2, "one seed has no interval"


def test_warm_up_draws_both_methods_at_their_epochs(drawn: dict[str, Figure]) -> None:
    ax = drawn["warm-up"].axes[0]
    assert ax.get_xticks().tolist() == [1, 3, 12]
    named = {str(x.get_label()): x for x in ax.lines if not str(x.get_label()).startswith("_")}
    assert set(named) == {"SFT", "ReFT after that warm-up"}
    assert np.asarray(named["SFT"].get_ydata()) == pytest.approx([32, 34, 42])


BAD: dict[str, Callable[[], Any]] = {
    "no column right_unsound": lambda: ablation_plots.soundness_bars(
        rows().drop(columns="right_unsound")
    ),
    "no rows of method sft": lambda: ablation_plots.soundness_bars(
        rows()[lambda t: t.method == "reft"]
    ),
    "no rows with validation": lambda: ablation_plots.soundness_curves(
        rows()[lambda t: t.split == "test"]
    ),
    "5 variants; at most 4": lambda: ablation_plots.ablation_curves(variants(*"abcde")),
    "rows of ncot and pcot": lambda: ablation_plots.ablation_curves(
        variants("a", "b").assign(fmt=lambda t: t.variant.map({"a": "ncot", "b": "pcot"}))
    ),
    "at least one variant": lambda: ablation_plots.differences({}),
    "each with at least one seed": lambda: ablation_plots.differences({"a": [1.0], "b": []}),
    "no column epochs": lambda: ablation_plots.warmup_curve(WARM.drop(columns="epochs")),
}


@pytest.mark.parametrize("part", BAD)
def test_bad_input_is_told_in_one_line(part: str) -> None:
    with pytest.raises(UserError) as caught:
        BAD[part]()
    assert part in str(caught.value) and "\n" not in str(caught.value)
