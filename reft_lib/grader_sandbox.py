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

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reft_lib.sandbox import Outcome, Pool

MAX_SOURCE = 256 * 1024
"""Bytes of the longest source that is run, in UTF-8."""
MAX_ARGUMENTS = 100_000
"""Characters of sample and item together, as JSON: a worker must hold those of a whole chunk."""
TIME = 2.0
"""Seconds of CPU time for one call."""
_SCRIPT = Path(__file__).with_name("grader_worker.py")
_pool = Pool(_SCRIPT)


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
    keys = [json.dumps(pair) for pair in arguments]
    fitting = list(dict.fromkeys(key for key in keys if len(key) <= MAX_ARGUMENTS))
    why = f"sample and item are longer than {MAX_ARGUMENTS} characters"
    if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE:
        fitting, why = [], f"the source is longer than {MAX_SOURCE} bytes"
    calls = [[source, *json.loads(key)] for key in fitting]
    known = dict(zip(fitting, _pool.run(calls, timeout_s), strict=True))
    return [known.get(key, Outcome(False, None, why)) for key in keys]
