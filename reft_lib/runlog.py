"""The record of a run: ``card.json`` says what ran, ``metrics.jsonl`` what came of it.

A metric line is appended and flushed at once, so that a run that dies leaves all it had measured.
The card is replaced as a whole, so that it is never half written, and it holds no machine's paths:
a record is made to be committed and read elsewhere. torch and pandas are imported when needed.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib import metadata
from itertools import takewhile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from reft_lib.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

CARD, METRICS = "card.json", "metrics.jsonl"
PACKAGES = ("torch", "transformers", "peft", "numpy")
# An absolute path inside a text, at its start or after a space, quote, "=" and the like; never the
# "//host/page" of an address. The group is the path's last part, which is all that is kept.
ABSOLUTE_PATH = re.compile(r"(?<![\w./~}])(?:file://)?/(?:[^\s/'\",:]+/)+([^\s/'\",:]*)")


class RunLog(AbstractContextManager["RunLog"]):
    """Writer of one run's folder.

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

    Raises
    ------
    UserError
        If the folder cannot be written, or holds a run and ``overwrite`` is false.
    """

    def __init__(
        self, folder: str | Path, card: Mapping[str, Any], overwrite: bool = False
    ) -> None:
        self.folder = Path(folder)
        self._start = time.monotonic()
        self.card = jsonable({"name": self.folder.resolve().name, **environment(), **card})
        try:
            if not overwrite and any((self.folder / name).exists() for name in (CARD, METRICS)):
                raise UserError(f"{folder}: holds a run already; choose another folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.folder / METRICS, "w", encoding="utf-8")
            self._write_card()
        except OSError as error:
            reason = f"{folder}: cannot write a run here ({error.strerror})"
            raise UserError(f"{reason}; choose a folder that can be written") from error

    def log(self, *, step: int, split: str, **metrics: Any) -> None:
        """Append one line: step, split, seconds since the start, and the metrics.

        Scalars of torch and NumPy become numbers. NaN and infinity become null, because JSON has
        neither, and a browser would refuse the line.
        """
        seconds = round(time.monotonic() - self._start, 3)
        line = jsonable({"step": step, "split": split, "seconds": seconds, **metrics}, text=str)
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def finish(self, **summary: Any) -> None:
        """Close the record: end, duration and ``summary`` go into the card.

        A card whose ``ended`` is null belongs to a run that is still going, or has died.
        """
        self.card |= {
            "ended": _now(),
            "seconds": round(time.monotonic() - self._start, 3),
            "summary": jsonable(summary),
        }
        self._write_card()
        self.close()

    def close(self) -> None:
        """Close the file without declaring the run finished."""
        self._file.close()

    def __exit__(self, *_: object) -> None:
        """Leave a ``with`` block: an error leaves the run unfinished, but all it logged is kept."""
        self.close()

    def _write_card(self) -> None:
        partial = self.folder / f".{CARD}.partial"
        text = json.dumps(self.card, indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self.folder / CARD)


def environment() -> dict[str, Any]:
    """Describe what, besides the configuration, a result may depend on."""
    return {
        "started": _now(),
        "ended": None,
        "command": shlex.join(map(portable, sys.argv)),
        "git": git_state(Path(__file__).parent),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "device": device(),
    }


def device() -> dict[str, Any]:
    """Name the processor, its threads, and the GPU if there is one."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Revision of the repository that tracks ``folder``, and whether ``folder`` differs from it.

    Both are None without git, a commit, or a tracked file (an installed copy, for example). Only
    ``folder`` counts for ``dirty``, so the records that a run writes do not mark the next one.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if git("ls-files", "--", "."):
            revision = git("rev-parse", "HEAD")
            return {"revision": revision, "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        pass
    return {"revision": None, "dirty": None}


def portable(text: str) -> str:
    """Cut every absolute path in ``text`` down to its last part; relative ones stay."""
    if os.path.isabs(text) and "\n" not in text:
        return PurePath(text).name
    return ABSOLUTE_PATH.sub(r"\1", text)


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
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), Path(where).parts))
    roots = glob.glob(where, recursive=True) if glob.has_magic(where) else [where]
    files = (f for root in roots for name in (CARD, METRICS) for f in Path(root).rglob(name))
    folders = {file.parent for file in files}
    if not folders:
        raise UserError(f"{where}: no run here; wanted folders that hold {CARD} and {METRICS}")
    named = ((f.relative_to(fixed).as_posix(), f) for f in folders)
    return sorted((f.resolve().name if name == "." else name, f) for name, f in named)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown"
