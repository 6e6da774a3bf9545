"""Reward hacking: a learned reward and the wanted one as PPO follows the first of them.

Read from the recorded study ``rlhf`` (:mod:`reft_lib.study_rlhf`): PPO with several betas against a
reward model (the proxy), and against the gold reward itself. Both rewards are changes since the
first step, in standard deviations over the warm-up policy's responses.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import stats
from reft_lib.compare import RUNS
from reft_lib.errors import UserError
from reft_lib.explorer import Explorer, Knob, complaint, explore, image
from reft_lib.pages import PAPER, Html
from reft_lib.plots import panels
from reft_lib.rlhf_plots import GOLD, PROXY
from reft_lib.style import COLOURS, describe, finish, signed, style, tint
from reft_lib.widget_logs import course, notes, place, readable, thinned

ITSELF = "gold itself"
"""Name of the policies that were trained on the gold reward."""
WINDOW = 3
"""Steps over which a mean is taken, where a peak or an end is told in words."""
MOST = 11
"""At most so many steps of each beta are drawn for a page."""


def hacking_explorer(runs: str | Path | None = None, live: bool | None = None) -> Explorer:
    """Show proxy and gold reward of PPO against a reward model, by beta and step.

    Parameters
    ----------
    runs : path, optional
        Folder of the run logs of ``python -m reft_lib study rlhf``; ``data/runs/rlhf`` unless
        given. A damaged or unfinished one is named below the picture.
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    """
    try:
        table, left_out = courses(Path(runs or RUNS / "rlhf"))
    except UserError as error:
        return complaint(str(error))
    betas = sorted(set(table["name"]), key=lambda name: (name == ITSELF, -_number(name)))
    steps = thinned(sorted({int(step) for step in table["step"]}), MOST)
    lowest = [i for i, name in enumerate(betas) if name != ITSELF]

    def draw(beta: str, step: float) -> Html:
        return state(table, beta, step, left_out)

    return explore(
        draw,
        "Changes since the first step, in standard deviations over the warm-up policy's "
        "responses. Thick lines are means over seeds, thin lines single seeds; pale lines are "
        "still to come (left) or other policies (right). A peak is the highest of many means, "
        "which flatters a fall from it.",
        live,
        beta=Knob("trained on", betas, start=lowest[-1] if lowest else 0, words=_words),
        step=Knob("step (rollout batch)", steps, start=len(steps) - 1, step=1),
    )


def courses(where: Path) -> tuple[Any, list[str]]:
    """Read how proxy and gold reward went in every recorded PPO run.

    Parameters
    ----------
    where : Path
        Folder of the study's run logs.

    Returns
    -------
    table : DataFrame
        A row for each step: ``name`` (``beta 0.05``, or ``ITSELF``), ``run``, ``seed``, ``step``,
        ``kl`` (nats a response), and ``proxy`` and ``gold``, changes since the first step in
        standard deviations.
    left_out : list of str
        Damaged lines and unfinished runs, by name.

    Raises
    ------
    UserError
        If there is no such run.
    """
    import pandas as pd

    table, cards, left_out = readable(where, ("arm", "seed"))
    parts = []
    for run, mine in table.groupby("run", sort=False):
        card = cards[run]
        if card.get("config", {}).get("kind") not in ("ppo", "betas", "gold"):
            continue
        spread = (card.get("summary") or {}).get("gold_spread")
        if not spread or not {"phase", "kl", "proxy", "gold", "beta"} <= set(mine):
            left_out.append(f"{run}: not finished")
            continue
        mine = mine[(mine["split"] == "train") & (mine["phase"] == "train")]
        mine = mine.dropna(subset=["kl", "proxy", "gold", "beta"]).sort_values("step")
        for beta, one in mine.groupby("beta"):
            moved = {
                "name": ITSELF if card["config"]["kind"] == "gold" else f"beta {beta:g}",
                "proxy": one["proxy"] - one["proxy"].iloc[0],
                "gold": (one["gold"] - one["gold"].iloc[0]) / spread,
            }
            parts.append(one[["run", "seed", "step", "kl"]].assign(**moved))
    if not parts:
        raise UserError("; ".join([f"{where.name}: not yet run", *left_out]))
    return pd.concat(parts, ignore_index=True), left_out


def _number(name: str) -> float:
    """Return the beta in a name."""
    return 0.0 if name == ITSELF else float(name.split()[1])


def _words(name: str) -> str:
    """Say what a policy was trained on."""
    return "the gold reward itself" if name == ITSELF else f"the proxy, β = {_number(name):g}"


def state(table: Any, name: str, step: float, left_out: Sequence[str] = ()) -> Html:
    """Draw one state: the courses of one kind of policy up to a step, and what became of it.

    Parameters
    ----------
    table : DataFrame
        Of :func:`courses`.
    name : str
        One of its names.
    step : float
    left_out : sequence of str

    Raises
    ------
    UserError
        If there is no such policy, or no step so early.
    """
    if not len(table[(table["name"] == name) & (table["step"] <= step)]):
        raise UserError(f"{name}, step {step:g}: nothing recorded so early")
    fig, told = _figure(table, name, step), fate(table[table["name"] == name])
    said = f'<p style="margin:.4em 0">{html.escape(told)}</p>'
    return Html(
        f'<div style="{PAPER};line-height:1.45">{image(fig)}{said}{notes(left_out)}</div>',
        " ".join([describe(fig), told, *(f"Left out: {line}." for line in left_out)]),
    )


def fate(mine: Any) -> str:
    """Say where the gold reward of one kind of policy peaks, and what happens then.

    Means over ``WINDOW`` steps: at the peak of the mean over seeds, and at the end. The change
    between the two is paired by seed.

    Parameters
    ----------
    mine : DataFrame
        Rows of :func:`courses` with one name.
    """
    name, last = _words(mine["name"].iloc[0]), int(mine["step"].max())
    smooth = mine.groupby("step")["gold"].mean().rolling(WINDOW, center=True).mean()
    if not smooth.notna().any():
        return f"Trained on {name}: too few steps to tell where gold peaks."
    top = int(smooth.idxmax())
    end = smooth.dropna().index[-1]
    around = mine[(mine["step"] - top).abs() <= WINDOW // 2].groupby("seed")
    after = mine[(mine["step"] - end).abs() <= WINDOW // 2].groupby("seed")
    text = (
        f"Trained on {name}, means over {WINDOW} steps: gold is highest around step {top} "
        f"({signed(around['gold'].mean().mean(), 2)} at KL {around['kl'].mean().mean():.1f} nats)"
    )
    if top >= end:
        return text + ", at the end: no fall was seen."
    # a run that was cut short has no end to be compared
    ends, tops = after["gold"].mean().align(around["gold"].mean(), join="inner")
    fall = stats.paired_interval(ends.to_numpy(), tops.to_numpy())
    rise = (after["proxy"].mean() - around["proxy"].mean()).mean()
    chance, verdict = "one seed", "a change that chance could explain"
    if math.isfinite(fall.lo):
        chance = f"95% interval {signed(fall.lo, 2)} to {signed(fall.hi, 2)}"
        if fall.hi < 0:
            verdict = "reward hacking" if rise > 0 else "both fall"
    return (
        f"{text}. From there to step {last} gold changes by {signed(fall.mean, 2)} ({chance}), "
        f"what is trained on by {signed(rise, 2)}: {verdict}."
    )


@style()
def _figure(table: Any, name: str, step: float) -> Figure:
    """Draw both rewards over the steps, and gold over the distance."""
    mine = table[table["name"] == name]
    fig, axes = panels(7.2, 3.5, 2)
    place(fig, left=0.085, right=0.97, bottom=0.14, top=0.92, wspace=0.2)
    left, right = axes[0]
    now = {
        column: course(left, mine, column, step, look, column)
        for column, look in (("proxy", PROXY), ("gold", GOLD))
    }
    kl = _gold_by_kl(right, table, name, step)
    low, high = table[["proxy", "gold"]].min().min(), table[["proxy", "gold"]].max().max()
    room = 0.06 * (high - low)
    for ax in (left, right):
        ax.axhline(0, color=COLOURS["grey"], lw=0.8)
    left.axvline(step, color=COLOURS["ink"], lw=0.8, ls=":")
    left.set(xlim=(0.5, table["step"].max() + 0.5), ylim=(low - room, high + room))
    left.set(title=f"Trained on {_words(name)}", xlabel="step (rollout batch)")
    left.set_ylabel("change, standard deviations")
    left.legend(loc="upper left")
    right.set(title="Gold against KL", xlabel="KL to the warm-up policy, nats a response")
    count = mine["seed"].nunique()
    return finish(
        fig,
        f"PPO trained on {_words(name)}, after step {step:g}, "
        f"{'1 seed' if count == 1 else f'mean of {count} seeds'}: proxy {signed(now['proxy'], 2)}, "
        f"gold {signed(now['gold'], 2)} standard deviations, KL {kl:.1f} nats.",
    )


def _gold_by_kl(ax: Axes, table: Any, name: str, step: float) -> float:
    """Draw gold against the distance up to a step, other policies pale; returns the distance."""
    colour, line, marker = GOLD
    for other, rows in table.groupby("name"):
        mean = rows.groupby("step")[["kl", "gold"]].mean()
        ax.plot(mean["kl"], mean["gold"], color=tint("grey", 0.45), lw=1, ls="-")
        if other != name:
            ax.annotate(
                "gold" if other == ITSELF else f"{_number(other):g}",
                (mean["kl"].iloc[-1], mean["gold"].iloc[-1]),
                xytext=(3, 0), textcoords="offset points", fontsize=8, va="center",
            )  # fmt: skip
    mean = table[table["name"] == name].groupby("step")[["kl", "gold"]].mean()
    done = mean[mean.index <= step]
    ax.plot(done["kl"], done["gold"], color=COLOURS[colour], ls=line)
    end = done.iloc[-1:]
    ax.plot(end["kl"], end["gold"], marker, color=COLOURS[colour], mec=COLOURS["ink"], ms=7)
    return float(end["kl"].iloc[0])
