"""Pictures of self-supervised fine-tuning and domain adaptation: perplexity, labels, forgetting.

Thin lines and small dots are single seeds, thick lines their mean, whiskers 95% intervals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reft_lib import stats
from reft_lib.errors import UserError
from reft_lib.plots import panels, share_top
from reft_lib.style import COLOURS, finish, need, style, tint

DOMAINS = {"new": "new domain", "old": "old domain"}
DOMAIN_LOOKS = {"new": ("reft", "-", "o"), "old": ("wrong", "--", "s")}
"""Colour, line and marker of a domain's text."""
ARM_LOOKS = (
    ("sft", "--", "s"),
    ("reft", "-", "o"),
    ("right", "-.", "^"),
    ("ink", ":", "D"),
)
"""The same of the ways of adaptation, in the order in which they come."""


def _count(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


@style()
def perplexity_curves(frame: Any) -> Figure:
    """Draw the perplexity of held-out text of both domains over training steps.

    Parameters
    ----------
    frame : DataFrame or list of dict
        ``step``, and ``new`` and ``old``, perplexities; ``panel`` names the panel a row belongs to
        and ``run`` the seed, where there are several.

    Raises
    ------
    UserError
        If there is no row, or a column is missing.
    """
    table = need(frame, ["step", "new", "old"], "perplexity_curves")
    table = table.assign(**{c: "" for c in ("panel", "run") if c not in table})
    names = list(dict.fromkeys(table["panel"]))
    fig, axes = panels(1.0 + 3.1 * max(2, len(names)), 3.5, len(names))
    said = []
    for ax, name in zip(axes[0], names, strict=True):
        here = table[table["panel"] == name]
        runs = here["run"].nunique()
        for domain, (colour, line, marker) in DOMAIN_LOOKS.items():
            thin: dict[str, Any] = {"color": tint(colour, 0.45), "ls": line, "lw": 0.8}
            if runs > 1:
                for _, run in here.sort_values("step").groupby("run"):
                    ax.plot(run["step"], run[domain], zorder=1.5, **thin)
            # the mean of losses, hence the geometric mean of perplexities
            mean = np.exp(np.log(here.set_index("step")[domain]).groupby(level=0).mean())
            look: dict[str, Any] = {"color": COLOURS[colour], "ls": line, "marker": marker}
            ax.plot(mean.index.to_numpy(), mean.to_numpy(), label=DOMAINS[domain], **look)
            said.append(
                f"{name + ', ' if name else ''}{DOMAINS[domain]}, {_count(runs)}: from "
                f"{mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g} at step {mean.index[-1]:g}."
            )
        ax.set(title=name, xlabel="step", yscale="log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes[0][0].set_ylabel("perplexity of held-out text")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Perplexity over steps on unlabelled text. {' '.join(said)}")


def _points(ax: Axes, table: Any, sizes: list[int], side: float, look: tuple, label: str) -> str:
    """Draw one arm over the numbers of labels; returns what it shows."""
    colour, line, marker = look
    at, means, said = [], [], []
    for i, k in enumerate(sizes):
        values = 100 * table[table["labels"] == k]["accuracy"].astype(float)
        if not len(values):
            continue
        found = stats.mean_interval(values)
        ax.plot(np.full(len(values), i + side), values, "o", mfc="white", mec=COLOURS[colour], ms=3)
        if math.isfinite(found.lo):
            half = found.mean - found.lo
            ax.errorbar(i + side, found.mean, half, color=COLOURS[colour], lw=1.2, capsize=3)
        at.append(i + side)
        means.append(found.mean)
        pm = "" if math.isnan(found.lo) else f" ±{found.mean - found.lo:.1f}"
        said.append(f"{k} labels {found.mean:.1f}{pm}%")
    drawn: dict[str, Any] = {"color": COLOURS[colour], "ls": line, "marker": marker, "ms": 7}
    ax.plot(at, means, label=label, **drawn)
    return ", ".join(said)


@style()
def label_curves(frame: Any) -> Figure:
    """Draw accuracy on both domains against the number of labelled problems of the new one.

    Parameters
    ----------
    frame : DataFrame or list of dict
        A row for each seed, arm and size: ``arm`` (its name in the legend), ``labels``, ``domain``
        (``new`` or ``old``), ``accuracy``, a fraction.

    Raises
    ------
    UserError
        If there is no row, a column is missing, or there are more arms than lines.
    """
    table = need(frame, ["arm", "labels", "domain", "accuracy"], "label_curves")
    arms, sizes = list(dict.fromkeys(table["arm"])), sorted(set(table["labels"]))
    if len(arms) > len(ARM_LOOKS):
        most = len(ARM_LOOKS)
        raise UserError(f"label_curves: {len(arms)} arms; at most {most} can be told apart")
    fig, axes = panels(7.2, 3.9, 2)
    said = []
    for ax, (domain, title) in zip(axes[0], DOMAINS.items(), strict=True):
        for i, (arm, look) in enumerate(zip(arms, ARM_LOOKS, strict=False)):
            rows = table[(table["arm"] == arm) & (table["domain"] == domain)]
            side = 0.07 * (i - (len(arms) - 1) / 2)
            said.append(f"{title}, {arm}: {_points(ax, rows, sizes, side, look, arm)}.")
        ax.set_xticks(range(len(sizes)), [str(k) for k in sizes])
        ax.set(title=f"Test of the {title}", xlabel="labelled problems of the new domain")
        ax.set_ylim(0, None)
    share_top([*axes[0]])
    axes[0][0].set_ylabel("accuracy, %")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Accuracy by the number of labelled problems. {' '.join(said)}")
