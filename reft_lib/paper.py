"""The table of the ReFT paper: the authors' figures, and ours where there are runs.

Rows are methods, alone and with a strategy at inference time; columns are data sets in both
formats. A cell that no recorded run fills says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from reft_lib import runlog, stats
from reft_lib.config import FORMATS, PRESETS, REAL
from reft_lib.results import finished

NOT_RUN = "not yet run"
"""What a cell of ours says that no recorded run fills."""
MINIATURE = "nano-baselines"
"""The preset on the embedded problems, which no author has run."""
ROWS = {
    "SFT": ("sft", "top1"),
    "Offline self-training": ("offline_st", "top1"),
    "Online self-training": ("online_st", "top1"),
    "ReFT": ("reft", "top1"),
    "SFT + voting": ("sft", "vote"),
    "ReFT + voting": ("reft", "vote"),
    "SFT + reranking": ("sft", "rerank"),
    "ReFT + reranking": ("reft", "rerank"),
}
"""Row of the table to method and strategy."""


class Figure(NamedTuple):
    """A figure that the authors published: value accuracy in percent."""

    model: str
    dataset: str
    fmt: str
    row: str
    percent: float
    source: str


def _pair(
    model: str, dataset: str, fmt: str, strategy: str, sft: float, reft: float, source: str
) -> list[Figure]:
    tail = f" + {strategy}" if strategy else ""
    return [
        Figure(model, dataset, fmt, f"SFT{tail}", sft, source),
        Figure(model, dataset, fmt, f"ReFT{tail}", reft, source),
    ]


AUTHORS = [
    *_pair("CodeLLAMA-7B", "gsm8k", "pcot", "", 63.68, 75.28, "authors' README"),
    *_pair("CodeLLAMA-7B", "gsm8k", "pcot", "voting", 68.0, 78.0, "authors' README"),
    *_pair("CodeLLAMA-7B", "gsm8k", "pcot", "reranking", 77.0, 81.2, "authors' README"),
    *_pair("Galactica-6.7B", "gsm8k", "pcot", "", 58.83, 68.91, "authors' README"),
    *_pair("Galactica-6.7B", "gsm8k", "pcot", "voting", 62.9, 71.9, "authors' README"),
    *_pair("Galactica-6.7B", "gsm8k", "pcot", "reranking", 73.4, 76.4, "authors' README"),
    *_pair("CodeLLAMA-7B", "gsm8k", "ncot", "", 43.59, 53.30, "the paper"),
    *_pair("CodeLLAMA-7B", "svamp", "pcot", "", 75.40, 79.19, "the paper"),
    *_pair("CodeLLAMA-7B", "mathqa-choice", "ncot", "", 56.01, 60.13, "the paper"),
]
"""Voting and reranking are over 100 samples."""


def ours(folder: Path, fmt: str, row: str) -> str:
    """Return one cell from the recorded runs of a preset: mean and 95% interval over seeds.

    A single run has the interval over its questions (Wilson's) instead.
    """
    cards = [card for card in finished(folder).values() if card["fmt"] == fmt]
    method, strategy = ROWS[row]
    found = []
    for card in cards:
        summary = card["summary"].get(method, {})
        names = [n for n in summary if n.startswith(f"test_{strategy}")]
        found += [(100 * summary[n], n, card) for n in names[:1]]
    if not found:
        return NOT_RUN
    if len(found) > 1:
        mean, lo, hi = stats.mean_interval([x for x, _, _ in found])
        return f"{mean:.1f} ± {(hi - lo) / 2:.1f}"
    percent, name, card = found[0]
    metrics = runlog.read_metrics(folder / card["name"])
    line = metrics[
        (metrics["split"] == "test")
        & (metrics["method"] == method)
        & (metrics["decoding"] == name.removeprefix("test_"))
    ].iloc[0]
    lo, hi = stats.wilson(line["verdicts"].count("1"), len(line["verdicts"]))
    return f"{percent:.1f} ({100 * lo:.0f} to {100 * hi:.0f})"


def table(runs: Path, family: str = "smollm2", model: str = "CodeLLAMA-7B") -> Any:
    """Return the table: for each data set and format our cell, then the authors'.

    The embedded problems, which are ours alone, come first.

    Parameters
    ----------
    runs : Path
        Folder of the recorded runs, one folder for each preset.
    family : str
        Our presets' common beginning.
    model : str
        The authors' model to set beside them.

    Returns
    -------
    pandas.DataFrame
        Text; the index names the rows.
    """
    import pandas as pd

    columns = {
        f"embedded {fmt}, ours": [ours(runs / MINIATURE, fmt, row) for row in ROWS]
        for fmt in FORMATS
    }
    for dataset in REAL:
        for fmt in FORMATS:
            preset = f"{family}-{dataset}-{fmt}"
            if preset not in PRESETS:
                continue
            head = f"{dataset} {fmt}"
            published = {
                f.row: f"{f.percent:.1f}"
                for f in AUTHORS
                if (f.model, f.dataset, f.fmt) == (model, dataset, fmt)
            }
            columns[f"{head}, ours"] = [ours(runs / preset, fmt, row) for row in ROWS]
            columns[f"{head}, authors"] = [published.get(row, "–") for row in ROWS]
    return pd.DataFrame(columns, index=pd.Index(ROWS, name="method"))
