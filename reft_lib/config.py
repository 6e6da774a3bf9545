"""The named presets, and what a run log stores of a configuration.

The dataclasses themselves stand in :mod:`reft_lib.settings`; callers import them from here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from reft_lib.errors import UserError
from reft_lib.settings import (
    Checked,
    Format,
    LoraSettings,
    Method,
    PpoConfig,
    PretrainConfig,
    RunConfig,
    SampleConfig,
    SelfTrainConfig,
    SftConfig,
    VerifierConfig,
)

__all__ = [
    "PRESETS",
    "Checked",
    "Format",
    "LoraSettings",
    "Method",
    "PpoConfig",
    "PretrainConfig",
    "RunConfig",
    "SampleConfig",
    "SelfTrainConfig",
    "SftConfig",
    "VerifierConfig",
    "preset",
    "to_dict",
]

FORMATS: tuple[Format, ...] = ("ncot", "pcot")
REAL = ("svamp", "gsm8k", "mathqa-numeric", "mathqa-choice")
"""The public data sets that presets are made for."""


def _one_gpu(name: str, model: str, dataset: str, fmt: Format, **changes: Any) -> RunConfig:
    """Return a preset for one data-centre GPU.

    Sizes are the paper's where time allows it, so far chosen and not measured: epochs and steps are
    to be found on validation, on the GPU.
    """
    words = fmt == "ncot"
    config = RunConfig(
        name=name,
        model=model,
        dataset=dataset,
        fmt=fmt,
        n_train=0,
        n_validation=200,
        n_test=0,
        n_hard=0,
        weights="bfloat16",
        warmup_epochs=2,
        sft=SftConfig(epochs=10, batch_size=48, micro_batch=24, lr=5e-4),
        ppo=PpoConfig(
            steps=200,
            batch_size=256,
            ppo_epochs=2,
            minibatches=4,
            micro_batch=64,
            lr=1e-4,
            # the paper's, for words; for programs beta_programs takes its place
            beta=0.01 if dataset == "mathqa-numeric" else 0.05,
            partial_reward=0.0 if dataset == "mathqa-choice" else 0.1,
            eval_every=20,
        ),
        sample=SampleConfig(max_new_tokens=256 if words else 200, batch_size=512, votes=16),
    )
    return dataclasses.replace(config, **changes)


PRESETS: dict[str, RunConfig] = {
    # Chosen on validation: eight small steps for each rollout batch, instead of the paper's two
    # large ones, learn more from the same rollouts here; so does a lighter value loss. Five steps
    # visit every question once, so that validations stand at whole epochs.
    "nano": RunConfig(
        n_train=640,
        n_validation=200,
        n_voted=200,
        n_hard=100,
        warmup_epochs=3,
        sft=SftConfig(epochs=12, lr=2e-3),
        ppo=PpoConfig(
            steps=35,
            batch_size=128,
            ppo_epochs=1,
            minibatches=8,
            lr=1e-3,
            beta=0.02,
            value_coef=1.0,
            eval_every=5,
        ),
        beta_programs=0.02,
        sample=SampleConfig(max_new_tokens=72, batch_size=512),
    ),
    "smollm2-svamp-mini": RunConfig(
        name="smollm2-svamp-mini",
        model="smollm2-135m-instruct",
        dataset="svamp",
        n_train=200,
        n_validation=40,
        n_test=120,
        n_voted=60,
        n_hard=0,
        weights="bfloat16",
        warmup_epochs=1,
        sft=SftConfig(epochs=2, batch_size=16, lr=5e-4),
        ppo=PpoConfig(steps=10, batch_size=32, micro_batch=16, lr=1e-4, eval_every=5),
        sample=SampleConfig(max_new_tokens=160, batch_size=64, votes=4),
    ),
}
NANO = PRESETS["nano"]
# Every baseline of the paper. Offline self-training gets as many optimiser steps as SFT, online
# self-training those of PPO, its learning rate chosen on validation. The harder test is left out:
# SFT and ReFT are at its floor (data/runs/nano).
PRESETS["nano-baselines"] = dataclasses.replace(
    NANO,
    name="nano-baselines",
    methods=("sft", "offline_st", "online_st", "reft"),
    rerank=True,
    n_hard=0,
    self_train=SelfTrainConfig(
        samples=16,
        keep=10,
        sft_epochs=6,
        steps=35,
        batch_size=128,
        update_epochs=1,
        minibatches=8,
        lr=1e-3,
        eval_every=5,
    ),
    verifier=VerifierConfig(samples=8, epochs=3, label="last"),
)
# The same problems as multiple choice, where naming some option is no achievement. In words only.
PRESETS["nano-choice"] = dataclasses.replace(
    NANO,
    name="nano-choice",
    dataset="embedded-choice",
    n_hard=0,
    ppo=dataclasses.replace(NANO.ppo, partial_reward=0.0),
)
ABLATIONS: dict[str, dict[str, Any]] = {
    "nano-no-partial": {"ppo": dataclasses.replace(NANO.ppo, partial_reward=0.0)},
    "nano-beta-0": {"ppo": dataclasses.replace(NANO.ppo, beta=0.0), "beta_programs": 0.0},
    "nano-separate-value": {"ppo": dataclasses.replace(NANO.ppo, value_trunk="separate")},
    "nano-warmup-1": {"warmup_epochs": 1},
    "nano-warmup-6": {"warmup_epochs": 6},
    "nano-warmup-12": {"warmup_epochs": 12},
}
"""ReFT on nano with one thing changed: preset name to what."""
# SFT ends with the warm-up: its test is that of the best of the warm-up's epochs, mostly the last,
# with which PPO begins. The rest is preset nano's to the bit, so that its ReFT is the other side of
# each comparison.
PRESETS |= {
    name: dataclasses.replace(
        NANO,
        name=name,
        n_hard=0,
        sft=dataclasses.replace(NANO.sft, epochs=changes.get("warmup_epochs", NANO.warmup_epochs)),
        sample=dataclasses.replace(NANO.sample, votes=1),
        **changes,
    )
    for name, changes in ABLATIONS.items()
}
# On two CPU cores in about two hours. Longer warm-up, smaller steps and shorter responses than the
# miniature above, whose warm-up policy was right on hardly any sample.
PRESETS["smollm2-svamp-cpu"] = RunConfig(
    name="smollm2-svamp-cpu",
    model="smollm2-135m-instruct",
    dataset="svamp",
    fmt="pcot",
    n_train=800,
    n_validation=50,
    n_test=300,
    n_voted=100,
    n_hard=0,
    weights="bfloat16",
    warmup_epochs=2,
    sft=SftConfig(epochs=4, batch_size=16, lr=5e-4),
    ppo=PpoConfig(
        steps=24,
        batch_size=32,
        ppo_epochs=1,
        minibatches=4,
        micro_batch=8,
        lr=5e-5,
        value_coef=1.0,
        eval_every=6,
    ),
    sample=SampleConfig(max_new_tokens=112, batch_size=64, votes=4),
)
PRESETS |= {
    f"smollm2-{dataset}-{fmt}": _one_gpu(
        f"smollm2-{dataset}-{fmt}", "smollm2-135m-instruct", dataset, fmt
    )
    for dataset in REAL
    for fmt in FORMATS
}
# Larger models on GSM8K; `reft_lib.memory.estimate` tells what each needs.
PRESETS |= {
    f"{short}-gsm8k-{fmt}": _one_gpu(
        f"{short}-gsm8k-{fmt}",
        model,
        "gsm8k",
        fmt,
        sft=SftConfig(epochs=10, batch_size=48, micro_batch=8, lr=2e-4),
        ppo=PpoConfig(steps=200, batch_size=rows, minibatches=4, micro_batch=8, lr=5e-5),
        sample=SampleConfig(max_new_tokens=256, batch_size=rows, votes=16),
    )
    for short, model, rows in (
        ("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", 256),
        ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", 256),
        ("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", 256),
        ("codellama-7b", "codellama/CodeLlama-7b-hf", 96),
    )
    for fmt in FORMATS
}


def preset(name: str, **changes: Any) -> RunConfig:
    """Return a named preset, with fields changed.

    Parameters
    ----------
    name : str
        A key of ``PRESETS``.
    **changes
        Fields of :class:`RunConfig` to replace.

    Raises
    ------
    UserError
        If there is no such preset or no such field.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; there are: {', '.join(PRESETS)}")
    known = {f.name for f in dataclasses.fields(RunConfig)}
    for key in changes:
        if key not in known:
            raise UserError(f"unknown option {key!r} of a run; there are: {', '.join(known)}")
    return dataclasses.replace(PRESETS[name], **changes)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain nested dictionaries, for a run log."""
    return dataclasses.asdict(config)
