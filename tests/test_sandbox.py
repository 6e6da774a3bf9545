"""The pool of workers: order, faults of single programs and of processes, and speed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from reft_lib import data, sandbox
from reft_lib.prompts import PROGRAM_SEED
from reft_lib.sandbox import Outcome, run_programs

ROOT = Path(__file__).resolve().parents[1]
GOOD = "def solution():\n    return 6 * 7"
FINE = Outcome(True, "42", None)


def body(text: str) -> str:
    """Make a program of the lines of a body."""
    return "def solution():\n" + textwrap.indent(textwrap.dedent(text).strip("\n"), "    ")


def test_outcomes_come_in_order_and_equal_sources_agree() -> None:
    sources = [body(f"return {i % 50}") for i in range(300)]
    assert [o.value for o in run_programs(sources)] == [str(i % 50) for i in range(300)]


def test_no_programs_no_outcomes() -> None:
    assert run_programs([]) == []


def test_only_positive_times_make_sense() -> None:
    with pytest.raises(ValueError, match="positive"):
        run_programs([GOOD], timeout_s=0)


def test_many_hanging_programs_cost_only_their_own_answers() -> None:
    bad = [body(f"while True:\n    x = {i}") for i in range(3)]
    good = [body(f"return {i}") for i in range(60)]
    outcomes = run_programs([*good[:20], *bad, *good[20:]], timeout_s=0.2)
    assert [o.value for o in outcomes] == [
        *map(str, range(20)),
        *[None] * 3,
        *map(str, range(20, 60)),
    ]


def test_a_program_cannot_fail_for_a_slow_neighbour() -> None:
    # the clock starts anew for each program of a chunk
    slow = [body(f"for i in range(200000):\n    pass\nreturn {i}") for i in range(40)]
    assert all(o.ok for o in run_programs(slow, timeout_s=0.5))


def test_long_sources_are_not_run() -> None:
    outcome = run_programs([GOOD + "\n#" + "x" * sandbox.MAX_SOURCE])[0]
    assert not outcome.ok and "longer than" in (outcome.error or "")


def test_the_order_of_sets_is_the_same_in_every_worker() -> None:
    source = body(
        "out = ''\nfor x in {'a', 'b', 'c', 'd', 'e', 'f', 'g'}:\n    out += x\nreturn out"
    )
    first = run_programs([source])
    sandbox._pool.close()
    assert run_programs([source]) == first and first[0].ok


# ---------------------------------------------------------------- the processes


def in_a_process(code: str, **options) -> subprocess.CompletedProcess:  # type: ignore[type-arg, no-untyped-def]
    """Run code in a fresh Python that can import the library."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, **options,
    )  # fmt: skip


def test_the_kernel_refuses_what_the_language_let_through() -> None:
    # the second wall alone: code that runs in a worker's rights, without the allow-list
    result = in_a_process("""
        import os, socket
        from reft_lib import sandbox_worker
        sandbox_worker.limit()
        for attempt in (lambda: open("/etc/passwd"), lambda: open("x", "w"), socket.socket,
                        lambda: bytearray(2**30), lambda: os.fork() or os._exit(0)):
            try:
                attempt()
                print("succeeded")
            except MemoryError:
                print("no memory")
            except OSError:
                print("refused")
    """)
    assert result.stdout.split() == [*["refused"] * 3, "no", "memory", "refused"], result.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks users up in /proc")
def test_no_worker_is_root() -> None:
    run_programs([GOOD])
    for worker in sandbox._pool.workers:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        users = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        assert "0" not in users


def alive(pid: int) -> bool:
    """Say whether a process runs (one that has ended but is not collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize(
    "ending", ["pass", "os._exit(0)", "os.kill(os.getpid(), 9)", "raise KeyError"]
)
def test_workers_end_with_their_parent(ending: str) -> None:
    result = in_a_process(f"""
        import os
        from reft_lib import sandbox
        sandbox.run_programs(["def solution():\\n    return %d" % i for i in range(100)])
        print(*[w.process.pid for w in sandbox._pool.workers], flush=True)
        {ending}
    """)
    pids = [int(pid) for pid in result.stdout.split()]
    assert pids
    until = time.monotonic() + 120
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_a_killed_worker_is_replaced_and_nothing_is_lost() -> None:
    run_programs([GOOD])
    assert sandbox._pool is not None
    for worker in sandbox._pool.workers:
        worker.process.kill()
        worker.process.wait()
    assert run_programs([GOOD, body("return 1")]) == [FINE, Outcome(True, "1", None)]


def test_workers_are_replaced_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RECYCLE", 10)
    sandbox._pool.close()
    assert all(o.ok for o in run_programs([body(f"return {i}") for i in range(400)]))
    first = {w.process.pid for w in sandbox._pool.workers}
    assert all(o.ok for o in run_programs([body(f"return {i}") for i in range(400)]))
    assert first.isdisjoint(w.process.pid for w in sandbox._pool.workers)


def test_a_worker_that_cannot_start_is_an_error_and_no_endless_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox._pool.close()
    monkeypatch.setattr(sandbox._pool, "script", tmp_path / "missing.py")
    with pytest.raises(RuntimeError, match="could not start"):
        run_programs([GOOD])
    monkeypatch.undo()
    assert run_programs([GOOD]) == [FINE]


def test_a_worker_that_talks_nonsense_is_not_believed() -> None:
    batch = sandbox._Batch([GOOD], 1.0)

    class Fake:
        ready, jobs = True, sandbox.deque([0])

    for line in (b"[", b"7", b"[1, 2]", b'["yes", "5", null]', b"[true, 5, null]", b'"ready"'):
        with pytest.raises((ValueError, TypeError)):
            batch.record(Fake(), line)  # type: ignore[arg-type]
    assert not batch.outcomes


def test_threads_may_call_at_the_same_time() -> None:
    results: dict[int, list[Outcome]] = {}

    def work(n: int) -> None:
        results[n] = run_programs([body(f"return {n * 100 + i}") for i in range(50)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        assert [o.value for o in results[n]] == [str(n * 100 + i) for i in range(50)]


def test_a_forked_child_gets_workers_of_its_own() -> None:
    result = in_a_process("""
        import os
        from reft_lib.sandbox import run_programs
        good = ["def solution():\\n    return %d" % i for i in range(50)]
        run_programs(good)
        child = os.fork()
        outcomes = [o.value for o in run_programs(good)] == [str(i) for i in range(50)]
        if child == 0:
            os._exit(0 if outcomes else 1)
        print(outcomes, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(all(o.ok for o in run_programs(good)))
    """)
    assert result.stdout.split() == ["True", "0", "True"], result.stderr


def test_blocked_signals_of_the_parent_do_not_disarm_the_timer() -> None:
    result = in_a_process("""
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF, signal.SIGXCPU})
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        from reft_lib.sandbox import run_programs
        print(run_programs(["def solution():\\n    while True: pass"], 0.2)[0].error)
    """)
    assert result.stdout.strip() == "used more than 0.2 s"


def test_the_environment_does_not_reach_a_worker() -> None:
    result = in_a_process(
        """
        from pathlib import Path
        from reft_lib import sandbox
        sandbox.run_programs(["def solution():\\n    return 1"])
        pid = sandbox._pool.workers[0].process.pid
        print("SECRET" in Path(f"/proc/{pid}/environ").read_text())
        """,
        env={**os.environ, "SECRET": "1"},
    )
    if not Path("/proc").is_dir():
        pytest.skip("looks processes up in /proc")
    assert result.stdout.strip() == "False", result.stderr


def test_the_sandbox_starts_without_torch() -> None:
    code = "import reft_lib.sandbox, sys; print('torch' in sys.modules)"
    assert in_a_process(code).stdout.strip() == "False"


# ---------------------------------------------------------------- speed


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in user and system mode."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads CPU times in /proc")
def test_two_thousand_ordinary_programs_a_second_on_two_cores() -> None:
    # the annotations of the shipped problems, as a model of this book writes them
    bodies = [path["pcot"] for e in data.load("embedded", "train") for path in e.meta["paths"]]
    sources = list(dict.fromkeys(PROGRAM_SEED + text for text in bodies))[:5000]
    sandbox._pool.close()
    run_programs(sources[:100])  # starts new workers, of which none is replaced on the way
    assert sandbox._pool is not None
    processes = [worker.process.pid for worker in sandbox._pool.workers]
    before = time.process_time() + sum(map(cpu_seconds, processes))
    assert all(o.ok for o in run_programs(sources))
    assert processes == [worker.process.pid for worker in sandbox._pool.workers]
    # CPU time of caller and workers together: other work may share the cores, and slow the clock
    seconds = time.process_time() + sum(map(cpu_seconds, processes)) - before
    assert 2 * len(sources) / seconds > 2000, f"{1e6 * seconds / len(sources):.0f} us a program"
