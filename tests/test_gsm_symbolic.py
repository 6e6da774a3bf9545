"""GSM-Symbolic, as the package reasoning-gym makes it."""

from __future__ import annotations

import sys

import pytest

from reft_lib import gsm_symbolic
from reft_lib.data import Example, Report, load_with_report
from reft_lib.errors import UserError
from reft_lib.examples import question_key
from reft_lib.gsm_symbolic import is_true

TRUE = [
    ("She has 7 * 15 = 105 cupcakes.", True),
    ("He has 0.44*40 = 17 tubes.", False),
    ("It costs $28.44 - $13.44 = $14.", False),
    ("It costs $370,000 x 4/100 = $14,800.", True),
    ("10 loaves cost 10 * $5 = $50.\n3 croissants cost 3 * $1 = $3.", True),
    ("Thus T = 189 - 131 = 58 balls.", True),
    ("Thus T = 189 - 131 = 57 balls.", False),
    ("The area is 10 / 3 = 3.33.", True),
    ("We get 2x + 110 = 298, so x = 94", True),  # algebra is not judged
    ("That is 100% - 20% = 80%", True),
    ("no equation", True),
]


@pytest.mark.parametrize(("solution", "expected"), TRUE)
def test_equations_that_hold(solution: str, expected: bool) -> None:
    assert is_true(solution) is expected


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="gsm-symbolic needs the package reasoning-gym"):
        load_with_report("gsm-symbolic", "test")


def test_seeds_are_far_apart() -> None:
    drawn: set[int] = set()
    for seed, rows in gsm_symbolic.SPLITS.values():  # the package draws row i with seed + i
        split = set(range(seed, seed + gsm_symbolic._MOST_TRIES * rows))
        assert not split & drawn
        drawn |= split


# ---------------------------------------------------------------- with the package

Loaded = tuple[list[Example], Report]


@pytest.fixture(scope="module")
def made() -> dict[str, Loaded]:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    return {split: load_with_report("gsm-symbolic", split) for split in gsm_symbolic.SPLITS}


def test_sizes_shares_and_hashes(made: dict[str, Loaded]) -> None:
    for split, (examples, report) in made.items():
        assert len(examples) == gsm_symbolic.SPLITS[split][1] == report["rows"]
        assert report["read"] == len(examples) + sum(report.get("left_out", {}).values())
        assert report["ncot_share"] > 0.9 and report["pcot_share"] > 0.9
        assert "warnings" not in report
        for fmt in ("ncot", "pcot"):
            assert report[fmt] + sum(report["dropped"][fmt].values()) == len(examples)


def test_no_question_is_in_two_splits(made: dict[str, Loaded]) -> None:
    keys = [question_key(e.question) for examples, _ in made.values() for e in examples]
    assert len(set(keys)) == len(keys) == 5500


def test_texts_are_clean(made: dict[str, Loaded]) -> None:
    for examples, _ in made.values():
        assert not [e.id for e in examples if "final answer" in e.question]
        assert not [e.id for e in examples if "####" in (e.ncot or "")]
        assert not [e.id for e in examples if e.ncot is not None and not is_true(e.ncot)]


def test_answers_are_those_of_the_package(made: dict[str, Loaded]) -> None:
    from reasoning_gym import create_dataset

    seed, rows = gsm_symbolic.SPLITS["test"]
    theirs = create_dataset("gsm_symbolic", seed=seed, size=rows)
    for i in range(0, rows, 50):  # no question of the test was made twice
        example = made["test"][0][i]
        assert theirs[i]["question"].startswith(example.question)
        assert float(theirs[i]["answer"]) == float(example.answer)


def test_another_version_is_told(made: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gsm_symbolic.SHA256, "test", "0" * 64)
    with pytest.warns(UserWarning, match="gsm-symbolic test has other rows than with reasoning-g"):
        examples, report = load_with_report("gsm-symbolic", "test")
    assert len(report["warnings"]) == 1 and examples == made["test"][0]
