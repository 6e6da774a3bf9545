"""Pictures of graders: marks, whiskers and texts from tables of known means; bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from reft_lib import rft_plots, style
from reft_lib.errors import UserError

LOOKS = pd.DataFrame(
    {"metric": metric, "right": right, "score": score + move}
    for metric, right, score in (
        ("bleu", True, 0.2), ("bleu", False, 0.8), ("rouge_1", True, 0.5), ("rouge_1", False, 0.6),
    )
    for move in (-0.1, 0.1)
)  # fmt: skip


def units(seeds: int = 3) -> pd.DataFrame:
    """Make units: RFT is at 0.4, 0.5, SFT at 0.3, 0.45, the delivered model at 0.3."""
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for method, examples, test in (
            ("none", 16, 0.3), ("sft", 16, 0.3), ("sft", 64, 0.45), ("rft", 16, 0.4),
            ("rft", 64, 0.5),
        ):  # fmt: skip
            row = {"method": method, "examples": examples, "seed": seed}
            rows.append(row | {"test": test + (seed - 1) / 100})
    return pd.DataFrame(rows)


STEPS = pd.DataFrame(
    {
        "grader": grader,
        "seed": seed,
        "split": split,
        "step": step,
        "reward_mean": 0.1 * step + seed if split == "train" else None,
        "accuracy": 0.3 + step / 100 if split == "validation" else None,
    }
    for grader in ("partial", "alike")
    for seed in (0, 1)
    for split, steps in (("train", range(1, 5)), ("validation", (0, 2, 4)))
    for step in steps
)
FIGURES: dict[str, Callable[[], Figure]] = {
    "looks": lambda: rft_plots.looks(LOOKS),
    "curve": lambda: rft_plots.examples_curve(units()),
    "one seed": lambda: rft_plots.examples_curve(units(1)),
    "one method": lambda: rft_plots.examples_curve(units()[lambda t: t.method == "rft"]),
    "steps": lambda: rft_plots.reward_and_accuracy(STEPS),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_and_told(name: str) -> None:
    fig = FIGURES[name]()
    assert style.describe(fig) and len(style.to_bytes(fig)) > 5_000


def test_metrics_stand_from_the_most_misled_on() -> None:
    fig = FIGURES["looks"]()
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["bleu", "rouge_1"]
    right, wrong = ax.get_lines()
    assert list(right.get_xdata()) == pytest.approx([0.2, 0.5])
    assert list(wrong.get_xdata()) == pytest.approx([0.8, 0.6])
    assert "bleu: right 0.20, wrong 0.80." in style.describe(fig)


def test_the_curve_has_the_means_and_their_intervals() -> None:
    fig = FIGURES["curve"]()
    said = style.describe(fig)
    assert "Delivered model: 30.0 ±2.5%." in said  # t with 2 degrees: 4.30 / sqrt(3)
    assert "RFT from 64: 50.0 ±2.5%." in said and "SFT from 16: 30.0 ±2.5%." in said
    labelled = {line.get_label(): line for line in fig.axes[0].get_lines()}
    assert list(labelled["RFT"].get_ydata()) == pytest.approx([40, 50])
    assert "RFT from 64: 49.0%." in style.describe(FIGURES["one seed"]())


def test_reward_and_accuracy_have_a_panel_each() -> None:
    left, right = FIGURES["steps"]().axes
    by_name = {line.get_label(): line for line in left.get_lines()}
    assert list(by_name["alike"].get_ydata()) == pytest.approx([0.6, 0.7, 0.8, 0.9])
    by_name = {line.get_label(): line for line in right.get_lines()}
    assert list(by_name["partial"].get_ydata()) == pytest.approx([30, 32, 34])


BAD: dict[str, Callable[[], Any]] = {
    "no rows": lambda: rft_plots.examples_curve([]),
    "no column test": lambda: rft_plots.examples_curve(units().drop(columns="test")),
    "no row of sft or rft": lambda: rft_plots.examples_curve(units()[lambda t: t.method == "none"]),
    "right and of wrong": lambda: rft_plots.looks(LOOKS[lambda t: t.right]),
    "3 graders": lambda: rft_plots.reward_and_accuracy(
        pd.concat([STEPS, STEPS[:2].assign(grader="third")])
    ),
}


@pytest.mark.parametrize("part", BAD)
def test_bad_input_is_told_in_one_line(part: str) -> None:
    with pytest.raises(UserError) as caught:
        BAD[part]()
    assert part in str(caught.value) and "\n" not in str(caught.value)
