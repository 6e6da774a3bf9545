"""The study of domain adaptation in small: one start, text and labels, both domains tested."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_compare import TINY

from reft_lib import domain_plots, lora, study_domain, style, workshop
from reft_lib import language_modelling as lm
from reft_lib.bench import Bench
from reft_lib.errors import UserError
from reft_lib.study_domain import STUDY

SMALL = dataclasses.replace(TINY, fmt="pcot")
TEXT = {"steps": 3, "window": 16, "batch_size": 2, "lr": 1e-2, "eval_every": 2}


@pytest.fixture
def bench(small_world, monkeypatch, examples) -> Bench:
    def labelled(split):
        rows = [dataclasses.replace(e, id=f"{split}-{e.id}") for e in examples]
        return [dataclasses.replace(e, question=f"{split}: {e.question}") for e in rows]

    problems = {split: labelled(split) for split in ("train", "validation", "test")}
    texts = {"text": ["Tom has 12 apples. Now 17."] * 8, "held_out": ["Tom buys 5 apples."] * 8}
    monkeypatch.setattr(workshop, "load", lambda: workshop.Workshop(problems, texts))
    monkeypatch.setattr(study_domain, "TEXT", TEXT)
    monkeypatch.setattr(study_domain, "EPOCHS", {2: 2})
    return Bench(seed=0, fmt="pcot", config=SMALL)


def settings(**changes):
    return {**STUDY.arms["labelled"], "sizes": [0, 2], **changes}


@pytest.mark.parametrize("text", ["", "new", "mixed"])
def test_an_arm_reads_and_learns_and_is_tested_on_both_domains(bench, text):
    found = study_domain.run(bench, settings(text=text, replay=text == "mixed"))
    shares = {"new_0", "old_0", "new_2", "old_2", "old_before"}
    assert shares | {"perplexity_new", "perplexity_old", "text_tokens"} == set(found)
    assert all(0 <= found[name] <= 1 for name in shares)
    assert found["text_tokens"] == (3 * 2 * 15 if text else 0)
    if not text:
        assert found["old_0"] == found["old_before"]  # nothing has happened yet
    tests = [x for x in bench.lines if x["split"].endswith("test")]
    assert [(x["split"], x["step"]) for x in tests] == [
        ("new test", 0), ("old test", 0), ("new test", 2), ("old test", 2),
    ]  # fmt: skip
    for line in tests:
        assert line["accuracy"] == line["verdicts"].count("1") / len(line["verdicts"])
    curve = [x for x in bench.lines if x["split"] == "text"]
    assert [x["step"] for x in curve] == ([0, 2, 3] if text else [])


def test_nothing_is_trained_on_a_test_or_on_held_out_text(bench, monkeypatch):
    trained: list[str] = []
    steps, windows = study_domain.sft.sft_steps, lm.windows

    def watched(policy, tokenizer, rows, *rest):
        trained.extend(e.question for e in rows)
        return steps(policy, tokenizer, rows, *rest)

    read: list[list[str]] = []

    def noted(tokenizer, texts, width):
        read.append(texts)
        return windows(tokenizer, texts, width)

    monkeypatch.setattr(study_domain.sft, "sft_steps", watched)
    monkeypatch.setattr(lm, "windows", noted)
    study_domain.run(bench, settings(text="mixed", replay=True))
    assert read[0] == study_domain.documents(bench, "mixed")  # the others are measured with
    text = " ".join([*trained, *read[0]])
    assert workshop.load().problems["train"][0].question in text
    for split in ("validation", "test"):
        assert not any(e.question in text for e in workshop.load().problems[split])
    assert workshop.load().texts["held_out"][0] not in text


def test_mixed_text_holds_every_document_once_and_old_solutions(bench):
    new, mixed = (study_domain.documents(bench, kind) for kind in ("new", "mixed"))
    old = [text for text in mixed if text not in new]
    assert len(mixed) == len(new) + len(old) and len(old) == len(bench.splits["train"])
    assert all("def solution():" in text and "return" in text for text in old)


def test_learning_leaves_the_model_as_it_was(bench):
    model, tokenizer = bench.base()
    before = {n: p.clone() for n, p in model.named_parameters()}
    learnt = study_domain.learn(bench, model, tokenizer, 2)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    moved = {n for n, p in learnt.named_parameters() if not torch.equal(p, before[n])}
    assert moved and not any("embed" in n for n in moved)
    both = study_domain.learn(bench, model, tokenizer, 2, embeddings=True)
    assert not torch.equal(both.get_input_embeddings().weight, before["model.embed_tokens.weight"])


def test_replay_puts_as_many_old_problems_beside_the_new(bench, monkeypatch):
    seen: list[int] = []
    steps = study_domain.sft.sft_steps
    monkeypatch.setattr(
        study_domain.sft,
        "sft_steps",
        lambda p, t, rows, *rest: (seen.append(len(rows)), steps(p, t, rows, *rest))[1],
    )
    model, tokenizer = bench.base()
    study_domain.learn(bench, model, tokenizer, 2)
    study_domain.learn(bench, model, tokenizer, 2, replay=2)
    assert seen == [2, 4]


def test_adaptation_returns_what_it_trained(bench):
    model, tokenizer = bench.base()
    rows = lm.windows(tokenizer, workshop.load().texts["text"], 16)
    before = lm.perplexity(model, rows)
    policy = lora.add_adapter(model, SMALL.lora)
    adapted = study_domain.adapt(bench, policy, tokenizer, "new", lm.TextConfig(**TEXT))
    assert not hasattr(adapted, "peft_config") and lm.perplexity(adapted, rows) < before


def test_every_size_of_the_study_has_its_epochs_and_enough_problems():
    for chosen in STUDY.arms.values():
        for k in chosen["sizes"]:
            assert k == 0 or k in study_domain.EPOCHS
            assert k <= workshop.SIZES["train"]
    lm.TextConfig(**study_domain.TEXT)


# ---------------------------------------------------------------- pictures


def curve_rows():
    return [
        {
            "panel": panel,
            "run": seed,
            "step": step,
            "new": 100 / (1 + step) + seed,
            "old": 4.0 + step,
        }
        for panel in ("adapter", "embeddings")
        for seed in (0, 1)
        for step in (0, 10, 20)
    ]


def test_perplexity_curves_tell_their_numbers():
    alt = style.describe(domain_plots.perplexity_curves(curve_rows()))
    assert "adapter, old domain, 2 seeds: from 4 to 24 at step 20" in alt
    live = [{"step": s, "new": 9.0, "old": 3.0} for s in (0, 5)]
    assert "new domain, 1 seed: from 9 to 9 at step 5" in style.describe(
        domain_plots.perplexity_curves(live)
    )


def label_rows(arms=("labels only", "text first"), seeds=(0, 1)):
    return [
        {"arm": arm, "labels": k, "domain": domain, "accuracy": 0.1 * i + 0.001 * k + 0.01 * seed}
        for i, arm in enumerate(arms)
        for k in (0, 16)
        for domain in ("new", "old")
        for seed in seeds
    ]


def test_label_curves_have_interval_and_seeds():
    alt = style.describe(domain_plots.label_curves(label_rows()))
    # 0.10 and 0.11: mean 10.5, half the interval 12.7 * 0.707 / sqrt 2
    assert "new domain, text first: 0 labels 10.5 ±6.4%, 16 labels 12.1 ±6.4%" in alt
    alone = style.describe(domain_plots.label_curves(label_rows(seeds=(0,))))
    assert "old domain, labels only: 0 labels 0.0%, 16 labels 1.6%" in alone


@pytest.mark.parametrize(
    ("draw", "rows", "said"),
    [
        (domain_plots.perplexity_curves, [], "no rows"),
        (domain_plots.perplexity_curves, [{"step": 1, "new": 2.0}], "no column old"),
        (domain_plots.label_curves, label_rows("abcde"), "5 arms; at most 4"),
    ],
)
def test_pictures_refuse_what_they_cannot_draw(draw, rows, said):
    with pytest.raises(UserError, match=said):
        draw(rows)
