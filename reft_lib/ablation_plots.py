"""Pictures of reward hacking and of ablations: what is right and sound, what each part adds.

Bars and points are means over seeds, whiskers their 95% intervals; a small dot or a thin line is
one seed. A difference is taken within each seed before it is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reft_lib import stats
from reft_lib.errors import UserError
from reft_lib.plots import one_format, panels, pick, share_top
from reft_lib.results import METHODS
from reft_lib.style import COLOURS, HATCHES, LABELS, LINES, MARKERS, finish, signed, style, tint

PARTS = ("right and sound", "right, but unsound")
UNSOUND = "xxxx"
"""Hatch of what is right behind an unsound chain of thought."""


LOOKS = (("reft", "-", "o"), ("wrong", "--", "s"), ("right", "-.", "^"), ("warm-up", ":", "D"))
"""Colour, line and marker of the lines of one panel; the first is the standard's."""


def _split(table: Any) -> Any:
    """Add what is right and sound, and what is right and not, in percent of all questions."""
    unsound = 100 * table["right_unsound"].astype(float)
    return table.assign(unsound=unsound, sound=100 * table["accuracy"].astype(float) - unsound)


def _count(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def _seeds(table: Any) -> str:
    """Say how many runs a table holds."""
    return _count(table["run"].nunique())


def _plus_minus(found: stats.Interval, digits: int = 1) -> str:
    """Write a mean with half of its interval, if it has one."""
    text = f"{found.mean:.{digits}f}"
    return text if math.isnan(found.lo) else f"{text} ±{found.mean - found.lo:.{digits}f}"


def _whisker(ax: Axes, x: float, found: stats.Interval) -> None:
    if math.isfinite(found.lo):
        half = found.mean - found.lo
        ax.errorbar(x, found.mean, half, color=COLOURS["ink"], lw=1.4, capsize=3)


def _looks(colour: str, hatch: str = "") -> list[dict[str, Any]]:
    """Return how the two parts of a bar look."""
    sound = {"facecolor": colour, "hatch": hatch, "edgecolor": "white"}
    return [sound, {"facecolor": "white", "hatch": UNSOUND, "edgecolor": colour}]


@style()
def soundness_bars(frame: Any) -> Figure:
    """Draw the share of right answers, split by whether the chain of thought is sound.

    Parameters
    ----------
    frame : DataFrame
        Rows of run logs (``runlog.read_runs``), with a column ``kind`` that names the panel. Used
        are greedy answers to the test: ``accuracy`` and ``right_unsound``, fractions.

    Raises
    ------
    UserError
        If there is no such row.
    """
    columns = ["kind", "method", "accuracy", "right_unsound"]
    table = _split(pick(frame, "soundness_bars", columns, split="test", decoding="top1"))
    kinds = list(dict.fromkeys(table["kind"]))
    fig, axes = panels(1.0 + 3.1 * len(kinds), 3.9, len(kinds))
    said = []
    for ax, kind in zip(axes[0], kinds, strict=True):
        here, ticks = table[table["kind"] == kind], []
        for i, method in enumerate(METHODS):
            rows = here[here["method"] == method]
            if rows.empty:
                raise UserError(f"soundness_bars: {kind}: no rows of method {method}")
            sound, unsound = (stats.mean_interval(rows[c]) for c in ("sound", "unsound"))
            both = stats.mean_interval(rows["sound"] + rows["unsound"])
            looks = _looks(COLOURS[method], HATCHES[method])
            ax.bar(i, sound.mean, 0.62, **looks[0])
            ax.bar(i, unsound.mean, 0.62, bottom=sound.mean, **looks[1])
            _whisker(ax, i - 0.14, sound)
            _whisker(ax, i + 0.14, both)
            ticks.append(f"{LABELS[method]}\n{sound.mean:.1f} + {unsound.mean:.1f}")
            said.append(
                f"{kind}, {LABELS[method]}: {_plus_minus(both)}% right, of which "
                f"{_plus_minus(sound)} sound and {_plus_minus(unsound)} unsound."
            )
        ax.set_xticks(range(len(METHODS)), ticks)
        ax.set(title=f"{kind}, {_seeds(here)}", xlim=(-0.6, len(METHODS) - 0.4))
        ax.grid(visible=False, axis="x")
    share_top([*axes[0]])
    axes[0][0].set_ylabel("% of test questions")
    looks = _looks(COLOURS["grey"])
    keys = [Patch(label=label, **look) for label, look in zip(PARTS, looks, strict=True)]
    fig.legend(handles=keys, loc="outside lower center", ncols=2)
    return finish(fig, f"Right answers by the soundness of their reasoning. {' '.join(said)}")


def curve(
    ax: Axes, table: Any, y: str, look: tuple[str, str, str], label: str, scale: float = 1.0
) -> Any:
    """Draw a thin line for each run and a thick one for their mean over steps, which is returned.

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        With columns ``run``, ``step`` and the named one.
    y : str
    look : (str, str, str)
        Colour's name, line and marker.
    label : str
        Of the mean, for a legend.
    scale : float
        Factor of what is drawn and returned.
    """
    colour, line, marker = look
    mean = scale * table.groupby("step")[y].mean()
    if table["run"].nunique() > 1:
        for _, run in table.sort_values("step").groupby("run"):
            pale = tint(colour, 0.45)
            ax.plot(run["step"], scale * run[y], color=pale, ls=line, lw=0.8, zorder=1.5)
    thick: dict[str, Any] = {"color": COLOURS[colour], "ls": line, "marker": marker, "lw": 2.4}
    every = max(1, len(mean) // 8)
    ax.plot(mean.index.to_numpy(), mean.to_numpy(), markevery=every, label=label, **thick)
    return mean


@style()
def soundness_curves(frame: Any) -> Figure:
    """Draw how ReFT's right answers divide into sound and unsound ones over PPO's steps.

    Parameters
    ----------
    frame : DataFrame
        As for :func:`soundness_bars`; used are ReFT's validations.

    Raises
    ------
    UserError
        If there is no such row.
    """
    columns = ["kind", "step", "accuracy", "right_unsound"]
    who = "soundness_curves"
    table = _split(pick(frame, who, columns, split="validation", method="reft"))
    kinds = list(dict.fromkeys(table["kind"]))
    fig, axes = panels(1.0 + 3.1 * len(kinds), 3.6, len(kinds))
    said = []
    for ax, kind in zip(axes[0], kinds, strict=True):
        here = table[table["kind"] == kind]
        for part, label, look in zip(("sound", "unsound"), PARTS, LOOKS[:2], strict=True):
            mean = curve(ax, here, part, look, label)
            said.append(
                f"{kind}, {label}: from {mean.iloc[0]:.1f}% at step {mean.index[0]:g} to "
                f"{mean.iloc[-1]:.1f}% at step {mean.index[-1]:g}."
            )
        ax.set(title=f"{kind}, {_seeds(here)}", xlabel="PPO step", ylim=(0, None))
    share_top([*axes[0]])
    axes[0][0].set_ylabel("% of validation questions")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"ReFT's right answers on validation over PPO's steps. {' '.join(said)}")


@style()
def ablation_curves(frame: Any) -> Figure:
    """Draw validation accuracy and KL over PPO's steps, the standard beside its variants.

    Parameters
    ----------
    frame : DataFrame
        Rows of run logs in one format, with a column ``variant``; the first that occurs is the
        standard. Used are ReFT's ``accuracy`` on validation and ``kl`` in training (k1, nats a
        response), by ``step``.

    Raises
    ------
    UserError
        If there is no such row, formats are mixed, or there are more variants than lines.
    """
    who = "ablation_curves"
    views = [
        ("Validation accuracy", "%", "validation", "accuracy", 100.0),
        ("KL to the warm-up policy", "nats a response", "train", "kl", 1.0),
    ]
    found = [pick(frame, who, ["variant", "step", y], split=s, method="reft")
             for _, _, s, y, _ in views]  # fmt: skip
    variants = list(dict.fromkeys(found[0]["variant"]))
    one_format(found[0], who)
    if len(variants) > len(LOOKS):
        raise UserError(f"{who}: {len(variants)} variants; at most {len(LOOKS)} can be told apart")
    fig, axes = panels(7.2, 3.6, 2)
    said = []
    for ax, table, (title, unit, _, y, scale) in zip(axes[0], found, views, strict=True):
        for variant, look in zip(variants, LOOKS, strict=False):
            here = table[table["variant"] == variant]
            mean = curve(ax, here, y, look, variant, scale)
            said.append(
                f"{title}, {variant}, {_seeds(here)}: from {mean.iloc[0]:.1f} to "
                f"{mean.iloc[-1]:.1f} {unit}, highest {mean.max():.1f}."
            )
        ax.set(title=title, ylabel=unit, xlabel="PPO step")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return finish(fig, f"ReFT with and without a part. {' '.join(said)}")


@style()
def differences(found: Mapping[str, Sequence[float]], against: str = "the standard") -> Figure:
    """Draw paired differences, a row for each variant: seeds, mean and 95% interval.

    Parameters
    ----------
    found : mapping of str to sequence of float
        What was changed, and for each seed the variant minus the standard, in points.
    against : str
        What the differences are from.

    Raises
    ------
    UserError
        If there is nothing to draw, or a variant has no seed.
    """
    if not found or not all(len(x) for x in found.values()):
        raise UserError("differences: wanted at least one variant, each with at least one seed")
    fig, axes = panels(7.2, 1.1 + 0.5 * len(found))
    ax, said = axes[0][0], []
    ax.axvline(0, color=COLOURS["ink"], lw=1.2)
    for y, (name, values) in enumerate(found.items()):
        mean, lo, hi = stats.mean_interval(values)
        ax.plot(values, np.full(len(values), y + 0.22), "o", mfc="white", mec=COLOURS["grey"], ms=4)
        if math.isfinite(lo):
            ax.plot([lo, hi], [y, y], color=COLOURS["reft"], lw=2.4)
        ax.plot(mean, y, "D", color=COLOURS["reft"], ms=7)
        pm = "" if math.isnan(lo) else f" ±{mean - lo:.1f}"
        text = f"{signed(mean)}{pm}"
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center"}
        ax.annotate(text, (1.01, y), weight="bold", **place)
        said.append(f"{name}, {_count(len(values))}: {text} points.")
    ax.set_yticks(range(len(found)), list(found))
    ax.set(ylim=(len(found) - 0.5, -0.5), xlabel=f"test top-1 minus that of {against}, points")
    ax.grid(visible=False, axis="y")
    return finish(fig, f"Differences in test accuracy from {against}. {' '.join(said)}")


@style()
def warmup_curve(frame: Any) -> Figure:
    """Draw test accuracy against the epochs of warm-up, of SFT alone and of ReFT after it.

    Parameters
    ----------
    frame : DataFrame
        A row for each run: ``epochs``, ``method`` and ``accuracy``, a fraction.

    Raises
    ------
    UserError
        If there is no row, or a column is missing.
    """
    table = pick(frame, "warmup_curve", ["epochs", "method", "accuracy"])
    fig, axes = panels(7.2, 3.5)
    ax, said = axes[0][0], []
    for method, side in zip(METHODS, (-0.06, 0.06), strict=True):
        rows = table[table["method"] == method]
        groups = [(e, 100 * here["accuracy"].astype(float)) for e, here in rows.groupby("epochs")]
        at = [epochs + side for epochs, _ in groups]
        means = [stats.mean_interval(values) for _, values in groups]
        for x, found, (epochs, values) in zip(at, means, groups, strict=True):
            _whisker(ax, x, found)
            dots = np.full(len(values), x + 3 * side)
            ax.plot(dots, values, "o", mfc="white", mec=COLOURS[method], ms=4)
            said.append(f"{LABELS[method]} after {epochs:g}: {_plus_minus(found)}%.")
        look: dict[str, Any] = {"color": COLOURS[method], "ls": LINES[method], "ms": 7}
        label = f"{LABELS[method]}{' after that warm-up' * (method == 'reft')}"
        ax.plot(at, [found.mean for found in means], marker=MARKERS[method], label=label, **look)
    ax.set_xticks(sorted(set(table["epochs"])))
    ax.set(xlabel="epochs of SFT (for ReFT: of warm-up)", ylabel="test top-1, %", ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(fig, f"Test accuracy by epochs of supervised warm-up. {' '.join(said)}")
