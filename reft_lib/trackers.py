"""Send a run's metrics to TensorBoard, Weights & Biases or trackio as well, through accelerate.

The run log stays the record; a tracker is a window on a run that is going on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reft_lib.errors import UserError

Watcher = Callable[[int, dict[str, Any]], None]
"""Is told the number of a line of the run log, and the line."""


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line under names such as ``reft/train/reward``."""
    place = "/".join(str(line[key]) for key in ("method", "split", "decoding") if key in line)
    return {
        f"{place}/{name}": float(x)
        for name, x in line.items()
        if isinstance(x, (int, float)) and not isinstance(x, bool)
    }


def start(
    names: Sequence[Any], folder: Path, config: dict[str, Any]
) -> tuple[Watcher, Callable[[], None]]:
    """Start trackers.

    Parameters
    ----------
    names : sequence
        Names that accelerate knows (``tensorboard``, ``wandb``, ``trackio``, ...), or trackers.
    folder : Path
        Where trackers that write files put them.
    config : dict
        The run's configuration, shown beside its metrics.

    Returns
    -------
    watch, finish : callables
        What a run log calls with each line, and what ends the trackers.

    Raises
    ------
    UserError
        If a tracker is unknown, its package is not installed, or it does not start.
    """
    from accelerate import Accelerator
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known, here = sorted(LOGGER_TYPE_TO_CLASS), {t.value for t in get_available_trackers()}
    for name in names:
        if isinstance(name, str) and name not in known:
            raise UserError(f"unknown tracker {name!r}; there are: {', '.join(known)}")
        if isinstance(name, str) and name not in here:
            raise UserError(f"the tracker {name!r} needs its package: pip install {name}")
    flat = {key: x for key, x in config.items() if isinstance(x, (int, float, str, bool))}
    try:
        accelerator = Accelerator(log_with=list(names), project_dir=str(folder))
        accelerator.init_trackers("reft_lib", config=flat)
    except Exception as error:  # not logged in, no network, a folder that cannot be written, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the trackers {', '.join(map(str, names))} do not start ({reason}); set them up, or "
            "leave --trackers out"
        ) from error

    def watch(number: int, line: dict[str, Any]) -> None:
        accelerator.log(scalars(line), step=number)

    def finish() -> None:
        for tracker in accelerator.trackers:  # end_training would take the processes apart, too
            tracker.finish()

    return watch, finish
