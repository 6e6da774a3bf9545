"""Recorded experiments in small: some arms, several seeds, the same model, questions and tests.

Where :mod:`reft_lib.compare` holds ReFT against its baselines in full, a *study* asks one question
of another method: what does it do to the nano model, and which of its numbers matter? An *arm* is
one way of doing it, a dictionary of settings; a unit is one arm with one seed, and writes a run log
of its own. Units take minutes: a finished one is never computed again, one that was cut off begins
anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reft_lib import data, runlog
from reft_lib.bench import Bench, one_thread
from reft_lib.compare import RUNS
from reft_lib.config import Format
from reft_lib.errors import UserError
from reft_lib.side_by_side import run_all

__all__ = ["Bench", "Study", "run_arm", "run_study", "summaries"]


@dataclass(frozen=True)
class Study:
    """One question, asked of the nano model in several ways."""

    name: str
    """Also the folder of its run logs below ``data/runs``."""
    about: str
    """The question, in a line."""
    arms: Mapping[str, Mapping[str, Any]]
    """What tells an arm from the others, as plain values, by the arm's name."""
    run: Callable[[Bench, Mapping[str, Any]], dict[str, Any]]
    """Does one arm with one seed; returns the figures that the card keeps."""
    fmt: Format = "pcot"


def run_study(
    study: Study,
    seeds: Sequence[int] = range(5),
    arms: Sequence[str] = (),
    out: Path | None = None,
    jobs: int = 1,
) -> None:
    """Run every unit of a study that is not finished yet.

    Parameters
    ----------
    study : Study
    seeds : sequence of int
    arms : sequence of str
        Some of its arms; all unless given.
    out : path, optional
        Folder of the run logs, by default ``data/runs/<name>``.
    jobs : int
        Units side by side, each on one thread; 0: one for each core.

    Raises
    ------
    UserError
        If there is no such arm, or a folder holds a finished unit of other settings.
    """
    for arm in arms:
        if arm not in study.arms:
            raise UserError(f"{study.name} has no arm {arm!r}; there are: {', '.join(study.arms)}")
    out = out or RUNS / study.name
    units = [(arm, seed) for seed in seeds for arm in arms or study.arms]
    todo = [unit for unit in units if not _finished(study, *unit, out)]
    jobs = max(1, min(len(todo), jobs or os.cpu_count() or 1))
    print(f"{len(units) - len(todo)} of {len(units)} units are finished; {jobs} at a time")
    calls = {f"{arm}-seed{seed}": (study, arm, seed, out) for arm, seed in todo}
    for name, said in run_all(run_arm, calls, jobs, threads=1):
        tqdm.write(f"{name}: {said}")


def run_arm(study: Study, arm: str, seed: int, out: Path) -> str:
    """Run one unit; returns its figures in a line."""
    settings = dict(study.arms[arm])
    card = {
        "method": "study",
        "study": study.name,
        "arm": arm,
        "fmt": study.fmt,
        "seed": seed,
        "config": settings,
    }
    folder = out / f"{arm}-seed{seed}"
    with one_thread(), runlog.RunLog(folder, card, overwrite=True) as log:
        bench = Bench(seed, study.fmt, log)
        log.card["data"] = {name: data.fingerprint(rows) for name, rows in bench.splits.items()}
        summary = study.run(bench, settings)
        minutes = bench.minutes if bench.trained_minutes is None else bench.trained_minutes
        log.finish(cpu_minutes=round(minutes, 3), **summary)
    shown = ", ".join(f"{k} {x:.3g}" for k, x in summary.items() if isinstance(x, int | float))
    return f"{shown} ({minutes:.1f} min)"


def _finished(study: Study, arm: str, seed: int, out: Path) -> bool:
    folder = out / f"{arm}-seed{seed}"
    if not (folder / runlog.CARD).exists():
        return False
    card = runlog.read_card(folder)
    if not card.get("ended"):
        return False
    if card.get("config") != runlog.jsonable(study.arms[arm]):
        raise UserError(f"{folder}: holds a finished unit of other settings; choose another --out")
    return True


def summaries(name: str | Path) -> Any:
    """Read the finished units of a study.

    Parameters
    ----------
    name : str or path
        A study's name, or the folder of its run logs.

    Returns
    -------
    pandas.DataFrame
        A row for each unit, by seed and name: ``arm``, ``seed``, ``cpu_minutes`` (of training with
        validations, on one thread), then settings and figures. Without any finished unit it has no
        row, and the columns ``arm`` and ``seed``.
    """
    import pandas as pd

    folder = name if isinstance(name, Path) else RUNS / name
    rows = []
    for path in sorted(folder.glob(f"*/{runlog.CARD}")):
        card = runlog.read_card(path.parent)
        if card.get("ended") and card.get("method") == "study":
            rows.append(
                {"arm": card["arm"], "seed": card["seed"], **card["config"], **card["summary"]}
            )
    return pd.DataFrame(rows, columns=None if rows else ["arm", "seed"])
