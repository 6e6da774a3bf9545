"""Run logs for widgets: what can be read is shown, and what cannot is named."""

from __future__ import annotations

import html
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import runlog
from reft_lib.errors import UserError
from reft_lib.style import COLOURS, tint


def readable(
    where: str | Path, keys: Sequence[str] = ("method", "fmt", "seed")
) -> tuple[Any, dict[str, dict[str, Any]], list[str]]:
    """Read the run logs in a folder as far as they can be read.

    Parameters
    ----------
    where : path
        A run's folder, or a folder of runs.
    keys : sequence of str
        Entries of the cards to copy into columns, as :func:`reft_lib.runlog.read_runs` does.

    Returns
    -------
    table : DataFrame
        The rows of all runs, with their names in the column ``run``.
    cards : dict
        The card of each of these runs, by name.
    damaged : list of str
        A line for every run or line of a log that was left out, beginning with the run's name.

    Raises
    ------
    UserError
        If there is no run at all.
    """
    import pandas as pd

    where = Path(where)
    files = (f for name in (runlog.CARD, runlog.METRICS) for f in where.glob(f"**/{name}"))
    folders = sorted({file.parent for file in files})
    if not folders:
        raise UserError(f"{where.name}: not yet run, no run log there")
    tables, cards, damaged = [], {}, []
    for folder in folders:
        name = folder.resolve().name
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                tables.append(runlog.read_runs(folder, keys).assign(run=name))
                cards[name] = runlog.read_card(folder)
            except UserError as error:
                damaged.append(_said(error, folder))
        damaged += [_said(w.message, folder) for w in caught]
    if not tables:
        raise UserError("; ".join(damaged))
    return pd.concat(tables, ignore_index=True), cards, damaged


def _said(what: object, folder: Path) -> str:
    """Return a complaint with the run's name in place of the folder's path."""
    return str(what).replace(str(folder) + os.sep, f"{folder.resolve().name}/")


def notes(damaged: Sequence[str]) -> str:
    """Return what was left out as HTML, a line for each; nothing if nothing was."""
    return "".join(f'<p role="note">Left out: {html.escape(line)}</p>' for line in damaged)


def place(fig: Figure, **room: float) -> None:
    """Fix the panels of a figure, in parts of its size, so that they stay as a slider moves."""
    fig.set_layout_engine(None)  # "none" would keep the old one's refusal to be adjusted
    fig.subplots_adjust(**room)


def course(
    ax: Axes, rows: Any, column: str, step: float, look: tuple[str, str, str], label: str
) -> float:
    """Draw a column of run logs up to a step, and pale what follows; returns its mean there.

    The thick line is the mean over runs, thin ones are single runs, where there are several.

    Parameters
    ----------
    ax : Axes
    rows : DataFrame
        With columns ``run``, ``step`` and the named one.
    column : str
    step : float
    look : (str, str, str)
        Colour's name, line and marker.
    label : str
        Of the mean, for a legend.

    Returns
    -------
    float
        NaN if there is no row so early.
    """
    colour, line, marker = look
    mean = rows.groupby("step")[column].mean()
    done = mean[mean.index <= step]
    ax.plot(mean.index, mean, color=tint("grey", 0.35), ls=line, lw=1)
    if rows["run"].nunique() > 1:
        for _, run in rows[rows["step"] <= step].sort_values("step").groupby("run"):
            ax.plot(run["step"], run[column], color=tint(colour, 0.45), ls=line, lw=0.7)
    ax.plot(done.index, done, color=COLOURS[colour], ls=line, label=label)
    ax.plot(done.index[-1:], done[-1:], marker, color=COLOURS[colour], mec=COLOURS["ink"], ms=7)
    return float(done.iloc[-1]) if len(done) else math.nan


def thinned(values: Sequence[Any], most: int) -> tuple[Any, ...]:
    """Return at most so many of some values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return tuple(values)
    return tuple(values[round(i * (len(values) - 1) / (most - 1))] for i in range(most))
