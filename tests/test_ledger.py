"""The ledger: every difference it tells of names tests, and the tests are there."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
from pathlib import Path

import pytest
import torch

from reft_lib import lora, rollout
from reft_lib.answers import equal, normalise, options
from reft_lib.config import (
    LoraSettings,
    PpoConfig,
    RunConfig,
    SampleConfig,
    SftConfig,
    preset,
)
from reft_lib.data import Example
from reft_lib.prompts import TRIGGER
from reft_lib.rewards import AnswerReward
from reft_lib.sft import sft

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "ledger.md").read_text(encoding="utf-8")
ENTRIES = {part.split("\n", 1)[0]: part for part in re.split(r"^### ", PAGE, flags=re.M)[1:]}
TEST_NAME = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
REAL = os.environ.get("REFT_DATA_DIR")


def names_in(path: Path) -> set[str]:
    """Return the names of a file's tests, those in classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


# ---------------------------------------------------------------- the page


def test_the_ledger_is_long() -> None:
    assert len(ENTRIES) > 30


@pytest.mark.parametrize("title", ENTRIES)
def test_every_entry_tells_there_and_here_and_names_tests_that_exist(title: str) -> None:
    terms = re.findall(r"^(\w+)\n: ", ENTRIES[title], re.MULTILINE)
    assert terms == ["There", "Here", "Test"]
    told, named = ENTRIES[title].split("\nTest\n: ")
    found = TEST_NAME.findall(named.split("\n## ")[0])
    assert found and not TEST_NAME.search(told)
    for file, name in found:
        assert (ROOT / "tests" / file).is_file(), f"{title}: there is no {file}"
        assert name in names_in(ROOT / "tests" / file), f"{title}: {file} has no {name}"


def test_no_name_of_a_test_is_lost_in_the_page() -> None:
    # a misspelt one, without its file or its quotes, would not be looked up
    assert len(re.findall(r"\btest_\w+\.py", PAGE)) == len(TEST_NAME.findall(PAGE))


# ---------------------------------------------------------------- rewards


def number_there(text: str | float | bool | None) -> float | None:
    """Read a number as the official code does: whatever float() accepts."""
    try:
        return float(text)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return None


def reward_there(kind: str, stated: str, gold: str) -> float:
    """Reward a response as the official code does, told in our own words.

    Numbers within 0.01 earn 1, other numbers 0.1; letters are compared as texts, and a text that
    differs earns 0.1. In words, what is stated is everything after the last trigger.
    """
    if kind in ("words", "letter"):
        stated = stated.split(TRIGGER)[-1].strip()
    if kind == "letter":
        return 1.0 if stated.lower() == gold.lower() else 0.1
    if kind == "program":  # the value that the program returns
        value = number_there(eval(stated, {"nan": float("nan"), "inf": float("inf")}))
    else:
        value = number_there(stated)
    if value is None:
        return 0.0
    return 1.0 if abs(value - float(gold)) <= 0.01 else 0.1


def reward_here(kind: str, stated: str, gold: str) -> float:
    if kind == "program":
        value = {"nan": "float('nan')", "inf": "float('inf')"}.get(stated, stated)
        return AnswerReward("pcot")([f"\n    return {value}"], [Example("a", "q?", gold)])[0].reward
    return AnswerReward("ncot")([stated], [Example("a", "q?", gold)])[0].reward


T = "So." + TRIGGER
REWARDS: list[tuple[str, str, str, float, float]] = [
    # kind, what is stated, right answer, reward there, reward here
    ("words", T + "18", "18", 1.0, 1.0),
    ("words", T + "17", "18", 0.1, 0.1),
    ("words", T + "none", "18", 0.0, 0.0),
    ("words", T + "nan", "18", 0.1, 0.0),
    ("words", T + "inf", "18", 0.1, 0.0),
    ("words", T + "1,450", "1450", 0.0, 1.0),
    ("words", T + "$18", "18", 0.0, 1.0),
    ("words", T + "50%", "50", 0.0, 1.0),
    ("words", T + "18 apples", "18", 0.0, 1.0),
    ("words", T + "3/4", "0.75", 0.0, 1.0),
    ("words", "18", "18", 1.0, 0.0),
    ("words", T + "0.01", "0.005", 1.0, 0.1),
    ("words", T + "0", "0.005", 1.0, 0.1),
    ("words", T + "9007199254740993", "9007199254740992", 1.0, 0.1),
    ("program", "18", "18", 1.0, 1.0),
    ("program", "None", "18", 0.0, 0.0),
    ("program", "nan", "18", 0.1, 0.0),
    ("program", "inf", "18", 0.1, 0.0),
    ("program", "True", "1", 1.0, 0.0),
    ("program", "'1,450'", "1450", 0.0, 1.0),
    ("letter", T + "b", "b", 1.0, 1.0),
    ("letter", T + "c", "b", 0.1, 0.0),
    ("letter", T + "none", "b", 0.1, 0.0),
    ("letter", T + "b ) 27.5", "b", 0.1, 1.0),
    ("letter", "no trigger at all", "b", 0.1, 0.0),
]


@pytest.mark.parametrize(("kind", "stated", "gold", "there", "here"), REWARDS)
def test_rewards_there_and_here(
    kind: str, stated: str, gold: str, there: float, here: float
) -> None:
    assert reward_there(kind, stated, gold) == there
    assert reward_here(kind, stated, gold) == here


def test_programs_with_an_empty_line_run_to_their_end() -> None:
    program = "\n    apples = 9\n\n    return 2 * apples"
    assert AnswerReward("pcot")([program], [Example("a", "q?", "18")])[0].reward == 1.0


# ---------------------------------------------------------------- settings


def test_sampling_has_no_other_knob_than_temperature() -> None:
    names = set(inspect.signature(rollout.sample).parameters)
    shaping = {"temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty"}
    assert names & shaping == {"temperature"}


def test_the_nano_preset_departs_as_the_ledger_says() -> None:
    paper, nano = PpoConfig(), preset("nano")
    assert (paper.ppo_epochs, paper.minibatches, paper.value_coef) == (2, 1, 5.0)
    assert (paper.beta, RunConfig().beta_programs) == (0.05, 0.01)
    assert (paper.gamma, paper.lam, paper.clip, paper.value_clip) == (1.0, 0.95, 0.2, 0.2)
    assert (paper.partial_reward, paper.value_trunk, paper.mean_per) == (0.1, "shared", "sequence")
    assert (nano.ppo.ppo_epochs, nano.ppo.minibatches, nano.ppo.value_coef) == (1, 8, 1.0)
    assert nano.ppo.beta == nano.beta_programs == 0.02
    assert nano.warmup_epochs == 3 and nano.sft.epochs == 12
    assert nano.ppo.steps * nano.ppo.batch_size == 7 * nano.n_train
    assert nano.ppo.lr >= 100 * 3e-6 and nano.sft.lr >= 100 * 2e-5  # the paper's smallest model
    assert SampleConfig().votes == nano.sample.votes == 16
    kept = ("gamma", "lam", "clip", "value_clip", "partial_reward", "value_trunk", "mean_per")
    for name in kept:  # what the ledger does not tell of is as in the paper
        assert getattr(nano.ppo, name) == getattr(paper, name)


def test_the_learning_rate_of_sft_is_constant_after_its_first_steps(  # type: ignore[no-untyped-def]
    new_model, tokenizer, examples, monkeypatch
) -> None:
    step, seen = torch.optim.AdamW.step, []

    def noted(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    model = lora.add_adapter(new_model(), LoraSettings(rank=2, alpha=4))
    config = SftConfig(epochs=5, batch_size=1, lr=1e-3, lr_warmup_steps=10)
    list(sft(model, tokenizer, examples, "ncot", config))
    assert len(seen) == 5 * len(examples) == 20
    assert seen[:10] == pytest.approx([1e-4 * n for n in range(1, 11)])
    assert set(seen[10:]) == {1e-3}


# ---------------------------------------------------------------- real data

needs_data = pytest.mark.skipif(
    not REAL, reason="REFT_DATA_DIR names no folder with the real files"
)


def real(name: str) -> list[dict[str, str]]:
    return json.loads((Path(str(REAL)) / name).read_text(encoding="utf-8"))


@needs_data
def test_small_answers_of_the_real_tests_are_few() -> None:
    numeric = [float(row["answer_value"]) for row in real("mathqa-numeric_test_set.json")]
    assert (sum(0 < abs(x) < 0.1 for x in numeric), len(numeric)) == (18, 1605)
    svamp = [float(row["answer_value"]) for row in real("svamp_test_set.json")]
    lines = (Path(str(REAL)) / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    gsm8k = [float(json.loads(x)["answer"].split("####")[1].replace(",", "")) for x in lines]
    assert not any(0 < abs(x) < 0.1 for x in svamp + gsm8k)
    assert "18 of MathQA's 1,605" in PAGE


@needs_data
def test_eight_answers_of_the_real_mathqa_contradict_their_options() -> None:
    letters = {row["item_id"].split("_")[1]: row for row in real("mathqa_test_set.json")}
    contradicted = []
    for row in real("mathqa-numeric_test_set.json"):
        other = letters[row["item_id"].split("_")[1]]
        assert other["question"].startswith(row["question"])
        option = options(other["question"])[other["answer_value"].upper()]
        if normalise(option) is not None and not equal(option, row["answer_value"]):
            contradicted.append(option)
    assert len(contradicted) == 8 and {"13,400", "- 6"} <= set(contradicted)
    assert "In eight of the 1,605" in PAGE
