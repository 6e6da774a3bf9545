"""Figures of recorded runs: curves over training, and bars of results.

Every function takes what :mod:`reft_lib.runlog` or :mod:`reft_lib.results` returns, and gives a
figure with its alternative text (:func:`reft_lib.style.describe`). Thin lines are single seeds,
the thick line is their mean; whiskers are 95% intervals over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import stats
from reft_lib.errors import UserError
from reft_lib.results import METHODS
from reft_lib.style import (
    COLOURS,
    FORMATS,
    HATCHES,
    LABELS,
    LINES,
    MARKERS,
    finish,
    minus,
    names,
    need,
    style,
    tint,
)

if TYPE_CHECKING:
    import pandas as pd


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """Return a figure of this size in inches and its panels, an array (rows, columns) of axes."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False)


def _rows(frame: Any, who: str, columns: list[str], **wanted: str) -> pd.DataFrame:
    """Return the rows whose columns hold the ``wanted`` values; a column may be absent."""
    table = need(frame, columns, who)
    for column, value in wanted.items():
        if column in table:
            table = table[table[column] == value]
    table = table.dropna(subset=columns)
    if table.empty:
        raise UserError(f"{who}: no rows with {names(wanted.values())} and {names(columns)}")
    return table if "run" in table else table.assign(run="one")


def _one_format(table: pd.DataFrame, who: str) -> None:
    """Refuse a table that mixes words and programs."""
    if "fmt" in table and table["fmt"].nunique() > 1:
        raise UserError(f"{who}: rows of ncot and pcot; choose one by its column fmt")


def _mean(table: pd.DataFrame, x: str, y: str) -> pd.Series:
    """Return the mean of ``y`` over runs at every ``x`` that all runs have (else that any has)."""
    groups = table.groupby(x)
    shared = groups["run"].nunique() == table["run"].nunique()
    mean = groups[y].mean()
    return mean[shared] if shared.any() else mean


def _curves(
    ax: Axes, table: pd.DataFrame, x: str, y: str, look: str, scale: float = 1.0, label: str = ""
) -> pd.Series:
    """Draw a thin line for each run and a thick one for their mean, which is returned."""
    mean, colour, line = scale * _mean(table, x, y), COLOURS[look], LINES.get(look, "-")
    if table["run"].nunique() > 1:
        for _, run in table.groupby("run"):
            run = run.sort_values(x)
            ax.plot(run[x], scale * run[y], color=tint(colour, 0.5), ls=line, lw=0.8, zorder=1.5)
    ax.plot(
        mean.index.to_numpy(),
        mean.to_numpy(),
        color=colour,
        ls=line,
        lw=2.4,
        marker=MARKERS.get(look, "D"),
        markevery=max(1, len(mean) // 12),
        label=label or LABELS.get(look, look),
    )
    return mean


def _seeds(table: pd.DataFrame) -> str:
    n = table["run"].nunique()
    return "1 seed" if n == 1 else f"mean of {n} seeds"


@style()
def learning_curves(frame: Any, warmup_epochs: float = 2) -> Figure:
    """Draw the validation accuracy of SFT and ReFT over training, a panel for each format.

    Parameters
    ----------
    frame : DataFrame
        ``runlog.read_runs("data/runs/nano")``; used are the rows of split ``validation`` with
        ``method``, ``epoch`` and ``accuracy``.
    warmup_epochs : float
        Epochs of SFT before ReFT's own epoch 0; ReFT's lines begin there.

    Raises
    ------
    UserError
        If there is no such row.
    """
    who = "learning_curves"
    table = _rows(frame, who, ["method", "epoch", "accuracy"], split="validation")
    formats = sorted(table["fmt"].unique()) if "fmt" in table else [""]
    fig, panels = _figure(7.2, 3.4, len(formats))
    said = []
    for ax, fmt in zip(panels[0], formats, strict=True):
        here = table[table["fmt"] == fmt] if fmt else table
        ax.axvline(warmup_epochs, color=COLOURS["warm-up"], ls=":", lw=1.8, label="warm-up ends")
        for method in METHODS:
            rows = here[here["method"] == method]
            if rows.empty:
                continue
            shift = warmup_epochs if method == "reft" else 0
            mean = _curves(ax, rows.assign(x=rows["epoch"] + shift), "x", "accuracy", method, 100)
            said.append(
                f"{FORMATS.get(fmt, fmt)} {LABELS[method]}, {_seeds(rows)}: from "
                f"{mean.iloc[0]:.1f}% at epoch {mean.index[0]:g} to {mean.iloc[-1]:.1f}% at epoch "
                f"{mean.index[-1]:g}, best {mean.max():.1f}% at epoch {mean.idxmax():g}."
            )
        ax.set(xlabel="epochs (passes over the questions)", title=FORMATS.get(fmt, fmt))
        ax.set(xlim=(0, None), ylim=(0, None))
    _share_top([*panels[0]])
    panels[0][0].set_ylabel("validation accuracy, %")
    panels[0][0].legend(loc="best")
    return finish(fig, f"Validation accuracy over training epochs. {' '.join(said)}")


def _share_top(panels: list[Axes]) -> None:
    """Give panels side by side the same upper end."""
    top = max(ax.get_ylim()[1] for ax in panels)
    for ax in panels:
        ax.set_ylim(top=top)


@style()
def ppo_curves(frame: Any) -> Figure:
    """Draw four views of PPO's steps: reward and accuracy, KL, length, clipping and value loss.

    Parameters
    ----------
    frame : DataFrame or list of dict
        What :func:`reft_lib.ppo.ppo` yields, or the same read back with ``runlog.read_runs`` (the
        rows of split ``train`` and method ``reft``), in one format.

    Raises
    ------
    UserError
        If there is no such row, a column is missing, or both formats are mixed.
    """
    columns = ["step", "reward", "accuracy", "kl", "length", "clip_fraction", "value_loss"]
    table = _rows(frame, "ppo_curves", columns, split="train", method="reft")
    _one_format(table, "ppo_curves")
    fig, panels = _figure(7.2, 5.0, 2, 2)
    views = [
        ("Reward and accuracy", "of the rollouts", ["reward", "accuracy"]),
        ("KL to the warm-up policy", "nats a response", ["kl"]),
        ("Response length", "tokens", ["length"]),
        ("Clipping and value loss", "share; squared reward", ["clip_fraction", "value_loss"]),
    ]
    said = []
    for ax, (title, unit, drawn) in zip(panels.flat, views, strict=True):
        for name, look in zip(drawn, ("reft", "right"), strict=False):
            mean = _curves(ax, table, "step", name, look, label=name.replace("_", " "))
            said.append(f"{name.replace('_', ' ')} from {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}")
        ax.set(title=title, ylabel=unit)
        if len(drawn) > 1:
            ax.legend()
    for ax in panels[1]:
        ax.set_xlabel("step (rollout batch)")
    steps = f"{int(table['step'].min())} to {int(table['step'].max())}"
    return finish(fig, f"PPO from step {steps}, {_seeds(table)}: {'; '.join(said)}.")


@style()
def results_bars(frame: Any) -> Figure:
    """Draw SFT beside ReFT on every test and decoding, with the difference above each pair.

    Parameters
    ----------
    frame : DataFrame
        From :func:`reft_lib.results.table`: accuracies in percent, half-widths of intervals in
        the columns that end in ``_pm``.

    Raises
    ------
    UserError
        If it is not such a table.
    """
    table = need(frame, ["fmt", "method", "seeds"], "results_bars")
    groups = [c[:-3] for c in table if str(c).endswith("_pm") and c[:-3] in table]
    if not groups or not {*METHODS, "reft - sft"} <= set(table["method"]):
        raise UserError("results_bars: not a table of results; make it with results.table")
    formats = list(dict.fromkeys(table["fmt"]))
    fig, panels = _figure(7.2, 3.9, len(formats))
    said = []
    for ax, fmt in zip(panels[0], formats, strict=True):
        here = table[table["fmt"] == fmt].set_index("method")
        for i, group in enumerate(groups):
            said.append(f"{fmt} {_group(group)}: {_pair(ax, i, here, group)}")
        ax.set_xticks(range(len(groups)), [_group(g).replace(" ", "\n", 1) for g in groups])
        ax.set(title=f"{FORMATS.get(fmt, fmt)}, {here['seeds'].iloc[0]} seeds", ylim=(0, None))
        ax.grid(visible=False, axis="x")
    _share_top([*panels[0]])
    panels[0][0].set_ylabel("questions answered rightly, %")
    fig.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Accuracy of SFT and ReFT with 95% intervals. {' '.join(said)}")


def _group(name: str) -> str:
    """Say ``hard_vote16`` in words."""
    test, _, decoding = name.partition("_")
    decoding = decoding.replace("top1", "top-1").replace("vote", "voting@")
    return f"{'harder' if test == 'hard' else test} {decoding}"


def _pair(ax: Axes, x: float, here: pd.DataFrame, group: str) -> str:
    """Draw the two bars of one test and decoding with their difference; returns it in words."""
    tops, said = [], []
    for method, side in zip(METHODS, (-0.2, 0.2), strict=True):
        value, half = here.loc[method, group], here.loc[method, f"{group}_pm"]
        _bar(ax, x + side, value, half, method, 0.38, named=x == 0)
        tops.append(value + (half if math.isfinite(half) else 0))
        said.append(f"{LABELS[method]} {value:.1f}%")
    gain, half = here.loc["reft - sft", group], here.loc["reft - sft", f"{group}_pm"]
    text = minus(f"{gain:+.1f}")
    pm = f"±{half:.1f}" if math.isfinite(half) else ""
    ax.annotate(
        f"{text}\n{pm}".strip(),
        (x, max(tops)),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        weight="bold",
    )
    ax.update_datalim([(x, 1.18 * max(tops) + 4)])
    return f"{', '.join(said)}, difference {text} {pm}".strip() + "."


def _bar(
    ax: Axes, x: float, value: float, half: float, method: str, width: float, named: bool = False
) -> None:
    """Draw a bar with a whisker of half-width ``half`` (none if it is NaN)."""
    ax.bar(
        x,
        value,
        width,
        color=COLOURS[method],
        hatch=HATCHES[method],
        edgecolor="white",
        label=LABELS[method] if named else None,
    )
    if math.isfinite(half):
        ax.errorbar(x, value, half, color=COLOURS["ink"], lw=1.4, capsize=3)
