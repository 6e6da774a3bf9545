"""The reward lab: what is taken for the answer of a response, and what it earns."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from reft_lib.answers import (
    PROGRAM_SEED,
    TOLERANCE,
    TRIGGER,
    choice,
    normalise,
    split_answer,
    stated_many,
)
from reft_lib.config import Format
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.explorer import Explorer, Knob, complaint, explore, is_live
from reft_lib.pages import CELL, TEXT, Html
from reft_lib.rewards import AnswerReward, Graded, read_answers
from reft_lib.sandbox import Outcome, run_programs
from reft_lib.soundness import sound
from reft_lib.style import COLOURS, FORMATS, tint

PARTIALS = (0.0, 0.1, 0.3)
"""Rewards of a wrong number, in a page."""
TOLERANCES = (0.0, TOLERANCE, 0.5)
"""Differences that count as equal, in a page."""
TICKETS = Example(
    "tickets",
    "A ticket costs 24 dollars. A class buys 50 tickets. How many dollars does the class pay?",
    "1200",
)
CAKE = Example(
    "cake",
    "A cake is cut into 8 equal slices. Ann eats 6 of them. What part of the cake is that?",
    "0.75",
)
SUM = "24 * 50 = 1200 dollars in all."


@dataclass(frozen=True)
class Answer:
    """A response to be graded, and the name under which it can be chosen."""

    name: str
    fmt: Format
    text: str
    example: Example = TICKETS


TELLING = {
    "words: right": SUM + TRIGGER + "1200",
    "words: right, spelt as money": SUM + TRIGGER + "$1,200.00",
    "words: right, spelt as a fraction": "6 / 8 = 0.75 of it." + TRIGGER + "3/4",
    "words: wrong number": "24 + 50 = 74 dollars in all." + TRIGGER + "74",
    "words: a hundredth off": SUM + TRIGGER + "1,199.99 dollars",
    "words: two numbers": SUM + TRIGGER + "1200 or 74",
    "words: no trigger, so no answer": SUM + "\nThe class pays 1200 dollars.",
    "words: two triggers, the last one counts": (
        f"24 + 50 = 74.{TRIGGER}74\nNo, that is a sum. 24 * 50 = 1200.{TRIGGER}1200"
    ),
    "words: right number, unsound reasoning": "24 + 50 = 1200 in all." + TRIGGER + "1200",
    "words: text after the answer": f"{SUM}{TRIGGER}1200\nQuestion:\nRosa has 7 marbles.",
    "program: right": "\n    price = 24\n    return price * 50",
    "program: wrong number, but close": "\n    price = 23.994\n    return price * 50",
    "program: does not parse": "\n    price = 24\n    return price * * 50",
    "program: runs for ever": (
        "\n    paid = 0\n    while paid < 1200:\n        paid = paid * 24\n    return paid"
    ),
    "program: prints and does not return": "\n    print(24 * 50)",
    "program: text after the function": "\n    return 24 * 50\nprint(solution())\nresult = 7",
}
GALLERY = tuple(
    Answer(
        name,
        "pcot" if name.startswith("program") else "ncot",
        text,
        CAKE if "fraction" in name else TICKETS,
    )
    for name, text in TELLING.items()
)
"""Telling answers; the first question's right answer is 1200, the second's three quarters."""


@dataclass(frozen=True)
class Judged:
    """What the library makes of one response."""

    stated: str | None
    """What the response states as its answer, unread."""
    graded: Graded
    error: str | None
    """Why a program gave nothing."""


def reward_lab(
    responses: Sequence[str] | None = None,
    examples: Sequence[Example] | None = None,
    live: bool | None = None,
    fmt: Format = "ncot",
) -> Explorer:
    """Choose a response and see what is taken for its answer and what it earns.

    In a live kernel any text can be typed instead.

    Parameters
    ----------
    responses : sequence of str, optional
        The reader's own, as sampled, in place of :data:`GALLERY`.
    examples : sequence of Example, optional
        The question of each.
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    fmt : {"ncot", "pcot"}
        Format of ``responses``.
    """
    try:
        answers = {
            a.name: a for a in (GALLERY if responses is None else own(responses, examples, fmt))
        }
    except UserError as error:
        return complaint(str(error))

    def draw(
        answer: str, partial: float, tol: float, text: str = "", form: str = "", gold: str = ""
    ) -> Html:
        shown = answers[answer]
        if text.strip():
            typed = Example("typed", "Your own text.", gold.strip())
            shown = Answer("typed", "pcot" if form == FORMATS["pcot"] else "ncot", text, typed)
        return answer_html(shown, partial, tol)

    knobs = {
        "answer": Knob("answer", tuple(answers)),
        "partial": Knob("reward of a wrong number", PARTIALS, start=1, step=0.05),
        "tol": Knob("tolerance", TOLERANCES, start=1, step=0.01),
    }
    live = is_live() if live is None else live
    if live:
        knobs |= {
            "text": Knob("or type one", ("",), lines=5),
            "form": Knob("written in", tuple(FORMATS.values())),
            "gold": Knob("its right answer", ("1200",), lines=1),
        }
    caption = "What is taken for the answer is underlined. The reward reads nothing else."
    return explore(draw, caption, live, **knobs)


def own(responses: Sequence[str], examples: Sequence[Example] | None, fmt: Format) -> list[Answer]:
    """Name a reader's own responses by their number and first words.

    Raises
    ------
    UserError
        If there are none, or not as many examples.
    """
    if not responses or len(examples or ()) != len(responses):
        raise UserError(
            f"{len(responses)} responses and {len(examples or ())} examples; wanted at least one "
            "response, and the example of each"
        )
    return [
        Answer(f"{i}: {' '.join(text.split())[:30]}", fmt, text, example)
        for i, (text, example) in enumerate(zip(responses, examples or (), strict=True), start=1)
    ]


@lru_cache(maxsize=512)
def _outcome(source: str) -> Outcome:
    """Run a program once, however often it is graded."""
    return run_programs([source])[0]


def judge(answer: Answer, partial: float, tol: float) -> Judged:
    """Grade a response as :class:`reft_lib.rewards.AnswerReward` does, with all that it rests on.

    Raises
    ------
    UserError
        If the partial reward or the tolerance is out of range, or the right answer is none.
    """
    example = answer.example
    if normalise(example.answer) is None and choice(example.answer) is None:
        raise UserError(f"right answer {example.answer!r}; wanted a number, or a letter A to E")
    if tol < 0:
        raise UserError(f"tolerance is {tol:g}; it must be at least 0")
    reward = AnswerReward(answer.fmt, partial, tol)

    def run(sources: list[str]) -> list[Outcome]:
        return [_outcome(source) for source in sources]

    stated = stated_many([answer.text], answer.fmt, run)[0]
    read = read_answers([answer.text], [example], answer.fmt, run)[0]
    error = _outcome(PROGRAM_SEED + answer.text).error if answer.fmt == "pcot" else None
    return Judged(stated, reward.grade(read, example.answer), error)


def answer_html(answer: Answer, partial: float, tol: float) -> Html:
    """Show a response, what is taken for its answer, and what that earns.

    Parameters
    ----------
    answer : Answer
    partial, tol : float
        As in :class:`reft_lib.rewards.AnswerReward`; what is refused: see :func:`judge`.
    """
    found = judge(answer, partial, tol)
    rows = facts(answer, found, tol)
    name, why = "right" if found.graded.correct else "wrong", reason(found)
    body = "".join(
        f'<tr><th scope="row" style="{CELL}width:8.5em">{html.escape(k)}</th>'
        f'<td style="{CELL}overflow-wrap:anywhere">{html.escape(v)}</td></tr>'
        for k, v in rows.items()
    )
    question = html.escape(answer.example.question)
    return Html(
        f'<p style="margin:.5em 0">{question}</p>'
        f'<pre style="{TEXT}background:#fff;color:#1a1a1a;'
        f'border:1px solid #bbb;padding:.5em;margin:0">{marked(answer, found)}</pre>'
        f'<p style="border-left:.4em solid {COLOURS[name]};background:{tint(name, 0.12)};'
        f'margin:.5em 0;padding:.35em .5em"><strong>Reward {found.graded.reward:g}</strong>: '
        f"{html.escape(why)}</p>"
        f'<table style="border-collapse:collapse;width:100%;table-layout:fixed">{body}</table>',
        f"Question: {answer.example.question} Response: {answer.text.strip()} "
        f"Reward {found.graded.reward:g}: {why}. "
        + " ".join(f"{k}: {v}." for k, v in rows.items()),
    )


def facts(answer: Answer, found: Judged, tol: float) -> dict[str, str]:
    """Return what the reward rests on, by name, in the order in which it is found."""
    read, gold = found.graded.answer, answer.example.answer
    rows = {
        "stated": found.stated if found.stated is not None else "nothing",
        "read as": read or "no answer",
        "right answer": gold,
    }
    x, y = normalise(read), normalise(gold)
    if x is not None and y is not None:
        rows["difference"] = f"{abs(x - y):.6g}; equal up to {tol:g} (and a tenth of the larger)"
    if answer.fmt == "ncot" and y is not None:
        verdict = "adds up" if sound(answer.text, gold) else "does not add up to the right answer"
        rows["reasoning"] = f"{verdict}; the reward does not ask"
    return rows


def reason(found: Judged) -> str:
    """Say in a few words why a response earns what it earns."""
    graded = found.graded
    if graded.correct:
        return "the answer is right"
    if graded.answer is not None:
        return "an answer, but a wrong one"
    if found.error:
        return f"no answer, for the program failed ({found.error})"
    if found.stated is not None:
        return "no answer, for what is stated cannot be read as one"
    return "no answer, for no line follows a trigger"


def marked(answer: Answer, found: Judged) -> str:
    """Return a response as HTML, what is taken for its answer underlined.

    A program's answer is no part of its text; it is added as a comment.
    """
    mark = f'<mark style="background:{tint("sft", 0.45)};color:#1a1a1a;font-weight:bold;'
    mark += 'text-decoration:underline">'
    text = answer.text
    if answer.fmt == "pcot":
        said = found.stated if found.stated is not None else "nothing"
        shown = html.escape(PROGRAM_SEED + text)
        return f"{shown}\n\n# solution() gives {mark}{html.escape(said)}</mark>"
    at = _place(text, found.stated)
    if found.stated is None or at is None:
        return html.escape(text)
    end = at + len(found.stated)
    return (
        html.escape(text[:at])
        + f"{mark}{html.escape(text[at:end])}</mark>"
        + html.escape(text[end:])
    )


def _place(text: str, stated: str | None) -> int | None:
    """Return where the stated line begins: at the end of a line after the last trigger."""
    if not stated:
        return None
    at = len(split_answer(text)[0])
    for line in text[at:].splitlines(keepends=True):
        if line.rstrip().endswith(stated):
            return at + len(line.rstrip()) - len(stated)
        at += len(line)
    return None
