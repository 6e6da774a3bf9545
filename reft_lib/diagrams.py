"""Drawn schemes: what SFT and ReFT do, and two formulas of PPO as pictures.

The schemes hold no data. The pictures of formulas are computed by the library's own functions,
so that they show what training does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from reft_lib import advantage, losses
from reft_lib.errors import UserError
from reft_lib.style import COLOURS, finish, style, tint

Point = tuple[float, float]


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of this size in inches, and axes over all of it whose unit is the inch."""
    fig = Figure(figsize=(width, height))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def box(
    ax: Axes, at: Point, size: Point, head: str, body: str = "", face: str = "#FFFFFF",
    edge: str = COLOURS["grey"], ink: str = COLOURS["ink"], line: str = "-",
) -> None:  # fmt: skip
    """Draw a box centred at ``at``: a bold line, and smaller ones below it."""
    (x, y), (w, h) = at, size
    ax.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=face, edgecolor=edge, linewidth=1.3, linestyle=line,
        )
    )  # fmt: skip
    lines = body.count("\n") + 1 if body else 0
    up = 0.078 * lines
    ax.text(x, y + up, head, ha="center", va="center", weight="bold", size=9.5, color=ink)
    if body:
        ax.text(x, y - 0.095, body, ha="center", va="center", size=9, color=ink, linespacing=1.25)


def panel(ax: Axes, corner: Point, size: Point, colour: str) -> None:
    """Draw a tinted area from its lower left corner, to hold boxes."""
    ax.add_patch(
        FancyBboxPatch(
            corner, *size, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=tint(colour, 0.12), edgecolor=tint(colour, 0.6), linewidth=1,
        )
    )  # fmt: skip


def arrow(ax: Axes, a: Point, b: Point) -> None:
    """Draw an arrow from ``a`` to ``b``."""
    ax.add_patch(
        FancyArrowPatch(
            a, b, arrowstyle="-|>", mutation_scale=12, linewidth=1.4, color=COLOURS["ink"],
            shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip


@style()
def processes(warmup_epochs: int | None = None, sft_epochs: int | None = None) -> Figure:
    """Draw what SFT and ReFT do, side by side.

    Parameters
    ----------
    warmup_epochs, sft_epochs : int, optional
        Numbers to print instead of "a few" and "many".
    """
    few = "a few epochs" if warmup_epochs is None else f"{warmup_epochs} epochs"
    many = "many epochs" if sft_epochs is None else f"{sft_epochs} epochs"
    fig, ax = canvas(7.2, 5.2)
    ax.plot([2.37, 2.37], [0.15, 5.1], color=COLOURS["grey"], lw=1, ls=":")
    for x, name in ((1.17, "SFT"), (4.8, "ReFT")):
        ax.text(x, 5.03, name, ha="center", va="center", weight="bold", size=12)
        box(ax, (x, 4.65), (1.9, 0.36), "Pretrained model")
        box(ax, (x, 0.32), (1.9, 0.38), f"{name} policy", face=tint(name.lower(), 0.4))
        arrow(ax, (x, 0.86), (x, 0.51))
    arrow(ax, (1.17, 4.47), (1.17, 4.13))
    arrow(ax, (4.8, 4.47), (4.8, 4.24))
    _sft_loop(ax, many)
    pink, edge = tint("warm-up", 0.4), COLOURS["warm-up"]
    body = "question + annotated CoT: raise the CoT's probability"
    box(ax, (4.8, 3.94), (4.5, 0.6), f"1  Warm-up: SFT, {few}", body, pink, edge)
    box(ax, (5.97, 3.25), (2.16, 0.34), "Warm-up policy, frozen", face=pink, edge=edge, line="--")
    arrow(ax, (5.97, 3.64), (5.97, 3.42))
    _reft_loop(ax)
    return finish(
        fig,
        f"Two processes side by side. SFT: for {many}, read a question with its annotated chain "
        f"of thought and raise that chain's probability. ReFT: first a warm-up, the same for "
        f"{few}; then a loop of PPO: sample a chain of thought, check its answer, reward it with "
        "1 (right), 0.1 (wrong) or 0 (no answer), update the policy with a clipped step, and "
        "sample again. A frozen copy of the warm-up policy holds the updates on a KL leash.",
    )


def _sft_loop(ax: Axes, many: str) -> None:
    """Add SFT's loop to the process figure."""
    panel(ax, (0.1, 0.86), (2.14, 3.27), "sft")
    ax.text(0.22, 3.95, f"Loop, {many}", va="center", weight="bold")
    face, edge = tint("sft", 0.3), COLOURS["sft"]
    box(ax, (1.17, 3.2), (1.9, 0.66), "Read", "a question and\nits annotated CoT", face, edge)
    box(ax, (1.17, 1.5), (1.9, 0.66), "Update", "raise that CoT's\nprobability", face, edge)
    arrow(ax, (0.75, 2.87), (0.75, 1.83))
    arrow(ax, (1.6, 1.83), (1.6, 2.87))


def _reft_loop(ax: Axes) -> None:
    """Add ReFT's second phase to the process figure."""
    panel(ax, (2.5, 0.86), (4.6, 2.02), "reft")
    ax.text(4.8, 2.72, "2  PPO, in a loop", ha="center", va="center", weight="bold")
    steps = {
        "Sample": ((3.6, 2.25), "the policy writes a CoT"),
        "Check": ((3.6, 1.3), "is its answer right?"),
        "Reward": ((5.97, 1.3), "1, 0.1 or 0, at the end"),
        "Update": ((5.97, 2.25), "clipped step, all tokens"),
    }
    for head, (at, body) in steps.items():
        box(ax, at, (1.96, 0.54), head, body, tint("reft", 0.25), COLOURS["reft"])
    arrow(ax, (3.6, 3.64), (3.6, 2.52))
    arrow(ax, (3.6, 1.98), (3.6, 1.57))
    arrow(ax, (4.58, 1.3), (4.99, 1.3))
    arrow(ax, (5.97, 1.57), (5.97, 1.98))
    arrow(ax, (4.99, 2.25), (4.58, 2.25))
    ax.plot([6.4, 6.4], [3.08, 2.52], color=COLOURS["ink"], lw=1.6, ls="--")
    ax.text(6.33, 2.98, "KL leash: stay near", ha="right", va="center", size=9)


@style()
def clip_objective(eps: float = 0.2) -> Figure:
    """Draw PPO's clipped objective of one token, and its slope, against the ratio.

    Both come from :func:`reft_lib.losses.policy_loss`, the slope by differentiating it.

    Parameters
    ----------
    eps : float
        Half-width of the band in which the ratio may move, between 0 and 1.
    """
    if not 0 < eps < 1:
        raise UserError(f"clip_objective: eps = {eps}; wanted a number between 0 and 1")
    fig = Figure(figsize=(7.2, 4.4), layout="constrained")
    panels = fig.subplots(2, 2, sharex=True, sharey="row")
    ratios = np.linspace(1 - 2.5 * eps, 1 + 2.5 * eps, 201)
    tokens = torch.from_numpy(ratios)
    for column, (sign, name) in enumerate(((1.0, "right"), (-1.0, "wrong"))):
        objective, slope = (found.numpy() for found in clipped_objective(tokens, sign, eps))
        flat = ratios[slope == 0]
        title = "Advantage +1: raise this token" if sign > 0 else "Advantage −1: lower this token"
        panels[0, column].plot(
            ratios, sign * ratios, color=COLOURS["grey"], lw=1.4, ls=":", label="without clipping"
        )
        line: dict[str, Any] = {"color": COLOURS[name], "ls": "-" if sign > 0 else "--"}
        panels[0, column].plot(ratios, objective, **line, label="clipped objective")
        panels[0, column].legend(loc="lower right" if sign > 0 else "upper right")
        panels[0, column].set_title(title)
        jump = np.flatnonzero(np.diff(slope)) + 1
        panels[1, column].plot(
            np.insert(ratios, jump, ratios[jump]), np.insert(slope, jump, np.nan), **line
        )
        for ax in panels[:, column]:
            ax.axvspan(flat.min(), flat.max(), color=COLOURS["pale"], zorder=0)
            ax.axvline(1, color=COLOURS["grey"], lw=0.8)
        panels[1, column].set_xlabel("ratio: new / old probability of the token")
        panels[1, column].text(
            flat.mean(), 0.5 * sign, "slope 0:\nclipped", ha="center", va="center"
        )
    panels[0, 0].set_ylabel("objective")
    panels[1, 0].set_ylabel("slope by the ratio")
    return finish(
        fig,
        f"PPO's clipped objective and its slope against the ratio, eps = {eps:g}. With advantage "
        f"+1 the objective rises with slope 1 up to the ratio {1 + eps:g} and is flat beyond it. "
        f"With advantage -1 it is flat below the ratio {1 - eps:g} and falls with slope -1 above "
        "it. Dotted: the objective without clipping.",
    )


def clipped_objective(
    ratios: torch.Tensor, advantage: float, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PPO's objective for single tokens, minus the loss, and its slope by the ratio.

    It is :func:`reft_lib.losses.policy_loss` of one token at a time. The slope by the token's
    log-probability is the slope by the ratio times the ratio.

    Parameters
    ----------
    ratios : (N,) float
        New probability of each token, divided by the old one.
    advantage : float
    eps : float
        Half-width of the band in which the ratio may move.

    Returns
    -------
    objective, slope : (N,) float
    """
    mask, tokens = torch.ones(1, 1, dtype=torch.bool), ratios.clone().requires_grad_()
    found = []
    for ratio in tokens:
        new = ratio.log()[None, None]
        gain = torch.full_like(new, advantage)
        found.append(-losses.policy_loss(new, torch.zeros_like(new), gain, mask, eps)[0])
    objective = torch.stack(found)
    (slope,) = torch.autograd.grad(objective.sum(), tokens)
    return objective.detach(), slope


@style()
def gae_weights(lams: Sequence[float] = (0.0, 0.5, 0.9, 0.95, 1.0), length: int = 20) -> Figure:
    """Draw how much of a reward on the last token reaches each token before it.

    Advantages of :func:`reft_lib.advantage.gae` for a reward of 1 at the end, gamma 1, and a value
    head that says 0 everywhere, so that nothing but lambda is at work.

    Parameters
    ----------
    lams : sequence of float
        Values of lambda, each in [0, 1].
    length : int
        Tokens in the response, at least 2.
    """
    if not lams or not all(0 <= lam <= 1 for lam in lams) or length < 2:
        raise UserError(
            f"gae_weights: lams = {lams}, length = {length}; wanted lambdas in [0, 1], length >= 2"
        )
    fig = Figure(figsize=(7.2, 3.3), layout="constrained")
    ax = fig.subplots()
    mask = torch.ones(1, length, dtype=torch.bool)
    rewards = advantage.terminal_rewards(torch.ones(1), mask)
    x, first = np.arange(1, length + 1), []
    for i, lam in enumerate(lams):
        weights = advantage.gae(rewards, torch.zeros(1, length), mask, 1.0, lam)[0][0].numpy()
        shade = 0.35 + 0.65 * (i + 1) / len(lams)
        ax.plot(
            x, weights, color=tint("right", shade), marker="osD^vP*X"[i % 8], label=f"λ = {lam:g}"
        )
        first.append(f"{weights[0]:.2f} at lambda {lam:g}")
    ax.set(xlabel=f"token of the response (the reward stands on token {length})")
    ax.set(ylabel="advantage of the token", ylim=(-0.04, 1.08))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return finish(
        fig,
        f"How lambda spreads a reward of 1 on the last of {length} tokens back over the response, "
        f"where every value is 0. The first token's advantage is {', '.join(first)}.",
    )
