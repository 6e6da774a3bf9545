"""Pictures of the benchmark (:mod:`reft_lib.speed`): rates, growth with the work, memory.

Every function takes records as :func:`reft_lib.speed_records.read` returns them, and returns a
figure with its alternative text.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from reft_lib import ragged, speed_records
from reft_lib.errors import UserError
from reft_lib.plots import panels
from reft_lib.rollout import Rollout
from reft_lib.style import COLOURS, finish, style

LOOKS = {
    "generate": ("grey", "", "s", ":"),
    "generate_static": ("grey", "//", "D", ":"),
    "generate_batch": ("grey", "..", "P", ":"),
    "trl": ("sft", "//", "^", "--"),
    "plain": ("warm-up", "..", "v", "-."),
    "reft_lib": ("reft", "", "o", "-"),
}
"""Colour, hatch, marker and line of each engine."""
PLACES = {
    "prompt": ("reft", ""),
    "the same prompt": ("sft", "////"),
    "response": ("right", ""),
    "padding": ("pale", ""),
}
"""Colour and hatch of each kind of place in a batch."""
TITLES = {"rollout": "Rollout", "update": "Update", "step": "Whole step (GRPO)"}


@style()
def rates(records: Sequence[dict[str, Any]], model: str = "nano") -> Figure:
    """Draw tokens a second of every engine, a panel for each kind of work.

    Bars are medians over the rounds, whiskers the slowest and the fastest. Shown is the size at
    which a model's kinds were all measured: 64 responses to prompts of 64 tokens.

    Raises
    ------
    UserError
        If nothing of this model was measured at that size.
    """
    frame = speed_records.table(records)
    frame = frame[(frame["model"] == model) & (frame["rows"] == 64) & (frame["prompt"] == 64)]
    frame = frame[frame["mean"] == 32]
    kinds = [kind for kind in TITLES if kind in set(frame["kind"])]
    if not kinds:
        raise UserError(f"rates: nothing of {model} with 64 rows was measured")
    fig, axes = panels(2.7 * len(kinds) + 0.6, 3.0, len(kinds))
    said = []
    for ax, kind in zip(axes[0], kinds, strict=True):
        here = frame[frame["kind"] == kind].iloc[::-1]
        for y, row in enumerate(here.itertuples()):
            colour, hatch, *_ = LOOKS[row.engine]
            ax.barh(y, row.tokens_per_second, 0.62, facecolor=COLOURS[colour], hatch=hatch,
                    edgecolor="white")  # fmt: skip
            span = [[row.tokens_per_second - row.low], [row.high - row.tokens_per_second]]
            ax.errorbar(row.tokens_per_second, y, xerr=span, color=COLOURS["ink"], capsize=3)
            share = f", {row.share:.0%} of the limit" if row.share > 0 else ""
            said.append(
                f"{TITLES[kind]}, {row.engine}: {row.tokens_per_second:,.0f} tokens a second, "
                f"{row.ratio:.1f} times {here.iloc[-1]['engine']}{share}."
            )
        ratios = [f"{r.engine}\n×{r.ratio:.1f}" for r in here.itertuples()]
        ax.set_yticks(range(len(here)), ratios)
        ax.set(title=TITLES[kind], xlabel="tokens a second")
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.08)
    return finish(fig, f"Speed of {model}. {' '.join(said)}")


@style()
def places(batch: Rollout) -> Figure:
    """Draw a padded batch place by place: what must be read, and what is read for nothing.

    Parameters
    ----------
    batch : Rollout
        Some rows, those with the same prompt side by side.
    """
    laid = ragged.lay_out(batch.sequences, batch.attention_mask, batch.response_mask)
    width = batch.prompt_width
    rows, columns = batch.sequences.shape
    filled = batch.attention_mask[:, :width].sum(dim=1).tolist()
    lengths, which = batch.lengths.tolist(), laid.which.tolist()
    fig, axes = panels(6.4, 0.8 + 0.16 * rows)
    ax, parts = axes[0][0], {name: 0 for name in PLACES}
    for y in range(rows):
        said = "prompt" if which[y] not in which[:y] else "the same prompt"
        spans = [
            ("padding", 0, width - filled[y]),
            (said, width - filled[y], filled[y]),
            ("response", width, lengths[y]),
            ("padding", width + lengths[y], columns - width - lengths[y]),
        ]
        for name, at, n in spans:
            colour, hatch = PLACES[name]
            ax.barh(y, n, 0.9, left=at, facecolor=COLOURS[colour], hatch=hatch,
                    edgecolor="white", lw=0, label="" if parts[name] else name)  # fmt: skip
            parts[name] += n
    ax.set(yticks=[], ylim=(rows - 0.4, -0.6), xlim=(0, columns), xlabel="column")
    ax.grid(visible=False)
    fig.legend(loc="outside upper center", ncols=4)
    counts = ", ".join(f"{name} {n:,}" for name, n in parts.items())
    return finish(
        fig,
        f"A batch of {rows} rows and {columns} columns, {rows * columns:,} places: {counts}. "
        f"Without padding and with each prompt once {len(laid.tokens):,} tokens are read.",
    )


@style()
def growth(records: Sequence[dict[str, Any]], model: str = "nano") -> Figure:
    """Draw the seconds of whole steps against their tokens, and what linear growth would be."""
    power = speed_records.growth(records, model)
    ours = [r for r in records if r["kind"] == "step" and r["case"]["model"] == model]
    fig, axes = panels(5.6, 3.6)
    ax, said = axes[0][0], []
    for name in (n for n in LOOKS if any(n in r["engines"] for r in ours)):
        points = sorted(
            tuple(statistics.median(r["engines"][name][key]) for key in ("tokens", "seconds"))
            for r in ours
            if name in r["engines"]
        )
        colour, _, marker, line = LOOKS[name]
        ax.plot(*zip(*points, strict=True), color=COLOURS[colour], marker=marker, ls=line,
                label=name)  # fmt: skip
        ends = "; ".join(f"{t:,.0f} tokens {s:.2f} s" for t, s in (points[0], points[-1]))
        said.append(f"{name}: {ends}.")
        if name == "reft_lib":
            (t0, s0), (t1, _) = points[0], points[-1]
            ax.plot([t0, t1], [s0, s0 * t1 / t0], color=COLOURS["ink"], lw=0.8, ls=":",
                    label="linear")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="tokens sampled in a step", ylabel="seconds a step")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    ax.legend()
    return finish(
        fig,
        f"Seconds of a whole step of {model} grow as tokens to the {power:.2f}. {' '.join(said)}",
    )


@style()
def memory(records: Sequence[dict[str, Any]], model: str = "nano") -> Figure:
    """Draw the memory that a run of many steps holds.

    Raises
    ------
    UserError
        If no such run was measured.
    """
    held, drift = speed_records.held(records, model)
    fig, axes = panels(5.6, 2.6)
    ax = axes[0][0]
    ax.plot(range(1, len(held) + 1), held, color=COLOURS["reft"])
    ax.set(xlabel="step", ylabel="MB held", ylim=(0, 1.15 * max(held)))
    return finish(
        fig,
        f"Memory held over {len(held)} steps of {model}: {min(held):,.0f} to {max(held):,.0f} MB, "
        f"{100 * drift:+.1f}% from the second tenth to the last.",
    )
