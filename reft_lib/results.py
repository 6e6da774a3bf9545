"""Finished comparisons as one table: means over seeds with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reft_lib import runlog, stats
from reft_lib.errors import UserError

METHODS = ("sft", "reft")


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """Return the cards of the finished comparisons in a folder, by the runs' names."""
    folders = [path.parent for path in sorted(out.glob(f"*/{runlog.CARD}"))]
    cards = {folder.name: runlog.read_card(folder) for folder in folders}
    return {n: c for n, c in cards.items() if c.get("ended") and c.get("method") == "compare"}


def table(out: Path) -> Any:
    """Summarise the finished units of a folder.

    Returns
    -------
    pandas.DataFrame
        For each format a row for each method, then one for each paired difference from the first
        method, which is SFT. Columns: ``fmt``,
        ``method``, ``seeds``, then for each test and decoding the mean over seeds in percent
        with the half-width of its 95% interval (``test_top1``, ``test_top1_pm``, ...), and
        ``minutes``, the mean wall-clock of the training with its validations.
    """
    import pandas as pd

    cards = list(finished(out).values())
    if not cards:
        raise UserError(f"{out}: no finished runs; make them with python -m reft_lib compare")
    rows = []
    for fmt in sorted({card["fmt"] for card in cards}):
        found = [card["summary"] for card in cards if card["fmt"] == fmt]
        names = [n for n in found[0]["sft"] if n.startswith(("test_", "hard_"))]
        methods = [m for m in found[0] if all(m in one for one in found)]
        for method in methods:
            row: dict[str, Any] = {"fmt": fmt, "method": method, "seeds": len(found)}
            for name in names:
                put(row, name, stats.mean_interval([100 * one[method][name] for one in found]))
            row["minutes"] = sum(one[method]["minutes"] for one in found) / len(found)
            rows.append(row)
        for method in methods[1:]:
            row = {"fmt": fmt, "method": f"{method} - {methods[0]}", "seeds": len(found)}
            for name in names:
                mine, base = ([100 * one[m][name] for one in found] for m in (method, methods[0]))
                put(row, name, stats.paired_interval(mine, base))
            rows.append(row)
    return pd.DataFrame(rows)


def put(row: dict[str, Any], name: str, interval: stats.Interval) -> None:
    """Put a mean and the half-width of its interval into a row."""
    row[name], row[f"{name}_pm"] = interval.mean, (interval.hi - interval.lo) / 2


def as_text(frame: Any) -> str:
    """Return the table as aligned text, each figure with its 95% interval."""
    names = [c[:-3] for c in frame.columns if c.endswith("_pm")]
    lines = [["format", "method", "seeds", *names, "minutes"]]
    for _, row in frame.iterrows():
        # one seed has no interval, and a difference no minutes: NaN, which is left out
        spread = [f" ± {row[n + '_pm']:.1f}".removesuffix(" ± nan") for n in names]
        figures = [f"{row[n]:.1f}{pm}" for n, pm in zip(names, spread, strict=True)]
        minutes = f"{row['minutes']:.1f}".removesuffix("nan")
        lines.append([row["fmt"], row["method"], str(row["seeds"]), *figures, minutes])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
