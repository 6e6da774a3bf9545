"""The paper's table, filled from run logs written here."""

from __future__ import annotations

import json

import pytest

from reft_lib import paper, runlog
from reft_lib.config import PRESETS


def write(folder, seed, right, method="sft", fmt="pcot", ended="2024-01-01T00:00:00+00:00"):
    """Write a finished run whose test has four questions."""
    unit = folder / f"{fmt}-seed{seed}"
    unit.mkdir(parents=True)
    summary = {method: {"test_top1": right / 4, "test_vote16": 0.5, "minutes": 1.0}}
    card = {"name": unit.name, "method": "compare", "fmt": fmt, "ended": ended, "summary": summary}
    (unit / runlog.CARD).write_text(json.dumps(card))
    line = {"split": "test", "method": method, "decoding": "top1"}
    verdicts = "1" * right + "0" * (4 - right)
    (unit / runlog.METRICS).write_text(json.dumps({**line, "verdicts": verdicts}) + "\n")


def test_without_runs_every_cell_of_ours_says_so(tmp_path):
    table = paper.table(tmp_path)
    mine = [c for c in table.columns if c.endswith("ours")]
    assert len(mine) == 10 and list(table.index) == list(paper.ROWS)
    assert (table[mine] == paper.NOT_RUN).all(axis=None)
    assert table.loc["ReFT", "gsm8k pcot, authors"] == "75.3"
    assert table.loc["SFT + reranking", "gsm8k pcot, authors"] == "77.0"
    assert table.loc["Online self-training", "gsm8k pcot, authors"] == "–"


def test_several_seeds_give_mean_and_interval(tmp_path):
    folder = tmp_path / "smollm2-svamp-pcot"
    for seed, right in enumerate([1, 2, 3]):
        write(folder, seed, right)
    write(folder, 3, 4, ended=None)  # not finished
    # 25, 50, 75: mean 50, standard deviation 25, t(2) = 4.3027
    assert paper.ours(folder, "pcot", "SFT") == "50.0 ± 62.1"
    assert paper.ours(folder, "pcot", "ReFT") == paper.NOT_RUN
    assert paper.ours(folder, "ncot", "SFT") == paper.NOT_RUN
    table = paper.table(tmp_path)
    assert table.loc["SFT", "svamp pcot, ours"] == "50.0 ± 62.1"
    assert table.loc["SFT + voting", "svamp pcot, ours"] == "50.0 ± 0.0"


def test_the_embedded_problems_have_our_columns_alone(tmp_path):
    write(tmp_path / "nano-baselines", 0, 3, method="offline_st")
    table = paper.table(tmp_path)
    assert list(table.columns[:3]) == [
        "embedded ncot, ours",
        "embedded pcot, ours",
        "svamp ncot, ours",
    ]
    assert table.loc["Offline self-training", "embedded pcot, ours"] == "75.0 (30 to 95)"
    assert table.loc["Offline self-training", "embedded ncot, ours"] == paper.NOT_RUN


def test_one_seed_has_the_interval_over_its_questions(tmp_path):
    write(tmp_path / "p", 0, 2)
    # Wilson's interval of 2 of 4: (0.5 + z^2/8 +- z sqrt(1/16 + z^2/64)) / (1 + z^2/4), z = 1.96
    assert paper.ours(tmp_path / "p", "pcot", "SFT") == "50.0 (15 to 85)"


def test_the_authors_figures_name_known_rows_and_presets():
    for figure in paper.AUTHORS:
        assert figure.row in paper.ROWS and 0 < figure.percent < 100
        assert f"smollm2-{figure.dataset}-{figure.fmt}" in PRESETS
    assert len(set(paper.AUTHORS)) == len(paper.AUTHORS) == 18


@pytest.mark.parametrize("row", paper.ROWS)
def test_rows_are_methods_that_runs_know(row):
    assert paper.ROWS[row][0] in ("sft", "reft", "offline_st", "online_st")
