"""Pictures of PPO and its relatives: groups, pulls to the reference, gradient noise, minutes.

A method has the same colour, line and marker in all of them. Small dots and thin lines are single
seeds, whiskers 95% intervals over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import stats
from reft_lib.errors import UserError
from reft_lib.plots import panels
from reft_lib.style import COLOURS, finish, need, signed, style, tint

NAMES = {"ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "reinforce": "REINFORCE"}
NAMES |= {"none": "no baseline"}
"""What a method is called, by its arm."""
LOOKS = {
    "ppo": ("reft", "-", "o"),
    "grpo": ("wrong", "--", "s"),
    "rloo": ("right", "-.", "^"),
    "reinforce": ("warm-up", ":", "D"),
    "none": ("grey", ":", "x"),
}
"""Colour, line and marker of a method, by its arm."""


@style()
def group_views(frame: Any) -> Figure:
    """Draw, against the size of groups, how many of them teach nothing and how baselines do.

    Parameters
    ----------
    frame : DataFrame
        ``policy`` (its name), ``group_size``, ``flat`` (share of groups whose scores are all
        equal), and the variance of the scores that is left by the mean of the group's others
        (``others``) and by the mean of the batch (``batch``).

    Raises
    ------
    UserError
        If there is no row, a column is missing, or there are more than two policies.
    """
    columns = ["policy", "group_size", "flat", "others", "batch"]
    table = need(frame, columns, "group_views")
    names = list(dict.fromkeys(table["policy"]))
    if len(names) > 2:
        raise UserError(f"group_views: {len(names)} policies; at most two can be told apart")
    fig, axes = panels(7.2, 3.5, 2)
    left, right = axes[0]
    said = []
    for name, shade, marker in zip(names, (0.45, 1.0), "^o", strict=False):
        rows = table[table["policy"] == name].sort_values("group_size")
        x, look = rows["group_size"], {"marker": marker}
        left.plot(x, 100 * rows["flat"], color=tint("ink", shade), label=name, **look)
        for column, arm in (("others", "rloo"), ("batch", "reinforce")):
            colour, line, _ = LOOKS[arm]
            label = f"{NAMES[arm]}, {name}"
            right.plot(x, rows[column], ls=line, color=tint(colour, shade), label=label, **look)
        said += [
            f"{name}, groups of {row.group_size}: {100 * row.flat:.0f}% flat; variance left by the "
            f"group's others {row.others:.3f}, by the batch's mean {row.batch:.3f}."
            for row in rows.itertuples()
        ]
    left.set(title="Groups that teach nothing", ylabel="%", ylim=(0, 100))
    right.set(title="Variance left by the baseline", ylabel="squared reward", ylim=(0, None))
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        sizes = sorted(set(table["group_size"]))
        ax.set_xticks(sizes, [f"{k}" for k in sizes])
        ax.set_xlabel("responses to a question, k")
        ax.minorticks_off()
    left.legend(loc="upper right")
    fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finish(fig, f"Flat groups and the variance of advantages by size. {' '.join(said)}")


@style()
def pulls(frame: Any, reference: float) -> Figure:
    """Draw how hard each form of the KL term pulls a probability back to the reference's.

    Parameters
    ----------
    frame : DataFrame
        ``probability`` under the policy, ``form`` and ``pull``: minus the derivative of the term
        with respect to the logit. The first form is drawn as points, the others as lines.
    reference : float
        The probability under the reference policy.

    Raises
    ------
    UserError
        If there is no row, a column is missing, or there are more than three forms.
    """
    table = need(frame, ["probability", "form", "pull"], "pulls")
    forms = list(dict.fromkeys(table["form"]))
    if len(forms) > 3:
        raise UserError(f"pulls: {len(forms)} forms; at most three can be told apart")
    fig, axes = panels(7.2, 3.5)
    ax, said = axes[0][0], []
    looks: list[dict[str, Any]] = [
        {"ls": "", "marker": "o", "color": COLOURS["ink"], "zorder": 3},
        {"ls": "--", "color": COLOURS["wrong"]},
        {"ls": "-", "color": COLOURS["reft"]},
    ]
    ax.axhline(0, color=COLOURS["grey"], lw=1)
    ax.axvline(reference, color=COLOURS["grey"], lw=1.4, ls=":")
    ax.annotate(
        f"reference: {reference:g}", (reference, 0.02), xycoords=("data", "axes fraction"),
        xytext=(5, 3), textcoords="offset points",
    )  # fmt: skip
    for form, look in zip(forms, looks, strict=False):
        rows = table[table["form"] == form].sort_values("probability")
        ax.plot(rows["probability"], rows["pull"], label=form, **look)
        low, high = rows.iloc[0], rows.iloc[-1]
        said.append(
            f"{form}: {signed(low['pull'], 2)} at probability {low['probability']:.2f}, "
            f"{signed(high['pull'], 2)} at {high['probability']:.2f}."
        )
    ax.set(xlabel="probability of the token under the policy", xlim=(0, 1))
    ax.set(ylabel="pull on the token's logit")
    ax.legend(loc="best")
    return finish(fig, f"Pull of the KL term back to {reference:g}. {' '.join(said)}")


@style()
def noise(found: Mapping[str, Sequence[float]]) -> Figure:
    """Draw signal to noise of each method's gradient: seeds, mean and 95% interval.

    Parameters
    ----------
    found : mapping of str to sequence of float
        By arm, ``signal / trace`` (:class:`reft_lib.gradient_noise.Noise`) for each seed. Where
        noise hides the signal its unbiased estimate is sometimes negative; a mean over seeds needs
        those, too, which is why this ratio is drawn and not its inverse, the noise scale.

    Raises
    ------
    UserError
        If an arm has no seed.
    """
    if not found or not all(len(x) for x in found.values()):
        raise UserError("noise: wanted at least one method, each with at least one seed")
    fig, axes = panels(7.2, 1.1 + 0.5 * len(found))
    ax, said = axes[0][0], []
    ax.axvline(0, color=COLOURS["ink"], lw=1.2)
    for y, (arm, shares) in enumerate(found.items()):
        colour, _, marker = LOOKS[arm]
        mean, low, high = stats.mean_interval(shares)
        if len(shares) > 1:
            ax.plot(shares, np.full(len(shares), y + 0.22), "o", mfc="white", mec="grey", ms=4)
            ax.plot([low, high], [y, y], color=COLOURS[colour], lw=2.4)
        ax.plot(mean, y, marker, color=COLOURS[colour], ms=8)
        pm = "" if math.isnan(low) else f" ±{mean - low:.3f}"
        text = f"{signed(mean, 3).lstrip('+')}{pm}"
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center"}
        ax.annotate(text, (1.01, y), weight="bold", **place)
        said.append(f"{NAMES[arm]}: {text}.")
    ax.set_yticks(range(len(found)), [NAMES[arm] for arm in found])
    ax.set(ylim=(len(found) - 0.5, -0.5), xlabel="signal to noise of a rollout batch's gradient")
    ax.grid(visible=False, axis="y")
    return finish(fig, f"Signal to noise of each method's gradient. {' '.join(said)}")


@style()
def over_minutes(frame: Any) -> Figure:
    """Draw validation accuracy against processor minutes, a line for each method.

    Parameters
    ----------
    frame : DataFrame
        A row for each validation: ``arm``, ``seed``, ``step``, ``minutes``, ``accuracy`` (0 to 1).

    Raises
    ------
    UserError
        If there is no row, or a column is missing.
    """
    table = need(frame, ["arm", "seed", "step", "minutes", "accuracy"], "over_minutes")
    fig, axes = panels(7.2, 3.8)
    ax, said = axes[0][0], []
    for arm, (colour, line, marker) in LOOKS.items():
        rows = table[table["arm"] == arm]
        if rows.empty:
            continue
        for _, seed in rows.sort_values("step").groupby("seed"):
            thin = {"color": tint(colour, 0.35), "ls": line, "lw": 0.8, "zorder": 1.5}
            ax.plot(seed["minutes"], 100 * seed["accuracy"], **thin)
        mean = rows.groupby("step")[["minutes", "accuracy"]].mean()
        look = {"color": COLOURS[colour], "ls": line, "marker": marker, "lw": 2.4}
        ax.plot(mean["minutes"], 100 * mean["accuracy"], label=NAMES[arm], **look)
        said.append(
            f"{NAMES[arm]}, {rows['seed'].nunique()} seeds: {100 * mean.accuracy.iloc[0]:.1f}% at "
            f"{mean.minutes.iloc[0]:.1f} minutes, {100 * mean.accuracy.iloc[-1]:.1f}% at "
            f"{mean.minutes.iloc[-1]:.1f}, highest {100 * mean.accuracy.max():.1f}%."
        )
    ax.set(xlabel="processor minutes, warm-up and validations included", xlim=(0, None))
    ax.set_ylabel("validation accuracy, %")
    ax.legend(loc="lower right")
    return finish(fig, f"Validation accuracy over processor minutes. {' '.join(said)}")


@style()
def by_group_size(frame: Any, ppo: Sequence[float] = ()) -> Figure:
    """Draw test accuracy and the share of flat groups against the group size.

    Parameters
    ----------
    frame : DataFrame
        A row for each unit: ``group_size``, ``test`` and ``flat`` (both 0 to 1).
    ppo : sequence of float
        PPO's test accuracies, drawn as a level to compare with.

    Raises
    ------
    UserError
        If there is no row, or a column is missing.
    """
    table = need(frame, ["group_size", "test", "flat"], "by_group_size")
    sizes = sorted(set(table["group_size"]))
    fig, axes = panels(7.2, 3.5, 2)
    said = []
    views = (("test", "Test accuracy", "%"), ("flat", "Groups that teach nothing", "% of groups"))
    for ax, (column, title, unit) in zip(axes[0], views, strict=True):
        for at, k in enumerate(sizes):
            values = 100 * table.loc[table["group_size"] == k, column].astype(float)
            said.append(f"{title}, groups of {k}: {_point(ax, at, values)}%.")
        ax.set_xticks(range(len(sizes)), [f"{k}" for k in sizes])
        ax.set(title=title, ylabel=unit, xlabel="responses to a question, k")
        ax.set_xlim(-0.5, len(sizes) - 0.5)
    if len(ppo):
        level = 100 * float(np.mean(ppo))
        axes[0][0].axhline(level, color=COLOURS["reft"], lw=1.6, label=f"PPO: {level:.1f}")
        axes[0][0].legend(loc="best")
        said.append(f"PPO's test accuracy: {level:.1f}%.")
    axes[0][1].set_ylim(0, 100)
    return finish(fig, f"GRPO by group size. {' '.join(said)}")


def _point(ax: Axes, x: float, values: Any) -> str:
    """Draw the mean with its interval and the seeds beside it; return the mean in words."""
    mean, low, _ = stats.mean_interval(values)
    half = 0.0 if math.isnan(low) else mean - low
    colour, _, marker = LOOKS["grpo"]
    ax.errorbar(x, mean, half or None, color=COLOURS[colour], marker=marker, ms=7, capsize=3)
    if len(values) > 1:
        ax.plot(np.full(len(values), x + 0.18), values, "o", mfc="white", mec="grey", ms=4)
    return f"{mean:.1f} ±{half:.1f}" if half else f"{mean:.1f}"
