"""The study of self-supervised fine-tuning in small: counted tokens, a control, blind chance."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import TEXTS
from test_compare import TINY

from reft_lib import data, encoder, masked, models, sft, study_self_supervised, workshop
from reft_lib.bench import Bench
from reft_lib.embedded import RANGES
from reft_lib.language_modelling import TextConfig
from reft_lib.pretrain import train_tokenizer
from reft_lib.study_self_supervised import STUDY

SMALL = dataclasses.replace(TINY, fmt="pcot")
TEXT = {"steps": 3, "window": 16, "batch_size": 2, "lr": 1e-2, "eval_every": 2}
SHAPE = encoder.EncoderConfig(hidden=32, layers=1, heads=2, mlp=32, context=200)


@pytest.fixture
def bench(small_world, monkeypatch, examples) -> Bench:
    texts = {"text": ["Tom has 12 apples. Now 17."] * 8, "held_out": ["Tom buys 5 apples."] * 8}
    monkeypatch.setattr(workshop, "load", lambda: workshop.Workshop({}, texts))
    return Bench(seed=0, fmt="pcot", config=SMALL)


@pytest.fixture(scope="module")
def digits():
    """A tokenizer in which every option's number is one token, as in nano's."""
    return encoder.with_mask(train_tokenizer([*TEXTS, *[" 1 2 3 4 5"] * 20], 400))


def with_options(load):
    """Give the tiny questions options, as embedded-choice has them."""

    def one(dataset, split):
        rows = load(dataset, split)
        if dataset != "embedded-choice":
            return rows
        return [
            dataclasses.replace(e, question=f"{e.question}\n1: 1 to 19", answer=str(i % 5 + 1))
            for i, e in enumerate(rows)
        ]

    return one


def test_the_arm_of_the_scoreboard_and_its_control(bench):
    found = study_self_supervised.run(
        bench, {"kind": "task", "text": {**TEXT, "embeddings": False}}
    )
    _, tokenizer = bench.base()
    pairs = sft.encode(tokenizer, bench.splits["train"], "pcot")
    assert found["text_tokens"] == 3 * 2 * 15
    learnt = SMALL.warmup_epochs * sum(len(t) for _, t in pairs)
    assert found["trained_tokens"] == found["text_tokens"] + learnt
    assert found["sampled_tokens"] == 0 and found["labels"] == 4
    assert all(0 <= found[split] <= 1 for split in ("validation", "test", "hard"))
    control = Bench(seed=0, fmt="pcot", config=SMALL)
    plain = study_self_supervised.run(control, {"kind": "task", "text": None})
    assert plain["text_tokens"] == 0 and plain["trained_tokens"] == learnt
    assert control.trained_minutes is not None


def test_only_questions_are_read_as_text(bench, monkeypatch):
    read: list[str] = []
    windows = study_self_supervised.lm.windows
    monkeypatch.setattr(
        study_self_supervised.lm,
        "windows",
        lambda t, texts, n: (read.extend(texts), windows(t, texts, n))[1],
    )
    study_self_supervised.run(bench, {"kind": "task", "text": TEXT})
    assert read == [e.question for e in bench.splits["train"]]


def test_perplexities_are_measured_on_both_domains(bench):
    found = study_self_supervised.run(bench, {"kind": "domain", "text": TEXT})
    lines = [x for x in bench.lines if x["split"] == "text"]
    assert [x["step"] for x in lines] == [0, 2, 3]
    assert found["new_before"] == lines[0]["new"] and found["old_after"] == lines[-1]["old"]
    assert found["text_tokens"] == 3 * 2 * 15


def test_the_masked_arm_chooses_options_and_reads_the_domain(bench, digits, monkeypatch):
    monkeypatch.setattr(encoder, "load", lambda: (encoder.new_encoder(digits, SHAPE), digits))
    monkeypatch.setattr(data, "load", with_options(data.load))
    found = study_self_supervised.run(
        bench,
        {
            "kind": "masked",
            "cloze": {"steps": 4, "batch_size": 2, "lr": 1e-2, "eval_every": 2},
            "text": TEXT,
        },
    )
    assert found["chance"] == 1 / len(RANGES) and found["labels"] == 4
    assert all(0 <= found[split] <= 1 for split in ("validation", "test", "hard", "untrained"))
    assert found["validation"] >= found["untrained"]  # the best of those measured
    assert {"new_before", "new_after", "old_accuracy_before", "new_accuracy_after"} <= set(found)
    verdicts = {x["split"]: x["verdicts"] for x in bench.lines if "verdicts" in x}
    assert set(verdicts) == {"test", "hard"} and len(verdicts["hard"]) == 2
    phases = {x.get("phase") for x in bench.lines if x["split"] == "train"}
    assert phases == {"options", "text"}


def test_the_answer_stands_behind_the_mask_alone(examples):
    asked = study_self_supervised.cloze(examples)
    told = study_self_supervised.cloze(examples, answered=True)
    for e, a, b in zip(examples, asked, told, strict=True):
        assert a.endswith("the answer is: [MASK]") and b == a.replace("[MASK]", e.answer)


def test_an_option_is_right_if_its_number_is_the_most_probable(digits, examples, monkeypatch):
    wanted = digits([" 3"], add_special_tokens=False)["input_ids"][0][0]

    def scores(model, batch):
        n = int((batch.labels != sft.IGNORE).sum())
        out = torch.zeros(n, len(digits))
        out[:, wanted], out[:, 0] = 5.0, 9.0  # what is no option does not count
        return out, None

    monkeypatch.setattr(masked, "logits", scores)
    rows = [dataclasses.replace(e, answer=str(i + 2)) for i, e in enumerate(examples)]
    small = encoder.new_encoder(digits, SHAPE)
    right = study_self_supervised.options_right(small, digits, rows)
    assert right == [False, True, False, False]


def test_every_arm_has_settings_that_can_run():
    for arm in STUDY.arms.values():
        if arm.get("text"):
            TextConfig(**arm["text"])
    settings = STUDY.arms["masked"]
    config = encoder.EncoderConfig()
    assert settings["text"]["window"] <= config.context
    TextConfig(**settings["cloze"])
    _, tokenizer = models.load("nano")
    rows = study_self_supervised.cloze(data.load("embedded-choice", "hard"), answered=True)
    assert max(map(len, tokenizer(rows)["input_ids"])) <= config.context
