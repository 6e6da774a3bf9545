"""Single texts under the lens: which tokens are learnt, and the numbers that PPO gives to each."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reft_lib.diagrams import canvas
from reft_lib.errors import UserError
from reft_lib.style import COLOURS, DIVERGING, finish, minus, style, tint

MONO: dict[str, Any] = {"family": "DejaVu Sans Mono", "size": 9.5}
CHARACTER = 0.6021 * 9.5 / 72
"""Width of a character of MONO in inches."""
WIDTH = 7.2
"""Width of the figures in inches."""
NAMES_WIDTH = 1.5
"""Of it, the names of the rows of token_lens."""


def visible(token: str) -> str:
    """Return a token with its spaces (·) and line breaks (↵) made visible."""
    return token.replace("\n", "↵").replace("\t", "→").replace(" ", "·") or "∅"


@style()
def loss_mask(tokens: Sequence[str], learnt: Sequence[bool]) -> Figure:
    """Draw a text's tokens as boxes; those that enter the loss are shaded and underlined.

    Parameters
    ----------
    tokens : sequence of str
        Each decoded alone, in order.
    learnt : sequence of bool
        As long as ``tokens``; True where the label is not -100.

    Raises
    ------
    UserError
        If the lengths differ, or there is no token.
    """
    if len(tokens) != len(learnt) or not tokens:
        raise UserError(f"loss_mask: {len(tokens)} tokens and {len(learnt)} marks; wanted as many")
    spots, x, line = [], 0.1, 0
    for token in tokens:
        wide = CHARACTER * len(visible(token)) + 0.06
        if x + wide > WIDTH - 0.1 and x > 0.1:
            x, line = 0.1, line + 1
        spots.append((x, line, wide))
        x += wide + 0.02
        if token.endswith("\n"):
            x, line = 0.1, line + 1
    height = 0.3 * (spots[-1][1] + 1) + 0.4
    fig, ax = canvas(WIDTH, height)
    for token, is_learnt, (x, line, wide) in zip(tokens, learnt, spots, strict=True):
        _token(ax, visible(token), bool(is_learnt), x, height - 0.62 - 0.3 * line, wide)
    count = sum(map(bool, learnt))
    keys = (False, f"read, not learnt: {len(tokens) - count}"), (True, f"learnt: {count}")
    for (is_learnt, text), x in zip(keys, (0.1, 2.6), strict=True):
        _token(ax, "abc", is_learnt, x, height - 0.3, 3 * CHARACTER + 0.06)
        ax.text(x + 0.4, height - 0.18, text + " tokens", va="center")
    said = "".join(t for t, is_learnt in zip(tokens, learnt, strict=True) if is_learnt)
    return finish(
        fig,
        f"A text of {len(tokens)} tokens as boxes. {len(tokens) - count} are read but not learnt; "
        f"{count} are shaded, because they enter the loss: {said.strip() or 'none'}",
    )


def _token(ax: Axes, text: str, learnt: bool, x: float, y: float, wide: float) -> None:
    """Draw one token's box with its lower left corner at (x, y) inches."""
    face, edge = (tint("sft", 0.55), COLOURS["ink"]) if learnt else ("#FFFFFF", "#BBBBBB")
    ax.add_patch(Rectangle((x, y), wide, 0.24, facecolor=face, edgecolor=edge, linewidth=0.7))
    if learnt:
        ax.plot([x + 0.02, x + wide - 0.02], [y + 0.025] * 2, color=COLOURS["ink"], lw=1.6)
    ink = COLOURS["ink"] if learnt else "#595959"
    ax.text(x + wide / 2, y + 0.125, text, ha="center", va="center", color=ink, **MONO)


@style()
def token_lens(
    tokens: Sequence[str],
    rows: Mapping[str, Sequence[float]],
    centres: Mapping[str, float] | None = None,
    per_line: int = 16,
) -> Figure:
    """Draw numbers of a response token by token: a strip of cells for each quantity.

    Vermilion is below a row's centre and green above it; each row has a scale of its own, so that
    its largest deviation is darkest. Small rows are printed in hundredths, as their names then say.

    Parameters
    ----------
    tokens : sequence of str
        Each decoded alone, in order.
    rows : mapping
        Name of a quantity to its values, one for each token (numbers, arrays or tensors, (R,)).
        NaN leaves a cell empty.
    centres : mapping, optional
        Values that stay white, by row name; 0 for others, and 1 for a row named ``ratio``.
    per_line : int
        Tokens side by side, 4 to 16; longer responses go on below.

    Raises
    ------
    UserError
        If there is no token or row, or a row has another length than the tokens.
    """
    centres = {"ratio": 1.0, **(centres or {})}
    numbers = {name: [float(v) for v in values] for name, values in rows.items()}
    if not tokens or not numbers or not 4 <= per_line <= 16:
        raise UserError("token_lens: wanted at least one token and one row, and per_line 4 to 16")
    for name, values in numbers.items():
        if len(values) != len(tokens):
            raise UserError(
                f"token_lens: row {name!r} has {len(values)} values for {len(tokens)} tokens"
            )
    heads = [visible(t.strip(" ") or t) for t in tokens]
    heads = [t if len(t) <= 14 else t[:13] + "…" for t in heads]
    starts = range(0, len(tokens), per_line)
    wide = (WIDTH - NAMES_WIDTH - 0.05) / min(per_line, max(8, len(tokens)))
    upright = [CHARACTER * len(t) < wide for t in heads]
    turned = [len(t) for t, flat in zip(heads, upright, strict=True) if not flat]
    head_room = CHARACTER * max([2, *turned]) + 0.12
    block = head_room + 0.3 * len(numbers) + 0.2
    fig, ax = canvas(WIDTH, block * len(starts))
    for i, at in enumerate(starts):
        top = block * (len(starts) - i) - head_room
        for j, head in enumerate(heads[at : at + per_line]):
            x, turn = NAMES_WIDTH + wide * (j + 0.5), 0 if upright[at + j] else 90
            ax.text(x, top + 0.05, head, ha="center", va="bottom", rotation=turn, **MONO)
        for r, (name, values) in enumerate(numbers.items()):
            cells = slice(at, at + per_line)
            _strip(ax, name, values, cells, centres.get(name, 0.0), top - 0.3 * (r + 1), wide)
    said = [_extremes(name, values, tokens) for name, values in numbers.items()]
    return finish(fig, f"{len(tokens)} tokens of a response, with numbers. {' '.join(said)}")


def _strip(
    ax: Axes, name: str, values: list[float], cells: slice, centre: float, y: float, wide: float
) -> None:
    """Draw the cells of one row in one block, its lower edge at ``y`` inches."""
    finite = [v for v in values if math.isfinite(v)]
    reach = max((abs(v - centre) for v in finite), default=0.0) or 1.0
    biggest = max(map(abs, finite), default=0.0)
    unit, suffix = (0.01, ", in 1/100") if 0 < biggest < 0.095 else (1.0, "")
    label = textwrap.fill(name + suffix, 19)
    ax.text(NAMES_WIDTH - 0.08, y + 0.14, label, ha="right", va="center", size=9, linespacing=1)
    for j, value in enumerate(values[cells]):
        x, known = NAMES_WIDTH + wide * j, math.isfinite(value)
        face = DIVERGING(0.5 + 0.5 * (value - centre) / reach) if known else "#FFFFFF"
        ax.add_patch(
            Rectangle((x, y), wide, 0.28, facecolor=face, edgecolor="#BBBBBB", linewidth=0.5)
        )
        if known:
            text = short(value / unit)
            ax.text(x + wide / 2, y + 0.14, text, ha="center", va="center", size=9, color="black")


def short(value: float) -> str:
    """Write a number in at most four characters where that can be done (-.12, 1.05, -3.4, 12)."""
    if value == 0:
        return "0"
    for places in (2, 1, 0):
        text = f"{value:.{places}f}"
        if places and abs(value) < 0.995:
            text = text.replace("0.", ".", 1)
        if len(text) <= 4:
            break
    return minus(text)


def _extremes(name: str, values: list[float], tokens: Sequence[str]) -> str:
    """Say in a sentence where a row is smallest and largest."""
    finite = [i for i, v in enumerate(values) if math.isfinite(v)]
    if not finite:
        return f"{name}: no value."
    low, high = min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)
    if values[low] == values[high]:
        return f"{name}: {values[low]:.3g} everywhere."
    return (
        f"{name}: from {values[low]:.3g} at {visible(tokens[low])} to {values[high]:.3g} "
        f"at {visible(tokens[high])}, sum {sum(values[i] for i in finite):.3g}."
    )
