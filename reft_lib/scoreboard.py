"""Every kind of fine-tuning of this book on one board: same base, same unseen questions.

A row is an arm of a study (:mod:`reft_lib.studies`) and what the method needs. Figures are means
over seeds; a method that has not been run has a row, too, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reft_lib import runlog, stats, study
from reft_lib.compare import RUNS
from reft_lib.errors import UserError
from reft_lib.plots import panels
from reft_lib.style import COLOURS, finish, minus, style


class Row(NamedTuple):
    """One method on the board."""

    label: str
    needs: str
    """What it learns from; a key of ``NEEDS``."""
    study: str
    arm: str
    chapter: str
    """The page that explains it."""


NEEDS = {
    "nothing": "nothing",
    "solutions": "questions with worked solutions",
    "text": "worked solutions, and bare text",
    "tasks": "right responses to instructions of many kinds",
    "answers": "a warm-up on solutions, then right answers alone",
    "pairs": "a warm-up on solutions, then preferences between two responses",
}
"""What a method learns from, in words; in the order of the board."""
ROWS = (
    Row("base model", "nothing", "baselines", "base", "02_problems_model_lora"),
    Row("SFT", "solutions", "baselines", "sft", "03_sft"),
    Row("instruction tuning", "tasks", "instruct", "mixed", "10_instruction_tuning"),
    Row("reading the questions, then SFT", "text", "self-supervised", "autoregressive",
        "11_self_supervised"),
    Row("SFT, then a discriminator", "solutions", "adversarial", "solutions", "13_adversarial"),
    Row("SFT, perturbed embeddings", "solutions", "adversarial", "sft-vat", "13_adversarial"),
    Row("offline self-training", "answers", "baselines", "offline-st", "08_self_training"),
    Row("online self-training", "answers", "baselines", "online-st", "08_self_training"),
    Row("ReFT (PPO)", "answers", "relatives", "ppo", "05_reft"),
    Row("GRPO", "answers", "relatives", "grpo", "16_ppo_relatives"),
    Row("RLOO", "answers", "relatives", "rloo", "16_ppo_relatives"),
    Row("REINFORCE", "answers", "relatives", "reinforce", "16_ppo_relatives"),
    Row("RFT (PPO, a grader)", "answers", "rft", "rft", "15_rft_graders"),
    Row("RLHF (PPO, a reward model)", "pairs", "rlhf", "ppo", "14_rlhf"),
    Row("DPO", "pairs", "rlhf", "dpo", "14_rlhf"),
)  # fmt: skip
BUDGET = 4.0
"""Processor minutes that a method may take with its warm-up and validations, on one thread."""
FIGURES = ("test", "hard")
"""Accuracies that every row has."""


def read(runs: Path = RUNS) -> Any:
    """Read the finished units behind the board.

    Returns
    -------
    pandas.DataFrame
        A row for each unit: ``label``, ``needs``, ``arm``, ``seed``, ``test``, ``hard`` (0 to 1),
        ``cpu_minutes``, ``trained_tokens``, ``sampled_tokens``, and what else its study tells.
    """
    import pandas as pd

    found = []
    for row in ROWS:
        units = study.summaries(runs / row.study)
        units = units[units["arm"] == row.arm]
        if len(units):
            found.append(units.assign(label=row.label, needs=row.needs))
    if not found:
        return pd.DataFrame(columns=["label", "needs", "arm", "seed", *FIGURES])
    return pd.concat(found, ignore_index=True)


def processors(runs: Path = RUNS) -> list[str]:
    """Return the processors on which the units behind the board ran."""
    cards = [
        runlog.read_card(path.parent)
        for row in ROWS
        for path in sorted((runs / row.study).glob(f"{row.arm}-seed*/{runlog.CARD}"))
    ]
    return sorted({card["device"]["cpu"] for card in cards if card.get("ended")})


def board(units: Any) -> Any:
    """Summarise units as the board.

    Parameters
    ----------
    units : DataFrame
        Of :func:`read`.

    Returns
    -------
    pandas.DataFrame
        A row for each of ``ROWS``, by its label: ``needs``, ``seeds``, and means over seeds:
        ``test`` and ``hard`` in percent with the half-widths of their 95% intervals (``test_pm``,
        ``hard_pm``), ``gain`` and ``gain_pm``, the paired difference from SFT on the test over the
        seeds that both have, ``minutes`` of one thread, and thousands of tokens:
        ``trained``, those of solutions, responses and texts, each time that the policy's loss was
        computed on them, the warm-up's included (a reward model's or a discriminator's are not),
        and ``sampled``, those of responses. What has not been run has 0 seeds and no figures.
    """
    import pandas as pd

    sft = units[units["label"] == "SFT"].set_index("seed")["test"]
    rows = {}
    for row in ROWS:
        mine = units[units["label"] == row.label]
        found: dict[str, Any] = {"needs": NEEDS[row.needs], "seeds": len(mine)}
        if len(mine):
            for name in FIGURES:
                interval = stats.mean_interval(100 * mine[name].to_numpy(dtype=float))
                found[name], found[f"{name}_pm"] = interval.mean, (interval.hi - interval.lo) / 2
            both = mine[mine["seed"].isin(sft.index)].set_index("seed")["test"]
            if row.label != "SFT" and len(both):
                theirs = sft.loc[both.index].to_numpy(dtype=float)
                gain = stats.paired_interval(100 * both.to_numpy(dtype=float), 100 * theirs)
                found["gain"], found["gain_pm"] = gain.mean, (gain.hi - gain.lo) / 2
            found["minutes"] = mine["cpu_minutes"].mean()
            found["trained"] = mine["trained_tokens"].mean() / 1000
            found["sampled"] = mine["sampled_tokens"].mean() / 1000
        rows[row.label] = found
    columns = ["needs", "seeds", "test", "test_pm", "hard", "hard_pm", "gain", "gain_pm"]
    columns += ["minutes", "trained", "sampled"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def as_words(table: Any) -> Any:
    """Return the board with its figures as text, ready to be shown; "not yet run" where none is."""
    import pandas as pd

    def figure(row: Any, name: str, spec: str = ".1f") -> str:
        if pd.isna(row[name]):
            return "" if row["seeds"] else "not yet run"
        pm = row.get(f"{name}_pm")
        return minus(f"{row[name]:{spec}}") + ("" if pm is None or pd.isna(pm) else f" ± {pm:.1f}")

    said = {
        label: {
            "learns from": row["needs"],
            "seeds": str(row["seeds"]),
            "test, %": figure(row, "test"),
            "less SFT": figure(row, "gain", "+.1f") if row["seeds"] else "",
            "harder test, %": figure(row, "hard"),
            "minutes": figure(row, "minutes") if row["seeds"] else "",
            "trained, k tokens": figure(row, "trained", ",.0f") if row["seeds"] else "",
            "sampled, k tokens": figure(row, "sampled", ",.0f") if row["seeds"] else "",
        }
        for label, row in table.iterrows()
    }
    return pd.DataFrame.from_dict(said, orient="index")


def over_budget(table: Any) -> list[str]:
    """Return the methods that took longer than ``BUDGET``: their rows compare unequal things."""
    return [str(label) for label, row in table.iterrows() if row["minutes"] > BUDGET]


@style()
def picture(table: Any) -> Figure:
    """Draw the board: accuracy on the test with its interval, and the minutes behind it.

    Parameters
    ----------
    table : DataFrame
        Of :func:`board`. Methods are drawn in the order of what they learn from; those that have
        not been run are left out.

    Raises
    ------
    UserError
        If no method has been run.
    """
    run = table[table["seeds"] > 0]
    if run.empty:
        raise UserError("picture: no method has been run; python -m reft_lib study lists studies")
    order = list(NEEDS.values())
    run = run.sort_values("needs", key=lambda needs: needs.map(order.index), kind="stable")
    fig, axes = panels(7.6, 1.4 + 0.34 * len(run), 2)
    said = []
    for y, (label, row) in enumerate(run.iterrows()):
        _point(axes[0][0], y, row, "test", "o", "reft")
        _point(axes[0][0], y, row, "hard", "s", "sft")
        axes[0][1].barh(y, row["minutes"], color=COLOURS["pale"], ec=COLOURS["ink"], lw=0.8)
        said.append(
            f"{label}: test {row['test']:.1f}, harder test {row['hard']:.1f} percent, "
            f"{row['minutes']:.1f} minutes."
        )
    _groups(axes[0][0], list(run["needs"]))
    for ax in axes[0]:
        ax.set_ylim(len(run) - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    axes[0][0].set_yticks(range(len(run)), run.index)
    axes[0][1].set_yticks(range(len(run)), [""] * len(run))
    axes[0][1].axvline(BUDGET, color=COLOURS["grey"], ls="--", lw=1.2)
    axes[0][0].set(title="Accuracy", xlabel="questions answered rightly, %")
    axes[0][1].set(title=f"Cost (budget {BUDGET:g})", xlabel="minutes on one core")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    return finish(fig, f"Every method on the same questions, 95% intervals. {' '.join(said)}")


def _point(ax: Axes, y: float, row: Any, name: str, marker: str, colour: str) -> None:
    """Draw one mean with its interval."""
    half = row[f"{name}_pm"]
    ax.errorbar(
        row[name],
        y,
        xerr=None if half != half else half,  # one seed has no interval
        fmt=marker,
        color=COLOURS[colour],
        mec=COLOURS["ink"],
        mew=0.6,
        ms=6,
        lw=1.6,
        label={"test": "test", "hard": "harder test"}[name],
    )


def _groups(ax: Axes, needs: list[str]) -> None:
    """Part what methods learn from by lines."""
    for y in range(1, len(needs)):
        if needs[y] != needs[y - 1]:
            ax.axhline(y - 0.5, color=COLOURS["grey"], lw=0.8)
