"""How fast this library is, beside trl and plain ``generate``, and beside what the machine can do.

``python -m reft_lib bench`` measures; the figures are in :mod:`reft_lib.speed_plots`. All engines
of a kind are ready at once, each in a process of its own, and work in turn, round after round, so
that a machine that slows down for a while slows all of them. Only ratios within one run mean much.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import machine, models
from reft_lib.errors import UserError
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

    For whole steps of nano they go from 1 to 16 times the work.
    """
    nano = model == "nano"
    base = Case(model, micro=0 if nano else 8, device=device)  # 8: what 16 GB hold of SmolLM2
    if kind == "memory":
        return [dataclasses.replace(base, rows=16, mean=16, most=64)]
    if kind == "step":
        rows = (16, 32, 64, 128, 256) if nano else (16, 32)
        return [dataclasses.replace(base, rows=n) for n in rows]
    other: list[dict[str, Any]] = [{"rows": 256 if nano else 16}]
    other += [{"prompt": 192}] if nano or kind == "rollout" else []
    other += [{"mean": 96, "most": 256}] if nano else []
    return [base, *(dataclasses.replace(base, **changes) for changes in other)]


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
        file = out / f"{kind}-{case.model}-{case.rows}-{case.prompt}-{case.mean}.json"
        if not file.exists():
            found = measure(kind, case, rounds, engines)
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return read(out)


def read(where: Path) -> list[dict[str, Any]]:
    """Return all records in a folder, by name.

    Raises
    ------
    UserError
        If there is none, or a file is no record; it is named.
    """
    found = []
    for file in sorted(where.glob("*.json")):
        try:
            found.append(json.loads(file.read_text(encoding="utf-8")))
            found[-1]["engines"], found[-1]["case"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file.name}: no record of the benchmark ({error}); remove it"
            ) from None
    if not found:
        raise UserError(f"{where.name}: not yet run; python -m reft_lib bench measures")
    return found


def measure(kind: str, case: Case, rounds: int, engines: Sequence[str] = ()) -> dict[str, Any]:
    """Let all engines of a kind do the same work in turn.

    Returns
    -------
    dict
        ``kind``, ``case``; ``device``, ``git`` and ``versions`` (:mod:`reft_lib.machine`);
        ``limits`` (:func:`limits`, median over the rounds); ``engines``: by name, lists
        ``seconds``, ``tokens`` and ``held_mb`` with an entry for each round, ``flops`` (of a
        round, where they are counted) and ``peak_mb``.
    """
    known = ENGINES["step" if kind == "memory" else kind]
    if kind == "memory":
        known, rounds = {"reft_lib": known["reft_lib"]}, LONG
    elif kind == "rollout" and torch.cuda.is_available() and case.device != "cpu":
        known = known | ON_GPU
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
            for name, pipe in pipes.items():
                found = _ask(pipe, kind, name)
                if turn:
                    for key, x in found.items():
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
    for one in results.values():
        one["peak_mb"] = max(one["peak_mb"])  # type: ignore[assignment]
        one["flops"] = one["flops"][0]  # type: ignore[assignment]
    return {
        "kind": kind,
        "case": dataclasses.asdict(case),
        **{key: made[key] for key in ("device", "git", "versions")},
        "limits": {key: statistics.median(r[key] for r in rates) for key in rates[0]},
        "engines": results,
    }


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
        (2048, 576) by (576, 1536), SmolLM2's commonest; ``bytes``: read and written a second.
    """
    where = models.pick_device(device)
    found: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(n, 576, device=where).to(dtype) for n in (2048, 1536))
        found[str(dtype).removeprefix("torch.")] = (
            _per_second(lambda a=a, b=b: torch.nn.functional.linear(a, b), seconds)
            * 2 * 2048 * 576 * 1536
        )  # fmt: skip
    x = torch.ones(2**26, device=where)  # 256 MiB: more than any cache
    y = torch.empty_like(x)
    found["bytes"] = _per_second(lambda: y.copy_(x), seconds) * 2 * x.numel() * x.element_size()
    return found


def _per_second(work: Any, seconds: float) -> float:
    """Return how often a second something can be done."""
    work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        count += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return count / (time.perf_counter() - began)


def table(records: Sequence[dict[str, Any]]) -> Any:
    """Return a row for each record and engine, as a DataFrame.

    ``tokens_per_second``, ``low`` and ``high`` (median, least and most over the rounds), ``ratio``
    (of medians, to the record's first engine), ``peak_mb``, and ``share``: of the measured rate of
    bfloat16 products, where operations are counted.
    """
    import pandas as pd

    rows = []
    for record in records:
        first = None
        for name, one in record["engines"].items():
            rates = [n / s for n, s in zip(one["tokens"], one["seconds"], strict=True)]
            middle = statistics.median(rates)
            first = first or middle
            low = "bfloat16" if record["case"]["bf16"] else "float32"
            share = one["flops"] / statistics.median(one["seconds"]) / record["limits"][low]
            rows.append(
                {"kind": record["kind"], **record["case"], "engine": name,
                 "tokens_per_second": middle, "low": min(rates), "high": max(rates),
                 "ratio": middle / first, "peak_mb": one["peak_mb"], "share": share or None}
            )  # fmt: skip
    return pd.DataFrame(rows)


def as_text(records: Sequence[dict[str, Any]]) -> str:
    """Return the table as text, and the machine's limits."""
    frame = table(records)
    frame["tokens/s"] = [
        f"{r.tokens_per_second:,.0f} ({r.low:,.0f} to {r.high:,.0f})" for r in frame.itertuples()
    ]
    frame["ratio"] = frame["ratio"].map("{:.2f}".format)
    frame["peak MB"] = frame["peak_mb"].map("{:,.0f}".format)
    frame["share"] = [
        f"{100 * x:.0f}%" if x == x and x else "" for x in frame["share"].astype(float)
    ]
    columns = ["kind", "model", "rows", "prompt", "mean", "engine", "tokens/s", "ratio", "peak MB"]
    rate = records[-1]["limits"]
    return (
        frame[[*columns, "share"]].to_string(index=False)
        + f"\nlimits: {rate['bfloat16'] / 1e9:,.0f} GFLOP/s bfloat16, "
        f"{rate['float32'] / 1e9:,.0f} float32, {rate['bytes'] / 1e9:,.1f} GB/s"
    )


def growth(records: Sequence[dict[str, Any]]) -> float:
    """Return how seconds grow with tokens: the exponent p of a fit seconds = c tokens^p.

    Over whole steps of this library of one model; 1 is linear, below 1 is better. Needs two sizes.
    """
    import numpy as np

    ours = [r["engines"]["reft_lib"] for r in records if r["kind"] == "step"]
    if len(ours) < 2:
        raise UserError("growth: wanted records of whole steps at two sizes at least")
    points = [(statistics.median(o["tokens"]), statistics.median(o["seconds"])) for o in ours]
    tokens, seconds = np.log(np.array(points)).T
    return float(np.polyfit(tokens, seconds, 1)[0])
