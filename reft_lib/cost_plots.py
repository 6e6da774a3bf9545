"""Pictures of cost on paper: what lies in a GPU's memory, and where a step's seconds go."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from reft_lib.plots import panels
from reft_lib.style import COLOURS, finish, need, style, tint

PARTS = {
    "weights": (tint("ink", 0.75), ""),
    "adapter": (tint("wrong", 0.9), ""),
    "cache": (tint("reft", 0.35), "////"),
    "activations": (tint("sft", 0.45), "...."),
    "logits": (tint("sft", 0.9), ""),
}
"""Fill and hatching of what lies in memory; they differ in lightness too."""
PHASES = {
    "read": (tint("ink", 0.8), ""),
    "decode": (tint("reft", 0.35), "////"),
    "score": (tint("grey", 0.3), ""),
    "update": (tint("sft", 0.7), "...."),
}
"""Fill and hatching of a step's phases."""
GB = 1e9


@style()
def memory_bars(frame: Any, limit: float) -> Figure:
    """Draw what lies in one GPU's memory while sampling and while updating, for some plans.

    Parameters
    ----------
    frame : DataFrame
        ``plan`` (a name) and the bytes of :data:`PARTS`, as :func:`reft_lib.cost.memory` has them.
    limit : float
        Bytes of the GPU.

    Raises
    ------
    UserError
        If there is no row or a column is missing.
    """
    table = need(frame, ["plan", *PARTS], "memory_bars")
    fig, axes = panels(7.2, 1.2 + 0.75 * len(table))
    ax, said = axes[0][0], []
    for i, row in enumerate(table.to_dict("records")):
        for offset, parts in ((-0.2, ("cache",)), (0.2, ("activations", "logits"))):
            left = 0.0
            for part in ("weights", "adapter", *parts):
                fill, hatch = PARTS[part]
                label = part if i == 0 and (offset < 0 or part in parts) else None
                look = {"color": fill, "hatch": hatch, "edgecolor": "white", "label": label}
                ax.barh(i + offset, row[part] / GB, 0.36, left=left, **look)
                left += row[part] / GB
            ax.text(left, i + offset, f" {left:.0f}" if left >= 10 else f" {left:.1f}", va="center")
            said.append(f"{row['plan']}, {'sampling' if offset < 0 else 'update'}: {left:.0f} GB.")
    ax.axvline(limit / GB, color=COLOURS["ink"], ls="--", lw=1.2)
    ax.set(xlabel="GB on one GPU (dashed: what it has)", yticks=range(len(table)))
    ax.set_yticklabels(table["plan"])
    ax.set_title("While sampling (upper bar) and updating (lower bar)")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    fig.legend(loc="outside lower center", ncols=5)
    return finish(fig, f"Memory on one GPU of {limit / GB:.0f} GB. {' '.join(said)}")


@style()
def step_seconds(frame: Any) -> Figure:
    """Draw which share of a step each phase takes.

    Parameters
    ----------
    frame : DataFrame
        ``plan`` (a name) and the seconds of :data:`PHASES`, as :func:`reft_lib.gpu_time.seconds`
        has them.

    Raises
    ------
    UserError
        If there is no row or a column is missing.
    """
    table = need(frame, ["plan", *PHASES], "step_seconds")
    fig, axes = panels(7.2, 1.1 + 0.45 * len(table))
    ax, said = axes[0][0], []
    for i, row in enumerate(table.to_dict("records")):
        total, left = sum(row[phase] for phase in PHASES), 0.0
        for phase, (fill, hatch) in PHASES.items():
            share = 100 * row[phase] / total
            look = {"color": fill, "hatch": hatch, "edgecolor": "white"}
            ax.barh(i, share, 0.66, left=left, label=None if i else phase, **look)
            left += share
        ax.text(101, i, f"{total:.1f} s", va="center")
        shares = ", ".join(f"{phase} {100 * row[phase] / total:.0f}%" for phase in PHASES)
        said.append(f"{row['plan']}: {total:.1f} s; {shares}.")
    ax.set(xlabel="% of a step", xlim=(0, 112), xticks=range(0, 101, 20))
    ax.set_yticks(range(len(table)), list(table["plan"]))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=4)
    return finish(fig, f"Share of a step that each phase takes. {' '.join(said)}")
