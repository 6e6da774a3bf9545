"""Two drawn overviews: the several right ways to one answer, and the parts of RFT."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib.diagrams import arrow, box, canvas, panel
from reft_lib.errors import UserError
from reft_lib.style import COLOURS, SIGNS, finish, style, tint

WIDTH = 7.2
"""Of the figures, in inches."""
LINE = 0.17
"""Height of a line of text, in inches."""


class Sampled(NamedTuple):
    """One chain of thought, as it is drawn."""

    text: str
    right: bool
    reward: float


@style()
def several_paths(question: str, annotation: str, sampled: Sequence[Sampled]) -> Figure:
    """Draw what SFT and ReFT learn from one question that several chains of thought solve.

    Parameters
    ----------
    question : str
    annotation : str
        The chain of thought that the data set holds.
    sampled : sequence of Sampled
        Chains that a policy may write, two to four, with their rewards.

    Raises
    ------
    UserError
        If there are not two to four sampled chains.
    """
    if not 2 <= len(sampled) <= 4:
        raise UserError(f"several_paths: {len(sampled)} sampled chains; wanted two to four")
    asked = _wrapped(question, 92)
    left, right = _wrapped(annotation, 34), [_wrapped(s.text, 44) for s in sampled]
    heights = [LINE * (text.count("\n") + 1) + 0.2 for text in right]
    body = max(sum(heights) + 0.12 * len(heights), LINE * (left.count("\n") + 1) + 0.3)
    top = LINE * (asked.count("\n") + 1) + 0.42
    height = top + body + 1.35
    fig, ax = canvas(WIDTH, height)
    _text_box(ax, (0.1, height - 0.1), (WIDTH - 0.2, top - 0.1), "Question", asked, "#FFFFFF")
    floor, roof = 0.1, height - top - 0.22
    panel(ax, (0.1, floor), (2.75, roof - floor), "sft")
    panel(ax, (3.05, floor), (WIDTH - 3.15, roof - floor), "reft")
    ax.text(0.22, roof - 0.2, "SFT: the annotated chain alone", weight="bold", va="center")
    ax.text(3.17, roof - 0.2, "ReFT: chains the policy may sample", weight="bold", va="center")
    y = roof - 0.4
    size = (2.51, LINE * (left.count("\n") + 1) + 0.2)
    _text_box(ax, (0.22, y), size, "", left, tint("sft", 0.35))
    for text, one, tall in zip(right, sampled, heights, strict=True):
        _text_box(
            ax, (3.17, y), (3.15, tall), "", text, tint("right" if one.right else "wrong", 0.2)
        )
        sign = f"{SIGNS[one.right]}  {one.reward:g}"
        colour = COLOURS["right" if one.right else "wrong"]
        ax.text(6.42, y - tall / 2, sign, va="center", weight="bold", color=colour, size=11)
        y -= tall + 0.12
    low = floor + 0.25
    ax.text(0.22, low, "Each of its tokens: more probable.\nNo other chain counts.", va="center")
    ax.text(
        3.17,
        low,
        "Reward 1: more probable; less: less probable.\nEvery right way counts.",
        va="center",
    )
    count = sum(s.right for s in sampled)
    told = "; ".join(
        f"{s.text!r}, {'right' if s.right else 'wrong'}, {s.reward:g}" for s in sampled
    )
    return finish(
        fig,
        f"A question, {question!r}, and what two methods learn from it. SFT: the one annotated "
        f"chain, {annotation!r}. ReFT: {len(sampled)} chains that the policy may sample, {count} "
        f"of them right, with their rewards: {told}.",
    )


def _wrapped(text: str, width: int) -> str:
    """Break a text's lines at a width, in characters; its own line breaks stay."""
    lines = [textwrap.wrap(line, width) for line in text.splitlines()]
    return "\n".join(part for some in lines for part in some)


def _text_box(
    ax: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    head: str,
    body: str,
    face: str,
) -> None:
    """Draw a box from its upper left corner, with text from the left."""
    (x, y), (w, h) = corner, size
    box(ax, (x + w / 2, y - h / 2), size, "", face=face)
    down = 0.12
    if head:
        ax.text(x + 0.1, y - 0.15, head, weight="bold", va="center")
        down = 0.3
    ax.text(x + 0.1, y - down, body, va="top", size=9, linespacing=1.25)


@style()
def rft_overview() -> Figure:
    """Draw what reinforcement fine-tuning needs, what it does, and what comes of it."""
    fig, ax = canvas(WIDTH, 3.35)
    needs = {
        "Training file": "messages + reference fields,\none example a line",
        "Grader": "JSON: checks, similarities,\nprograms, a model as judge",
        "Delivered model": "answers rightly\nat least now and then",
    }
    for i, (head, body) in enumerate(needs.items()):
        box(ax, (1.15, 2.75 - 1.05 * i), (2.1, 0.82), head, body, tint("sft", 0.3), COLOURS["sft"])
        arrow(ax, (2.2, 2.75 - 1.05 * i), (2.57, 2.75 - 1.05 * i))
    panel(ax, (2.57, 0.2), (2.95, 2.97), "reft")
    ax.text(4.05, 2.98, "in a loop", ha="center", va="center", weight="bold")
    face, edge = tint("reft", 0.25), COLOURS["reft"]
    steps = {
        "Sample": "the model answers\nan example, several times",
        "Grade": "each answer gets\na number from 0 to 1",
        "Update": "better than expected:\nmore probable",
    }
    for i, (head, body) in enumerate(steps.items()):
        box(ax, (3.95, 2.45 - 0.87 * i), (2.3, 0.7), head, body, face, edge)
    arrow(ax, (3.95, 2.1), (3.95, 1.93))
    arrow(ax, (3.95, 1.23), (3.95, 1.06))
    ax.plot([5.1, 5.34, 5.34], [0.71, 0.71, 2.45], color=COLOURS["ink"], lw=1.4)
    arrow(ax, (5.34, 2.45), (5.1, 2.45))
    box(ax, (6.4, 1.7), (1.3, 0.95), "Checkpoints", "the best on\nvalidation\nis kept", edge=edge)
    arrow(ax, (5.52, 1.7), (5.75, 1.7))
    return finish(
        fig,
        "Reinforcement fine-tuning. Three things are given: a training file of examples with "
        "reference fields, a grader, and a delivered model that answers rightly at least now and "
        "then. In a loop the model answers each example several times, the grader gives each "
        "answer a number from 0 to 1, and answers better than expected become more probable. Of "
        "the checkpoints the best on validation is kept.",
    )
