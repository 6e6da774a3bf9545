"""The clip explorer: its numbers are those of the formula, and its words those of its numbers."""

from __future__ import annotations

import pytest
import torch

from reft_lib import explorer, widget_losses, widgets
from reft_lib.diagrams import clipped_objective
from reft_lib.errors import UserError
from reft_lib.style import describe
from reft_lib.widget_losses import SIGNS, clip_figure


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("clip", [0.05, 0.2, 0.5])
def test_objective_and_gradient_by_the_formula(advantage, clip):
    ratios = torch.tensor([0.3, 0.7, 0.94, 1.0, 1.04, 1.3, 1.9], dtype=torch.float64)
    objective, slope = clipped_objective(ratios, advantage, clip)
    pull = slope * ratios
    for r, value, slope in zip(ratios.tolist(), objective.tolist(), pull.tolist(), strict=True):
        bounded = min(max(r, 1 - clip), 1 + clip)
        assert value == pytest.approx(min(r * advantage, bounded * advantage))
        flat = r > 1 + clip if advantage > 0 else r < 1 - clip
        # d/d log p of ratio * A is ratio * A
        assert slope == pytest.approx(0.0 if flat else r * advantage)


def test_the_words_say_where_it_is_flat():
    well, badly = SIGNS
    assert "zero, where the ratio is above 1.2;" in describe(clip_figure(well, 0.2))
    assert "zero, where the ratio is below 0.7;" in describe(clip_figure(badly, 0.3))


@pytest.mark.parametrize(("sign", "clip"), [("up", 0.2), (next(iter(SIGNS)), 0.0)])
def test_what_is_no_state_is_refused(sign, clip):
    with pytest.raises(UserError, match="wanted 0 to 1"):
        clip_figure(sign, clip)


def test_the_page_holds_both_signs_and_every_clip():
    found = widgets.clip_explorer(live=False)
    assert len(found.states) == 2 * len(widget_losses.CLIPS) <= explorer.MOST_STATES
    assert "ε = 0.2" in found.first.html and "clip 0.2" in found.first.text
    assert sum(map(len, found.states.values())) < 600_000
