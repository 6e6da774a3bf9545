"""ReFT against SFT: same base model, same questions, same tests, several seeds, one table.

A *unit* is one seed in one format (:mod:`reft_lib.unit`). A finished unit is never computed again;
an unfinished one goes on from where its state was last saved.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import runlog
from reft_lib.config import Format, RunConfig
from reft_lib.errors import UserError
from reft_lib.results import table
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
    if jobs == 1:
        for c, folder in tqdm(todo, desc="units"):
            report(folder, run_unit(c, folder, adapters))
    else:
        threads = max(1, cores // jobs)
        os.environ["TQDM_DISABLE"] = "1"  # for the workers: their bars would overwrite each other
        with ProcessPoolExecutor(
            jobs, get_context("spawn"), initializer=_start_worker, initargs=(threads,)
        ) as pool:
            futures = {pool.submit(run_unit, c, f, adapters): f for c, f in todo}
            for future in tqdm(as_completed(futures), total=len(todo), desc="units"):
                if error := future.exception():
                    tqdm.write(f"{futures[future].name}: {error}; waiting for units under way")
                    pool.shutdown(wait=False, cancel_futures=True)
                report(futures[future], future.result())
    return table(out)


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    parent = os.getppid()

    def leave_with_parent() -> None:
        while os.getppid() == parent:  # a killed parent cannot tell its workers to stop
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


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


def report(folder: Path, summary: dict[str, Any]) -> None:
    """Print one line about a finished unit."""
    parts = [
        f"{method} top-1 {100 * summary[method]['test_top1']:.1f}% "
        f"({summary[method]['minutes']:.1f} min)"
        for method in summary
    ]
    tqdm.write(f"{folder.name}: " + ", ".join(parts))
