"""What the benchmark (:mod:`reft_lib.speed`) measured: its records as a table, and their trends."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reft_lib.errors import UserError


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


def table(records: Sequence[dict[str, Any]]) -> Any:
    """Return a row for each record and engine, as a DataFrame.

    ``seconds`` (median of the rounds); ``tokens_per_second``, ``low`` and ``high`` (median, least
    and most); ``ratio`` (of medians, to the record's first engine); ``peak_mb``; and ``share``: how
    near it comes to the machine's limit (:func:`share`).
    """
    import pandas as pd

    rows = []
    for record in records:
        first = None
        for name, one in record["engines"].items():
            rates = [n / s for n, s in zip(one["tokens"], one["seconds"], strict=True)]
            middle = statistics.median(rates)
            first = first or middle
            rows.append(
                {"kind": record["kind"], **record["case"], "engine": name,
                 "seconds": statistics.median(one["seconds"]),
                 "tokens_per_second": middle, "low": min(rates), "high": max(rates),
                 "ratio": middle / first, "peak_mb": one["peak_mb"], "share": share(record, name)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def share(record: dict[str, Any], engine: str) -> float | None:
    """Return the least time that an engine's work takes on the machine, over the time it took.

    The least time is that of the counted operations at the measured rate of products, or of the
    counted bytes at the measured rate of memory, whichever is longer; median over the rounds. 1 is
    the limit. None where nothing was counted.
    """
    one, limits = record["engines"][engine], record["limits"]
    rate = limits["bfloat16" if record["case"]["bf16"] else "float32"]
    parts = [
        max(flops / rate, moved / limits["bytes"]) / seconds
        for flops, moved, seconds in zip(one["flops"], one["moved"], one["seconds"], strict=True)
    ]
    return statistics.median(parts) or None


def as_text(records: Sequence[dict[str, Any]]) -> str:
    """Return the table as text, and the machine's limits."""
    frame = table(records)
    frame["tokens/s"] = [
        f"{r.tokens_per_second:,.0f} ({r.low:,.0f} to {r.high:,.0f})" for r in frame.itertuples()
    ]
    frame["ratio"] = frame["ratio"].map("{:.2f}".format)
    frame["peak MB"] = frame["peak_mb"].map("{:,.0f}".format)
    frame["of the limit"] = [
        f"{100 * x:.0f}%" if x == x and x else "" for x in frame["share"].astype(float)
    ]
    columns = ["kind", "model", "rows", "prompt", "mean", "engine", "tokens/s", "ratio", "peak MB"]
    rate = records[-1]["limits"]
    return (
        frame[[*columns, "of the limit"]].to_string(index=False)
        + f"\nlimits: {rate['bfloat16'] / 1e9:,.0f} GFLOP/s bfloat16, "
        f"{rate['float32'] / 1e9:,.0f} float32, {rate['bytes'] / 1e9:,.1f} GB/s"
    )


def growth(records: Sequence[dict[str, Any]], model: str = "nano") -> float:
    """Return how seconds grow with tokens: the exponent p of a fit seconds = c tokens^p.

    Over whole steps of this library with one model; 1 is linear, below 1 is better.

    Raises
    ------
    UserError
        If fewer than two sizes were measured.
    """
    import numpy as np

    steps = [r for r in records if r["kind"] == "step" and r["case"]["model"] == model]
    ours = [r["engines"]["reft_lib"] for r in steps]
    if len(ours) < 2:
        raise UserError(f"growth: wanted whole steps of {model} at two sizes at least")
    points = [(statistics.median(o["tokens"]), statistics.median(o["seconds"])) for o in ours]
    tokens, seconds = np.log(np.array(points)).T
    return float(np.polyfit(tokens, seconds, 1)[0])


def held(records: Sequence[dict[str, Any]], model: str = "nano") -> tuple[list[float], float]:
    """Return the memory in MB that a long run held after each step, and how it drifted.

    The drift is that of the median from the second tenth of the run to the last, as a share.

    Raises
    ------
    UserError
        If no such run was measured.
    """
    runs = [r for r in records if r["kind"] == "memory" and r["case"]["model"] == model]
    if not runs:
        raise UserError(f"memory: no long run of {model} was measured")
    found = runs[0]["engines"]["reft_lib"]["held_mb"]
    tenth = max(1, len(found) // 10)
    early, late = (statistics.median(x) for x in (found[tenth : 2 * tenth], found[-tenth:]))
    return found, late / early - 1
