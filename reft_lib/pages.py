"""What a notebook shows as HTML: figures with their alternative text, and a table of answers."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from reft_lib.errors import UserError
from reft_lib.style import COLOURS, LABELS, SIGNS, describe, names, need, tint, to_bytes

PAPER = "background:#fff;color:#1a1a1a"
"""White paper with dark ink, whatever the page's own colours are."""


@dataclass(frozen=True, repr=False)
class Html:
    """What a notebook shows as HTML, and anything else as text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def show(fig: Figure, caption: str = "") -> Html:
    """Display a figure in a notebook, with its alternative text; make it a cell's last line.

    The image stands inside the page, so that it shows from a disk and without a network. On a
    narrow screen it keeps a readable size and scrolls sideways.

    Parameters
    ----------
    fig : Figure
    caption : str
        Text below the picture.
    """
    alt = describe(fig)
    source = base64.b64encode(to_bytes(fig)).decode()
    image = (
        f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{source}" '
        f'style="{sized(fig)}">'
    )
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return Html(f'<figure style="margin:0;overflow-x:auto;{PAPER}">{image}{below}</figure>', alt)


def sized(fig: Figure) -> str:
    """Return the CSS that gives a figure its own width, and a readable one on a phone."""
    width = round(96 * fig.get_figwidth())
    return f"width:{width}px;max-width:100%;min-width:{min(width, 560)}px;height:auto"


CELL = "padding:.35em .5em;border:1px solid #bbb;vertical-align:top;text-align:left;"
TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;font-size:.9em;"


def answers_by_epoch(
    metrics: Any,
    questions: Sequence[Any],
    epochs: Sequence[float] = (1, 3, 5),
    warmup_epochs: float = 0,
    pick: Sequence[int] | None = None,
) -> Html:
    """Lay out what SFT and ReFT answered to the same questions as training went on.

    Parameters
    ----------
    metrics : DataFrame
        One run (:func:`reft_lib.runlog.read_metrics`). Used are the rows of split ``validation``
        with ``method``, ``epoch``, ``texts`` and ``correct``.
    questions : sequence of Example or str
        The first validation questions, in the order of ``texts``.
    epochs : sequence of float
        Each shows the nearest validation of each method, and the table says which it was.
    warmup_epochs : float
        Added to ReFT's epochs, so that both methods count every pass over the questions; before
        that, ReFT's answers are those of SFT, which is its warm-up.
    pick : sequence of int, optional
        Which of the questions to show, from 0; all of them by default.

    Returns
    -------
    Html
        A table: for each question a row for each epoch, with SFT and ReFT side by side; right and
        wrong differ in sign, word and colour. It wraps on a narrow screen.

    Raises
    ------
    UserError
        If the metrics hold several runs, or no answers of a method, or a picked question has none.
    """
    columns = ("split", "method", "epoch", "texts", "correct")
    table = need(metrics, columns, "answers_by_epoch")
    if "run" in table and table["run"].nunique() > 1:
        raise UserError("answers_by_epoch: rows of several runs; choose one by its column run")
    stages = {m: _stages(table, m, warmup_epochs if m == "reft" else 0) for m in ("sft", "reft")}
    stages["reft"] = [s for s in stages["sft"] if s[0] < warmup_epochs] + stages["reft"]
    stored = min(len(texts) for found in stages.values() for _, texts, _ in found)
    picked = range(min(stored, len(questions))) if pick is None else pick
    if not epochs or not picked or not all(0 <= i < min(stored, len(questions)) for i in picked):
        raise UserError(
            f"answers_by_epoch: wanted epochs, and questions among the first "
            f"{min(stored, len(questions))}, got {names(epochs)} and {names(picked)}"
        )
    chosen = [
        {m: min(found, key=lambda s: abs(s[0] - epoch)) for m, found in stages.items()}
        for epoch in epochs
    ]
    tally = "; ".join(
        f"epoch {epoch:g}: "
        + ", ".join(
            f"{LABELS[m]} {sum(map(bool, (s[2][i] for i in picked)))}" for m, s in c.items()
        )
        for epoch, c in zip(epochs, chosen, strict=True)
    )
    caption = f"{len(picked)} validation questions. Right answers at {tally}."
    body = "".join(_question_rows(i, questions[i], epochs, chosen) for i in picked)
    heads = "".join(
        f'<th scope="col" style="{CELL}background:{tint(m, 0.3)}">{LABELS[m]}</th>' for m in stages
    )
    grid = (
        '<table style="border-collapse:collapse;width:100%;table-layout:fixed">'
        f'<caption style="text-align:left;color:inherit">{caption}</caption>'
        '<colgroup><col style="width:4.2em"><col><col></colgroup>'
        f'<thead><tr><th scope="col" style="{CELL}">Epoch</th>{heads}</tr></thead>{body}</table>'
    )
    return Html(f'<div style="{PAPER}">{grid}</div>', caption)


def _stages(table: Any, method: str, shift: float) -> list[tuple[float, list[str], list[bool]]]:
    """Return (epoch, texts, verdicts) of a method's validations, in order of epoch."""
    rows = table[(table["split"] == "validation") & (table["method"] == method)]
    found = [
        (float(epoch) + shift, texts, correct)
        for epoch, texts, correct in zip(rows["epoch"], rows["texts"], rows["correct"], strict=True)
        if isinstance(texts, list) and isinstance(correct, list) and len(texts) == len(correct)
    ]
    if not found:
        raise UserError(f"answers_by_epoch: no validation row of {method!r} holds texts, correct")
    return sorted(found, key=lambda stage: stage[0])


def _question_rows(i: int, question: Any, epochs: Sequence[float], chosen: list[dict]) -> str:
    """Return the group of rows of question ``i``."""
    asked, gold = getattr(question, "question", question), getattr(question, "answer", None)
    wanted = "" if gold is None else f" Right answer: {gold}."
    head = (
        f'<tbody><tr><th scope="rowgroup" colspan="3" style="{CELL}background:{COLOURS["pale"]}">'
        f"{html.escape(f'{asked}{wanted}')}</th></tr>"
    )
    lines = []
    for epoch, stages in zip(epochs, chosen, strict=True):
        cells = []
        for at, texts, correct in stages.values():
            name = "right" if correct[i] else "wrong"
            exact = "" if abs(at - epoch) < 0.005 else f" (epoch {at:g})"
            cells.append(
                f'<td style="{CELL}border-left:.4em solid {COLOURS[name]};'
                f'background:{tint(name, 0.12)}"><strong>{SIGNS[bool(correct[i])]} {name}</strong>'
                f'{exact}<br><span style="{TEXT}">{html.escape(texts[i].strip())}</span></td>'
            )
        row = f'<th scope="row" style="{CELL}">{epoch:g}</th>'
        lines.append(f"<tr>{row}{''.join(cells)}</tr>")
    return head + "".join(lines) + "</tbody>"
