"""The table of finished comparisons, from cards written here and figures worked by hand."""

from __future__ import annotations

import json
import math

import pytest

from reft_lib import runlog
from reft_lib.errors import UserError
from reft_lib.results import as_text, table

T2, T1 = 4.302653, 12.706205  # Student's t, 97.5%, with 2 and 1 degrees of freedom


def write(folder, fmt, seed, sft, reft, ended="2024-01-01T00:00:00+00:00", **more):
    """Write a card as a finished unit leaves it; sft and reft are (top-1, vote, minutes)."""
    summary = {
        method: {
            "minutes": minutes,
            "best_epoch": 3,
            "validation": 0.5,
            "test_top1": top1,
            "test_vote16": vote,
        }
        for method, (top1, vote, minutes) in {"sft": sft, "reft": reft}.items()
    }
    card = {"method": "compare", "fmt": fmt, "seed": seed, "ended": ended, "summary": summary}
    unit = folder / f"{fmt}-seed{seed}"
    unit.mkdir(parents=True)
    (unit / runlog.CARD).write_text(json.dumps(card | more), encoding="utf-8")


@pytest.fixture
def runs(tmp_path):
    write(tmp_path, "ncot", 0, sft=(0.40, 0.50, 1.0), reft=(0.52, 0.60, 3.0))
    write(tmp_path, "ncot", 1, sft=(0.44, 0.50, 2.0), reft=(0.54, 0.60, 4.0))
    write(tmp_path, "ncot", 2, sft=(0.48, 0.50, 3.0), reft=(0.62, 0.60, 5.0))
    write(tmp_path, "pcot", 0, sft=(0.30, 0.40, 1.0), reft=(0.30, 0.45, 2.0))
    write(tmp_path, "pcot", 1, sft=(0.32, 0.42, 1.0), reft=(0.36, 0.45, 2.0))
    return tmp_path


def test_means_and_intervals_worked_by_hand(runs):
    frame = table(runs).set_index(["fmt", "method"])
    assert list(frame.index) == [
        (fmt, method) for fmt in ("ncot", "pcot") for method in ("sft", "reft", "reft - sft")
    ]
    sft, reft, gain = (frame.loc[("ncot", m)] for m in ("sft", "reft", "reft - sft"))
    assert (sft.seeds, reft.seeds, gain.seeds) == (3, 3, 3)
    # 40, 44, 48: mean 44, standard deviation 4
    assert sft.test_top1 == pytest.approx(44)
    assert sft.test_top1_pm == pytest.approx(T2 * 4 / math.sqrt(3), rel=1e-6)
    # 52, 54, 62: mean 56, deviations -4, -2, 6, so variance (16 + 4 + 36) / 2 = 28
    assert reft.test_top1 == pytest.approx(56)
    assert reft.test_top1_pm == pytest.approx(T2 * math.sqrt(28 / 3), rel=1e-6)
    # pairs: 12, 10, 14: mean 12, standard deviation 2
    assert gain.test_top1 == pytest.approx(12)
    assert gain.test_top1_pm == pytest.approx(T2 * 2 / math.sqrt(3), rel=1e-6)
    assert sft.test_vote16 == pytest.approx(50)
    assert sft.test_vote16_pm == pytest.approx(0, abs=1e-9)
    assert (sft.minutes, reft.minutes) == pytest.approx((2, 4))
    assert math.isnan(gain.minutes)
    # programs: pairs 0 and 4: mean 2, standard deviation sqrt(8), over sqrt(2): 2
    gain = frame.loc[("pcot", "reft - sft")]
    assert (gain.test_top1, gain.test_top1_pm) == pytest.approx((2, T1 * 2), rel=1e-6)


def test_only_finished_comparisons_count(runs):
    before = table(runs)
    write(runs, "ncot", 3, (0, 0, 0), (0, 0, 0), ended=None)
    write(runs, "other", 4, (0, 0, 0), (0, 0, 0), method="sft")
    assert table(runs).equals(before)


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_finished_runs_is_named(tmp_path, make):
    folder = tmp_path / "runs"
    if make:
        write(folder, "ncot", 0, (0, 0, 0), (0, 0, 0), ended=None)
    with pytest.raises(UserError, match="runs: no finished runs; make them with") as error:
        table(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_card_is_named(runs):
    (runs / "ncot-seed1" / runlog.CARD).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"ncot-seed1.*not valid JSON"):
        table(runs)


def test_the_text_is_aligned_and_rounded(runs):
    lines = as_text(table(runs)).splitlines()
    assert len(lines) == 7
    assert lines[0].split() == ["format", "method", "seeds", "test_top1", "test_vote16", "minutes"]
    assert lines[1].split() == "ncot sft 3 44.0 ± 9.9 50.0 ± 0.0 2.0".split()
    assert lines[3].split() == "ncot reft - sft 3 12.0 ± 5.0 10.0 ± 0.0".split()
    for name in ("method", "seeds", "test_top1", "test_vote16"):
        at = lines[0].index(name)
        for line in lines[1:]:
            assert line[at - 1] == " " and line[at] != " ", (name, line)
    assert all(line == line.rstrip() for line in lines)


def test_one_seed_has_no_interval(tmp_path):
    write(tmp_path, "ncot", 0, sft=(0.4, 0.5, 1.0), reft=(0.5, 0.6, 3.0))
    frame = table(tmp_path)
    assert frame.test_top1_pm.isna().all()
    text = as_text(frame)
    assert "nan" not in text
    assert text.splitlines()[1].split() == "ncot sft 1 40.0 50.0 1.0".split()
