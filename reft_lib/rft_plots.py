"""Pictures of graders: what they pay for, what training against them does, from how many examples.

Filled marks and thick lines are means over seeds, whiskers their 95% intervals; a small mark or a
thin line is one seed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import stats
from reft_lib.errors import UserError
from reft_lib.plots import panels
from reft_lib.style import COLOURS, LINES, MARKERS, finish, need, style, tint

METHODS = {"sft": "SFT", "rft": "RFT"}
"""The methods of the study by example count, as they are called."""
LOOKS = {"sft": "sft", "rft": "reft"}
"""Whose colour, line and marker they have."""


@style()
def looks(frame: Any) -> Figure:
    """Draw what each metric pays for right solutions that look different, and wrong lookalikes.

    Parameters
    ----------
    frame : DataFrame
        ``metric``, ``right`` (bool) and ``score``, a row for each solution graded.

    Raises
    ------
    UserError
        If there is no row, a column is missing, or a metric has only right or only wrong ones.
    """
    table = need(frame, ["metric", "right", "score"], "looks")
    means = table.groupby(["metric", "right"])["score"].mean().unstack()
    if means.shape[1] < 2 or means.isna().any(axis=None):
        raise UserError("looks: every metric needs the scores of right and of wrong solutions")
    means = means.loc[(means[True] - means[False]).sort_values().index]
    fig, axes = panels(7.2, 1.2 + 0.27 * len(means))
    ax, y = axes[0][0], np.arange(len(means))
    ax.hlines(y, means.min(axis=1), means.max(axis=1), color=COLOURS["grey"], lw=1)
    for right, marker, label in (
        (True, "o", "right, on another path"),
        (False, "X", "wrong, a copy with one number changed"),
    ):
        colour = COLOURS["right" if right else "wrong"]
        ax.plot(means[right], y, marker, color=colour, ms=8, label=label)
    ax.set_yticks(y, list(means.index))
    ax.set(xlabel="mean score", xlim=(0, 1.02), ylim=(-0.6, len(means) - 0.4))
    fig.legend(loc="outside upper left", ncols=2)
    said = [f"{m}: right {r[True]:.2f}, wrong {r[False]:.2f}." for m, r in means.iterrows()]
    return finish(fig, f"Mean scores by metric, from the most misled on. {' '.join(said)}")


@style()
def examples_curve(frame: Any) -> Figure:
    """Draw test accuracy against the number of examples, of SFT and of RFT.

    Parameters
    ----------
    frame : DataFrame
        A row for each unit: ``method`` (``none`` is the model that both begin with), ``examples``,
        ``seed``, ``test`` (0 to 1).

    Raises
    ------
    UserError
        If there is no row of SFT or RFT, or a column is missing.
    """
    table = need(frame, ["method", "examples", "seed", "test"], "examples_curve")
    if not table["method"].isin(METHODS).any():
        raise UserError("examples_curve: no row of sft or rft; run the study's arms first")
    fig, axes = panels(7.2, 3.8)
    ax, said = axes[0][0], []
    delivered = 100 * table[table["method"] == "none"]["test"].astype(float)
    if len(delivered):
        found = stats.mean_interval(delivered)
        if math.isfinite(found.lo):
            ax.axhspan(found.lo, found.hi, color=COLOURS["pale"], zorder=0)
        ax.axhline(found.mean, color=COLOURS["grey"], ls=":", label="delivered model")
        said.append(f"Delivered model: {_plus_minus(found)}%.")
    for (method, name), side in zip(METHODS.items(), (0.95, 1.05), strict=True):
        rows = table[table["method"] == method]
        if rows.empty:
            continue
        look = LOOKS[method]
        colour, points = COLOURS[look], []
        for n, here in rows.groupby("examples"):
            values = 100 * here["test"].astype(float)
            found = stats.mean_interval(values)
            points.append((n * side, found.mean))
            _whisker(ax, n * side, found)
            dots = np.full(len(values), n * side**2)
            ax.plot(dots, values, MARKERS[look], mfc="white", mec=colour, ms=4)
            said.append(f"{name} from {n}: {_plus_minus(found)}%.")
        style_ = {"color": colour, "ls": LINES[look], "marker": MARKERS[look], "ms": 7}
        ax.plot(*zip(*points, strict=True), label=name, **style_)
    ax.set_xscale("log", base=2)
    sizes = sorted(set(table[table["method"].isin(METHODS)]["examples"]))
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ax.minorticks_off()
    ax.set(xlabel="examples", ylabel="test, greedy, % right", ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(fig, f"Test accuracy by number of examples. {' '.join(said)}")


@style()
def reward_and_accuracy(frame: Any) -> Figure:
    """Draw, for each grader, the reward it pays in training, and accuracy on validation.

    Parameters
    ----------
    frame : DataFrame
        Rows of run logs: ``grader`` (its name), ``seed``, ``split``, ``step``; ``reward_mean`` of
        split ``train``, ``accuracy`` (0 to 1) of split ``validation``.

    Raises
    ------
    UserError
        If there is no row, a column is missing, or there are more than two graders.
    """
    columns = ["grader", "seed", "split", "step", "reward_mean", "accuracy"]
    table = need(frame, columns, "reward_and_accuracy")
    names = list(dict.fromkeys(table["grader"]))
    if len(names) > 2:
        raise UserError(f"reward_and_accuracy: {len(names)} graders; at most two can be told apart")
    fig, axes = panels(7.2, 3.4, 2)
    said = []
    for ax, split, column, title, scale in (
        (axes[0][0], "train", "reward_mean", "What the grader pays, training", 1),
        (axes[0][1], "validation", "accuracy", "Right answers, validation, %", 100),
    ):
        for name, look in zip(names, ("reft", "sft"), strict=False):
            rows = table[(table["grader"] == name) & (table["split"] == split)]
            for _, one in rows.groupby("seed"):
                ax.plot(one["step"], scale * one[column], color=tint(look, 0.35), lw=0.8)
            means = scale * rows.groupby("step")[column].mean()
            ax.plot(means.index, means, color=COLOURS[look], ls=LINES[look], label=name)
            if len(means):
                ends = f"{means.iloc[0]:.2f} at step {means.index[0]}, {means.iloc[-1]:.2f} at step"
                said.append(f"{title}, {name}: {ends} {means.index[-1]}.")
        ax.set(title=title, xlabel="step", ylim=(0, None))
    fig.legend(*axes[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Two graders in training. {' '.join(said)}")


def _plus_minus(found: stats.Interval) -> str:
    text = f"{found.mean:.1f}"
    return text if math.isnan(found.lo) else f"{text} ±{found.mean - found.lo:.1f}"


def _whisker(ax: Axes, x: float, found: stats.Interval) -> None:
    if math.isfinite(found.lo):
        ax.errorbar(x, found.mean, found.mean - found.lo, color=COLOURS["ink"], lw=1.4, capsize=3)
