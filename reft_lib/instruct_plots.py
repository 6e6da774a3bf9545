"""Pictures of instruction fine-tuning: rows padded and packed, and accuracy task by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from reft_lib import packing, sft, stats
from reft_lib.errors import UserError
from reft_lib.instructions import SEEN, UNSEEN
from reft_lib.plots import panels
from reft_lib.style import COLOURS, finish, need, style

LOOKS = {
    "mixed": ("reft", "o"),
    "mixed-few": ("wrong", "s"),
    "mixed-english": ("grey", "D"),
    "solve-only": ("sft", "^"),
}
"""Colour and marker of each arm of the study."""
GROUPS = {
    "seen": "phrasings of training",
    "kept_back": "phrasings kept back",
    "unseen": "tasks kept back",
}
"""What the columns of a summary begin with, and what it means."""


@style()
def rows_picture(pairs: Sequence[packing.Pair], width: int) -> Figure:
    """Draw a batch padded and packed, and who looks at whom in the first packed row.

    Parameters
    ----------
    pairs : sequence of (prompt ids, response ids)
    width : int
        Tokens of a packed row.
    """
    padded, packed = sft.collate(pairs, 0), packing.collate(pairs, width, 0)
    kinds = [
        np.where(padded.mask == 0, 0, np.where(padded.labels != sft.IGNORE, 2, 1)),
        np.where(packed.segments == 0, 0, np.where(packed.labels != sft.IGNORE, 2, 1)),
    ]
    fig, axes = panels(8.6, 3.4, 3)
    colours = ListedColormap(["#FFFFFF", "#BFD9EA", COLOURS["reft"]])
    for ax, cells, title in zip(axes[0], kinds, ("padded", "packed"), strict=False):
        rows, columns = cells.shape
        empty = 100 * float((cells == 0).mean())
        ax.imshow(
            cells, cmap=colours, vmin=0, vmax=2, aspect="auto", interpolation="nearest",
            extent=(0, columns, rows + 0.5, 0.5),
        )  # fmt: skip
        ax.set(title=f"{title}: {empty:.0f}% padding", xlabel="token", ylabel="row")
        ax.set_yticks(range(1, rows + 1, 1 + rows // 8))
        ax.grid(visible=False)
    for r, row in enumerate(packed.position_ids.numpy()):
        starts = [c for c in np.flatnonzero(row == 0) if packed.segments[r, c]]
        axes[0][1].vlines(starts[1:], r + 0.5, r + 1.5, color="black", lw=1)
    real = packed.segments[0] > 0
    seen = (packing.attention(packed.segments)[0] & real).numpy()
    looks = ListedColormap(["#FFFFFF", COLOURS["ink"]])
    axes[0][2].imshow(seen, cmap=looks, vmin=0, vmax=1, interpolation="nearest")
    axes[0][2].set(title="packed row 1: attention", xlabel="looked at", ylabel="token that looks")
    axes[0][2].grid(visible=False)
    shares = [100 * float((cells == 0).mean()) for cells in kinds]
    inside = int(packed.segments[0].max())
    return finish(
        fig,
        f"{len(pairs)} examples in {len(kinds[0])} padded rows, {shares[0]:.0f}% of whose places "
        f"are padding, and in {len(kinds[1])} packed rows, {shares[1]:.0f}% padding. Prompts are "
        f"pale, responses dark. The attention of the first packed row is {inside} triangles along "
        "the diagonal, one for each example, and nothing between them.",
    )


@style()
def task_points(frame: Any) -> Figure:
    """Draw accuracy by task for every arm: mean over seeds and 95% interval.

    Parameters
    ----------
    frame : DataFrame
        From ``study.summaries("instruct")``.

    Raises
    ------
    UserError
        If it has no finished unit of a known arm.
    """
    table = need(frame, ["arm", "seed"], "task_points")
    arms = [arm for arm in LOOKS if (table["arm"] == arm).any()]
    if not arms:
        raise UserError("task_points: no finished unit; run the study instruct")
    fig, axes = panels(8.6, 4.2, 3)
    said = []
    for ax, (group, title) in zip(axes[0], GROUPS.items(), strict=True):
        tasks = UNSEEN if group == "unseen" else SEEN
        for i, arm in enumerate(arms):
            here, (colour, marker) = table[table["arm"] == arm], LOOKS[arm]
            for y, task in enumerate(tasks):
                found = stats.mean_interval(100 * here[f"{group}_{task}"].astype(float))
                at = y + 0.17 * (i - (len(arms) - 1) / 2)
                half = 0.0 if math.isnan(found.lo) else found.mean - found.lo
                ax.errorbar(
                    found.mean, at, xerr=half, color=COLOURS[colour], marker=marker, ms=5, lw=1.3,
                    capsize=2, ls="", label=arm if y == 0 else None,
                )  # fmt: skip
                said.append(f"{title}, {task}, {arm}: {found.mean:.0f}%.")
        ax.set_yticks(range(len(tasks)), tasks)
        ax.set(title=title, xlabel="right, %", xlim=(-4, 104), ylim=(len(tasks) - 0.5, -0.5))
        ax.grid(visible=False, axis="y")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(arms))
    seeds = table["seed"].nunique()
    return finish(fig, f"Share of right responses by task, {seeds} seeds. {' '.join(said)}")
