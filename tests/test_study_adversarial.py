"""The study of adversarial fine-tuning in small: every arm runs and reports what it promises."""

from __future__ import annotations

import dataclasses
import math

import matplotlib
import pytest
from test_compare import TINY

from reft_lib import adversarial_plots, data, study_adversarial, style, wording
from reft_lib.bench import Bench
from reft_lib.errors import UserError
from reft_lib.method_settings_adversarial import AdversarialConfig
from reft_lib.study_adversarial import STUDY

matplotlib.use("Agg")
SMALL = dataclasses.replace(TINY, fmt="pcot")
SIZES = {"steps": 3, "batch_size": 4, "minibatches": 2, "head_start": 1}


@pytest.fixture
def bench(small_world, monkeypatch) -> Bench:
    monkeypatch.setattr(study_adversarial, "STORY_TOKENS", 6)
    monkeypatch.setattr(study_adversarial, "JUDGE", AdversarialConfig(batch_size=4, minibatches=1))
    return Bench(0, "pcot", config=SMALL)


def test_stories_are_cut_behind_their_first_sentence_and_nothing_is_lost():
    examples = data.load("embedded", "validation")[:40]
    texts = study_adversarial.stories(examples)
    for e, t in zip(examples, texts, strict=True):
        assert t.prompt.startswith("Question:\n") and t.prompt.endswith(".")
        assert study_adversarial.whole([t], [t.rest]) == [e.question]
        assert len(wording.read(study_adversarial.whole([t], [""])[0])[0]) == 1
        assert e.answer not in t.prompt or e.answer in e.question


@pytest.mark.parametrize("arm", [name for name in STUDY.arms if name.startswith("text")])
def test_an_arm_on_unlabelled_texts(bench, arm):
    settings = {**STUDY.arms[arm], **SIZES}
    found = STUDY.run(bench, settings)
    assert 0 <= found["found_out"] <= 1 and found["given"] == "4 unlabelled texts"
    assert {"worded", "kinds", "self_bleu", "distinct_2", "unique", "held_nll"} <= set(found)
    rounds = bench.lines
    assert [line["step"] for line in rounds] == [1, 2, 3]
    lengths = sum(4 * line["length"] for line in rounds)
    assert found["sampled_tokens"] == round(lengths)
    assert ("policy_loss" in rounds[-1]) == (settings["reward"] != "none")
    assert ("likelihood_loss" in rounds[-1]) == (settings.get("forcing", 0) > 0)


def test_a_second_opinion_finds_out_a_generator_that_has_learnt_nothing(bench, monkeypatch):
    monkeypatch.setattr(study_adversarial, "PASSES", 12)
    policy, _ = bench.adapted()
    texts = study_adversarial.stories(bench.splits["train"])
    found = study_adversarial.second_opinion(bench, policy, texts, texts)
    assert found["found_out"] > 0.8
    again = study_adversarial.second_opinion(bench, policy, texts, texts)
    assert found == again


def test_the_arm_on_solutions_is_tested(bench):
    settings = {**STUDY.arms["solutions"], **SIZES, "eval_every": 2}
    found = STUDY.run(bench, settings)
    validated = [line["step"] for line in bench.lines if line["split"] == "validation"]
    assert validated == [0, 2, 3]
    assert {"validation", "test", "hard", "sampled_tokens", "trained_tokens"} <= set(found)
    rounds = [line for line in bench.lines if line["split"] == "train"]
    assert all(0 <= line["accuracy"] <= 1 and "auc" in line for line in rounds)
    assert found["trained_tokens"] > SMALL.warmup_epochs * 4
    assert bench.lines[-1]["split"] == "hard" and found["given"] == "4 annotated questions"


def test_the_arm_of_virtual_adversarial_training_is_tested(bench):
    found = STUDY.run(bench, {**STUDY.arms["sft-vat"], "epochs": 2})
    lines = [line for line in bench.lines if line["split"] == "train"]
    assert len(lines) == 2 * 2 and all(line["divergence"] > 0 for line in lines)
    assert {"validation", "test", "hard", "trained_tokens"} <= set(found)
    assert found["sampled_tokens"] == 0


def rounds(arm: str, seed: int) -> list[dict]:
    return [
        {
            "run": f"{arm}-seed{seed}", "arm": arm, "step": step, "fake_right": 0.9 - step / 20,
            "real_right": 0.8, "reward": step / 10, "self_bleu": 0.5 + seed / 10,
            "distinct_2": 0.4, "held_nll": 1.0 - step / 100, "worded": step / 8, "kl": step / 2,
        }
        for step in range(1, 6)
    ]  # fmt: skip


def test_the_pictures_say_what_they_show():
    one = [*rounds("text-plain", 0), *rounds("text-plain", 1)]
    said = style.describe(adversarial_plots.player_curves(one))
    assert "mean of 2 seeds" in said and "generated texts found out from 85% to 65%" in said
    both = one + rounds("text-mixed", 0)
    said = style.describe(adversarial_plots.arm_curves(both))
    assert "text-mixed, 1 seed" in said and "text-plain, mean of 2 seeds" in said
    sizes = [0.05, 0.1, 0.2]
    said = style.describe(
        adversarial_plots.perturbation_curves(sizes, [0.1, 0.4, 1.6], [[0.01, 0.02]] * 3)
    )
    assert "at 0.2: 1.6" in said.lower()
    with pytest.raises(UserError, match="arm_curves"):
        adversarial_plots.arm_curves([])
    wide, narrow = adversarial_plots.two_directions()[1:]
    assert wide[1] > 2 * narrow[1] and abs(wide[0]) < 0.5 < abs(narrow[0])
    assert all(map(math.isfinite, wide + narrow))
