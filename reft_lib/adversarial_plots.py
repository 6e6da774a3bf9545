"""Pictures of adversarial fine-tuning: both players, what becomes of diversity, and perturbations.

Thin lines are single seeds, the thick line is their mean. Every function returns a figure with its
alternative text (:func:`reft_lib.style.describe`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize

from reft_lib.ablation_plots import curve
from reft_lib.errors import UserError
from reft_lib.plots import panels, pick, seeds
from reft_lib.style import COLOURS, finish, style, tint

LOOKS = (
    ("reft", "-", "o"), ("sft", "--", "s"), ("right", "-.", "^"), ("warm-up", ":", "D"),
    ("ink", "-", "v"),
)  # fmt: skip
"""Colour, line and marker of the lines of one panel."""


@style()
def player_curves(frame: Any) -> Figure:
    """Draw both players of one game over its rounds, and how varied the generated texts are.

    Parameters
    ----------
    frame : DataFrame or list of dict
        What :func:`reft_lib.adversarial.train` yields, or the same read back; with a column ``run``
        where there are several.

    Raises
    ------
    UserError
        If there is no row, or a column is missing.
    """
    views = [
        ("Discriminator", "% told rightly", 100.0, "%",
         [("fake_right", "generated texts found out"), ("real_right", "held-out real ones known")]),
        ("Generator", "probability of being real", 1.0, "", [("reward", "mean reward")]),
        ("Diversity", "self-BLEU, distinct-2", 1.0, "",
         [("self_bleu", "self-BLEU"), ("distinct_2", "distinct-2")]),
    ]  # fmt: skip
    columns = ["step", *(name for *_, drawn in views for name, _ in drawn)]
    table = pick(frame, "player_curves", columns)
    fig, axes = panels(8.4, 3.4, 3)
    said = []
    for ax, (title, unit, scale, sign, drawn) in zip(axes[0], views, strict=True):
        for (name, label), look in zip(drawn, LOOKS, strict=False):
            mean = curve(ax, table, name, look, label, scale)
            a, b = (f"{x:.0f}%" if sign else f"{x:.2f}" for x in (mean.iloc[0], mean.iloc[-1]))
            said.append(f"{label} from {a} to {b}")
        top = 100 if sign else 1
        ax.set(title=title, ylabel=unit, xlabel="round", ylim=(0, 1.45 * top))
        ax.set_yticks(np.linspace(0, top, 6))
        ax.legend(loc="upper left", fontsize=8.5)
    axes[0][0].axhline(50, color=COLOURS["grey"], lw=1, ls=":")
    steps = f"{int(table['step'].min())} to {int(table['step'].max())}"
    return finish(fig, f"Both players from round {steps}, {seeds(table)}: {'; '.join(said)}.")


@style()
def arm_curves(frame: Any) -> Figure:
    """Draw what the arms of the study do to texts: four views over the rounds.

    Parameters
    ----------
    frame : DataFrame or list of dict
        Rounds of several runs, with columns ``run`` and ``arm``.

    Raises
    ------
    UserError
        If there is no row, a column is missing, or there are more arms than lines.
    """
    views = [
        ("Generated texts found out", "%", "fake_right", 100.0),
        ("Worded as a problem", "%", "worded", 100.0),
        ("Self-BLEU", "0 to 1", "self_bleu", 1.0),
        ("Loss on held-out real texts", "nats a token", "held_nll", 1.0),
    ]
    table = pick(frame, "arm_curves", ["arm", "step", *(y for _, _, y, _ in views)])
    arms = list(dict.fromkeys(table["arm"]))
    if len(arms) > len(LOOKS):
        raise UserError(f"arm_curves: {len(arms)} arms; at most {len(LOOKS)} can be told apart")
    fig, axes = panels(7.6, 5.6, 2, 2)
    said = []
    for ax, (title, unit, y, scale) in zip(axes.flat, views, strict=True):
        for arm, look in zip(arms, LOOKS, strict=False):
            here = table[table["arm"] == arm]
            mean = curve(ax, here, y, look, arm, scale)
            a, b = mean.iloc[0], mean.iloc[-1]
            said.append(f"{title}, {arm}, {seeds(here)}: from {a:.3g} to {b:.3g}.")
        ax.set(title=title, ylabel=unit)
    for ax in axes[1]:
        ax.set_xlabel("round")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return finish(fig, f"Ways to train the generator. {' '.join(said)}")


@style()
def perturbation_curves(
    sizes: Sequence[float], worst: Sequence[float], others: Sequence[Sequence[float]]
) -> Figure:
    """Draw how far predictions change along the worst direction and along random ones.

    Parameters
    ----------
    sizes : (n,) floats
        Norms of the perturbation, in norms of a row's embeddings.
    worst : (n,) floats
        KL in nats a token along the direction that was found.
    others : n sequences of floats
        The same along random directions.
    """
    fig, axes = panels(6.0, 3.4)
    ax, middle = axes[0][0], [sum(some) / len(some) for some in others]
    ax.plot(sizes, worst, color=COLOURS["reft"], marker="o", lw=2.2, label="worst direction")
    ax.plot(sizes, middle, color=COLOURS["sft"], ls="--", marker="s", lw=2.2, label="random, mean")
    ax.fill_between(sizes, [min(some) for some in others], [max(some) for some in others],
                    color=tint("sft", 0.35), lw=0, label="random, all")  # fmt: skip
    ax.set(xscale="log", yscale="log", ylabel="KL, nats a token",
           xlabel="norm of the perturbation / norm of the embeddings")  # fmt: skip
    ax.set_xticks(list(sizes), [f"{x:g}" for x in sizes])
    ax.minorticks_off()
    ax.legend()
    said = (
        f"at {x:g}: {a:.2g} against {b:.2g}" for x, a, b in zip(sizes, worst, middle, strict=True)
    )
    return finish(
        fig,
        "KL in nats a token along the worst direction against the mean of random directions of the "
        f"same norm, {'; '.join(said)}.",
    )


@style()
def two_directions() -> tuple[Figure, tuple[float, float], tuple[float, float]]:
    """Fit one bell curve to a density with two humps, by each of the two KL divergences.

    Returns
    -------
    figure
    likelihood, adversary : (float, float)
        Mean and standard deviation of the curve that minimises KL(real || G), as maximum likelihood
        does, and of one that minimises KL(G || real), as the generator of a perfect discriminator.
    """
    x = np.linspace(-8, 8, 1601)

    def bell(mean: float, deviation: float) -> Any:
        return np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))

    real = 0.55 * bell(-2.5, 0.8) + 0.45 * bell(2.5, 0.8)

    def kl(p: Any, q: Any) -> float:
        inside = p > 1e-300
        ratio = np.log(p[inside]) - np.log(np.maximum(q[inside], 1e-300))
        return float((p[inside] * ratio).sum() * (x[1] - x[0]))

    def fit(loss: Any) -> tuple[float, float]:
        def objective(v: Any) -> float:
            return float(loss(bell(v[0], np.exp(v[1]))))

        tries = [
            minimize(objective, np.array([mean, 0.0]), method="Nelder-Mead") for mean in (-2.0, 2.0)
        ]
        best = min(tries, key=lambda found: found.fun)
        return float(best.x[0]), float(np.exp(best.x[1]))

    wide, narrow = fit(lambda q: kl(real, q)), fit(lambda q: kl(q, real))
    fig, axes = panels(6.4, 3.2)
    ax = axes[0][0]
    ax.fill_between(x, real, color=COLOURS["pale"], edgecolor=COLOURS["grey"], label="real")
    ax.plot(x, bell(*wide), color=COLOURS["sft"], ls="--", label="least KL(real ‖ G): likelihood")
    ax.plot(x, bell(*narrow), color=COLOURS["reft"], label="least KL(G ‖ real): adversary")
    ax.set(xlabel="all texts, put on a line", ylabel="density", ylim=(0, 1.5 * bell(*narrow).max()))
    ax.legend(loc="upper right")
    alt = (
        f"A density with two humps. The bell curve of least KL from the real density has mean "
        f"{wide[0]:.2f} and standard deviation {wide[1]:.2f} and covers both; that of least KL to "
        f"it has {narrow[0]:.2f} and {narrow[1]:.2f} and covers one."
    )
    return finish(fig, alt), wide, narrow
