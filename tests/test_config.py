"""Configurations: presets, changes to them, and what a run log stores."""

from __future__ import annotations

import dataclasses
import json

import pytest

from reft_lib.config import (
    ABLATIONS,
    PRESETS,
    LoraSettings,
    PpoConfig,
    PretrainConfig,
    RunConfig,
    SampleConfig,
    SelfTrainConfig,
    SftConfig,
    VerifierConfig,
    preset,
    to_dict,
)
from reft_lib.data import SOURCES
from reft_lib.errors import UserError

PARTS = (LoraSettings, SftConfig, PpoConfig, SampleConfig, RunConfig, PretrainConfig)


def rebuilt(kind: type, entries: dict):
    """Make a configuration from the plain dictionaries that a run log holds."""
    nested = {f.name: f.default_factory for f in dataclasses.fields(kind)}
    return kind(
        **{
            name: rebuilt(nested[name], entry)
            if isinstance(entry, dict)
            else tuple(entry)
            if isinstance(entry, list)
            else entry
            for name, entry in entries.items()
        }
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_a_run_log(name):
    config = preset(name)
    assert config.name == name, "runs are stored under the preset's name"
    stored = json.loads(json.dumps(to_dict(config), allow_nan=False))
    assert rebuilt(RunConfig, stored) == config


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_makes_sense(name):
    config = preset(name)
    assert config.dataset in SOURCES and config.fmt in ("ncot", "pcot")
    assert "hard" in SOURCES[config.dataset][0] or config.n_hard == 0
    assert 0 < config.warmup_epochs <= config.sft.epochs, "ReFT starts from one of SFT's epochs"
    assert config.ppo.batch_size % config.ppo.minibatches == 0
    assert min(config.n_validation, config.sample.votes) > 0
    assert min(config.sft.lr, config.ppo.lr, config.ppo.clip, config.ppo.value_clip) > 0
    # the paper's: reward only at the end, undiscounted; no partial reward for a wrong choice
    none = config.dataset in ("mathqa-choice", "embedded-choice") or name == "nano-no-partial"
    partial = 0.0 if none else 0.1
    assert (config.ppo.gamma, config.ppo.lam, config.ppo.partial_reward) == (1.0, 0.95, partial)


def test_issue_presets_are_there():
    real = {
        f"smollm2-{dataset}-{fmt}"
        for dataset in ("svamp", "gsm8k", "mathqa-numeric", "mathqa-choice")
        for fmt in ("ncot", "pcot")
    }
    assert {"nano", "smollm2-svamp-mini", *real} <= set(PRESETS)


def test_an_ablation_changes_one_thing():
    nano = preset("nano")
    for name, changes in ABLATIONS.items():
        config = preset(name)
        assert all(getattr(config, k) == x != getattr(nano, k) for k, x in changes.items())
        kept = {"methods", "dataset", "model", "n_train", "n_validation", "n_test", "lora", "seed"}
        kept |= {"ppo", "warmup_epochs", "beta_programs", "bf16"} - set(changes)
        assert all(getattr(config, key) == getattr(nano, key) for key in kept)
        # SFT is run for the warm-up alone
        assert config.sft == dataclasses.replace(nano.sft, epochs=config.warmup_epochs)


@pytest.mark.parametrize(
    "methods", [(), ("reft",), ("reft", "sft"), ("sft", "reft", "reft")], ids=str
)
def test_methods_begin_with_sft_and_come_once(methods):
    with pytest.raises(UserError, match="must begin with sft"):
        preset("nano", methods=methods)


def test_fields_can_be_changed_and_the_preset_stays():
    changed = preset("nano", seed=3, fmt="pcot", ppo=PpoConfig(steps=2))
    assert (changed.seed, changed.fmt, changed.ppo.steps) == (3, "pcot", 2)
    assert preset("nano") == PRESETS["nano"] != changed


def test_an_unknown_preset_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="unknown preset 'nono'.*nano") as error:
        preset("nono")
    assert "\n" not in str(error.value)


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="unknown option 'sed' of a run.*seed") as error:
        preset("nano", sed=3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", PARTS)
def test_configurations_are_frozen_and_have_defaults(part):
    config = part()
    name = dataclasses.fields(part)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, None)
    assert part() == config


@pytest.mark.parametrize(
    ("part", "name", "figure", "least"),
    [
        (SftConfig, "lr", float("nan"), "at least 0"),
        (SftConfig, "epochs", 0, "above 0"),
        (PpoConfig, "beta", -0.1, "at least 0"),
        (PpoConfig, "clip", float("inf"), "above 0"),
        (LoraSettings, "rank", 0, "above 0"),
        (RunConfig, "n_validation", -3, "above 0"),
        (PretrainConfig, "steps", 0, "above 0"),
    ],
)
def test_a_number_that_no_run_could_use_is_named(part, name, figure, least):
    with pytest.raises(UserError, match=f"^{name} is .*; it must be a number {least}$"):
        part(**{name: figure})


@pytest.mark.parametrize("part", [PpoConfig, SelfTrainConfig])
def test_every_minibatch_has_a_row(part):
    assert part(batch_size=3, minibatches=3).minibatches == 3
    with pytest.raises(UserError, match="minibatches is 4; batch_size, 3, has no row for each"):
        part(batch_size=3, minibatches=4)


@pytest.mark.parametrize("part", [SelfTrainConfig, VerifierConfig])
def test_one_sample_would_be_greedy(part):
    with pytest.raises(UserError, match="samples is 1; it must be at least 2"):
        part(samples=1)


def test_an_unknown_method_is_named():
    with pytest.raises(UserError, match="unknown method 'dpo'; there are: sft, .*reft"):
        RunConfig(methods=("sft", "dpo"))


def test_zero_is_fine_where_it_switches_something_off():
    assert PpoConfig(beta=0.0, partial_reward=0.0).beta == 0
    assert RunConfig(n_hard=0, seed=0, bf16=False).n_hard == 0
