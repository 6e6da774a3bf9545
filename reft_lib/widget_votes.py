"""Many samples of a question, and one answer: accuracy against k, and how the votes fall."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import data
from reft_lib.compare import RUNS
from reft_lib.errors import UserError
from reft_lib.explorer import Explorer, Knob, complaint, explore, image
from reft_lib.pages import PAPER, Html
from reft_lib.plots import panels
from reft_lib.strategy_plots import STRATEGIES
from reft_lib.style import (
    COLOURS,
    FORMATS,
    LABELS,
    LINES,
    MARKERS,
    SIGNS,
    describe,
    finish,
    style,
    tint,
)
from reft_lib.votes import Votes, from_row
from reft_lib.widget_logs import notes, place, readable

SAY = {"vote": "voting", "wvote": "weighted voting", "rerank": "reranking"}
BARS = 7
"""At most so many answers of a question have a bar of their own."""


def voting_explorer(
    runs: str | Path | None = None,
    live: bool | None = None,
    samples: Mapping[str, Votes] | None = None,
) -> Explorer:
    """Show what voting, weighted voting and reranking make of k samples, and one question's votes.

    Parameters
    ----------
    runs : path, optional
        Folder of run logs that keep samples (:mod:`reft_lib.votes`); ``data/runs/nano-votes``
        unless given. Of several seeds the first is shown. A damaged log is named below the picture.
    live : bool, optional
        As in :func:`reft_lib.explorer.explore`.
    samples : mapping of str to Votes, optional
        The reader's own samples by the policy's name, of the same questions, instead of ``runs``.
    """
    try:
        if samples is None:
            found, damaged = recorded(Path(runs or RUNS / "nano-votes"))
        else:
            found, damaged = {"": dict(samples)}, []
        if not found or not all(found.values()):
            raise UserError("no samples of any policy")
    except UserError as error:
        return complaint(str(error))
    policies = list(dict.fromkeys(name for group in found.values() for name in group))
    first = next(iter(next(iter(found.values())).values()))
    most = max(v.n for group in found.values() for v in group.values())

    def draw(
        k: float, question: str, method: str = policies[0], fmt: str = next(iter(found))
    ) -> Html:
        if method not in found[fmt]:
            raise UserError(f"{method}, {FORMATS.get(fmt, fmt)}: no samples were kept")
        return state(found[fmt][method], _name(method, fmt), int(k), int(question), damaged)

    knobs = {
        "method": Knob("method", policies, words=lambda m: LABELS.get(m, m)),
        "fmt": Knob("format", list(found), words=lambda f: FORMATS.get(f, f)),
    }
    knobs = {name: knob for name, knob in knobs.items() if len(knob.values) > 1}
    ks = [2**i for i in range(most.bit_length())]
    lo, hi = first.decided(first.n)["vote"].interval
    half = f"{50 * (hi - lo):.0f}"
    knobs["k"] = Knob("k, samples of a question", ks, start=len(ks) - 1, step=1)
    knobs["question"] = Knob(
        "question",
        [str(i) for i in first.telling()],  # as text: a list to choose from, and no slider
        words=lambda i: _short(_asked(first.questions[int(i)])),
    )
    return explore(
        draw,
        "Left: questions answered rightly by each strategy, with the first k samples. Right: how "
        "the answers of the first k samples fall for one question. "
        f"With {len(first.questions)} questions a point's 95% interval is about ±{half} points.",
        live,
        **knobs,
    )


def recorded(where: Path) -> tuple[dict[str, dict[str, Votes]], list[str]]:
    """Read the samples that run logs keep.

    Returns
    -------
    found : dict
        By format and method; of several seeds the first.
    damaged : list of str
        What was left out, by name.

    Raises
    ------
    UserError
        If there is none, or their questions are not among those that come with this library.
    """
    table, cards, damaged = readable(where, ("fmt", "seed"))
    found: dict[str, dict[str, Votes]] = {}
    for row in table[table["split"] == "test"].sort_values("run").to_dict("records"):
        config = cards[row["run"]].get("config", {})
        if not str(config.get("dataset")).startswith("embedded") or row["fmt"] not in FORMATS:
            continue
        questions = data.subset(data.load(config["dataset"], "test"), config["n_test"])
        try:
            votes = from_row(row, questions)
        except UserError as error:
            damaged.append(f"{row['run']}, {row['method']}: {error}")
            continue
        if votes is not None:
            found.setdefault(row["fmt"], {}).setdefault(row["method"], votes)
    if not found:
        raise UserError("; ".join([f"{where.name}: no samples were kept", *damaged]))
    order = [fmt for fmt in ("pcot", "ncot") if fmt in found]
    return {fmt: found[fmt] for fmt in order}, damaged


def _name(method: str, fmt: str) -> str:
    """Name a policy."""
    return ", ".join(part for part in (LABELS.get(method, method), FORMATS.get(fmt, fmt)) if part)


def _asked(question: Any) -> str:
    return str(getattr(question, "question", question))


def _short(text: str, most: int = 44) -> str:
    """Cut a text at a word."""
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"


def state(votes: Votes, name: str, k: int, question: int, damaged: Sequence[str] = ()) -> Html:
    """Draw one state: accuracies at k, and the votes of the first k samples of a question.

    Parameters
    ----------
    votes : Votes
    name : str
        Of the policy.
    k : int
        1 to all samples.
    question : int
        From 0.
    damaged : sequence of str
        What was left out.

    Raises
    ------
    UserError
        If there are fewer samples or questions.
    """
    if not 0 <= question < len(votes.questions):
        raise UserError(f"question {question}: there are {len(votes.questions)}")
    asked = votes.questions[question]
    fig, said = _figure(votes, name, k, question)
    gold = getattr(asked, "answer", None)
    text = f"Question: {_asked(asked)}" + (f" Right answer: {gold}." if gold is not None else "")
    parts = [f"<p style='margin:.4em 0'>{html.escape(line)}</p>" for line in (text, said)]
    return Html(
        f'<div style="{PAPER};line-height:1.45">{image(fig)}{"".join(parts)}{notes(damaged)}</div>',
        " ".join([describe(fig), text, said, *(f"Left out: {line}." for line in damaged)]),
    )


@style()
def _figure(votes: Votes, name: str, k: int, question: int) -> tuple[Figure, str]:
    """Draw both panels; returns also what each strategy chose, in words."""
    now, decided = votes.accuracies(k), votes.decided(k)
    fig, axes = panels(7.2, 3.9, 2)
    place(fig, left=0.085, right=0.995, bottom=0.13, top=0.92, wspace=0.36)
    left, right = axes[0]
    for strategy, label in STRATEGIES.items():
        if strategy in votes.curves:
            _line(left, votes.curves[strategy], strategy, label, (k, now[strategy]))
    left.axvline(k, color=COLOURS["ink"], lw=0.8, ls=":")
    ks = list(votes.curves["vote"])
    left.set_xscale("log", base=2)
    left.set_xticks(ks, [f"{x:g}" for x in ks])
    left.minorticks_off()
    left.set(title=name, xlabel="k, samples of a question", ylim=(0, 100))
    left.set_ylabel("answered rightly, %")
    left.legend(
        loc="lower left", bbox_to_anchor=(-0.02, -0.02), fontsize=8.5, ncols=2, columnspacing=1
    )
    chosen = {s: a.chosen[question] for s, a in decided.items()}
    counted = tally(votes, question, k)
    _bars(right, counted, chosen, k)
    said = [
        f"{SAY[s]} chooses {answer or 'nothing'}, "
        f"{'right' if decided[s].correct[question] else 'wrong'}"
        for s, answer in chosen.items()
    ]
    shares = ", ".join(f"{STRATEGIES[s].removesuffix('@k')} {100 * x:.1f}%" for s, x in now.items())
    fell = ", ".join(
        f"{answer or 'no answer'}{' (right)' if ok else ''} {n}"
        for answer, (n, ok) in counted.items()
    )
    alt = (
        f"{name}, the first {k} of {votes.n} samples of {len(votes.questions)} questions: "
        f"{shares}. Votes on one question: {fell}."
    )
    return finish(fig, alt), f"With {k} of {votes.n} samples " + "; ".join(said) + "."


def _line(
    ax: Axes, curve: dict[int, float], look: str, label: str, point: tuple[int, float]
) -> None:
    """Draw a strategy's accuracy against k, with its present point."""
    colour = COLOURS[look]
    common: dict[str, Any] = {"color": colour, "marker": MARKERS[look], "mec": COLOURS["ink"]}
    ax.plot(
        list(curve), [100 * x for x in curve.values()], ls=LINES[look], label=label, mew=0.5,
        **common,
    )  # fmt: skip
    ax.plot([point[0]], [100 * point[1]], ms=9, **common)


def tally(votes: Votes, question: int, k: int) -> dict[str | None, tuple[int, bool]]:
    """Count the answers of a question's first k samples, the most frequent first.

    Returns
    -------
    dict
        By answer (None: no answer): how many samples gave it, and whether it is right. The right
        answer of an example is there, with no vote, if no sample gave it.
    """
    found: dict[str | None, tuple[int, bool]] = {}
    answers, right = votes.answers.answers[question][:k], votes.answers.right[question][:k]
    for answer, ok in zip(answers, right, strict=True):
        found[answer] = (found.get(answer, (0, ok))[0] + 1, ok)
    found = dict(sorted(found.items(), key=lambda item: (item[0] is None, -item[1][0])))
    gold = getattr(votes.questions[question], "answer", None)
    if gold is not None and not any(ok for _, ok in found.values()):
        found[gold] = (0, True)
    return found


def _bars(
    ax: Axes,
    counted: Mapping[str | None, tuple[int, bool]],
    chosen: Mapping[str, str | None],
    k: int,
) -> None:
    """Draw the votes for each answer; the right one has a sign and another colour."""
    items = list(counted.items())
    shown = items if len(items) <= BARS else [x for x in items[: BARS - 1] if not x[1][1]]
    if len(items) > BARS:
        shown += [x for x in items if x[1][1]]
        rest = [x for x in items if x not in shown]
        shown = sorted(shown, key=lambda x: (x[0] is None, -x[1][0]))
        shown.append((f"{len(rest)} others", (sum(n for _, (n, _) in rest), False)))
    for y, (answer, (n, ok)) in enumerate(shown):
        face = COLOURS["right"] if ok else tint("grey", 0.5)
        ax.barh(y, n, color=face, ec=COLOURS["ink"], lw=0.7)
        by = [SAY[s].removesuffix(" voting") for s, a in chosen.items() if a == answer and answer]
        ax.annotate(
            f"{n}" + (f"  {', '.join(by)}" if by else ""), (n, y), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8.5,
        )  # fmt: skip
    names = [f"{SIGNS[True]} {a}" if ok else (a or "no answer") for a, (_, ok) in shown]
    ax.set_yticks(range(len(shown)), names)
    ax.set(ylim=(BARS - 0.5, -0.5), xlim=(0, 1.75 * k))
    ax.set(title="One question's answers", xlabel="votes, and which strategies chose it")
    ax.set_xticks(sorted({0, k // 2, k}))
    ax.grid(visible=False, axis="y")
