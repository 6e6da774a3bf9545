"""Two helpers of the chapters: show a library function's own source, show a table.

The library is the source and the chapters display it, so that prose and code cannot drift apart.
Outputs are the same on every machine: no path, no line number, no time is shown.
"""

from __future__ import annotations

import ast
import html
import inspect
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reft_lib.errors import UserError
from reft_lib.pages import Html
from reft_lib.style import minus

if TYPE_CHECKING:
    import pandas as pd

FIGURES = re.compile(r"[−+-]?\d(?:[\d.,%±()\[\] −+-]| to | of )*")
"""A cell of figures: ``61.2 ± 1.4``, ``12% [9%, 15%]``, ``0.3 to 0.8``; not ``12 + 5 = 17``."""


@dataclass(frozen=True, repr=False)
class Code:
    """Python source that a notebook shows highlighted, below a line that names it."""

    name: str
    """Module and name, for example ``reft_lib.ppo.gather``."""
    text: str
    """The source, dedented."""

    def _repr_markdown_(self) -> str:
        return f"`{self.name}`\n\n```python\n{self.text}\n```"

    def __repr__(self) -> str:
        return f"# {self.name}\n{self.text}"


def source(fn: Any, *, docstring: bool = True) -> Code:
    """Show the source of a function, method or class; make it a cell's last line.

    Parameters
    ----------
    fn : function, method or class
        Of the library; a decorated function is shown as it was written.
    docstring : bool
        False leaves the docstrings out, where the text above has said what they say.

    Raises
    ------
    UserError
        If it has no Python source (a built-in, or a value).
    """
    fn = inspect.unwrap(fn) if callable(fn) else fn
    try:
        text = textwrap.dedent(inspect.getsource(fn)).rstrip()
    except (OSError, TypeError) as error:
        raise UserError(f"source: {fn!r} has no Python source; give a function or class") from error
    if not docstring:
        text = _without_docstrings(text)
    return Code(f"{fn.__module__}.{fn.__qualname__}", text)


def marked(fn: Any, marks: Mapping[str, str], *, docstring: bool = False) -> Code:
    """Show a source whose lines carry marks, to tie them to the numbered lines of an algorithm.

    Parameters
    ----------
    fn : function, method or class
    marks : mapping of str to str
        Part of a line to its mark, for example ``{"reward(sampled.texts": "3"}``; the mark
        is added at the line's end as a comment, ``# (3)``.
    docstring : bool
        As in :func:`source`.

    Raises
    ------
    UserError
        If a part is not found in exactly one line: the chapter no longer fits the library.
    """
    code = source(fn, docstring=docstring)
    lines = code.text.split("\n")
    for part, mark in marks.items():
        hits = [i for i, line in enumerate(lines) if part in line]
        if len(hits) != 1:
            raise UserError(f"marked: {part!r} is in {len(hits)} lines of {code.name}; wanted 1")
        lines[hits[0]] += f"  # ({mark})"
    return Code(code.name, "\n".join(lines))


def table(df: pd.DataFrame, caption: str) -> Html:
    """Show a table with its caption; make it a cell's last line.

    Floats have one decimal, missing values a dash; for anything else, such as ``61.2 ± 1.4``, let
    the column hold text. The first column names the rows, or the index if it has a name or names.

    Parameters
    ----------
    df : DataFrame
    caption : str
        Says what the table shows, with units.
    """
    frame = df.reset_index() if _has_names(df.index) else df
    cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    heads = [str(column) for column in frame.columns]
    # A column of figures stands on the right, so that digits of equal weight stand together.
    right = [_is_figures([row[i] for row in cells]) for i in range(len(heads))]
    head = "".join(
        f'<th scope="col"{_align(r)}>{html.escape(h)}</th>'
        for h, r in zip(heads, right, strict=True)
    )
    body = "".join(f"<tr>{_row(row, right)}</tr>\n" for row in cells)
    shown = (
        '<div style="overflow-x:auto" tabindex="0" role="region" '
        f'aria-label="{html.escape(caption)}">\n<table class="table">\n'
        f"<caption>{html.escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody>\n</table>\n</div>"
    )
    return Html(shown, _as_text(caption, [heads, *cells]))


def _without_docstrings(text: str) -> str:
    """Cut the docstrings of a function or class, and of what is inside it, out of its source."""
    lines = text.split("\n")
    cut: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0]
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                cut |= set(range(first.lineno - 1, first.end_lineno or first.lineno))
    kept = [line for number, line in enumerate(lines) if number not in cut]
    # After a class's docstring stands an empty line, which would now open the body.
    body = next((i for i, line in enumerate(kept) if line.rstrip().endswith(":")), 0)
    while body + 1 < len(kept) and not kept[body + 1].strip():
        del kept[body + 1]
    return "\n".join(kept)


def _has_names(index: Any) -> bool:
    return any(name is not None for name in index.names)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return minus(f"{value:.1f}") if isinstance(value, float) else str(value)


def _is_figures(cells: list[str]) -> bool:
    shown = [cell for cell in cells if cell != "–"]
    return bool(shown) and all(FIGURES.fullmatch(cell) for cell in shown)


def _align(right: bool) -> str:
    return f' style="text-align:{"right" if right else "left"}"'


def _row(cells: list[str], right: list[bool]) -> str:
    out = [f'<th scope="row"{_align(right[0])}>{html.escape(cells[0])}</th>']
    out += [
        f"<td{_align(r)}>{html.escape(cell)}</td>"
        for cell, r in zip(cells[1:], right[1:], strict=True)
    ]
    return "".join(out)


def _as_text(caption: str, rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([caption, *lines])
