"""Pictures of the benchmark: their words hold their numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from reft_lib import speed_plots, style
from reft_lib.errors import UserError
from reft_lib.rollout import Rollout
from reft_lib.speed_case import Case


def record(kind, engines, tokens=1000, flops=0.0, **changes):
    """A record of engines by their seconds."""
    return {
        "kind": kind,
        "case": dataclasses.asdict(dataclasses.replace(Case(), **changes)),
        "device": {},
        "limits": {"bfloat16": 1e4, "float32": 1e3, "bytes": 1.0},
        "engines": {
            name: {"tokens": [tokens] * 3, "seconds": [s, 1.1 * s, 0.9 * s],
                   "flops": [flops] * 3, "moved": [0.0] * 3,
                   "held_mb": [100.0] * 20 + [110.0] * 20, "peak_mb": 120.0}
            for name, s in engines.items()
        },
    }  # fmt: skip


RECORDS = [
    record("rollout", {"generate": 4.0, "plain": 2.0, "reft_lib": 1.0}),
    record("update", {"plain": 2.0, "reft_lib": 1.0}, flops=5000.0),
    *(
        record("step", {"trl": 8.0 * n, "reft_lib": 2.0 * n}, tokens=1000 * n, rows=64 * n)
        for n in (1, 2, 4)
    ),
    record("memory", {"reft_lib": 1.0}, rows=16),
]


def test_rates_in_words_and_bars():
    fig = speed_plots.rates(RECORDS)
    said = style.describe(fig)
    assert "Rollout, reft_lib: 1,000 tokens a second, 4.0 times generate." in said
    assert "Update, reft_lib: 1,000 tokens a second, 2.0 times plain, 50% of the limit" in said
    assert "Whole step (GRPO), trl: 125 tokens a second, 1.0 times trl." in said
    widths = sorted(round(p.get_width()) for p in fig.axes[0].patches)
    assert widths == [250, 500, 1000]


def test_growth_and_memory_in_words():
    assert "as tokens to the 1.00" in style.describe(speed_plots.growth(RECORDS))
    said = style.describe(speed_plots.memory(RECORDS))
    assert (
        "over 40 steps" in said
        and "100 to 110 MB, +10.0% from the second tenth to the last" in said
    )


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="nothing of other with 64 rows"):
        speed_plots.rates(RECORDS, "other")
    with pytest.raises(UserError, match="two sizes"):
        speed_plots.growth(RECORDS[:3])
    with pytest.raises(UserError, match="no long run"):
        speed_plots.memory(RECORDS[:3])


def test_places_of_a_batch_are_counted():
    """Rows: q1 q2 | a b c; q1 q2 | d; r | e f, padded to two and three columns."""
    batch = Rollout(
        sequences=torch.tensor([[1, 2, 11, 12, 13], [1, 2, 14, 9, 9], [9, 3, 15, 16, 9]]),
        attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]]),
        position_ids=torch.zeros(3, 5, dtype=torch.int64),
        response_mask=torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool),
        logprobs=torch.zeros(3, 3),
        ended=torch.ones(3, dtype=torch.bool),
        texts=[""] * 3,
    )
    said = style.describe(speed_plots.places(batch))
    assert "15 places: prompt 3, the same prompt 2, response 6, padding 4." in said
    assert said.endswith("6 tokens are read.")
