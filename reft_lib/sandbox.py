"""Run programs that a model wrote, without trusting them.

:func:`run_programs` sends sources to a few long-lived worker processes (see
:mod:`reft_lib.sandbox_worker` for what a program may do there) and collects one
:class:`Outcome` each. A program that loops, crashes or eats memory costs its worker, which is
replaced, and its own answer, nothing else.

Time is CPU time of the worker: a program of the allowed language cannot wait for anything, and
so an honest program does not fail because the machine is busy. A much longer limit of wall-clock
time stands behind it. Outcomes do not depend on how programs are spread over workers.

Workers are fresh interpreters (never forks: the caller may hold torch's threads), start on the
first call, and end with the caller, however it ends: they read end-of-file on their input.
Linux and macOS.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SOURCE = 10_000
"""Characters of the longest program that is run."""
CHUNK = 32
"""Programs sent to a worker at a time."""
RECYCLE = 20_000
"""Programs after which a worker is replaced, so that nothing adds up over a long run."""
MAX_WORKERS = 4
_LONGEST_REPLY = 4096  # bytes; an honest reply has at most about 1,500
_TIMER_SIGNALS = (-signal.SIGPROF, -signal.SIGXCPU)
_SCRIPT = Path(__file__).with_name("sandbox_worker.py")
# A fixed hash seed makes the order of sets of strings, and so every outcome, the same each time.
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    **{k: v for k, v in os.environ.items() if k in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")},
}


@dataclass(frozen=True)
class Outcome:
    """What became of one program."""

    ok: bool
    """Whether ``solution()`` returned an int, a finite float or a short string in time."""
    value: str | None
    """The returned value as text; None unless ok."""
    error: str | None
    """What went wrong, in a few words; None if ok."""


class _Worker:
    """One worker process and the programs it was sent."""

    def __init__(self, script: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-W", "ignore", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the caller, who then ends its workers
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        self.ready = False
        self.served = 0
        self.deadline = float("inf")
        self.jobs: deque[int] = deque()  # sent, and without an outcome yet; the first one runs
        self._rest = b""

    def send(self, jobs: Sequence[int], sources: Sequence[Any], timeout_s: float) -> None:
        """Send the programs with these indices; raises OSError where the process has died."""
        self.jobs.extend(jobs)
        self.served += len(jobs)
        request = {"timeout": timeout_s, "sources": [sources[j] for j in jobs]}
        data = memoryview(json.dumps(request).encode() + b"\n")
        while data:
            data = data[os.write(self.stdin, data) :]

    def receive(self) -> list[bytes]:
        """Return the lines that have come; raises EOFError where the process has ended."""
        data = os.read(self.stdout, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _LONGEST_REPLY:
            raise EOFError
        return lines

    def kill(self) -> int:
        """End the process and return its exit status (minus the signal that ended it)."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return self.process.wait()


class _Batch:
    """The programs of one call, and what is known about them."""

    def __init__(self, sources: Sequence[Any], timeout_s: float) -> None:
        self.sources, self.timeout_s = sources, timeout_s
        self.outcomes: dict[int, Outcome] = {}
        self.waiting = deque(range(len(sources)))
        self.failed_once: set[int] = set()

    def next_chunk(self, workers: int) -> list[int]:
        """Take some of the waiting programs, few enough for each worker to get its share."""
        size = min(CHUNK, -(-len(self.waiting) // workers))
        return [self.waiting.popleft() for _ in range(size)]

    def record(self, worker: _Worker, line: bytes) -> None:
        """Note one reply; raises ValueError if it is none (then the process cannot be trusted)."""
        reply = json.loads(line)
        if not worker.ready and reply == "ready":
            worker.ready = True
            return
        ok, value, error = reply
        if not worker.jobs or type(ok) is not bool or type(value if ok else error) is not str:
            raise ValueError("not a reply")
        self.outcomes[worker.jobs.popleft()] = Outcome(ok, value, error)

    def give_up(self, worker: _Worker, timed_out: bool) -> None:
        """Blame the running program for its worker's end; the others wait for a new worker."""
        jobs, worker.jobs = list(worker.jobs), deque()
        # A crash may have been someone else's fault (the system short of memory): try again.
        if jobs and (timed_out or jobs[0] in self.failed_once):
            error = f"used more than {self.timeout_s:g} s" if timed_out else "crashed or hung"
            self.outcomes[jobs.pop(0)] = Outcome(False, None, error)
        elif jobs:
            self.failed_once.add(jobs[0])
        self.waiting.extendleft(reversed(jobs))


class Pool:
    """Worker processes that run one script; started when needed, and kept between calls."""

    def __init__(self, script: Path) -> None:
        self.script = script
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.size = max(1, min(MAX_WORKERS, cores or 1))
        self._forget()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Begin without workers: after a fork they are the parent's, and its lock may be taken."""
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self._lock = threading.Lock()

    def run(self, sources: Sequence[Any], timeout_s: float) -> list[Outcome]:
        """Run what is to be run, whatever the script takes for a source; one outcome for each."""
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s}; it must be a positive number of seconds")
        batch = _Batch(sources, timeout_s)
        with self._lock:
            try:
                self._run(batch)
            except BaseException:  # also Ctrl-C: a half-done conversation cannot be taken up again
                self.close()
                raise
        return [batch.outcomes[i] for i in range(len(sources))]

    def _run(self, batch: _Batch) -> None:
        """Run every program of a batch."""
        # Far beyond what a program's own timer allows, even on a machine that is very busy.
        wall = 20 * batch.timeout_s + 60
        while batch.waiting or any(w.jobs for w in self.workers):
            self._feed(batch, wall)
            for key, _ in self.selector.select(timeout=1.0):
                worker = key.data
                try:
                    for line in worker.receive():
                        batch.record(worker, line)
                    worker.deadline = time.monotonic() + wall
                except (OSError, EOFError, ValueError, TypeError):
                    self._lose(worker, batch)
            for worker in list(self.workers):
                if worker.jobs and time.monotonic() > worker.deadline:
                    self._lose(worker, batch)

    def _feed(self, batch: _Batch, wall: float) -> None:
        """Give every idle worker something to do, starting workers as needed."""
        for worker in [w for w in self.workers if not w.jobs and w.served >= RECYCLE]:
            self._remove(worker)
        while batch.waiting:
            idle = [w for w in self.workers if not w.jobs]
            if not idle and len(self.workers) == self.size:
                return
            worker = idle[0] if idle else _Worker(self.script)
            if not idle:
                self.workers.append(worker)
                self.selector.register(worker.stdout, selectors.EVENT_READ, worker)
            worker.deadline = time.monotonic() + wall
            try:
                worker.send(batch.next_chunk(self.size), batch.sources, batch.timeout_s)
            except OSError:
                self._lose(worker, batch)

    def _lose(self, worker: _Worker, batch: _Batch) -> None:
        """Deal with a worker that has ended, hangs, or talks nonsense."""
        status = self._remove(worker)
        if not worker.ready:
            raise RuntimeError(f"a sandbox worker could not start (exit status {status})")
        batch.give_up(worker, timed_out=status in _TIMER_SIGNALS)

    def _remove(self, worker: _Worker) -> int:
        self.workers.remove(worker)
        self.selector.unregister(worker.stdout)
        return worker.kill()

    def close(self) -> None:
        """End all workers; the next call starts new ones."""
        for worker in list(self.workers):
            self._remove(worker)


_pool = Pool(_SCRIPT)


def run_programs(sources: Sequence[str], timeout_s: float = 1.0) -> list[Outcome]:
    """Run ``solution()`` of each program in worker processes.

    Parameters
    ----------
    sources : sequence of str
        Python source texts that define ``solution()``. Equal ones are run once.
    timeout_s : float
        Seconds of CPU time for each, parsing included.

    Returns
    -------
    list of Outcome
        One for each source, in order.

    Raises
    ------
    ValueError
        If ``timeout_s`` is not positive.
    RuntimeError
        If a worker process cannot be started.
    """
    fitting = list(dict.fromkeys(s for s in sources if len(s) <= MAX_SOURCE))
    known = dict(zip(fitting, _pool.run(fitting, timeout_s), strict=True))
    too_long = Outcome(False, None, f"longer than {MAX_SOURCE} characters")
    return [known.get(source, too_long) for source in sources]
