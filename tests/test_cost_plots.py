"""Pictures of cost: what stands in them is what was given."""

from __future__ import annotations

import pandas as pd
import pytest

from reft_lib import cost_plots, style
from reft_lib.errors import UserError

SIZES = {"weights": 13e9, "adapter": 1e9, "cache": 50e9, "activations": 30e9, "logits": 2e9}
MEMORY = pd.DataFrame([{"plan": "7B", **SIZES}])
SECONDS = pd.DataFrame(
    [
        {"plan": "small", "read": 1.0, "decode": 6.0, "score": 1.0, "update": 2.0},
        {"plan": "large", "read": 0.0, "decode": 1.0, "score": 1.0, "update": 2.0},
    ]
)


def test_memory_is_stacked_to_its_two_sums():
    fig = cost_plots.memory_bars(MEMORY, 80e9)
    alt = style.describe(fig)
    assert "7B, sampling: 64 GB. 7B, update: 46 GB." in alt and "80 GB" in alt
    bars = fig.axes[0].patches
    assert max(b.get_x() + b.get_width() for b in bars) == pytest.approx(64)
    assert len(bars) == 7


def test_shares_of_a_step_add_up():
    fig = cost_plots.step_seconds(SECONDS)
    assert "small: 10.0 s; read 10%, decode 60%, score 10%, update 20%." in style.describe(fig)
    for y in (0, 1):
        bars = [b for b in fig.axes[0].patches if round(b.get_y() + b.get_height() / 2) == y]
        assert sum(b.get_width() for b in bars) == pytest.approx(100)


@pytest.mark.parametrize("draw", [lambda f: cost_plots.memory_bars(f, 1), cost_plots.step_seconds])
def test_a_missing_column_is_named(draw):
    with pytest.raises(UserError):
        draw(pd.DataFrame({"plan": ["a"]}))
