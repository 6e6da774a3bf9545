"""Pictures of learning from preferences: what is drawn, what is said of it, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from reft_lib import best_of, rlhf_plots, style
from reft_lib.errors import UserError
from reft_lib.method_settings_rlhf import RaterConfig
from reft_lib.preferences import Calibration, probability

RATERS = {"calm": RaterConfig(temperature=0.5), "errs": RaterConfig(temperature=0.5, flip=0.25)}
JUDGED = Calibration(predicted=[0.55, 0.9], observed=[0.6, 0.7], n=[30, 10], error=0.0875)
ROWS = best_of.curve([[0.0, 1.0, 2.0, 3.0]], [[0.0, 3.0, 2.0, -1.0]], (1, 2, 4))
DPO = [
    {"loss": 0.69, "chosen_reward": 0.0, "rejected_reward": 0.0, "beta": 0.1},
    {"loss": 0.5, "chosen_reward": -0.1, "rejected_reward": -0.4, "beta": 0.1},
]


def followed(seeds=2) -> pd.DataFrame:
    """Make two arms whose proxy rises by 1 a step; the gold of one falls after its third step."""
    return pd.DataFrame(
        {
            "arm": arm, "seed": seed, "step": step, "kl": float((step - 1) ** 2),
            "proxy": step - 1.0 + seed, "gold": min(step - 1.0, bend - step) + seed,
        }
        for arm, bend in (("beta 0", 5.0), ("beta 1", 99.0))
        for seed in range(seeds)
        for step in range(1, 7)
    )  # fmt: skip


FIGURES = {
    "raters": lambda: rlhf_plots.rater_curves(RATERS),
    "calibration": lambda: rlhf_plots.calibration_curves({"model": JUDGED}),
    "over-optimisation": lambda: rlhf_plots.overoptimisation(followed()),
    "over-optimisation, one seed": lambda: rlhf_plots.overoptimisation(followed(1)),
    "best of": lambda: rlhf_plots.best_of_curves(ROWS),
    "dpo": lambda: rlhf_plots.dpo_curves(DPO),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_text_and_is_the_same_each_time(name):
    one, two = FIGURES[name](), FIGURES[name]()
    assert len(style.describe(one)) > 40
    assert style.to_bytes(one) == style.to_bytes(two)


def lines(fig, panel=0):
    """Return the thick lines that have a name, as {name: (x, y)}."""
    drawn = fig.axes[panel].get_lines()
    named = (x for x in drawn if not str(x.get_label()).startswith("_"))
    return {x.get_label(): (np.asarray(x.get_xdata()), np.asarray(x.get_ydata())) for x in named}


def test_a_raters_curve_is_its_probability():
    drawn = lines(FIGURES["raters"]())
    assert list(drawn) == list(RATERS)
    for name, (x, y) in drawn.items():
        assert y == pytest.approx([probability(float(d), 0.0, RATERS[name]) for d in x])
        assert y[len(x) // 2] == 0.5 and x[len(x) // 2] == 0.0


def test_calibration_is_drawn_as_it_is():
    fig = FIGURES["calibration"]()
    x, y = lines(fig)["model, 40 pairs"]
    assert (list(x), list(y)) == (JUDGED.predicted, JUDGED.observed)
    assert "55% predicted, 60% observed (30)" in style.describe(fig)
    assert "mean gap 8.8 points" in style.describe(fig)


def test_proxy_and_gold_stand_over_the_root_of_the_kl():
    fig = FIGURES["over-optimisation"]()
    proxy, gold = lines(fig, 0), lines(fig, 1)
    assert list(proxy) == ["beta 0", "beta 1"]
    assert list(proxy["beta 0"][0]) == [0, 1, 2, 3, 4, 5]
    assert list(proxy["beta 0"][1]) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]  # mean over two seeds
    assert list(gold["beta 0"][1]) == [0.5, 1.5, 2.5, 1.5, 0.5, -0.5]
    said = style.describe(fig)
    assert "gold, beta 0: highest +2.50 at √KL 2.00, at the end −0.50 at √KL 5.00" in said


def test_a_negative_estimate_of_the_kl_is_drawn_at_zero():
    frame = followed(1)
    frame.loc[frame["step"] == 1, "kl"] = -0.3
    assert lines(rlhf_plots.overoptimisation(frame))["beta 0"][0][0] == 0.0


def test_best_of_n_is_drawn_over_its_kl():
    drawn = lines(FIGURES["best of"]())
    d = [math.sqrt(best_of.kl(n)) for n in (1, 2, 4)]
    for (x, y), worth in zip(drawn.values(), ("proxy", "gold"), strict=True):
        assert list(x) == d and list(y) == [getattr(row, worth) for row in ROWS]
    assert "gold from +1.00 at n = 1 to −1.00 at n = 4" in style.describe(FIGURES["best of"]())


def test_log_probabilities_of_dpo_are_rewards_over_beta():
    drawn = lines(FIGURES["dpo"](), 1)
    assert list(drawn["chosen"][1]) == pytest.approx([0.0, -1.0])
    assert list(drawn["rejected"][1]) == pytest.approx([0.0, -4.0])
    assert "chosen responses by −1.00 nats" in style.describe(FIGURES["dpo"]())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rlhf_plots.rater_curves({}), "rater_curves: 0 lines; wanted 1 to"),
        (lambda: rlhf_plots.calibration_curves({}), "calibration_curves: 0 lines"),
        (lambda: rlhf_plots.overoptimisation([{"arm": "a"}]), "overoptimisation: no column seed"),
        (lambda: rlhf_plots.best_of_curves([]), "best_of_curves: no rows"),
        (lambda: rlhf_plots.dpo_curves([]), "dpo_curves: no rows"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(call, match):
    with pytest.raises(UserError, match=match):
        call()
