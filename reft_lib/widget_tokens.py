"""The token lens: one response as training saw it, each token tinted by one of its numbers."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.colors import to_hex

from reft_lib import lens_log, losses
from reft_lib.errors import UserError
from reft_lib.explorer import MOST_STATES, Explorer, Knob, complaint, explore
from reft_lib.lens import visible
from reft_lib.lens_log import Record, Sighting
from reft_lib.pages import Html
from reft_lib.style import COLOURS, DIVERGING, SIGNS, signed, tint


@dataclass(frozen=True)
class Quantity:
    """What tokens can be tinted by."""

    field: str
    """Of :class:`reft_lib.lens_log.Sighting`."""
    about: str
    adds: bool = False
    """Whether the sum over the response means something."""
    ratio: bool = False
    """Whether it is a ratio, for which 1 is no change."""


QUANTITIES = {
    "log-probability, policy": Quantity(
        "logp",
        "How sure the policy was of the token when it wrote it, in nats; 0: certain.",
        True,
    ),
    "log-probability, reference": Quantity(
        "ref_logp", "How sure the warm-up policy is of the same token, in nats.", True
    ),
    "reward: KL penalty": Quantity(
        "kl_rewards",
        "Minus beta times policy's less reference's log-probability: what the token pays for "
        "having become more probable than the warm-up policy has it.",
        True,
    ),
    "reward: the answer's": Quantity(
        "terminal", "What the answer earned; it stands on the last token alone.", True
    ),
    "value": Quantity(
        "values", "What the value head expected to be still earned, before the token was written."
    ),
    "advantage": Quantity(
        "advantages", "How much better it went from this token on than had been expected (GAE)."
    ),
    "advantage, whitened": Quantity(
        "whitened",
        "The advantage less its mean over the whole rollout batch, divided by its standard "
        "deviation: the direction and weight with which the token is trained.",
    ),
    "ratio at its turn": Quantity(
        "ratio_turn",
        "New probability to old when the response's own minibatch was trained on: what the "
        "clipped loss saw.",
        ratio=True,
    ),
    "ratio after the step": Quantity(
        "ratio_after",
        "New probability to old after all updates of the step, those of the other responses too.",
        ratio=True,
    ),
}
"""By the name under which each can be chosen."""
RATIO_REACH = 0.5
"""A ratio this far from 1 has the full colour; rare tokens go much further."""


def token_lens_explorer(
    record: str | Path | Record | Sequence[Sighting] | None = None, live: bool | None = None
) -> Explorer:
    """Show one response, token by token, as PPO saw it while it trained.

    Parameters
    ----------
    record : path, Record or sequence of Sighting, optional
        A recorded training (:func:`reft_lib.lens_log.read`), by default the repository's, or the
        reader's own responses (:func:`reft_lib.lens_log.sight`).
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    """
    try:
        if record is None or isinstance(record, str | Path):
            record = lens_log.read(record)
        found = record.sightings if isinstance(record, Record) else list(record)
        damaged = record.damaged if isinstance(record, Record) else []
        lens_log.check(found)
    except UserError as error:
        return complaint(str(error))
    met: dict[str, list[Sighting]] = {}
    for s in found:
        met.setdefault(s.id, []).append(s)
    times = max(map(len, met.values()))
    fitting = max(1, MOST_STATES // (times * len(QUANTITIES)))
    questions = {f"{seen[0].question[:46].strip()}…": seen for seen in met.values()}
    questions = dict(list(questions.items())[:fitting])

    def draw(question: str, time: int, quantity: str) -> Html:
        return lens_html(questions[question], int(time), quantity)

    left_out = f" Damaged and left out: {'; '.join(damaged)}." if damaged else ""
    return explore(
        draw,
        "One response, a box for each token: · is a space, ↵ a line break, <|…|> the end. Green is "
        f"above, vermilion below what stays white.{left_out}",
        live,
        question=Knob("question", tuple(questions)),
        time=Knob("time it was met", tuple(range(1, times + 1)), start=min(2, times - 1)),
        quantity=Knob("tint by", tuple(QUANTITIES), start=6),
    )


def lens_html(met: Sequence[Sighting], time: int, quantity: str) -> Html:
    """Show one of the responses to a question.

    Parameters
    ----------
    met : sequence of Sighting
        All responses to the question; they share a scale of colours.
    time : int
        Which of them, from 1.
    quantity : str
        A key of :data:`QUANTITIES`.

    Raises
    ------
    UserError
        If there is no such response or quantity, or the response has no ratio.
    """
    if not 1 <= time <= len(met) or quantity not in QUANTITIES:
        raise UserError(f"time {time} and {quantity!r}: this question was met {len(met)} times")
    seen, what = met[time - 1], QUANTITIES[quantity]
    values = getattr(seen, what.field)
    if len(values) != len(seen.tokens):
        raise UserError(f"{quantity}: not known for this response; it needs an update")
    centre = 1.0 if what.ratio else 0.0
    reach = RATIO_REACH if what.ratio else _reach(met, what.field)
    cut = clipped(seen, values) if what.ratio else [False] * len(values)
    numbers = [_number(v, what, reach) for v in values]
    boxes = [
        _box(token, number, 0.5 + 0.5 * (v - centre) / reach, c, i == 0)
        for i, (token, number, v, c) in enumerate(
            zip(seen.tokens, numbers, values, cut, strict=True)
        )
    ]
    head, verdict = _heading(seen, time, len(met))
    told = f"{what.about} White is {centre:g}, full colour {reach:.2g} away from it."
    if what.adds:
        told += f" Sum over the response: {signed(sum(values), 3)}."
    if what.ratio:
        told += f" {_clip_line(seen, cut, quantity)}"
    pairs = "; ".join(
        f"{visible(t)} {n}{' (clipped)' if c else ''}"
        for t, n, c in zip(seen.tokens, numbers, cut, strict=True)
    )
    name = "right" if seen.score == 1 else "wrong"
    line = f"<strong>{html.escape(quantity)}.</strong> {html.escape(told)}"
    return Html(
        f'<p style="margin:.5em 0">{html.escape(head)}</p>'
        f'<p style="border-left:.4em solid {COLOURS[name]};background:{tint(name, 0.12)};'
        f'margin:.5em 0;padding:.35em .5em">{html.escape(verdict)}</p>'
        f'<div style="font-family:monospace;line-height:1.35">{"".join(boxes)}</div>'
        f'<p style="margin:.5em 0">{line}</p>',
        f"{head} {verdict} {quantity}. {told} Token by token: {pairs}.",
    )


def clipped(seen: Sighting, ratios: Sequence[float]) -> list[bool]:
    """Say of each token whether the clip takes its gradient at these ratios.

    It is :func:`reft_lib.losses.policy_loss` of one token at a time.
    """
    one = torch.ones(1, 1, dtype=torch.bool)
    return [
        losses.policy_loss(
            torch.tensor([[ratio]]).log(), torch.zeros(1, 1), torch.tensor([[gain]]), one, seen.clip
        )[1]["clip_fraction"]
        > 0
        for ratio, gain in zip(ratios, seen.whitened, strict=True)
    ]


def _reach(met: Sequence[Sighting], field: str) -> float:
    """Return the largest of all responses' numbers, without sign."""
    return max((abs(v) for s in met for v in getattr(s, field)), default=0.0) or 1.0


def _number(value: float, what: Quantity, reach: float) -> str:
    """Write a number so that its sign can be read and its size compared."""
    digits = 2 if what.ratio or reach >= 1 else 3
    return f"{value:.{digits}f}" if what.ratio else signed(value, digits)


def _box(token: str, number: str, shade: float, cut: bool, first: bool) -> str:
    """Return one token's box, after a line break where the text has one."""
    edge = "2px dashed #000" if cut else "1px solid #bbb"
    face = to_hex(DIVERGING(min(1.0, max(0.0, shade))))
    breaks = "<br>" if token.startswith("\n") and not first else ""
    return (
        f'{breaks}<span style="display:inline-block;background:{face};color:#000;border:{edge};'
        'padding:0 .2em;margin:1px;text-align:center;white-space:nowrap">'
        f"<b>{html.escape(visible(token))}</b><br>{number}{'✂' if cut else ''}</span>"
    )


def _heading(seen: Sighting, time: int, times: int) -> tuple[str, str]:
    """Return the question's line and the verdict's."""
    when = f"Training step {seen.step}, time {time} of {times}" if seen.step else "One response"
    given = f"answer {seen.given}" if seen.given is not None else "no answer"
    # only a right answer earns 1, whatever the partial reward
    sign = SIGNS[seen.score == 1]
    return (
        f"{when}. {seen.question} Right answer: {seen.answer}.",
        f"{sign} {given}, reward {seen.score:g}.",
    )


def _clip_line(seen: Sighting, cut: Sequence[bool], quantity: str) -> str:
    """Say how many tokens are clipped."""
    did = "took" if quantity == "ratio at its turn" else "would take"
    return (
        f"✂ {sum(cut)} of {len(cut)} tokens: outside 1 ± {seen.clip:g} on the side that the "
        f"advantage asks for, where the clip {did} their gradient."
    )
