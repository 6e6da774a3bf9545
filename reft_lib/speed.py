"""How fast this library is, beside trl and plain ``generate``, and beside what the machine can do.

``python -m reft_lib bench`` measures; :mod:`reft_lib.speed_records` reads what was measured. All
engines of a kind are ready at once, each in a process of its own, and work in turn, round after
round, so that a machine that slows down for a while slows all of them. Only ratios within one run
mean much.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import machine, models, speed_records
from reft_lib.errors import UserError
from reft_lib.frozen import Frozen
from reft_lib.speed_case import Case
from reft_lib.speed_work import ENGINES, ON_GPU, serve

KINDS = ("rollout", "update", "step", "memory")
"""What can be measured; ``memory`` is a run of many steps, whose memory is watched."""
LONG = 200
"""Steps of ``memory``."""
WAIT = 1800.0
"""Seconds after which an engine that says nothing is given up."""


def cases(model: str, kind: str, device: str = "auto") -> list[Case]:
    """Return the sizes at which a kind of work is measured for a model.

    For whole steps of nano they go from 1 to 16 times the work. A GPU gets 512 rows as well, unless
    the model is nano, which is too small to need one.
    """
    nano = model == "nano"
    on_gpu = not nano and models.pick_device(device).type == "cuda"
    # 8 padded rows at a time: 32 of SmolLM2 ended a process on a machine with 23 GB
    micro, at_once = (128, 128) if on_gpu else (0 if nano else 8, 32)
    base = Case(model, micro=micro, at_once=at_once, device=device)
    base = base if nano else dataclasses.replace(base, weights="bfloat16")  # as the presets
    sizes: list[dict[str, int]]
    if kind == "memory":
        sizes = [{"rows": 16, "mean": 16, "most": 64}]
    elif kind == "step":
        sizes = [{"rows": n} for n in ((16, 32, 64, 128, 256) if nano else (16, 32))]
    elif nano:
        sizes = [{}, {"rows": 256}, {"prompt": 192}, {"mean": 96, "most": 256}]
    else:
        few = {"rows": 16}
        sizes = [{}, few, {**few, "prompt": 192}, {**few, "mean": 96, "most": 256}]
    if on_gpu and kind != "memory":
        sizes.append({"rows": 512})
    return [dataclasses.replace(base, **size) for size in sizes]  # type: ignore[arg-type]


def bench(
    names: Sequence[str] = ("nano",),
    kinds: Sequence[str] = KINDS,
    rounds: int = 5,
    out: Path = Path("runs/speed"),
    device: str = "auto",
    engines: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Measure what is not in the folder yet, and return all of it.

    Parameters
    ----------
    names : sequence of str
        Models, as :func:`reft_lib.models.load` takes them.
    kinds : sequence of str
        Some of ``KINDS``.
    rounds : int
        How often each engine works, after one round that is not counted.
    out : Path
        Folder of the records, one JSON file for each kind and size; finished ones are kept.
    device : {"auto", "cpu", "cuda"}
    engines : sequence of str
        Some of the engines; all unless given.

    Raises
    ------
    UserError
        If a kind is unknown, or an engine fails; it is named with its message.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"unknown kind {kind!r}; there are: {', '.join(KINDS)}")
    work = [(kind, case) for name in names for kind in kinds for case in cases(name, kind, device)]
    out.mkdir(parents=True, exist_ok=True)
    for kind, case in tqdm(work, desc="bench", mininterval=1):
        where = "-cuda" if models.pick_device(case.device).type == "cuda" else ""
        file = out / f"{kind}-{case.model}-{case.rows}-{case.prompt}-{case.mean}{where}.json"
        if not file.exists():
            found = measure(kind, case, rounds, engines)
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return speed_records.read(out)


def measure(kind: str, case: Case, rounds: int, engines: Sequence[str] = ()) -> dict[str, Any]:
    """Let all engines of a kind do the same work in turn.

    Returns
    -------
    dict
        ``kind``, ``case``; ``device``, ``git`` and ``versions`` (:mod:`reft_lib.machine`);
        ``limits`` (:func:`limits`, median over the rounds); ``engines``: by name, lists
        ``seconds``, ``tokens``, ``held_mb``, ``flops`` and ``moved`` (operations and bytes that
        the work takes at the least; 0 where they are not counted) with an entry for each round,
        and ``peak_mb``.
    """
    known = ENGINES["step" if kind == "memory" else kind]
    if kind == "memory":
        known, rounds = {"reft_lib": known["reft_lib"]}, LONG
    elif kind == "rollout":
        everywhere = models.pick_device(case.device).type == "cuda"
        known = known | {n: e for n, e in ON_GPU.items() if everywhere or n in engines}
    there = [name for name in known if name != "trl" or importlib.util.find_spec("trl")]
    wanted = [name for name in there if not engines or name in engines]
    if not wanted:
        raise UserError(f"{kind}: no engine {' or '.join(engines)}; there are: {', '.join(there)}")
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    processes = []
    results: dict[str, dict[str, list[Any]]] = {}
    rates: list[dict[str, float]] = []
    try:
        for name in wanted:
            pipes[name], theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, kind, name, case), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
        for turn in tqdm(
            range(rounds + 1), desc=f"{kind} {case.model}", leave=False, mininterval=1
        ):
            for name, found in _round(pipes, kind, engines).items():
                for key, x in found.items() if turn else ():
                    results.setdefault(name, {}).setdefault(key, []).append(x)
            if turn <= 5:
                rates.append(limits(case.device))
        for pipe in pipes.values():
            pipe.send(False)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    made = machine.environment()
    if "trl" in results:
        made["versions"]["trl"] = importlib.metadata.version("trl")
    results = {name: one for name, one in results.items() if name in pipes}
    for one in results.values():
        one["peak_mb"] = max(one["peak_mb"])  # type: ignore[assignment]
    return {
        "kind": kind,
        "case": dataclasses.asdict(case),
        **{key: made[key] for key in ("device", "git", "versions")},
        "limits": {key: statistics.median(r[key] for r in rates) for key in rates[0]},
        "engines": results,
    }


def _round(
    pipes: dict[str, Any], kind: str, asked_for: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Let all engines work once, and return what each says of it.

    Those made for GPUs that fail are taken out, with a line, unless they were asked for by name.
    """
    found = {}
    for name in list(pipes):
        try:
            # While others work, a system may take pages from a process that waits: once to get
            # them back, then once to count. Whole steps take too long to be done twice.
            for _ in range(2 if kind in ("rollout", "update") else 1):
                found[name] = _ask(pipes[name], kind, name)
        except UserError as error:
            if name not in ON_GPU or name in asked_for:
                raise
            tqdm.write(f"{error}; measured without it")
            del pipes[name]
            found.pop(name, None)
    return found


def _ask(pipe: Any, kind: str, name: str) -> dict[str, float]:
    """Let one engine work once."""
    try:
        pipe.send(True)
        if not pipe.poll(WAIT):
            raise UserError(f"{kind}, {name}: nothing came for {WAIT:.0f} s; try fewer rows")
        found: dict[str, float] = pipe.recv()
    except (EOFError, ConnectionError):
        raise UserError(
            f"{kind}, {name}: its process ended; there may be too little memory"
        ) from None
    if "error" in found:
        raise UserError(f"{kind}, {name}: {found['error']}")
    return found


def limits(device: str = "auto", seconds: float = 0.2) -> dict[str, float]:
    """Measure what the machine can do: products of matrices, and copies in memory.

    Returns
    -------
    dict
        ``float32`` and ``bfloat16``: operations a second (a product and a sum are two) of
        (2048, 576) by (576, 1536), SmolLM2's commonest, with weights as they are or in oneDNN's
        order, whichever is faster; on a GPU of 8,192 by 8,192 twice. ``bytes``: read and written a
        second.
    """
    where = models.pick_device(device)
    on_gpu = where.type == "cuda"
    rows, inner, outer = (8192,) * 3 if on_gpu else (2048, 576, 1536)
    found: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(n, inner, device=where).to(dtype) for n in (rows, outer))
        frozen = Frozen([b], dtype)
        ways = (lambda a=a, b=b: torch.nn.functional.linear(a, b), partial(frozen.times, a))
        found[str(dtype).removeprefix("torch.")] = (
            max(_per_second(way, seconds, where) for way in ways) * 2 * rows * inner * outer
        )
    x = torch.ones(2**28 if on_gpu else 2**26, device=where)  # more than any cache
    y = torch.empty_like(x)
    often = _per_second(lambda: y.copy_(x), seconds, where)
    return found | {"bytes": often * 2 * x.numel() * x.element_size()}


def _per_second(work: Callable[[], Any], seconds: float, device: torch.device) -> float:
    """Return how often a second something can be done; a GPU is waited for once in 20 times."""
    wait, at_once = (torch.cuda.synchronize, 20) if device.type == "cuda" else (lambda: None, 1)
    work()
    wait()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(at_once):
            work()
        wait()
        count += at_once
    return count / (time.perf_counter() - began)
