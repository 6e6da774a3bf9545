"""Training once more: the curves of recorded ReFT runs up to a step, and what the policy said then.

The curves are means over seeds; the answers are those of one seed, to the first validation
questions of its run, which are a sample and no selection.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reft_lib import data
from reft_lib.compare import RUNS
from reft_lib.errors import UserError
from reft_lib.explorer import Explorer, Knob, complaint, explore, image
from reft_lib.pages import CELL, PAPER, TEXT, Html
from reft_lib.plots import panels, seeds
from reft_lib.style import COLOURS, FORMATS, SIGNS, describe, finish, style, tint
from reft_lib.widget_logs import course, notes, place, readable, thinned

ASKED = 5
"""How many questions are shown."""
MOST = 12
"""At most so many steps of each format are drawn for a page."""
VIEWS = (
    ("reward", "Reward", "mean of a batch", "{:.2f}"),
    ("accuracy", "Right answers", "share", "{:.2f}"),
    ("kl", "KL to the warm-up policy", "nats a response", "{:.2f}"),
    ("length", "Length of a response", "tokens", "{:.1f}"),
)
"""Column, title, unit, and how a value is written."""


def training_replay(
    runs: str | Path | None = None, live: bool | None = None, questions: Sequence[Any] | None = None
) -> Explorer:
    """Show ReFT's curves up to a step, and the answers to the same five questions at that step.

    Parameters
    ----------
    runs : path, optional
        A run log, or a folder of run logs, that ``python -m reft_lib compare`` wrote; those of
        ``data/runs/nano`` unless given. A damaged one is named below the picture.
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    questions : sequence of Example or str, optional
        The run's first validation questions; taken from its data set, if that is embedded, unless
        given.
    """
    try:
        table, cards, damaged = readable(runs or RUNS / "nano")
        table = of_reft(table)
        asked = questions or validation_questions(next(iter(cards.values())))
    except UserError as error:
        return complaint(str(error))
    steps = sorted({int(step) for step in table[table["split"] == "validation"]["step"]})
    shown = thinned(steps, MOST)

    def draw(fmt: str, step: float) -> Html:
        return replay(table[table["fmt"] == fmt], asked, step, damaged)

    return explore(
        draw,
        "Thick lines are means over seeds, thin lines single seeds, pale lines what is still to "
        "come.",
        live,
        fmt=Knob(
            "format",
            [fmt for fmt in FORMATS if fmt in set(table["fmt"])],
            words=lambda fmt: FORMATS[fmt],
        ),
        step=Knob("step (rollout batch)", shown, start=len(shown) - 1, step=1),
    )


def of_reft(table: Any) -> Any:
    """Return the rows of ReFT's steps and validations, once it is known that there are some.

    Raises
    ------
    UserError
        If there is no step, or no validation with its answers.
    """
    wanted = {"run", "split", "method", "fmt", "step", "epoch", "texts", "correct"}
    wanted |= {view[0] for view in VIEWS}
    if missing := sorted(wanted - set(table)):
        raise UserError(f"the run logs have no {', '.join(missing)}; wanted logs of ReFT")
    table = table[(table["method"] == "reft") & table["fmt"].isin(list(FORMATS))]
    train = (table["split"] == "train") & table["reward"].notna()
    held = (table["split"] == "validation") & table["texts"].map(lambda x: isinstance(x, list))
    if not train.any() or not held.any():
        raise UserError("the run logs hold no step of ReFT, or no answers to validation questions")
    return table[train | held]


def validation_questions(card: dict[str, Any]) -> list[Any]:
    """Return the validation questions of a run, from its card.

    Raises
    ------
    UserError
        If its data set is not among those that come with this library.
    """
    config = card.get("config", {})
    name = str(config.get("dataset", ""))
    if not name.startswith("embedded"):
        raise UserError(f"questions of {name or 'this run'}: give them as questions=")
    return data.subset(data.load(name, "validation"), config["n_validation"])


def replay(rows: Any, asked: Sequence[Any], step: float, damaged: Sequence[str] = ()) -> Html:
    """Draw one state: the curves up to ``step``, and the answers at the last validation till then.

    Parameters
    ----------
    rows : DataFrame
        Of one format, from :func:`of_reft`.
    asked : sequence of Example or str
        The first validation questions.
    step : float
        Steps of ReFT done.
    damaged : sequence of str
        What was left out.

    Raises
    ------
    UserError
        If there is no validation so early.
    """
    fig = curves_up_to(rows, step)
    table, said = answers_at(rows, asked, step)
    return Html(
        f'<div style="{PAPER};line-height:1.45">{image(fig)}{table}{notes(damaged)}</div>',
        " ".join([describe(fig), said, *(f"Left out: {line}." for line in damaged)]),
    )


@style()
def curves_up_to(rows: Any, step: float) -> Figure:
    """Draw reward, accuracy, KL and length up to a step; see :func:`replay`."""
    train, held = rows[rows["split"] == "train"], rows[rows["split"] == "validation"]
    last = int(train["step"].max())
    fig, axes = panels(7.2, 4.1, 2, 2)
    place(fig, left=0.085, right=0.99, bottom=0.115, top=0.935, wspace=0.22, hspace=0.38)
    said = []
    for ax, (column, title, unit, spec) in zip(axes.flat, VIEWS, strict=True):
        now = course(ax, train, column, step, ("reft", "-", "o"), "samples")
        if column == "accuracy":
            known = course(ax, held, column, step, ("right", "--", "^"), "validation")
            if not math.isnan(known):
                said.append(f"validation accuracy {spec.format(known)}")
            ax.legend(loc="upper left", ncols=2, handlelength=1.6)
        if not math.isnan(now):
            name = title if title[1].isupper() else title[0].lower() + title[1:]
            said.append(f"{name} {spec.format(now)} ({unit})")
            title = f"{title}: {spec.format(now)}"
        ax.axvline(step, color=COLOURS["ink"], lw=0.8, ls=":")
        low, high = train[column].min(), train[column].max()
        ends = (0, 1) if column == "accuracy" else (low - 0.05 * (high - low), high * 1.02)
        ax.set(title=title, ylabel=unit, xlim=(-1, last + 1), ylim=ends)
    for ax in axes[1]:
        ax.set_xlabel("step (rollout batch)")
    fmt = FORMATS[rows["fmt"].iloc[0]]
    return finish(
        fig, f"ReFT in {fmt} after step {step:g} of {last}, {seeds(train)}: {'; '.join(said)}."
    )


def answers_at(rows: Any, asked: Sequence[Any], step: float) -> tuple[str, str]:
    """Return as a table what one seed answered at the last validation until a step, and in words.

    Raises
    ------
    UserError
        If there was no validation so early.
    """
    held = rows[(rows["split"] == "validation") & (rows["step"] <= step)]
    if held.empty:
        raise UserError(f"no validation until step {step:g}")
    run = sorted(held["run"])[0]
    row = held[held["run"] == run].sort_values("step").iloc[-1]
    shown = list(zip(asked, row["texts"], row["correct"], strict=False))[:ASKED]
    right = sum(bool(ok) for _, _, ok in shown)
    head = (
        f"Answers of {run} after step {int(row['step'])}, epoch {row['epoch']:g}: "
        f"{right} of {len(shown)} right."
    )
    body = "".join(_answer(i, *one) for i, one in enumerate(shown, start=1))
    table = (
        '<table style="border-collapse:collapse;width:100%;table-layout:fixed">'
        f'<caption style="text-align:left;color:inherit">{html.escape(head)}</caption>'
        '<colgroup><col style="width:50%"><col></colgroup><thead><tr>'
        f'<th scope="col" style="{CELL}">Question</th><th scope="col" style="{CELL}">Answer</th>'
        f"</tr></thead><tbody>{body}</tbody></table>"
    )
    signs = ", ".join(f"{i} {'right' if ok else 'wrong'}" for i, (*_, ok) in enumerate(shown, 1))
    return table, f"{head} Question {signs}."


def _answer(number: int, question: Any, text: str, ok: bool) -> str:
    """Return the row of one question; right and wrong differ in sign, word and colour."""
    name = "right" if ok else "wrong"
    wanted = getattr(question, "answer", None)
    told = html.escape(getattr(question, "question", question))
    told += "" if wanted is None else f" <strong>{html.escape(str(wanted))}</strong>"
    return (
        f'<tr><th scope="row" style="{CELL}font-weight:normal">{number}. {told}</th>'
        f'<td style="{CELL}border-left:.4em solid {COLOURS[name]};background:{tint(name, 0.12)}">'
        f"<strong>{SIGNS[bool(ok)]} {name}</strong><br>"
        f'<span style="{TEXT}">{html.escape(textwrap.dedent(text).strip())}</span></td></tr>'
    )
