"""One preset, one seed, on whatever machine there is, in as many calls as it takes.

``python -m reft_lib reproduce --preset smollm2-svamp-pcot --minutes 9 --resume`` works for at most
nine minutes, saves its state and stops; the same call again goes on from there, on the same machine
or on another to which the folder was copied. Started by ``accelerate launch --num_processes N -m
reft_lib`` instead of ``python -m reft_lib``, N processes share the work (:mod:`reft_lib.parallel`);
the next call may have another N.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reft_lib import compare, models, parallel, resume, runlog, trackers, unit
from reft_lib.config import RunConfig, to_dict
from reft_lib.errors import UserError
from reft_lib.task import STATE


def reproduce(
    config: RunConfig,
    out: Path | None = None,
    device: str = "auto",
    minutes: float | None = None,
    go_on: bool = False,
    adapters: Path | None = None,
    tracker_names: Sequence[Any] = (),
) -> dict[str, Any] | None:
    """Run warm-up, SFT, ReFT and their tests, or the part of them that fits.

    Parameters
    ----------
    config : RunConfig
        Its format and seed name the run's folder.
    out : Path, optional
        Folder of the run logs, by default ``data/runs/<preset>``.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    minutes : float, optional
        Stop before this much time has passed, with the state saved.
    go_on : bool
        Whether an unfinished run in the folder may be taken up.
    adapters : Path, optional
        Where to save the best adapters in peft's format.
    tracker_names : sequence of str
        See :func:`reft_lib.trackers.start`.

    Returns
    -------
    dict or None
        The summary that the card keeps; None if the time was over first.

    Raises
    ------
    UserError
        If the folder holds an unfinished run and ``go_on`` is false, or a run of another
        configuration.
    """
    folder = (out or compare.RUNS / config.name) / f"{config.fmt}-seed{config.seed}"
    if parallel.from_first(lambda: compare.finished(config, folder)):
        print(f"{folder.name} is finished already")
        return parallel.from_first(lambda: runlog.read_card(folder)["summary"])
    if parallel.is_first() and resume.load(folder / STATE) is not None and not go_on:
        raise UserError(
            f"{folder}: holds an unfinished run; add --resume to go on with it, or remove it"
        )
    models.pick_device(device)  # refuses before anything is written
    clock = resume.Clock(minutes)
    watchers, finish = [], lambda: None
    if tracker_names and parallel.is_first():
        watch, finish = trackers.start(tracker_names, folder, to_dict(config))
        watchers.append(watch)
    try:
        summary = unit.run_unit(config, folder, adapters, clock, device, watchers)
    except resume.OutOfTime:
        if parallel.is_first():  # others would read what it may still be writing
            print(f"{folder.name}: {where(folder)}; the same call with --resume goes on")
        return None
    finally:
        finish()
    compare.report(folder.name, summary)
    return summary


def where(folder: Path) -> str:
    """Say in a few words how far an unfinished run is."""
    saved = resume.load(folder / STATE)
    if saved is None:
        return "stopped before its first step"
    progress = saved[1]["progress"]
    step = progress["loop"].get("step", 0)
    stage = f"in {progress['method']}, at step {step}"
    if progress["method"] in progress["summary"]:
        stage = f"between {progress['method']} and the next method"
    elif progress["trained"]:
        stage = f"in {progress['method']}, its tests are going on"
    return f"stopped {stage}, after {progress['seconds'] / 60:.1f} minutes"
