"""From rewards to advantages: what beta, lambda and gamma do to the tokens of one response."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from reft_lib import advantage, kl, lens_log
from reft_lib.errors import UserError
from reft_lib.explorer import Explorer, Knob, complaint, explore
from reft_lib.lens import visible
from reft_lib.lens_log import COMMAND, WholeBatch
from reft_lib.style import COLOURS, finish, signed, style, tint

BETAS = (0.0, 0.02, 0.05, 0.1, 0.3)
LAMBDAS = (0.0, 0.5, 0.9, 0.95, 1.0)
GAMMAS = (0.9, 1.0)
MOST_TOKENS = 40
"""More would not fit under the picture."""


@dataclass(frozen=True)
class Shaped:
    """The numbers of the followed response's tokens, (R,) each, under three settings."""

    penalty: Tensor
    """The KL reward of each token."""
    rewards: Tensor
    """With the terminal reward on the last token."""
    returns: Tensor
    advantages: Tensor
    whitened: Tensor
    """Over all response tokens of the batch."""


def returns_explorer(
    rollout: WholeBatch | str | Path | None = None, live: bool | None = None
) -> Explorer:
    """Show how the KL coefficient, lambda and gamma reshape what a response's tokens are worth.

    Parameters
    ----------
    rollout : WholeBatch or path, optional
        A whole rollout batch with one response to follow: the reader's own
        (:func:`reft_lib.lens_log.batch_of`), or a record with one; by default the repository's.
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    """
    try:
        batch = rollout if isinstance(rollout, WholeBatch) else _recorded(rollout)
        if len(batch.tokens) > MOST_TOKENS:
            raise UserError(
                f"{len(batch.tokens)} tokens; follow a response of at most {MOST_TOKENS}"
            )
        limits = _limits(batch)
    except UserError as error:
        return complaint(str(error))

    def draw(beta: float, lam: float, gamma: float) -> Figure:
        return returns_figure(batch, beta, lam, gamma, limits)

    return explore(
        draw,
        "What a response's tokens are paid and what they return (above), and the advantages made "
        f"of that (below), whitened over the {len(batch.scores)} responses of its batch.",
        live,
        beta=Knob("KL coefficient, β", BETAS, start=1, step=0.01),
        lam=Knob("λ", LAMBDAS, start=3, step=0.01),
        gamma=Knob("discount, γ", GAMMAS, start=1, step=0.01),
    )


def _recorded(folder: str | Path | None) -> WholeBatch:
    """Return the rollout batch of a record."""
    record = lens_log.read(folder)
    if record.batch is None:
        damaged = f" ({'; '.join(record.damaged)} is damaged)" if record.damaged else ""
        raise UserError(f"this record holds no whole batch{damaged}; {COMMAND} records one")
    return record.batch


def shaped(batch: WholeBatch, beta: float, lam: float, gamma: float) -> Shaped:
    """Work out rewards, returns and advantages of a batch; return those of its followed response.

    Raises
    ------
    UserError
        If ``beta`` is below 0, or ``lam`` or ``gamma`` is not from 0 to 1.
    """
    if beta < 0 or not 0 <= lam <= 1 or not 0 <= gamma <= 1:
        raise UserError(
            f"beta {beta:g}, lambda {lam:g}, gamma {gamma:g}; wanted beta at least 0, others 0 to 1"
        )
    logp, ref_logp, values, mask, scores = batch.tensors()
    penalty = kl.kl_rewards(logp, ref_logp, mask, beta)
    rewards = penalty + advantage.terminal_rewards(scores, mask)
    raw, returns = advantage.gae(rewards, values, mask, gamma, lam)
    whitened = advantage.whiten(raw, mask)
    n = len(batch.tokens)
    return Shaped(*(x[batch.row, :n] for x in (penalty, rewards, returns, raw, whitened)))


def _limits(batch: WholeBatch) -> list[tuple[float, float]]:
    """Return the lower and upper end of both panels, the same for all of a page's states."""
    ends = [[0.0, 0.0], [0.0, 0.0]]
    for beta, lam, gamma in itertools.product(BETAS, LAMBDAS, GAMMAS):
        s = shaped(batch, beta, lam, gamma)
        for end, shown in zip(
            ends, [(s.rewards, s.returns), (s.advantages, s.whitened)], strict=True
        ):
            end[0] = min(end[0], *(float(x.min()) for x in shown))
            end[1] = max(end[1], *(float(x.max()) for x in shown))
    return [(low - 0.08 * (high - low), high + 0.08 * (high - low)) for low, high in ends]


@style()
def returns_figure(
    batch: WholeBatch,
    beta: float,
    lam: float,
    gamma: float,
    limits: list[tuple[float, float]] | None = None,
) -> Figure:
    """Draw rewards and returns, and advantages raw and whitened, over a response's tokens.

    Parameters
    ----------
    batch : WholeBatch
    beta, lam, gamma : float
        KL coefficient, and GAE's two numbers.
    limits : list of (float, float), optional
        Ends of the two panels' axes.

    Raises
    ------
    UserError
        As :func:`shaped`.
    """
    s = shaped(batch, beta, lam, gamma)
    at = range(len(batch.tokens))
    labels = [_label(t) for t in batch.tokens]
    room = (0.1 + 0.09 * max(map(len, labels))) / 4.2
    # Margins by hand: to find them takes half of the time of drawing, and there are many states.
    edges = {"left": 0.08, "right": 0.99, "top": 0.93, "bottom": room, "hspace": 0.25}
    fig = Figure(figsize=(7.2, 4.2))
    above, below = fig.subplots(2, 1, gridspec_kw=edges)
    _bars(above, s.rewards, COLOURS["reft"], "reward")
    above.plot(at, s.returns, color=COLOURS["sft"], ls="--", label="return")
    _bars(below, s.advantages, tint("reft", 0.45), "advantage")
    below.plot(at, s.whitened, color=COLOURS["ink"], marker="o", ls="", label="whitened")
    for ax, ends in zip((above, below), limits or (None, None), strict=True):
        ax.axhline(0, color=COLOURS["grey"], lw=0.8)
        ax.set(ylim=ends or ax.get_ylim(), xlim=(-0.6, len(batch.tokens) - 0.4), xticks=[])
        ax.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0)
    above.set(ylabel="reward", title=f"β = {beta:g}, λ = {lam:g}, γ = {gamma:g}")
    below.set_xticks(at, labels, rotation=90)
    below.tick_params(axis="x", bottom=False)
    below.grid(axis="x", visible=False)
    below.set_ylabel("advantage")
    return finish(fig, _words(batch, s, beta, lam, gamma))


def _bars(ax: Axes, values: Tensor, colour: str, label: str) -> None:
    """Draw bars as one broken line: a fifth of what so many rectangles take in a page."""
    x = [v for i in range(len(values)) for v in (i, i, math.nan)]
    y = [v for value in values.tolist() for v in (0.0, value, math.nan)]
    width = 0.6 * 72 * 6.2 / len(values)
    ax.plot(x, y, color=colour, lw=min(16.0, width), solid_capstyle="butt", label=label)


def _label(token: str) -> str:
    text = visible(token.strip(" ") or token)
    return text if len(text) <= 12 else text[:11] + "…"


def _words(batch: WholeBatch, s: Shaped, beta: float, lam: float, gamma: float) -> str:
    """Say what the picture shows, with its numbers."""
    low, high = int(s.advantages.argmin()), int(s.advantages.argmax())

    def named(x: Tensor, i: int) -> str:
        return f"{signed(float(x[i]), 3)} at {visible(batch.tokens[i])}"

    return (
        f"{len(batch.tokens)} tokens of a response with terminal reward "
        f"{batch.scores[batch.row]:g}, at beta {beta:g}, lambda {lam:g}, gamma {gamma:g}. "
        f"The KL penalty adds up to {signed(float(s.penalty.sum()), 3)}, so all rewards to "
        f"{signed(float(s.rewards.sum()), 3)}. The return is {signed(float(s.returns[0]), 3)} at "
        f"the first token and {signed(float(s.returns[-1]), 3)} at the last. Advantages go from "
        f"{named(s.advantages, low)} to {named(s.advantages, high)}; whitened, from "
        f"{named(s.whitened, low)} to {named(s.whitened, high)}."
    )
