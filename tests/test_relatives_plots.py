"""Pictures of PPO's relatives: their numbers in words, what tells methods apart, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from reft_lib import relatives_plots, style
from reft_lib.errors import UserError

VIEWS = pd.DataFrame(
    {"policy": name, "group_size": k, "flat": 0.1 * i + 1 / k, "others": 0.2 / k, "batch": 0.1 + i}
    for i, name in enumerate(("after the warm-up", "after 5 steps of PPO"))
    for k in (2, 4, 8, 16)
)
PULLS = pd.DataFrame(
    {"probability": p, "form": form, "pull": factor * (0.2 - p)}
    for form, factor in (("in the loss", 1.0), ("backwards", 1.0), ("meant", 0.5))
    for p in (0.01, 0.5, 0.99)
)
SHARES = {"ppo": [0.01, 0.04], "grpo": [0.02, 0.02, 0.05], "rloo": [0.03], "none": [-0.002, -0.004]}


def curves(*arms: str, seeds: int = 2) -> pd.DataFrame:
    """Make validations at known minutes: seed s is s hundredths better and s minutes later."""
    return pd.DataFrame(
        {"arm": arm, "seed": s, "step": step, "minutes": 1 + step / 10 + s}
        for arm in arms
        for s in range(seeds)
        for step in (0, 5, 10)
    ).assign(accuracy=lambda t: 0.5 + t.seed / 100)


UNITS = pd.DataFrame(
    {"group_size": k, "test": 0.7 + seed / 100, "flat": 1 / k}
    for k in (2, 8)
    for seed in range(3 if k == 8 else 1)
)
FIGURES: dict[str, Callable[[], Figure]] = {
    "groups": lambda: relatives_plots.group_views(VIEWS),
    "pulls": lambda: relatives_plots.pulls(PULLS, 0.2),
    "noise": lambda: relatives_plots.noise(SHARES),
    "minutes": lambda: relatives_plots.over_minutes(curves("ppo", "grpo", "rloo", "reinforce")),
    "sizes": lambda: relatives_plots.by_group_size(UNITS, [0.7, 0.74]),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return {name: make() for name, make in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_small_or_cut_off(name: str, drawn: dict[str, Figure]) -> None:
    fig = drawn[name]
    with style.style():
        fig.draw_without_rendering()
        ticks = {
            label
            for ax in fig.axes
            for axis in (ax.xaxis, ax.yaxis)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
            for label in (tick.label1, tick.label2)
        }
        shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
        shown = [t for t in shown if t not in ticks]
        boxes: list[Any] = [(t.get_text(), t.get_fontsize(), t.get_window_extent()) for t in shown]
    inside = fig.bbox.padded(2)
    for text, size, box in boxes:
        assert size >= 9 and inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1), (
            text
        )


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_gives_the_same_bytes(name: str, drawn: dict[str, Figure]) -> None:
    assert style.to_bytes(drawn[name]) == style.to_bytes(FIGURES[name]())


def test_alternative_texts_hold_the_numbers(drawn: dict[str, Figure]) -> None:
    expected = {
        "groups": [
            "after the warm-up, groups of 2: 50% flat; variance left by the group's others 0.100",
            "after 5 steps of PPO, groups of 16: 16% flat",
        ],
        "pulls": ["meant: +0.10 at probability 0.01, −0.40 at 0.99."],
        # two seeds: t of 1 degree 12.71 times 0.015; three: 4.303 times 0.01
        "noise": ["PPO: 0.025 ±0.191.", "GRPO: 0.030 ±0.043.", "RLOO: 0.030.", "line: −0.003 ±0"],
        "minutes": ["PPO, 2 seeds: 50.5% at 1.5 minutes, 50.5% at 2.5, highest 50.5%."],
        "sizes": [
            "Test accuracy, groups of 8: 71.0 ±2.5%.",
            "Test accuracy, groups of 2: 70.0%.",
            "Groups that teach nothing, groups of 8: 12.5%.",
            "PPO's test accuracy: 72.0%.",
        ],
    }
    for name, parts in expected.items():
        alt = style.describe(drawn[name])
        assert [part for part in parts if part not in alt] == [], alt


def test_methods_differ_without_colour(drawn: dict[str, Figure]) -> None:
    (ax,) = drawn["minutes"].axes
    thick = [line for line in ax.lines if line.get_linewidth() > 2]
    assert (len(thick), len(ax.lines)) == (4, 4 + 4 * 2)
    for looks in ([x.get_linestyle() for x in thick], [x.get_marker() for x in thick]):
        assert len(set(looks)) == 4
    assert np.asarray(thick[0].get_xdata()) == pytest.approx([1.5, 2.0, 2.5])


BAD: dict[str, Callable[[], Any]] = {
    "3 policies; at most two": lambda: relatives_plots.group_views(
        pd.concat([VIEWS, VIEWS.assign(policy="third")])
    ),
    "no column flat": lambda: relatives_plots.group_views(VIEWS.drop(columns="flat")),
    "4 forms; at most three": lambda: relatives_plots.pulls(
        pd.concat([PULLS, PULLS.assign(form="fourth")]), 0.2
    ),
    "each with at least one seed": lambda: relatives_plots.noise({"ppo": [0.1], "grpo": []}),
    "no column minutes": lambda: relatives_plots.over_minutes(
        curves("ppo").drop(columns="minutes")
    ),
    "no rows": lambda: relatives_plots.by_group_size(UNITS[:0]),
}


@pytest.mark.parametrize("part", BAD)
def test_bad_input_is_told_in_one_line(part: str) -> None:
    with pytest.raises(UserError) as caught:
        BAD[part]()
    assert part in str(caught.value) and "\n" not in str(caught.value)
