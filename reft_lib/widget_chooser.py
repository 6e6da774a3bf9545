"""A chooser: what one has to learn from, and which kinds of fine-tuning that allows.

What a method needs is written on the scoreboard (:data:`reft_lib.scoreboard.NEEDS`); here it is
only held against what there is.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import NamedTuple

from reft_lib import scoreboard, study
from reft_lib.compare import RUNS
from reft_lib.errors import UserError
from reft_lib.explorer import Explorer, Knob, explore, is_live
from reft_lib.pages import PAPER, Html
from reft_lib.scoreboard import NEEDS, ROWS, Row
from reft_lib.widget_logs import notes


class Have(NamedTuple):
    """What there is to learn from."""

    solutions: str = "many"
    """Questions with worked solutions: a key of ``SOLUTIONS``."""
    answers: bool = True
    """Answers can be checked, by a rule, a list or a program."""
    pairs: bool = False
    """Somebody says which of two responses is better."""
    text: bool = False
    """Bare text of the field, or questions without solutions."""
    tasks: bool = False
    """Right responses to instructions of many kinds."""


SOLUTIONS = {"none": "none", "few": "a few dozen", "many": "hundreds or more"}
ASKED = {
    "answers": "answers can be checked",
    "pairs": "preferences between two responses",
    "text": "bare text, no labels",
    "tasks": "instructions of many kinds",
}
"""What is there or not, as the lists are called."""
TIGHT = "margin:.5em 0 .1em"
WHY = {
    "base model": "What all others start from: measure first what it can do.",
    "SFT": "Imitates the solutions; the cheapest, and the start of most of the others.",
    "instruction tuning": "SFT on many tasks at once: the request says which is meant.",
    "reading the questions, then SFT": "Words and facts first, then the task itself.",
    "SFT, then a discriminator": "What passes for a given solution is rewarded; hard to balance.",
    "SFT, perturbed embeddings": "SFT that must hold up when its input is disturbed a little.",
    "offline self-training": "Imitates its own right samples, drawn once: SFT on more data.",
    "online self-training": "Imitates its own right samples, drawn anew; the plain baseline.",
    "ReFT (PPO)": "Reinforces right chains of its own, and learns from wrong ones, too.",
    "GRPO": "Compares the answers to one question; needs no value function.",
    "RLOO": "Each sample's baseline is the mean of the others; no value function, no clip.",
    "REINFORCE": "The simplest policy gradient: one baseline for all, nothing clipped.",
    "RFT (PPO, a grader)": "A grader gives points for parts of an answer, not right or wrong only.",
    "RLHF (PPO, a reward model)": "Learns a reward from the choices and follows it; mind hacking.",
    "DPO": "Learns from the choices directly: no reward model, no sampling.",
}
"""In a line, why one would take a method; by its label on the scoreboard."""
ELSEWHERE = (
    Row("domain adaptation", "text", "domain", "adapted", "12_domain_adaptation"),
    Row("masked language modelling", "text", "self-supervised", "masked", "11_self_supervised"),
)
"""What bare text alone allows; measured on tests of their own, so not on the scoreboard."""
WHY_ELSEWHERE = {
    "domain adaptation": "Reads the field's text, so that later labels go further.",
    "masked language modelling": "Fills in hidden words: an encoder to build on, not a writer.",
}


def lacks(needs: str, have: Have) -> tuple[str, ...]:
    """Return what is missing for a method that learns from ``needs``; nothing if it applies.

    Parameters
    ----------
    needs : str
        A key of :data:`reft_lib.scoreboard.NEEDS`.
    have : Have

    Returns
    -------
    tuple of str
        Some of ``"solutions"``, ``"answers"``, ``"pairs"``, ``"text"``, ``"tasks"``.
    """
    wanted = {
        "nothing": (),
        "solutions": ("solutions",),
        "text": ("solutions", "text"),
        "tasks": ("tasks",),
        "answers": ("solutions", "answers"),  # a warm-up on solutions comes first
        "pairs": ("solutions", "pairs"),
    }[needs]
    there = have._asdict() | {"solutions": have.solutions != "none"}
    return tuple(name for name in wanted if not there[name])


def method_chooser(runs: str | Path | None = None, live: bool | None = None) -> Explorer:
    """Show which methods of this book apply to what one has, with their rows of the scoreboard.

    Parameters
    ----------
    runs : path, optional
        Folder with the run logs of all studies; ``data/runs`` unless given.
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    """
    found, damaged = figures(Path(runs or RUNS))
    suffix = "ipynb" if (is_live() if live is None else live) else "html"

    def draw(solutions: str, **there: str) -> Html:
        have = Have(solutions, **{name: value == "yes" for name, value in there.items()})
        return choice(have, found, damaged, suffix)

    yes_no = {
        name: Knob(label, ("no", "yes"), start=int(getattr(Have(), name)))
        for name, label in ASKED.items()
    }
    solutions = Knob("worked solutions", tuple(SOLUTIONS), start=2, words=SOLUTIONS.__getitem__)
    return explore(draw, "", live, solutions=solutions, **yes_no)


def figures(runs: Path) -> tuple[dict[str, str], list[str]]:
    """Read the scoreboard's row of each method in words, and which logs are damaged.

    A study with a damaged log is left out as a whole, and named.
    """
    import pandas as pd

    parts, damaged, unread = [], [], set()
    for name in dict.fromkeys(row.study for row in ROWS):
        try:
            units = study.summaries(runs / name)
        except UserError as error:
            damaged.append(str(error).replace(str(runs), runs.name))
            unread.add(name)
            continue
        for row in ROWS:
            mine = units[units["arm"] == row.arm]
            if row.study == name and len(mine):
                parts.append(mine.assign(label=row.label, needs=row.needs))
    nothing = pd.DataFrame(columns=["label", "needs", "arm", "seed", *scoreboard.FIGURES])
    board = scoreboard.board(pd.concat(parts, ignore_index=True) if parts else nothing)
    words = scoreboard.as_words(board)
    said = {}
    for label, row in words.iterrows():
        count = int(board.loc[label, "seeds"])
        cost = f"% ({count} seed{'s' * (count > 1)}, {row['minutes']} min)" if count else ""
        said[str(label)] = row["test, %"] + cost
    return said | {row.label: "log damaged" for row in ROWS if row.study in unread}, damaged


def choice(have: Have, figures: dict[str, str], damaged: list[str], suffix: str = "html") -> Html:
    """Lay out the methods that apply, and what the others would need besides.

    Parameters
    ----------
    have : Have
    figures : dict
        Accuracy on the test in words, by label.
    damaged : list of str
        What could not be read.
    suffix : str
        Of the chapters' files.
    """
    apply = [row for row in ROWS if not lacks(row.needs, have)]
    beside = ELSEWHERE if have.text else ()
    parts = []
    for needs, said in NEEDS.items():
        lines = [
            _line(row, WHY[row.label], f"test: {figures[row.label]}", suffix)
            for row in apply
            if row.needs == needs
        ]
        parts.append(_group(f"From {said}:", lines))
    lines = [_line(row, WHY_ELSEWHERE[row.label], "another test", suffix) for row in beside]
    parts.append(_group("From bare text alone:", lines))
    advice, missing = _advice(have), _missing(have)
    parts.append(_group("Not without", [html.escape(line) for line in missing]))
    named = "; ".join(f"{r.label} ({figures[r.label]})" for r in apply)
    named += "".join(f"; {r.label} (another test)" for r in beside)
    return Html(
        f'<div style="{PAPER};line-height:1.45"><p style="{TIGHT}">{html.escape(advice)}</p>'
        f"{''.join(parts)}{notes(damaged)}</div>",
        " ".join(
            [f"{advice} Methods: {named}.", *(f"Not without {x}." for x in missing), *damaged]
        ),
    )


def _group(head: str, lines: list[str]) -> str:
    """Return lines below their heading; nothing if there is no line."""
    if not lines:
        return ""
    items = "".join(f'<li style="margin:.15em 0">{line}</li>' for line in lines)
    above = f'<p style="{TIGHT}"><strong>{html.escape(head)}</strong></p>'
    return f'{above}<ul style="margin:0;padding-left:1.2em">{items}</ul>'


def _line(row: Row, why: str, figure: str, suffix: str) -> str:
    """Return one method: why, a link to its chapter, its figure."""
    chapter = int(row.chapter.split("_")[0])
    link = (
        f'<a href="{row.chapter}.{suffix}" style="color:#0b5394;text-decoration:underline">'
        f"chapter {chapter}</a>"
    )
    return (
        f"<strong>{html.escape(row.label)}</strong> – {html.escape(why)} {link}; "
        f"<em>{html.escape(figure)}</em>"
    )


def _advice(have: Have) -> str:
    """Say in a sentence where to begin."""
    if have.solutions == "none":
        begin = "Without solutions nothing can warm up"
        if have.answers or have.pairs:
            return f"{begin}: write a few first, and a reward can do the rest."
        return f"{begin}: begin with what there is, and write some."
    if have.answers:
        many = "Begin with SFT, then" if have.solutions == "many" else "With few solutions,"
        return f"{many} let the policy learn from its own checked answers."
    if have.pairs:
        return "Begin with SFT, then follow the preferences; watch what the reward does not see."
    if have.solutions == "few":
        return "SFT will soon know so few solutions by heart: look for answers to check."
    return "Begin with SFT; a signal that judges its own answers would allow more."


def _missing(have: Have) -> list[str]:
    """Say which methods something else would allow besides, a line for each need."""
    called = {"solutions": "worked solutions"} | ASKED
    return [
        f"{' and '.join(called[name] for name in gap)}: "
        + "; ".join(row.label for row in ROWS if row.needs == needs)
        for needs in NEEDS
        if (gap := lacks(needs, have))
    ]
