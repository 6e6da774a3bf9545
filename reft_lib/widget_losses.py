"""Explorers of PPO's formulas: what the numbers in them do to one rollout or one token."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from reft_lib.diagrams import clipped_objective
from reft_lib.errors import UserError
from reft_lib.explorer import Explorer, Knob, explore
from reft_lib.plots import panels
from reft_lib.style import COLOURS, finish, style

RATIOS = torch.linspace(0.3, 1.9, 161, dtype=torch.float64)
"""Ratios of a token's probabilities, new policy to old."""
CLIPS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
SIGNS = {"above zero: the token went well": 1.0, "below zero: it went badly": -1.0}


def clip_explorer(live: bool | None = None) -> Explorer:
    """Show PPO's objective for one token, and its gradient, against the ratio.

    Parameters
    ----------
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    """
    return explore(
        clip_figure,
        "PPO's objective for one token (left) and how it pulls at the token's log-probability "
        "(right). The band is where the ratio may move.",
        live,
        sign=Knob("advantage", tuple(SIGNS)),
        clip=Knob("clip, ε", CLIPS, start=CLIPS.index(0.2), step=0.01),
    )


@style()
def clip_figure(sign: str = next(iter(SIGNS)), clip: float = 0.2) -> Figure:
    """Draw the clipped objective of a token with advantage 1 or -1, and its gradient.

    The gradient is that of the objective by the token's log-probability: what the optimiser climbs.

    Parameters
    ----------
    sign : str
        A key of ``SIGNS``.
    clip : float
        Half-width of the band.

    Raises
    ------
    UserError
        If ``clip`` is not between 0 and 1, or there is no such sign.
    """
    if sign not in SIGNS or not 0 < clip < 1:
        raise UserError(f"clip {clip:g} and sign {sign!r}; wanted 0 to 1 and one of {list(SIGNS)}")
    advantage = SIGNS[sign]
    objective, slope = clipped_objective(RATIOS, advantage, clip)
    pull = slope * RATIOS
    fig, axes = panels(7.2, 3.1, 2)
    left, right = axes[0]
    left.plot(RATIOS, advantage * RATIOS, color=COLOURS["grey"], ls=":", label="without clip")
    left.plot(RATIOS, objective, color=COLOURS["reft"], label="clipped")
    right.plot(RATIOS, pull, color=COLOURS["reft"])
    for ax in axes[0]:
        ax.axvspan(1 - clip, 1 + clip, color=COLOURS["pale"], zorder=0)
        ax.axvline(1, color=COLOURS["grey"], lw=0.8)
        ax.set_xlabel("ratio, new probability to old")
    left.set(ylabel="objective", ylim=(-2, 2), title=f"advantage {advantage:+g}, ε = {clip:g}")
    right.set(ylabel="gradient", ylim=(-2.1, 2.1), title="pull on the log-probability")
    left.legend(loc="lower right" if advantage > 0 else "upper right")
    edge, way = (1 + clip, "above") if advantage > 0 else (1 - clip, "below")
    return finish(
        fig,
        f"The clipped objective of a token with advantage {advantage:+g} and clip {clip:g} against "
        f"the ratio. It is flat, and its gradient zero, where the ratio is {way} {edge:g}; "
        "everywhere else it follows the line without clip.",
    )
