"""Pictures of self-training and of what k samples are good for.

Points are means over seeds, whiskers their 95% intervals, thin lines single seeds. A method has its
own colour and marker, a strategy its own line and marker, so both can be told apart in grey.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import stats
from reft_lib.errors import UserError
from reft_lib.plots import curves, panels, pick, seeds
from reft_lib.style import COLOURS, FORMATS, LABELS, MARKERS, finish, names, style

METHODS = ("sft", "offline_st", "online_st", "reft")
"""In the order of the paper's table."""
STRATEGIES = {
    "pass": "any is right: pass@k",
    "wvote": "weighted voting@k",
    "vote": "voting@k",
    "rerank": "reranking@k",
    "chance": "chance",
}
"""Strategy, as in the names of decodings, to what a legend calls it."""
SPREAD = 0.56
"""Height that the methods of one decoding share, of 1."""


def decoding(name: str) -> str:
    """Say ``wvote16`` in words; ``top1`` is greedy decoding, chance is the same for any k."""
    found = re.fullmatch(r"([a-z]+)(\d+)", name)
    if found is None or name == "top1" or found[1] not in STRATEGIES:
        return "greedy" if name == "top1" else name
    said = STRATEGIES[found[1]].rpartition(": ")[2]
    return said.removesuffix("k") + found[2] if said.endswith("@k") else said


@style()
def by_decoding(frame: Any, order: Sequence[str] = ()) -> Figure:
    """Draw the accuracy of each method under each decoding, a panel for each format.

    Parameters
    ----------
    frame : DataFrame
        Rows with ``fmt``, ``method``, ``decoding`` and ``accuracy``, 0 to 1: a run log's rows of
        split ``test``, one for each run (``run``).
    order : sequence of str
        The decodings to draw, from top to bottom; all of them if empty.

    Raises
    ------
    UserError
        If there is no such row.
    """
    table = pick(frame, "by_decoding", ["fmt", "method", "decoding", "accuracy"], split="test")
    if order:
        table = table[table["decoding"].isin(order)]
    if table.empty:
        raise UserError(f"by_decoding: no rows with decoding {names(order)}")
    drawn = [d for d in order or dict.fromkeys(table["decoding"]) if d in set(table["decoding"])]
    methods = [m for m in METHODS if m in set(table["method"])]
    formats = [fmt for fmt in FORMATS if fmt in set(table["fmt"])]
    fig, axes = panels(7.2, 1.3 + 0.62 * len(drawn), len(formats))
    said = []
    for ax, fmt in zip(axes[0], formats, strict=True):
        here = table[table["fmt"] == fmt]
        for row, name in enumerate(drawn):
            points = []
            for i, method in enumerate(methods):
                rows = here[(here["decoding"] == name) & (here["method"] == method)]
                if not rows.empty:
                    place = row + SPREAD * (i / max(1, len(methods) - 1) - 0.5)
                    points.append(_point(ax, place, rows, method, named=row == 0))
            said.append(f"{FORMATS[fmt]}, {decoding(name)}: {', '.join(points)}.")
        ax.set_yticks(range(len(drawn)), [decoding(name) for name in drawn])
        ax.set_ylim(len(drawn) - 0.5, -0.5)
        for edge in np.arange(0.5, len(drawn) - 1):
            ax.axhline(edge, color=COLOURS["pale"], lw=1)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.set(title=f"{FORMATS[fmt]}, {_count(here)}", xlabel="questions answered rightly, %")
    share_ends([*axes[0]], "x")
    for ax in axes[0][1:]:
        ax.set_yticklabels([])
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return finish(fig, f"Accuracy of methods by decoding, with 95% intervals. {' '.join(said)}")


def _point(ax: Axes, y: float, rows: Any, method: str, named: bool) -> str:
    """Draw one mean with its interval; returns it in words."""
    found = stats.mean_interval(100 * rows["accuracy"].to_numpy(dtype=float))
    half = 0.0 if math.isnan(found.lo) else found.mean - found.lo
    ax.errorbar(
        found.mean,
        y,
        xerr=half or None,
        fmt=MARKERS[method],
        color=COLOURS[method],
        mec=COLOURS["ink"],
        mew=0.6,
        ms=6,
        lw=1.6,
        capsize=2.5,
        label=LABELS[method] if named else None,
    )
    return f"{LABELS[method]} {found.mean:.1f}%" + (f" ±{half:.1f}" if half else "")


def share_ends(axes: list[Axes], axis: str) -> None:
    """Give panels side by side the same ends of their x or y axis."""
    ends = [getattr(ax, f"get_{axis}lim")() for ax in axes]
    for ax in axes:
        getattr(ax, f"set_{axis}lim")(min(low for low, _ in ends), max(high for _, high in ends))


def _count(rows: Any) -> str:
    n = rows["run"].nunique()
    return "1 seed" if n == 1 else f"{n} seeds"


@style()
def against_k(frame: Any, by: str = "strategy") -> Figure:
    """Draw accuracy against the number of samples, a line for each strategy or method.

    Parameters
    ----------
    frame : DataFrame or list of dict
        Rows with ``k``, ``accuracy`` (0 to 1) and the column named ``by``; where there are
        formats (``fmt``) each has a panel, where there are runs (``run``) each has a thin line.
    by : {"strategy", "method"}

    Raises
    ------
    UserError
        If there is no such row, or a line that has no name here.
    """
    table = pick(frame, "against_k", [by, "k", "accuracy"])
    called = STRATEGIES if by == "strategy" else {m: LABELS[m] for m in METHODS}
    if strange := set(table[by]) - set(called):
        raise UserError(f"against_k: {by} {names(sorted(strange))}; there are: {names(called)}")
    formats = [fmt for fmt in FORMATS if fmt in set(table["fmt"])] if "fmt" in table else [""]
    fig, axes = panels(7.2 if len(formats) > 1 else 5.6, 3.9, len(formats))
    ks, said = sorted(set(table["k"])), []
    for ax, fmt in zip(axes[0], formats, strict=True):
        here = table[table["fmt"] == fmt] if fmt else table
        for name, label in called.items():
            rows = here[here[by] == name]
            if rows.empty:
                continue
            mean = curves(ax, rows, "k", "accuracy", name, 100, label)
            said.append(
                f"{FORMATS.get(fmt, '')} {label}, {seeds(rows)}: {mean.iloc[0]:.1f}% at k = "
                f"{mean.index[0]:g}, {mean.iloc[-1]:.1f}% at k = {mean.index[-1]:g}.".strip()
            )
        ax.set_xscale("log", base=2)
        ax.set_xticks(ks, [f"{k:g}" for k in ks])
        ax.minorticks_off()
        ax.set(xlabel="k, samples of a question", title=FORMATS.get(fmt, fmt))
        if by == "strategy":
            ax.set_ylim(bottom=0)
    share_ends([*axes[0]], "y")
    axes[0][0].set_ylabel("questions answered rightly, %")
    columns = 3 if len(formats) == 1 else 4
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return finish(fig, f"Accuracy against the number of samples k. {' '.join(said)}")


@style()
def sampling_curves(frame: Any) -> Figure:
    """Draw what online self-training and ReFT sample as they learn: accuracy and entropy.

    Parameters
    ----------
    frame : DataFrame
        A run log's rows of split ``train`` with ``method``, ``step``, ``accuracy`` and
        ``entropy``; each format has a row of panels.

    Raises
    ------
    UserError
        If there is no such row.
    """
    columns = ["method", "step", "accuracy", "entropy"]
    table = pick(frame, "sampling_curves", columns, split="train")
    formats = [fmt for fmt in FORMATS if fmt in set(table["fmt"])] if "fmt" in table else [""]
    fig, axes = panels(7.2, 0.6 + 2.5 * len(formats), 2, len(formats))
    said = []
    for row, fmt in zip(axes, formats, strict=True):
        here = table[table["fmt"] == fmt] if fmt else table
        for method in METHODS:
            rows = here[here["method"] == method]
            if rows.empty:
                continue
            right = curves(row[0], rows, "step", "accuracy", method, 100)
            spread = curves(row[1], rows, "step", "entropy", method)
            said.append(
                f"{FORMATS.get(fmt, '')} {LABELS[method]}, {seeds(rows)}: samples right from "
                f"{right.iloc[0]:.0f}% to {right.iloc[-1]:.0f}%, entropy from "
                f"{spread.iloc[0]:.2f} to {spread.iloc[-1]:.2f} nats a token.".strip()
            )
        row[0].set(title=FORMATS.get(fmt, fmt), ylabel="samples right, %", ylim=(0, None))
        row[1].set(ylabel="entropy, nats a token", ylim=(0, None))
    for ax in axes[-1]:
        ax.set_xlabel("step (rollout batch)")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Samples for training questions, step by step. {' '.join(said)}")
