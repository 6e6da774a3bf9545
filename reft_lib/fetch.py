"""Where the files of public data sets come from: a folder, the cache, the hub.

Each file is looked for, in this order, in

1. the folder given, or else the one that ``REFT_DATA_DIR`` names;
2. the cache: ``datasets`` below ``$REFT_CACHE_DIR`` or ``~/.cache/reft_lib``;
3. the hub (GSM8K, MathQA), through the package ``datasets``, or the repository of the ReFT
   authors (SVAMP, MathQA's tests). What is fetched is kept in the cache, written as the original
   file is, so that the same rows give the same hash wherever they came from.

``FILES`` holds the rows and the SHA-256 of each file this library was tested with. A file that
differs is read all the same, since there may be a better one by now, but one line warns of it
(:func:`difference`): numbers measured on it are not comparable with recorded ones.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reft_lib.errors import UserError

PROBE_SECONDS = 5.0
"""How long to wait for a server's first answer before doing without it."""
READ_SECONDS = 60.0
"""How long a download may stand still."""
AUTHORS = (
    "https://raw.githubusercontent.com/lqtrung1998/mwp_ReFT/"
    "a7fe19ac5a79745cf7b136da89c627d4a8ef8032/data/"
)
"""The data of Luong et al. (2024), Apache-2.0, at one revision."""


@dataclass(frozen=True)
class File:
    """A known file: what it held when this library was tested, and where to get it."""

    rows: int
    sha256: str | None
    """None: known by its number of rows only."""
    hub: tuple[str, str | None, str] | None = None
    """Data set, configuration and split on the hub; None: a file of the authors."""


FILES: dict[str, File] = {
    "gsm8k_train.jsonl": File(
        7473,
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        ("openai/gsm8k", "main", "train"),
    ),
    "gsm8k_test.jsonl": File(
        1319,
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        ("openai/gsm8k", "main", "test"),
    ),
    "mathqa_train.json": File(29837, None, ("allenai/math_qa", None, "train")),
    "mathqa_dev.json": File(
        4475,
        "aeca12424fc8f32d0e35c09b7738986a446c12f110c8071f3cc8913712f04bf3",
        ("allenai/math_qa", None, "validation"),
    ),
    "mathqa_test_set.json": File(
        1605, "0bcd2eaceeb419e6d9ce55aa20f064e92f3ce9fcf7725bfc5a0bf320769cd8bc"
    ),
    "mathqa-numeric_test_set.json": File(
        1605, "7106aa5810115db4d2767a87753fa549fb870e69a517136b5f690c434072f421"
    ),
    "svamp_nl.json": File(3076, "12e9ee172f08987112244dc95a03877353874b24ff3b8481eab675123b8fdd9d"),
    "svamp_python_sdp.json": File(
        3043, "09936759f652750064b1cb0dc81bce893f0b3e4a21e81d63d5cf738e0a379c3c"
    ),
    "svamp_test_set.json": File(
        1000, "baba23c85982adad6b7f6a9d6c6cf3b82c4135364a5ac36b8447add90f783d85"
    ),
}
"""GSM8K: MIT (Cobbe et al. 2021). MathQA: Apache-2.0 (Amini et al. 2019). SVAMP: MIT (Patel et
al. 2021), its annotations and the MathQA tests Apache-2.0 (Luong et al. 2024)."""


def difference(name: str, rows: int, sha256: str) -> str | None:
    """Say in one line how a file differs from the known one of its name, None if it does not."""
    known = FILES.get(name)
    if known is None or (rows == known.rows and sha256 == (known.sha256 or sha256)):
        return None
    found = f"{known.rows:,} rows are expected, not {rows:,}"
    if rows == known.rows:
        found = f"as many rows, but its SHA-256 begins {sha256[:12]}, not {known.sha256[:12]}"  # type: ignore[index]
    return f"{name} is not the file this library was tested with: {found}"


def cache_folder() -> Path:
    """Return the folder in which fetched data sets are kept."""
    return cache_root() / "datasets"


def cache_root() -> Path:
    """Return the folder of all that the library keeps: REFT_CACHE_DIR or ``~/.cache/reft_lib``."""
    root = os.environ.get("REFT_CACHE_DIR")
    return Path(root) if root else Path.home() / ".cache" / "reft_lib"


def _places(folder: Path | None) -> Iterator[tuple[Path, str]]:
    """Yield the folders to look in, and what the report calls them."""
    named = folder or os.environ.get("REFT_DATA_DIR")
    if named:
        if not Path(named).is_dir():
            what = "the folder of data sets" if folder else "REFT_DATA_DIR"
            raise UserError(f"{what} is {str(named)!r}; it must be a folder that exists")
        yield Path(named), "folder"
    yield cache_folder(), "cache"


def locate(names: Sequence[str], folder: Path | None = None) -> tuple[Path, str]:
    """Return where the best of some files lies, fetching the first if none is at hand.

    Parameters
    ----------
    names : sequence of str
        Files that would do, the best first. The first place that has one of them decides.
    folder : Path, optional
        Looked in first; what ``REFT_DATA_DIR`` names if not given.

    Returns
    -------
    (Path, str)
        The file, and where it was found: ``folder``, ``cache`` or ``hub``.

    Raises
    ------
    UserError
        If the folder does not exist, or the file is nowhere to be had.
    """
    for place, kind in _places(folder):
        for name in names:
            if (place / name).is_file():
                return place / name, kind
    return fetch(names[0]), "hub"


def reachable(url: str, seconds: float | None = None) -> bool:
    """Return whether a server answers anything at all in time; ``PROBE_SECONDS`` if None."""
    seconds = PROBE_SECONDS if seconds is None else seconds
    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)  # an answer, if not the one that a browser would get
        except (OSError, ValueError):
            answered.append(False)

    # In a thread, because looking a host name up has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered and answered[0])


def fetch(name: str) -> Path:
    """Fetch a known file into the cache and return its path there.

    Raises
    ------
    UserError
        If the file is not known, cannot be fetched, or cannot be kept.
    """
    if name not in FILES:
        raise UserError(f"{name} is not a known file; there are: {', '.join(FILES)}")
    hub = FILES[name].hub
    content = _from_authors(name) if hub is None else _from_hub(name, *hub)
    return _keep(name, content)


def _nowhere(name: str, why: str) -> UserError:
    """Return the one error of a file that cannot be had, with what to do about it."""
    looked = "no folder that is given or that REFT_DATA_DIR names has it, nor has the cache"
    return UserError(
        f"{name} is not at hand ({looked}; {why}); set REFT_DATA_DIR to a folder that holds it"
    )


def _from_authors(name: str) -> bytes:
    """Download a file of the ReFT authors, unchanged."""
    url = AUTHORS + name
    if not reachable(url):
        raise _nowhere(name, "raw.githubusercontent.com cannot be reached")
    try:
        with urllib.request.urlopen(url, timeout=READ_SECONDS) as reply:
            return reply.read()
    except (OSError, ValueError) as error:
        raise _nowhere(name, f"{url} cannot be read: {error}") from error


def _from_hub(name: str, path: str, config: str | None, split: str) -> bytes:
    """Load a split from the hub and return it as the original file has it."""
    from huggingface_hub import constants

    # Offline on purpose: the package still finds what it has in a cache of its own. Otherwise ask
    # once, for it tries six times with growing pauses.
    if not constants.HF_HUB_OFFLINE and not reachable(constants.ENDPOINT):
        raise _nowhere(name, "the hub cannot be reached")
    try:
        import datasets
    except ImportError as error:
        raise _nowhere(name, "the hub is read by the package datasets: pip install datasets") from (
            error
        )
    try:
        rows = [dict(row) for row in datasets.load_dataset(path, config, split=split)]
    except Exception as error:  # it raises many kinds, some of its own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise _nowhere(name, f"{path} cannot be loaded from the hub: {first}") from error
    return _as_written(name, rows).encode("utf-8")


def _as_written(name: str, rows: list[dict[str, Any]]) -> str:
    """Return rows as the original file of that name writes them, byte for byte."""
    if name.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows)
    return json.dumps(rows, indent=4)


def _keep(name: str, content: bytes) -> Path:
    """Put a file into the cache; under another name first, so that it is whole or absent."""
    target = cache_folder() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
            (Path(folder) / name).write_bytes(content)
            os.replace(Path(folder) / name, target)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror}); set REFT_CACHE_DIR to a folder that is"
            " writable"
        ) from error
    return target
