"""Run a grader's own Python, without trusting it.

:func:`run_calls` calls ``grade(sample, item)`` in worker processes like those of
:mod:`reft_lib.sandbox`, with its pool, its timers and its replacement of processes that die; what
a source may do there is told in :mod:`reft_lib.grader_worker`.

Limits, beside those that the hosted service states for its graders:

=================== ============================ ==================================
what                here                         hosted
=================== ============================ ==================================
source              256 kB                       256 kB
time of a call      2 s of CPU time (a setting)  2 minutes
memory              256 MiB                      2 GB
network, files      none                         no network; 1 GB of disk
modules             math, re, json.loads         NumPy, SciPy, rapidfuzz and others
sample and item     100,000 characters           not stated
=================== ============================ ==================================
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reft_lib.sandbox import Outcome, _Batch, _Pool

MAX_SOURCE = 256 * 1024
"""Bytes of the longest source that is run, in UTF-8."""
MAX_ARGUMENTS = 100_000
"""Characters of sample and item together, as JSON: a worker must hold those of a whole chunk."""
TIME = 2.0
"""Seconds of CPU time for one call."""
_SCRIPT = Path(__file__).with_name("grader_worker.py")
_pool: _Pool | None = None
_lock = threading.Lock()


def run_calls(
    source: str, arguments: Sequence[tuple[Mapping[str, Any], Any]], timeout_s: float = TIME
) -> list[Outcome]:
    """Call ``grade(sample, item)`` of one source for several samples.

    Parameters
    ----------
    source : str
        Python source text that defines ``grade``.
    arguments : sequence of (sample, item)
        What JSON can hold; each call gets a copy of its own. Equal ones are run once.
    timeout_s : float
        Seconds of CPU time for each call, parsing included.

    Returns
    -------
    list of Outcome
        One for each call, in order. The value is the score as text, a finite float.

    Raises
    ------
    ValueError
        If ``timeout_s`` is not positive.
    RuntimeError
        If a worker process cannot be started.
    """
    global _pool
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; it must be a positive number of seconds")
    if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE:
        too_long = Outcome(False, None, f"the source is longer than {MAX_SOURCE} bytes")
        return [too_long] * len(arguments)
    keys = [json.dumps(pair) for pair in arguments]
    fitting = list(dict.fromkeys(key for key in keys if len(key) <= MAX_ARGUMENTS))
    batch = _Batch([[source, *json.loads(key)] for key in fitting], timeout_s)
    with _lock:
        try:
            _pool = _pool or _Pool(_SCRIPT)
            _pool.run(batch)
        except BaseException:  # also Ctrl-C: a half-done conversation cannot be taken up again
            _close()
            raise
    known = {key: batch.outcomes[i] for i, key in enumerate(fitting)}
    too_long = Outcome(False, None, f"sample and item are longer than {MAX_ARGUMENTS} characters")
    return [known.get(key, too_long) for key in keys]


def _close() -> None:
    """End the workers; the next call starts new ones."""
    global _pool
    if _pool is not None:
        _pool.close()
        _pool = None


def _forget() -> None:
    """In a forked child: the workers belong to the parent, and its lock may be taken."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


atexit.register(_close)
os.register_at_fork(after_in_child=_forget)
