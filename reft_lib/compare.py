"""ReFT against SFT: same base model, same questions, same tests, several seeds, one table.

A *unit* is one seed in one format (:mod:`reft_lib.unit`). A finished unit is never computed again;
an unfinished one goes on from where its state was last saved.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reft_lib import runlog
from reft_lib.config import Format, RunConfig
from reft_lib.errors import UserError
from reft_lib.results import table
from reft_lib.side_by_side import run_all
from reft_lib.unit import run_unit

RUNS = Path(__file__).resolve().parents[1] / "data" / "runs"
"""Where recorded runs lie in the repository."""


def compare(
    config: RunConfig,
    seeds: Sequence[int] = range(5),
    formats: Sequence[Format] = ("ncot", "pcot"),
    out: Path | None = None,
    jobs: int = 0,
    adapters: Path | None = None,
) -> Any:
    """Run every unit that is not finished yet, and return the table of all.

    Parameters
    ----------
    config : RunConfig
        The preset; its seed and format are replaced.
    seeds, formats : sequences
        The units to run.
    out : Path, optional
        Folder of the run logs, by default ``data/runs/<preset>``.
    jobs : int
        Units side by side, each on its share of the cores; 0 chooses one for each core for the
        nano model, whose matrices are too small to share, and one alone for any other.
    adapters : Path, optional
        Where to save the trained adapters.

    Returns
    -------
    pandas.DataFrame
        See :func:`reft_lib.results.table`.
    """
    out = out or RUNS / config.name
    units = [
        (replace(config, seed=seed, fmt=fmt), out / f"{fmt}-seed{seed}")
        for seed in seeds
        for fmt in formats
    ]
    todo = [(c, folder) for c, folder in units if not finished(c, folder)]
    cores = os.cpu_count() or 1
    jobs = max(1, min(len(todo), jobs or (cores if config.model == "nano" else 1)))
    print(f"{len(units) - len(todo)} of {len(units)} units are finished; {jobs} at a time")
    if not todo:
        return table(out)
    calls = {folder.name: (c, folder, adapters) for c, folder in todo}
    for name, summary in run_all(run_unit, calls, jobs, threads=max(1, cores // jobs)):
        report(name, summary)
    return table(out)


def finished(config: RunConfig, folder: Path) -> bool:
    """Tell whether a folder holds a finished run of this very configuration.

    Raises
    ------
    UserError
        If it holds a finished run of another configuration, which must not be overwritten.
    """
    if not (folder / runlog.CARD).exists():
        return False
    card = runlog.read_card(folder)
    if not card.get("ended"):
        return False
    if not runlog.same_config(card["config"], config):
        raise UserError(
            f"{folder}: holds a finished run of another configuration; choose another --out"
        )
    return True


def report(name: str, summary: dict[str, Any]) -> None:
    """Print one line about a finished unit."""
    parts = [
        f"{method} top-1 {100 * summary[method]['test_top1']:.1f}% "
        f"({summary[method]['minutes']:.1f} min)"
        for method in summary
    ]
    tqdm.write(f"{name}: " + ", ".join(parts))
