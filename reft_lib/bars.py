"""Bars of results: SFT beside ReFT on the tests, and the reasoning paths that each uses.

A bar is a mean over seeds, its whisker the 95% interval, a dot one seed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import stats
from reft_lib.errors import UserError
from reft_lib.plots import panels, pick, share_top
from reft_lib.results import METHODS
from reft_lib.style import COLOURS, FORMATS, HATCHES, LABELS, finish, need, signed, style


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
    fig, axes = panels(7.2, 3.9, len(formats))
    said = []
    for ax, fmt in zip(axes[0], formats, strict=True):
        here = table[table["fmt"] == fmt].set_index("method")
        for i, group in enumerate(groups):
            said.append(f"{fmt} {_group(group)}: {_pair(ax, i, here, group)}")
        ax.set_xticks(range(len(groups)), [_tick(here, g) for g in groups])
        ax.tick_params(axis="x", labelsize=9)
        n = int(here["seeds"].iloc[0])
        title = f"{FORMATS.get(fmt, fmt)}, {n} {'seed' if n == 1 else 'seeds'}"
        ax.set(title=title, ylim=(0, None))
        ax.grid(visible=False, axis="x")
    share_top([*axes[0]])
    axes[0][0].set_ylabel("questions answered rightly, %")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Accuracy of SFT and ReFT with 95% intervals. {' '.join(said)}")


def _group(name: str) -> str:
    """Say ``hard_vote16`` in words."""
    test, _, decoding = name.partition("_")
    decoding = decoding.replace("top1", "top-1").replace("vote", "voting@")
    return f"{'harder' if test == 'hard' else test} {decoding}"


def _tick(here: Any, group: str) -> str:
    """Return the label below a pair: what it is, and its two means."""
    sft, reft = (here.loc[m, group] for m in METHODS)
    return _group(group).replace(" ", "\n", 1) + f"\n{sft:.1f}→{reft:.1f}"


def _pair(ax: Axes, x: float, here: Any, group: str) -> str:
    """Draw the two bars of one test and decoding with their difference; returns it in words."""
    tops, said = [], []
    for method, side in zip(METHODS, (-0.2, 0.2), strict=True):
        value, half = here.loc[method, group], here.loc[method, f"{group}_pm"]
        _bar(ax, x + side, value, half, method, 0.38, named=x == 0)
        tops.append(value + (half if math.isfinite(half) else 0))
        said.append(f"{LABELS[method]} {value:.1f}%")
    gain, half = here.loc["reft - sft", group], here.loc["reft - sft", f"{group}_pm"]
    text = signed(gain)
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


@style()
def distinct_paths(frame: Any, split: str = "test") -> Figure:
    """Draw how many distinct correct paths a question gets from each policy, on average.

    Parameters
    ----------
    frame : DataFrame
        ``runlog.read_runs("data/runs/nano")``; used are the rows of the split that have a
        ``distinct_paths``, those of majority voting.
    split : {"test", "hard"}

    Raises
    ------
    UserError
        If there is no such row.
    """
    table = pick(frame, "distinct_paths", ["method", "distinct_paths"], split=split)
    formats = sorted(table["fmt"].unique()) if "fmt" in table else [""]
    fig, axes = panels(1.6 + 2.0 * len(formats), 3.3)
    ax, said = axes[0][0], []
    for i, fmt in enumerate(formats):
        here = table[table["fmt"] == fmt] if fmt else table
        for method, side in zip(METHODS, (-0.2, 0.2), strict=True):
            counts = here.loc[here["method"] == method, "distinct_paths"].to_numpy(dtype=float)
            if len(counts) == 0:
                continue
            mean, low, _ = stats.mean_interval(counts)
            _bar(ax, i + side, mean, mean - low, method, 0.38, named=i == 0)
            spread = i + side + np.linspace(0.05, 0.15, len(counts))  # beside the whisker
            ax.plot(spread, counts, "o", mfc="white", mec=COLOURS["ink"], ms=4, zorder=3)
            top = max(counts.max(), mean if math.isnan(low) else 2 * mean - low)
            ax.text(i + side, 1.03 * top, f"{mean:.2f}", ha="center", va="bottom", weight="bold")
            ax.update_datalim([(i, 1.15 * top)])
            pm = "" if math.isnan(low) else f" ±{mean - low:.2f}"
            said.append(f"{FORMATS.get(fmt, fmt)} {LABELS[method]} {mean:.2f}{pm}".strip())
    ax.set_xticks(range(len(formats)), [FORMATS.get(f, f) for f in formats])
    ax.set(ylabel="distinct correct paths a question", ylim=(0, None))
    ax.grid(visible=False, axis="x")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(
        fig,
        f"Mean number of distinct correct reasoning paths a question ({split} questions, several "
        f"samples each): {'; '.join(said)}.",
    )


@style()
def path_shares(frame: Any, split: str = "test") -> Figure:
    """Draw which of the problems' known paths the responses follow, a panel for each format.

    Parameters
    ----------
    frame : DataFrame
        ``runlog.read_runs("data/runs/nano")``; used are the rows of the split that have
        ``path_shares``, a dict of path name to share.
    split : {"test", "hard"}

    Raises
    ------
    UserError
        If there is no such row, or a share is not a dict of numbers.
    """
    table = pick(frame, "path_shares", ["method", "path_shares"], split=split)
    if not all(isinstance(shares, dict) and shares for shares in table["path_shares"]):
        raise UserError("path_shares: column path_shares; wanted a dict of path name to share")
    paths = sorted({name for shares in table["path_shares"] for name in shares} - {"other"})
    paths += ["other"]
    formats = sorted(table["fmt"].unique()) if "fmt" in table else [""]
    fig, axes = panels(7.2, 1.5 + 0.45 * len(paths), len(formats))
    said = []
    for ax, fmt in zip(axes[0], formats, strict=True):
        here = table[table["fmt"] == fmt] if fmt else table
        for method, side in zip(METHODS, (-0.2, 0.2), strict=True):
            dicts = here.loc[here["method"] == method, "path_shares"]
            if dicts.empty:
                continue
            means = [100 * float(np.mean([d.get(name, 0.0) for d in dicts])) for name in paths]
            _flat_bars(ax, np.arange(len(paths)) + side, means, method)
            shares = ", ".join(f"{n} {m:.0f}%" for n, m in zip(paths, means, strict=True))
            said.append(f"{FORMATS.get(fmt, fmt)} {LABELS[method]}: {shares}.".strip())
        ax.set_yticks(range(len(paths)), paths)
        ax.invert_yaxis()
        ax.set(title=FORMATS.get(fmt, fmt), xlabel="% of responses")
        ax.grid(visible=False, axis="y")
    for ax in axes[0]:
        ax.set_xlim(0, 1.15 * max(1.0, *(other.dataLim.x1 for other in axes[0])))
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Shares of responses by the path they follow. {' '.join(said)}")


def _flat_bars(ax: Axes, y: np.ndarray, values: list[float], method: str) -> None:
    """Draw horizontal bars at heights ``y`` with their percentages."""
    look: dict[str, Any] = {
        "color": COLOURS[method],
        "hatch": HATCHES[method],
        "label": LABELS[method],
    }
    bars = ax.barh(y, values, 0.38, edgecolor="white", **look)
    ax.bar_label(bars, fmt="%.0f", padding=3)
