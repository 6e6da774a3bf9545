"""Curves of recorded runs: pretraining, SFT, PPO, and SFT against ReFT.

Every function takes what :mod:`reft_lib.runlog` reads, or what a live loop yields, and returns a
figure with its alternative text (:func:`reft_lib.style.describe`). Thin lines are single seeds,
the thick line is their mean. Bars of results are in :mod:`reft_lib.bars`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib.errors import UserError
from reft_lib.results import METHODS
from reft_lib.style import (
    COLOURS,
    FORMATS,
    LABELS,
    LINES,
    MARKERS,
    finish,
    names,
    need,
    style,
    tint,
)


def panels(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """Return a figure of this size in inches and its panels, an array (rows, columns) of axes."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False)


def pick(frame: Any, who: str, columns: list[str], **wanted: str) -> Any:
    """Return the rows whose columns hold the ``wanted`` values; a column may be absent."""
    table = need(frame, columns, who)
    for column, value in wanted.items():
        if column in table:
            table = table[table[column] == value]
    table = table.dropna(subset=columns)
    if table.empty:
        raise UserError(f"{who}: no rows with {names(wanted.values())} and {names(columns)}")
    return table if "run" in table else table.assign(run="one")


def one_format(table: Any, who: str) -> None:
    """Refuse a table that mixes words and programs."""
    if "fmt" in table and table["fmt"].nunique() > 1:
        raise UserError(f"{who}: rows of ncot and pcot; choose one by its column fmt")


def _mean(table: Any, x: str, y: str) -> Any:
    """Return the mean of ``y`` over runs at every ``x`` that all runs have (else that any has)."""
    groups = table.groupby(x)
    shared = groups["run"].nunique() == table["run"].nunique()
    mean = groups[y].mean()
    return mean[shared] if shared.any() else mean


def curves(
    ax: Axes, table: Any, x: str, y: str, look: str, scale: float = 1.0, label: str = ""
) -> Any:
    """Draw a thin line for each run and a thick one for their mean, which is returned.

    ``look`` is the key of colour, line and marker, and, where it has none, the label.
    """
    mean, colour, line = scale * _mean(table, x, y), COLOURS[look], LINES.get(look, "-")
    if table["run"].nunique() > 1:
        for _, run in table.groupby("run"):
            run = run.sort_values(x)
            ax.plot(run[x], scale * run[y], color=tint(colour, 0.5), ls=line, lw=0.8, zorder=1.5)
    ax.plot(
        mean.index.to_numpy(),
        mean.to_numpy(),
        color=colour,
        ls=line,
        lw=2.4,
        marker=MARKERS.get(look, "D"),
        markevery=max(1, len(mean) // 12),
        label=label or LABELS.get(look, look),
    )
    return mean


def seeds(table: Any) -> str:
    """Say of how many runs a mean is."""
    n = table["run"].nunique()
    return "1 seed" if n == 1 else f"mean of {n} seeds"


@style()
def learning_curves(frame: Any, warmup_epochs: float) -> Figure:
    """Draw the validation accuracy of SFT and ReFT over training, a panel for each format.

    Parameters
    ----------
    frame : DataFrame
        ``runlog.read_runs("data/runs/nano")``; used are the rows of split ``validation`` with
        ``method``, ``epoch`` and ``accuracy``.
    warmup_epochs : float
        Epochs of SFT before ReFT's own epoch 0 (``config.warmup_epochs`` in the runs' cards);
        ReFT's lines begin there.

    Raises
    ------
    UserError
        If there is no such row, or ReFT begins at another accuracy than SFT has at that epoch.
    """
    who = "learning_curves"
    table = pick(frame, who, ["method", "epoch", "accuracy"], split="validation")
    formats = sorted(table["fmt"].unique()) if "fmt" in table else [""]
    fig, axes = panels(7.2, 3.4, len(formats))
    said = []
    for ax, fmt in zip(axes[0], formats, strict=True):
        here = table[table["fmt"] == fmt] if fmt else table
        _check_warmup(here, warmup_epochs)
        ax.axvline(warmup_epochs, color=COLOURS["warm-up"], ls=":", lw=1.8, label="warm-up ends")
        for method in METHODS:
            rows = here[here["method"] == method]
            if rows.empty:
                continue
            shift = warmup_epochs if method == "reft" else 0
            mean = curves(ax, rows.assign(x=rows["epoch"] + shift), "x", "accuracy", method, 100)
            said.append(
                f"{FORMATS.get(fmt, fmt)} {LABELS[method]}, {seeds(rows)}: from "
                f"{mean.iloc[0]:.1f}% at epoch {mean.index[0]:g} to {mean.iloc[-1]:.1f}% at epoch "
                f"{mean.index[-1]:g}, best {mean.max():.1f}% at epoch {mean.idxmax():g}."
            )
        ax.set(xlabel="epochs (passes over the questions)", title=FORMATS.get(fmt, fmt))
        ax.set(xlim=(0, None), ylim=(0, None))
    share_top([*axes[0]])
    axes[0][0].set_ylabel("validation accuracy, %")
    axes[0][0].legend(loc="best")
    return finish(fig, f"Validation accuracy over training epochs. {' '.join(said)}")


def _check_warmup(table: Any, warmup_epochs: float) -> None:
    """Refuse a warm-up after which SFT is not the policy that ReFT began with."""
    sft, reft = (_mean(table[table["method"] == m], "epoch", "accuracy") for m in METHODS)
    # The adapter is merged in between, and bfloat16 rounds: a few answers may differ.
    if warmup_epochs in sft and 0 in reft and abs(sft[warmup_epochs] - reft[0]) > 0.1:
        raise UserError(
            f"learning_curves: ReFT begins at {reft[0]:.1%}, but SFT has {sft[warmup_epochs]:.1%} "
            f"at epoch {warmup_epochs:g}; wanted warmup_epochs as in the runs' cards"
        )


def share_top(axes: list[Axes]) -> None:
    """Give panels side by side the same upper end."""
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(top=top)


@style()
def ppo_curves(frame: Any) -> Figure:
    """Draw four views of PPO's steps: reward and accuracy, KL, length, clipping and value loss.

    Parameters
    ----------
    frame : DataFrame or list of dict
        What :func:`reft_lib.ppo.ppo` yields, or the same read back with ``runlog.read_runs`` (the
        rows of split ``train`` and method ``reft``), in one format.

    Raises
    ------
    UserError
        If there is no such row, a column is missing, or both formats are mixed.
    """
    columns = ["step", "reward", "accuracy", "kl", "length", "clip_fraction", "value_loss"]
    table = pick(frame, "ppo_curves", columns, split="train", method="reft")
    one_format(table, "ppo_curves")
    fig, axes = panels(7.2, 5.0, 2, 2)
    views = [
        ("Reward and accuracy", "mean of the rollouts", ["reward", "accuracy"]),
        ("KL to the warm-up policy", "nats a response", ["kl"]),
        ("Response length", "tokens", ["length"]),
        ("Clipping and value loss", "share; squared reward", ["clip_fraction", "value_loss"]),
    ]
    said = []
    for ax, (title, unit, drawn) in zip(axes.flat, views, strict=True):
        for name, look in zip(drawn, ("reft", "right"), strict=False):
            mean = curves(ax, table, "step", name, look, label=name.replace("_", " "))
            said.append(f"{name.replace('_', ' ')} from {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}")
        ax.set(title=title, ylabel=unit)
        if len(drawn) > 1:
            ax.set_ylim(0, 1.25 * ax.get_ylim()[1])  # room for the legend
            ax.legend(loc="upper left", ncols=2)
    for ax in axes[1]:
        ax.set_xlabel("step (rollout batch)")
    steps = f"{int(table['step'].min())} to {int(table['step'].max())}"
    return finish(fig, f"PPO from step {steps}, {seeds(table)}: {'; '.join(said)}.")


@style()
def sft_curve(frame: Any) -> Figure:
    """Draw SFT's training loss and validation accuracy over epochs.

    Parameters
    ----------
    frame : DataFrame or list of dict
        Rows with ``epoch`` and, in the same or in different rows, ``loss`` and ``accuracy``: what
        :func:`reft_lib.sft.sft` yields, with accuracies added, or a run log in one format.

    Raises
    ------
    UserError
        If there is no such row, or both formats are mixed.
    """
    loss = pick(frame, "sft_curve", ["epoch", "loss"], method="sft", split="train")
    accuracy = pick(frame, "sft_curve", ["epoch", "accuracy"], method="sft", split="validation")
    one_format(loss, "sft_curve")
    fig, axes = panels(7.2, 3.1, 2)
    left, right = axes[0]
    loss_mean = curves(left, loss, "epoch", "loss", "sft")
    left.set(title="Training loss", xlabel="epoch", ylabel="nats a token", ylim=(0, None))
    mean = curves(right, accuracy, "epoch", "accuracy", "sft", 100)
    right.set(title="Validation accuracy", xlabel="epoch", ylabel="%", ylim=(0, 1.25 * mean.max()))
    right.plot(mean.idxmax(), mean.max(), "*", color=COLOURS["ink"], markersize=13, zorder=3)
    right.annotate(
        f"best: {mean.max():.1f}% at epoch {mean.idxmax():g}",
        (mean.idxmax(), mean.max()),
        xytext=(0, 9),
        textcoords="offset points",
        ha="right" if mean.idxmax() > mean.index.to_series().mean() else "left",
    )
    return finish(
        fig,
        f"SFT, {seeds(loss)}. The training loss goes from {loss_mean.iloc[0]:.3f} to "
        f"{loss_mean.iloc[-1]:.3f} nats a token in {loss_mean.index[-1]:g} epochs. Validation "
        f"accuracy goes from {mean.iloc[0]:.1f}% to {mean.iloc[-1]:.1f}%, and is best at epoch "
        f"{mean.idxmax():g} with {mean.max():.1f}%.",
    )


@style()
def pretraining_curve(card: Mapping[str, Any]) -> Figure:
    """Draw the loss of a small model's pretraining.

    Parameters
    ----------
    card : mapping
        ``card.json`` of ``data/nano`` or ``data/encoder``: ``loss_curve``, a list of [step, loss in
        nats a token]; its ``held_out_loss`` and the size of its vocabulary (``config.vocab``) are
        shown if known, and its ``name`` is told.

    Raises
    ------
    UserError
        If the card holds no such curve.
    """
    try:
        points = [(int(step), float(loss)) for step, loss in card["loss_curve"]]
    except (KeyError, TypeError, ValueError):
        points = []
    if not points:
        raise UserError("pretraining_curve: the card has no loss_curve, a list of [step, loss]")
    steps, loss = zip(*points, strict=True)
    fig, axes = panels(7.2, 3.1)
    ax = axes[0][0]
    ax.plot(steps, loss, color=COLOURS["ink"], label="training batch")
    marks = []
    if vocab := (card.get("config") or {}).get("vocab"):
        marks.append((math.log(vocab), f"guessing: ln {vocab} = {math.log(vocab):.2f}", ":"))
    if held_out := card.get("held_out_loss"):
        marks.append((held_out, f"held-out text: {held_out:.2f}", "--"))
    for height, text, line in marks:
        ax.axhline(height, color=COLOURS["reft"], ls=line, lw=1.6, label=text)
    ax.set(xlabel="optimiser step", ylabel="loss, nats a token", ylim=(0, None))
    ax.legend()
    said = "".join(f" A line marks {text}." for _, text, _ in marks)
    return finish(
        fig,
        f"Pretraining loss of the {card.get('name', 'nano')} model: {loss[0]:.2f} nats a token at "
        f"step {steps[0]}, {loss[-1]:.2f} at step {steps[-1]}.{said}",
    )
