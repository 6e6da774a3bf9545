"""Pictures of learning from preferences: the rater, its pupil's calibration, proxy and gold, DPO.

In the pictures of over-optimisation a thick line is the mean over seeds, step by step, of where the
policy was and what it was worth; a thin line is one seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import stats
from reft_lib.best_of import Chosen
from reft_lib.errors import UserError
from reft_lib.method_settings_rlhf import RaterConfig
from reft_lib.plots import panels
from reft_lib.preferences import Calibration, probability
from reft_lib.style import COLOURS, finish, need, signed, style, tint

LOOKS = (
    ("wrong", "--", "s"),
    ("reft", "-", "o"),
    ("right", "-.", "^"),
    ("warm-up", ":", "D"),
    ("ink", (0, (1, 1)), "v"),
)
"""Colour, line and marker of lines in one panel, in order."""
PROXY, GOLD = ("wrong", "--", "s"), ("right", "-", "o")
"""How the learned reward and the wanted one look where both stand in one panel."""


def _draw(ax: Axes, x: Any, y: Any, look: tuple[str, Any, str], label: str, every: int = 1) -> None:
    colour, line, marker = look
    drawn: dict[str, Any] = {"color": COLOURS[colour], "ls": line, "marker": marker}
    ax.plot(x, y, label=label, markevery=every, **drawn)


def _looks(names: Sequence[str], who: str) -> dict[str, tuple[str, Any, str]]:
    if not names or len(names) > len(LOOKS):
        raise UserError(f"{who}: {len(names)} lines; wanted 1 to {len(LOOKS)}, to be told apart")
    return dict(zip(names, LOOKS, strict=False))


@style()
def rater_curves(raters: Mapping[str, RaterConfig], widest: float = 4.0) -> Figure:
    """Draw how probably raters prefer the first of two responses, by its lead in gold score.

    Parameters
    ----------
    raters : mapping of str to RaterConfig
        By the name that stands in the legend.
    widest : float
        The largest lead drawn.

    Raises
    ------
    UserError
        If there is none, or more than can be told apart.
    """
    looks = _looks(list(raters), "rater_curves")
    fig, axes = panels(7.2, 3.3)
    ax, said = axes[0][0], []
    lead = np.linspace(-widest, widest, 161)  # an odd number: 0 is among them
    for name, rater in raters.items():
        p = [probability(float(d), 0.0, rater) for d in lead]
        _draw(ax, lead, p, looks[name], name, every=20)
        said.append(f"{name}: {probability(1.0, 0.0, rater):.2f} at a lead of 1")
    ax.set(xlabel="lead of the first response in gold score", ylim=(0, 1))
    ax.set_ylabel("probability that it is preferred")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(fig, f"Choice probabilities of simulated raters. {'; '.join(said)}.")


@style()
def calibration_curves(found: Mapping[str, Calibration]) -> Figure:
    """Draw observed against predicted shares of choices; circles grow with the pairs of a bin.

    Parameters
    ----------
    found : mapping of str to Calibration
        By the name of the judge; see :func:`reft_lib.preferences.calibration`.

    Raises
    ------
    UserError
        If there is none, or more than can be told apart.
    """
    looks = _looks(list(found), "calibration_curves")
    fig, axes = panels(5.6, 4.0)
    ax, said = axes[0][0], []
    ax.plot([0.5, 1], [0.5, 1], color=COLOURS["grey"], ls=":", label="perfectly calibrated")
    for name, c in found.items():
        colour, line, marker = looks[name]
        drawn: dict[str, Any] = {"color": COLOURS[colour], "ls": line}
        ax.plot(c.predicted, c.observed, lw=1.4, label=f"{name}, {sum(c.n)} pairs", **drawn)
        for x, y, n in zip(c.predicted, c.observed, c.n, strict=True):
            half = stats.wilson(round(y * n), n)
            ax.plot([x, x], half, color=tint(colour, 0.6), lw=1)
            area = 12 + 200 * n / sum(c.n)
            ax.scatter([x], [y], s=area, marker=marker, color=COLOURS[colour], zorder=3)
        said.append(
            f"{name}: "
            + ", ".join(
                f"{100 * x:.0f}% predicted, {100 * y:.0f}% observed ({n})"
                for x, y, n in zip(c.predicted, c.observed, c.n, strict=True)
            )
            + f"; mean gap {100 * c.error:.1f} points"
        )
    ax.set(xlabel="predicted share of choices", ylabel="observed share", xlim=(0.49, 1.01))
    ax.legend(loc="upper left")
    return finish(fig, f"Calibration on held-out choices. {'. '.join(said)}.")


@style()
def overoptimisation(frame: Any) -> Figure:
    """Draw proxy and gold reward against the distance from the warm-up policy.

    Parameters
    ----------
    frame : DataFrame
        A row for each step of each run: ``arm`` (names a line), ``seed``, ``step``, ``kl`` (nats a
        response), and ``proxy`` and ``gold``, both as changes since the first step in standard
        deviations over the warm-up policy's responses. An arm may lack the proxy (NaN).

    Raises
    ------
    UserError
        If there is no row, a column is missing, or there are more arms than can be told apart.
    """
    table = need(frame, ["arm", "seed", "step", "kl", "proxy", "gold"], "overoptimisation")
    looks = _looks(list(dict.fromkeys(table["arm"])), "overoptimisation")
    table = table.assign(d=np.sqrt(table["kl"].clip(lower=0)))
    fig, axes = panels(7.2, 4.0, 2)
    said = []
    views = (("What is trained on: proxy", "proxy"), ("What was wanted: gold", "gold"))
    for ax, (title, column) in zip(axes[0], views, strict=True):
        ax.axhline(0, color=COLOURS["grey"], lw=0.8)
        for arm, look in looks.items():
            here = table[table["arm"] == arm].dropna(subset=[column])
            if here.empty:
                continue
            if here["seed"].nunique() > 1:
                for _, one in here.sort_values("step").groupby("seed"):
                    pale = tint(look[0], 0.35)
                    ax.plot(one["d"], one[column], color=pale, lw=0.7, zorder=1.5)
            mean = here.groupby("step")[["d", column]].mean()
            _draw(ax, mean["d"], mean[column], look, arm, every=max(1, len(mean) // 6))
            top = mean[column].idxmax()
            said.append(
                f"{column}, {arm}: highest {signed(mean[column].max(), 2)} at √KL "
                f"{mean['d'][top]:.2f}, at the end {signed(mean[column].iloc[-1], 2)} at √KL "
                f"{mean['d'].iloc[-1]:.2f}"
            )
        ax.set(title=title, xlabel="√KL to the warm-up policy, √nats a response")
    axes[0][0].set_ylabel("change, standard deviations")
    fig.legend(*axes[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return finish(fig, f"Proxy and gold reward over the distance. {'; '.join(said)}.")


@style()
def best_of_curves(rows: Sequence[Chosen]) -> Figure:
    """Draw what best-of-n is worth by proxy and by gold, against its KL.

    Parameters
    ----------
    rows : sequence of Chosen
        From :func:`reft_lib.best_of.curve`; both worths in comparable units.

    Raises
    ------
    UserError
        If there are none.
    """
    if not rows:
        raise UserError("best_of_curves: no rows; make them with best_of.curve")
    fig, axes = panels(7.2, 3.5)
    ax, said = axes[0][0], []
    d = [math.sqrt(row.kl) for row in rows]
    views = [
        ("proxy: chose", [row.proxy for row in rows], PROXY),
        ("gold: was wanted", [row.gold for row in rows], GOLD),
    ]
    for label, y, look in views:
        _draw(ax, d, y, look, label)
        ends = f"{signed(y[0], 2)} at n = {rows[0].n} to {signed(y[-1], 2)} at n = {rows[-1].n}"
        said.append(f"{label.split(':')[0]} from {ends}")
    for row, x in zip(rows, d, strict=True):
        where: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"n = {row.n}", (x, max(row.proxy, row.gold)), fontsize=8.5, **where)
    ax.set(xlabel="√KL of best-of-n, √nats (bound)", ylabel="mean, standard deviations")
    ax.margins(y=0.15)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(fig, f"Best-of-n by a learned reward: {'; '.join(said)}.")


@style()
def dpo_curves(history: Any) -> Figure:
    """Draw DPO's loss, and how the log-probabilities of both sides of the pairs move.

    Parameters
    ----------
    history : DataFrame or list of dict
        What :func:`reft_lib.dpo.dpo_steps` yields, in order: used are ``loss``, ``chosen_logp``
        and ``rejected_logp``, and the implicit rewards with ``beta``, which stands beside them.

    Raises
    ------
    UserError
        If there is no row, or a column is missing.
    """
    columns = ["loss", "chosen_reward", "rejected_reward", "beta"]
    table = need(history, columns, "dpo_curves")
    steps = np.arange(1, len(table) + 1)
    fig, axes = panels(7.2, 3.4, 2)
    left, right = axes[0]
    left.axhline(math.log(2), color=COLOURS["grey"], ls=":", label="ln 2")
    _draw(left, steps, table["loss"], LOOKS[1], "loss", every=max(1, len(table) // 8))
    left.set(title="Loss", ylabel="nats a pair", xlabel="optimiser step")
    left.legend()
    right.axhline(0, color=COLOURS["grey"], lw=0.8)
    said = [f"loss from {table['loss'].iloc[0]:.4f} to {table['loss'].iloc[-1]:.4f}"]
    for side, look in (("chosen", LOOKS[2]), ("rejected", LOOKS[0])):
        moved = table[f"{side}_reward"] / table["beta"]
        _draw(right, steps, moved, look, side, every=max(1, len(table) // 8))
        said.append(f"{side} responses by {signed(moved.iloc[-1], 2)} nats at the end")
    right.set(title="Change of log-probability", ylabel="nats a response")
    right.set_xlabel("optimiser step")
    right.legend()
    return finish(fig, f"DPO over {len(table)} steps: {'; '.join(said)}.")
