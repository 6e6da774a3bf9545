"""The drawn overviews: what they say, that nothing leaves its place, and what is refused."""

from __future__ import annotations

import pytest

from reft_lib import overviews
from reft_lib.errors import UserError
from reft_lib.overviews import Sampled
from reft_lib.style import describe, to_bytes

QUESTION = "Tom has 12 apples. He buys 3 bags of 5 apples. How many apples does Tom have now? " * 2
CHAINS = [
    Sampled("12 + 3 * 5 = 27 for Tom.", True, 1.0),
    Sampled("3 * 5 = 15 in the bags. 15 + 12 = 27 for Tom, and that is the answer.", True, 1.0),
    Sampled("12 + 3 + 5 = 20 for Tom.", False, 0.1),
]  # fmt: skip


def texts(fig):
    """Return the drawn texts with their places in inches."""
    fig.draw_without_rendering()
    return {
        t.get_text(): t.get_window_extent().transformed(fig.dpi_scale_trans.inverted())
        for t in fig.axes[0].texts
        if t.get_text()
    }


def test_the_chains_are_told_with_their_rewards():
    fig = overviews.several_paths(QUESTION, "3 * 5 = 15. 15 + 12 = 27.", CHAINS)
    said = describe(fig)
    assert "2 of them right" in said and "'12 + 3 + 5 = 20 for Tom.', wrong, 0.1" in said
    found = texts(fig)
    assert "✓  1" in found and "✗  0.1" in found


@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_text_leaves_the_figure_or_meets_another(count):
    chains = (CHAINS * 2)[:count]
    long = "3 * 5 = 15 in the bags. 12 + 15 = 27 for Tom. " * 4
    for fig in (overviews.several_paths(QUESTION, long, chains), overviews.rft_overview()):
        boxes = list(texts(fig).values())
        width, height = fig.get_size_inches()
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        for i, a in enumerate(boxes):
            for b in boxes[i + 1 :]:
                apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 + 0.03 or b.y1 <= a.y0 + 0.03
                assert apart, (a, b)


def test_the_same_picture_has_the_same_bytes():
    assert to_bytes(overviews.rft_overview()) == to_bytes(overviews.rft_overview())


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_or_too_many_chains_are_refused(count):
    with pytest.raises(UserError, match=f"{count} sampled chains; wanted two to four"):
        overviews.several_paths(QUESTION, "1 + 1 = 2.", (CHAINS * 2)[:count])
