"""The record of a run: ``card.json`` says what ran, ``metrics.jsonl`` what came of it.

A metric line is appended and flushed at once, so that a run that dies leaves all it had measured.
The card is replaced as a whole, so that it is never half written, and it holds no machine's paths:
a record is made to be committed and read elsewhere. torch and pandas are imported when needed.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reft_lib import parallel
from reft_lib.errors import UserError
from reft_lib.machine import environment, now, portable

if TYPE_CHECKING:
    import pandas as pd

CARD, METRICS = "card.json", "metrics.jsonl"


class RunLog(AbstractContextManager["RunLog"]):
    """Writer of one run's folder; ``watchers`` are told every line and its number.

    Of several processes (see :mod:`reft_lib.parallel`) the first alone writes.

    Parameters
    ----------
    folder : path
        Made if absent; its name is the run's name.
    card : mapping
        What defines the run: ``method``, ``fmt``, ``seed``, ``config`` and so on. Dataclasses
        become dicts, absolute paths their last part. Where it does not set them itself, it gets
        ``name``, ``started`` (UTC), ``command``, ``git``, ``versions`` and ``device`` here, and
        ``ended``, ``seconds`` and ``summary`` from :meth:`finish`.
    overwrite : bool
        Replace a run that the folder already holds.
    resume : (int, float), optional
        Go on with the run that the folder holds: how many of its lines to keep, and the seconds
        that it took to write them. The card keeps its ``started``, counts in ``resumed``, and
        lists in ``earlier`` what was different before (command, git, versions, device).

    Raises
    ------
    UserError
        If the folder cannot be written, another process is writing it, or it holds a run and
        ``overwrite`` is false.
    """

    def __init__(
        self,
        folder: str | Path,
        card: Mapping[str, Any],
        overwrite: bool = False,
        resume: tuple[int, float] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.lines, before = resume or (0, 0.0)
        self.watchers: list[Callable[[int, dict[str, Any]], None]] = []
        self._start = time.monotonic() - before
        self.card = jsonable({"name": self.folder.resolve().name, **environment(), **card})
        if not parallel.is_first():
            self._file = open(os.devnull, "w", encoding="utf-8")
            return
        try:
            if resume is None and not overwrite:
                if any((self.folder / name).exists() for name in (CARD, METRICS)):
                    raise UserError(f"{folder}: holds a run already; choose another folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.folder / METRICS, "a", encoding="utf-8")
            _lock(self._file, self.folder)
            if resume is None:
                self._file.truncate(0)
            else:
                self.card |= _continued(read_card(folder), self.card)
                _cut_after(self.folder / METRICS, self.lines)
            self._write_card()
        except OSError as error:
            reason = f"{folder}: cannot write a run here ({error.strerror})"
            raise UserError(f"{reason}; choose a folder that can be written") from error

    def log(self, *, step: int, split: str, **metrics: Any) -> None:
        """Append one line: step, split, seconds since the start, and the metrics.

        Scalars of torch and NumPy become numbers. NaN and infinity become null, because JSON has
        neither, and a browser would refuse the line.
        """
        seconds = round(self.seconds, 3)
        line = jsonable({"step": step, "split": split, "seconds": seconds, **metrics}, text=str)
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self.lines += 1
        for watch in self.watchers:
            watch(self.lines, line)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken so far, without the pauses between its parts."""
        return time.monotonic() - self._start

    def finish(self, **summary: Any) -> None:
        """Close the record: end, duration and ``summary`` go into the card.

        A card whose ``ended`` is null belongs to a run that is still going, or has died.
        """
        self.card |= {"ended": now(), "seconds": round(self.seconds, 3)}
        self.card["summary"] = jsonable(summary)
        self._write_card()
        self.close()

    def close(self) -> None:
        """Close the file without declaring the run finished."""
        self._file.close()

    def __exit__(self, *_: object) -> None:
        """Leave a ``with`` block: an error leaves the run unfinished, but all it logged is kept."""
        self.close()

    @parallel.first_only
    def _write_card(self) -> None:
        partial = self.folder / f".{CARD}.partial"
        text = json.dumps(self.card, indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self.folder / CARD)


def jsonable(x: Any, text: Callable[[str], str] = portable) -> Any:
    """Turn ``x`` into what strict JSON can hold; ``text`` is applied to its strings."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        x = dataclasses.asdict(x)
    if isinstance(x, Mapping):
        return {str(key): jsonable(value, text) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [jsonable(value, text) for value in x]
    if x is None or isinstance(x, bool | int):
        return x
    if isinstance(x, float):
        return float(x) if math.isfinite(x) else None
    if hasattr(x, "tolist"):  # torch and NumPy arrays and scalars, without importing either
        return jsonable(x.tolist(), text)
    return text(str(x))


def same_config(stored: dict[str, Any], config: Any) -> bool:
    """Tell whether a stored configuration is this one, a dataclass with defaults.

    A field that did not exist when it was stored counts as having its default: that is what ran.
    """

    def filled(defaults: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
        nested = {k: x for k, x in defaults.items() if isinstance(x, dict)}
        inner = {k: filled(x, stored.get(k, {})) for k, x in nested.items()}
        return {**defaults, **stored, **inner}

    return filled(jsonable(type(config)()), stored) == jsonable(config)


def read_card(folder: str | Path) -> dict[str, Any]:
    """Read the card of one run.

    Raises
    ------
    UserError
        If there is no card, or it is damaged.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: no card; a run's folder holds {CARD} and {METRICS}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore it or run again") from error
    if not isinstance(card, dict):
        raise UserError(f"{path}: wanted a JSON object, found {type(card).__name__}")
    return card


def read_metrics(folder: str | Path) -> pd.DataFrame:
    """Read one run's metrics, a row for each line.

    A damaged line is named in a warning, by file and number, and left out.

    Raises
    ------
    UserError
        If the card or the metrics are missing.
    """
    import pandas as pd

    read_card(folder)
    path = Path(folder) / METRICS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{path}: no metrics; a run's folder holds {CARD} and {METRICS}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            warnings.warn(f"{path}:{number}: not a JSON object; line left out", stacklevel=2)
    return pd.DataFrame(rows)


def read_runs(where: str | Path, keys: Sequence[str] = ("method", "fmt", "seed")) -> pd.DataFrame:
    """Read the metrics of many runs into one table.

    Parameters
    ----------
    where : path or glob pattern
        A run's folder, a folder of runs at any depth, or a pattern such as ``runs/*-seed0``.
    keys : sequence of str
        Entries of the cards to copy into columns, where a card has them and no metric has that
        name.

    Returns
    -------
    DataFrame
        Column ``run`` (the folder's path below the fixed part of ``where``), the ``keys``, then
        the metrics; runs in order of name.

    Raises
    ------
    UserError
        If there is no run, or one of them has no card.
    """
    import pandas as pd

    tables = []
    for name, folder in _run_folders(str(where)):
        table, card = read_metrics(folder), read_card(folder)
        table = table.drop(columns="run", errors="ignore")
        entries = {key: card[key] for key in keys if key in card and key not in table}
        front = {key: [value] * len(table) for key, value in {"run": name, **entries}.items()}
        tables.append(table.assign(**front)[[*front, *table.columns]])
    return pd.concat(tables, ignore_index=True)


def _run_folders(where: str) -> list[tuple[str, Path]]:
    """Find the run folders at, below or matching ``where``: (name, folder), sorted by name."""
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(where).parts))
    roots = glob.glob(where, recursive=True) if glob.has_magic(where) else [where]
    files = (f for root in roots for name in (CARD, METRICS) for f in Path(root).rglob(name))
    folders = {file.parent for file in files}
    if not folders:
        raise UserError(f"{where}: no run here; wanted folders that hold {CARD} and {METRICS}")
    named = ((f.relative_to(fixed).as_posix(), f) for f in folders)
    return sorted((f.resolve().name if name == "." else name, f) for name, f in named)


def _continued(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return what the card of a run that goes on has from the card that it replaces."""
    was = {k: old[k] for k in ("command", "git", "versions", "device") if old.get(k) != new.get(k)}
    earlier = old.get("earlier", [])
    if was and was not in earlier:
        earlier = [*earlier, was]
    kept = {"started": old["started"], "resumed": 1 + old.get("resumed", 0)}
    return kept | ({"earlier": earlier} if earlier else {})


def _lock(file: Any, folder: Path) -> None:
    """Keep other processes from writing the same run; the system lets go when this one ends."""
    try:
        import fcntl
    except ImportError:  # Windows has none; there the user must take care
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"{folder}: another process is writing this run; wait for it, or choose another folder"
        ) from None


def _cut_after(path: Path, lines: int) -> None:
    """Drop what was logged after the state that a run goes on from: it will be logged again."""
    with open(path, "rb+") as file:
        for _ in range(lines):
            if not file.readline().endswith(b"\n"):
                raise UserError(f"{path}: has fewer than {lines} lines, which the state counts on")
        file.truncate()
