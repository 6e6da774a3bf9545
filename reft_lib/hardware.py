"""What the recorded runs took, on which device: read from their cards, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reft_lib import runlog
from reft_lib.errors import UserError
from reft_lib.style import LABELS

NOT_RUN = "not yet run"
KINDS = ("compare", "study")
"""What counts as a run: it trains and is tested. Other records are there to be looked at."""
ANY_GPU = "one GPU"
"""The column of a GPU, as long as no run was recorded on one."""


def device_name(device: Any) -> str:
    """Name a card's device: the GPU if one was there, else the processor and its threads."""
    if not isinstance(device, dict):
        return "unknown"
    if device.get("gpu"):
        return str(device["gpu"])
    threads = device.get("threads")
    return f"{device.get('cpu') or 'unknown'}, {threads} {'thread' if threads == 1 else 'threads'}"


def durations(runs: Path) -> tuple[Any, list[str]]:
    """Read how long each finished run took.

    Parameters
    ----------
    runs : path
        Holds a folder for each experiment, and that a folder for each run.

    Returns
    -------
    DataFrame
        A row for each finished run: ``experiment``, ``run``, ``model``, ``trained`` (the methods,
        or a study's arm), ``device``, ``gpu`` (bool), ``minutes`` (wall clock, with the validations
        and tests, without pauses).
    list of str
        What could not be read, a line for each card.
    """
    import pandas as pd

    rows, faults = [], []
    for path in sorted(runs.glob(f"*/*/{runlog.CARD}")):
        try:
            card = runlog.read_card(path.parent)
        except UserError as error:
            faults.append(str(error))
            continue
        seconds = card.get("seconds")
        if not card.get("ended") or card.get("method") not in KINDS:
            continue
        if not isinstance(seconds, int | float):
            faults.append(f"{path}: a finished run without its seconds")
            continue
        device = card.get("device")
        config = card["config"] if isinstance(card.get("config"), dict) else {}
        rows.append(
            {
                "experiment": path.parent.parent.name,
                "run": path.parent.name,
                "model": Path(str(config.get("model", "nano"))).name,
                "trained": _methods(card),
                "device": device_name(device),
                "gpu": bool(isinstance(device, dict) and device.get("gpu")),
                "minutes": seconds / 60,
            }
        )
    columns = ["experiment", "run", "model", "trained", "device", "gpu", "minutes"]
    return pd.DataFrame(rows, columns=columns), faults


def table(runs: Path) -> tuple[Any, list[str]]:
    """Summarise :func:`durations`: a row for each experiment, a column for each device.

    Returns
    -------
    DataFrame
        ``experiment``, ``model``, ``trained`` (in one run; of a study, how many arms it has), and
        for each device the minutes of a run: the mean, with the least and the most in brackets,
        and the number of runs. What was not run on a device
        says so. While no run was recorded on a GPU there is a column :data:`ANY_GPU` for it.
    list of str
        As of :func:`durations`.

    Raises
    ------
    UserError
        If no finished run is there.
    """
    import pandas as pd

    found, faults = durations(runs)
    if found.empty:
        raise UserError(f"{runs}: no finished runs; make one with python -m reft_lib compare")
    devices = list(found.sort_values("gpu", kind="stable")["device"].unique())
    rows = []
    for (experiment, model), here in found.groupby(["experiment", "model"], sort=True):
        row = {"experiment": experiment, "model": model, "trained": _trained(here["trained"])}
        for device in devices:
            row[device] = _minutes(here[here["device"] == device]["minutes"].tolist())
        rows.append(row)
    frame = pd.DataFrame(rows)
    if not found["gpu"].any():
        frame[ANY_GPU] = NOT_RUN
    return frame, faults


def _methods(card: dict[str, Any]) -> tuple[str, ...]:
    """Return a study's arm, or the methods of a comparison, which its summary has a part for."""
    if card.get("arm"):
        return (str(card["arm"]),)
    summary = card["summary"] if isinstance(card.get("summary"), dict) else {}
    return tuple(name for name in summary if name in LABELS) or (str(card.get("method")),)


def _trained(found: Any) -> str:
    ways = list(dict.fromkeys(found))
    if len(ways) > 1:
        return f"one of {len(ways)} arms"
    return ", ".join(LABELS.get(name, str(name)) for name in ways[0])


def _minutes(found: list[float]) -> str:
    if not found:
        return NOT_RUN
    mean = f"{sum(found) / len(found):.1f}"
    if len(found) == 1:
        return f"{mean}, 1 run"
    return f"{mean} ({min(found):.1f} to {max(found):.1f}), {len(found)} runs"
