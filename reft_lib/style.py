"""One look for every picture of the book: colours with a meaning, alternative text, stored form.

A colour never carries a meaning alone: what differs in colour differs in lightness and in line
style, marker, hatch or sign, too. Colours are those of Okabe and Ito ("Color universal design",
2008), which people with the common forms of colour blindness can tell apart. The background is
white whatever the page's is.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import _GeneratorContextManager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure

from reft_lib.errors import UserError

COLOURS = {
    "sft": "#E69F00",
    "reft": "#0072B2",
    "warm-up": "#CC79A7",
    "offline_st": "#1A1A1A",
    "online_st": "#56B4E9",
    "right": "#009E73",
    "wrong": "#D55E00",
    "ink": "#1A1A1A",
    "grey": "#767676",
    "pale": "#EDEDED",
    # ways to choose among samples: one policy's, so no method's colour
    "pass": "#009E73",
    "wvote": "#A6A6A6",
    "vote": "#1A1A1A",
    "rerank": "#1A1A1A",
    "chance": "#767676",
}
"""What each colour means, everywhere."""
LINES = {"sft": "--", "reft": "-", "warm-up": ":", "right": "-."}
LINES |= {"offline_st": ":", "online_st": "-."}
LINES |= {"pass": "-.", "wvote": "-", "vote": "--", "rerank": "-", "chance": ":"}
MARKERS = {"sft": "s", "reft": "o", "warm-up": "^", "offline_st": "v", "online_st": "D"}
MARKERS |= {"pass": "s", "wvote": "D", "vote": "o", "rerank": "^", "chance": "x"}
HATCHES = {"sft": "////", "reft": "", "warm-up": "...."}
LABELS = {"sft": "SFT", "reft": "ReFT", "warm-up": "warm-up"}
LABELS |= {"offline_st": "offline self-training", "online_st": "online self-training"}
FORMATS = {"ncot": "N-CoT (words)", "pcot": "P-CoT (programs)"}
SIGNS = {True: "✓", False: "✗"}

RC: dict[str, Any] = {
    "axes.edgecolor": COLOURS["grey"],
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "grid.color": "#DDDDDD",
    "hatch.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "savefig.dpi": 150,
    # Text as outlines: it looks the same where the font is missing, and cannot overlap.
    "svg.fonttype": "path",
    "svg.hashsalt": "reft_lib",  # without it the ids inside an SVG are random
    "text.color": COLOURS["ink"],
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}
"""Settings on top of matplotlib's own defaults; a reader's matplotlibrc changes nothing."""

DIVERGING = LinearSegmentedColormap.from_list(
    "reft", [COLOURS["wrong"], "#FFFFFF", COLOURS["right"]], N=257
)
"""Below the centre to above it; an odd number of colours has a white one in the middle."""


def style() -> _GeneratorContextManager[None]:
    """Return the book's style as a context, or as a decorator of a function that draws."""
    return matplotlib.style.context(RC, after_reset=True)


def tint(colour: str, share: float = 0.25) -> str:
    """Mix a colour (a key of ``COLOURS`` or any other) with white; 0 is white, 1 the colour."""
    r, g, b = (1 - share * (1 - x) for x in to_rgb(COLOURS.get(colour, colour)))
    return to_hex((r, g, b))


def finish(fig: Figure, alt: str) -> Figure:
    """Give a figure its alternative text: what it shows, with its numbers; fix its layout.

    A constrained layout moves a little with every drawing: without fixing it, a figure's bytes
    would depend on how often it had been saved before.
    """
    if fig.get_layout_engine() is not None:
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    fig.reft_alt = " ".join(alt.split())  # type: ignore[attr-defined]
    return fig


def describe(fig: Figure) -> str:
    """Return the figure's alternative text.

    Raises
    ------
    UserError
        If it has none, because another library drew it.
    """
    alt = getattr(fig, "reft_alt", "")
    if not alt:
        raise UserError("this figure has no alternative text; give it one with style.finish")
    return alt


def to_bytes(fig: Figure, form: str = "svg", letters: bool = False) -> bytes:
    """Return the picture as ``"svg"`` or ``"png"``: the same figure gives the same bytes.

    With ``letters`` an SVG holds its text as letters and not as outlines: half as large, and drawn
    in Verdana, which is as wide, where DejaVu Sans is missing.
    """
    unnamed = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    if form not in unnamed:
        raise UserError(f"picture format {form!r}; wanted svg or png")
    metadata: dict[str, Any] = dict(unnamed[form])
    if form == "svg" and hasattr(fig, "reft_alt"):
        metadata["Title"] = describe(fig)
    buffer = io.BytesIO()
    kind = {"svg.fonttype": "none" if letters else "path"}
    with matplotlib.style.context({**RC, **kind}, after_reset=True):
        fig.savefig(buffer, format=form, metadata=metadata)
    data = buffer.getvalue()
    return data.replace(b"'DejaVu Sans'", b"DejaVu Sans, Verdana, sans-serif") if letters else data


def save(fig: Figure, path: str | Path) -> Path:
    """Write a figure; the suffix of ``path``, .svg or .png, says how. Makes the folder.

    Raises
    ------
    UserError
        If the suffix is another, or the file cannot be written.
    """
    path = Path(path)
    data = to_bytes(fig, path.suffix.lstrip("."))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        reason = f"{path}: cannot write the picture ({error.strerror})"
        raise UserError(f"{reason}; choose a folder that can be written") from error
    return path


def need(frame: Any, columns: Sequence[str], who: str) -> Any:
    """Return ``frame`` as a DataFrame, once it is known to have rows and the named columns.

    Parameters
    ----------
    frame : DataFrame or list of dict
    columns : sequence of str
    who : str
        The function that asks, for the message.

    Raises
    ------
    UserError
        If it is no table, has no rows, or lacks a column.
    """
    import pandas as pd

    try:
        table = pd.DataFrame(frame)
    except (TypeError, ValueError) as error:
        found = type(frame).__name__
        raise UserError(f"{who}: wanted a table or a list of rows, got {found}") from error
    if table.empty:
        raise UserError(f"{who}: no rows; read a finished run with runlog.read_runs")
    if missing := [name for name in columns if name not in table]:
        raise UserError(f"{who}: no column {', '.join(missing)}; the rows have {names(table)}")
    return table


def names(values: Iterable[Any]) -> str:
    """Join values for a message or an alternative text."""
    return ", ".join(map(str, values))


def minus(text: str) -> str:
    """Write negative numbers with a minus sign, which is as wide as a plus."""
    return text.replace("-", "−")


def signed(x: float, digits: int = 1) -> str:
    """Write a difference with its sign; one that rounds to zero has none."""
    text = f"{x:+.{digits}f}"
    return minus(text) if text.strip("+-0.") else text[1:]
