"""One unit of a comparison: one seed in one format, from base model to tested policies.

SFT trains for all its epochs and keeps the checkpoint that
is best on validation; the checkpoint after the warm-up epochs is where ReFT begins, and ReFT too
keeps its best on validation. Only then is the test read, once. The unit writes a run log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import data, evaluate, lora, models, runlog
from reft_lib.config import RunConfig, to_dict
from reft_lib.data import Example
from reft_lib.ppo import ppo
from reft_lib.rewards import AnswerReward
from reft_lib.sft import sft

SHOWN = 12
"""Validation questions whose answers are stored at every validation."""


@dataclass
class Task:
    """What one unit works on."""

    config: RunConfig
    splits: dict[str, list[Example]]
    """``train``, ``validation``, ``test`` and, where there is one, ``hard``."""
    log: runlog.RunLog
    adapters: Path | None = None
    """Where to save adapters in peft's format; not saved if None."""

    def save(self, model: Any, stage: str) -> None:
        """Save the model's adapter, if adapters are to be saved."""
        if self.adapters is not None:
            lora.save_adapter(model, self.adapters / f"{self.log.folder.name}-{stage}")

    def base(self) -> tuple[Any, Any]:
        """Load the base model and its tokenizer anew."""
        model, tokenizer = models.load(self.config.model, dtype=self.config.weights)
        return model.to(models.pick_device("auto")), tokenizer

    @property
    def bf16(self) -> bool:
        """Whether the matrix products of training run in bfloat16 here."""
        return self.config.bf16 and models.has_fast_bf16(models.pick_device("auto"))


@dataclass
class Checkpoint:
    """An adapter's weights at the best validation so far."""

    at: int
    """Epoch of SFT, or step of ReFT."""
    validation: float
    """Greedy accuracy on validation, 0 to 1."""
    weights: dict[str, torch.Tensor]


@dataclass
class WarmUp:
    """The policy that ReFT begins with."""

    weights: dict[str, torch.Tensor]
    minutes: float
    """Wall-clock that it took, its validations included."""


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of the trainable parameters by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def restore(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put copied parameters back."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


def load_splits(config: RunConfig) -> dict[str, list[Example]]:
    """Load the splits of a run, cut to its sizes, the same for every seed.

    Where a data set has no validation split of its own, it is cut from train.

    Raises
    ------
    UserError
        If the data set has fewer questions than the configuration wants.
    """
    has = data.SOURCES[config.dataset][0] if config.dataset in data.SOURCES else ()
    train = data.with_cot(data.load(config.dataset, "train"), config.fmt)
    if "validation" in has:
        validation = data.load(config.dataset, "validation")
    else:
        train, validation = data.split_validation(train, config.n_validation)
    splits = {
        "train": data.subset(train, config.n_train),
        "validation": data.subset(validation, config.n_validation),
        "test": data.subset(data.load(config.dataset, "test"), config.n_test),
    }
    if config.n_hard:
        splits["hard"] = data.subset(data.load(config.dataset, "hard"), config.n_hard)
    return splits


def validate(task: Task, model: Any, tokenizer: Any, method: str, at: int, epoch: float) -> float:
    """Measure greedy accuracy on validation, log it with some answers, return it."""
    config = task.config
    result = evaluate.answer(
        model, tokenizer, task.splits["validation"], config.fmt, config.sample,
        desc=f"{method} validation",
    )  # fmt: skip
    task.log.log(
        step=at,
        split="validation",
        method=method,
        epoch=epoch,
        accuracy=result.accuracy,
        texts=[group[0] for group in result.texts[:SHOWN]],
        correct=result.correct[:SHOWN],
    )
    return result.accuracy


def train_sft(task: Task) -> tuple[Any, Any, Checkpoint, WarmUp]:
    """Run SFT; returns model, tokenizer, best checkpoint, and the warm-up policy on the way."""
    config, started = task.config, time.monotonic()
    model, tokenizer = task.base()
    model = lora.add_adapter(model, config.lora, seed=config.seed)
    best, warm = Checkpoint(0, -1.0, {}), WarmUp({}, 0.0)
    epochs = sft(
        model, tokenizer, task.splits["train"], config.fmt, config.sft, config.seed, task.bf16
    )
    for metrics in epochs:
        epoch = int(metrics["epoch"])
        task.log.log(step=epoch, split="train", method="sft", **metrics)
        if epoch % config.sft.eval_every == 0 or epoch == config.warmup_epochs:
            accuracy = validate(task, model, tokenizer, "sft", epoch, epoch)
            if accuracy > best.validation:
                best = Checkpoint(epoch, accuracy, adapter_weights(model))
        if epoch == config.warmup_epochs:
            warm = WarmUp(adapter_weights(model), (time.monotonic() - started) / 60)
    restore(model, best.weights)
    return model, tokenizer, best, warm


def warm_policy(task: Task, warm: WarmUp) -> tuple[Any, Any]:
    """Return the warm-up policy, merged, with a fresh adapter on top, and its tokenizer."""
    config = task.config
    model, tokenizer = task.base()
    model = lora.add_adapter(model, config.lora, seed=config.seed)
    restore(model, warm.weights)
    task.save(model, "warmup")  # ReFT's adapter belongs on top of this one, merged
    policy = lora.add_adapter(lora.merge(model), config.lora, seed=config.seed + 1)
    return policy, tokenizer


def train_reft(task: Task, warm: WarmUp) -> tuple[Any, Any, Checkpoint]:
    """Run PPO from the warm-up policy; returns policy, tokenizer, best checkpoint."""
    config = task.config
    policy, tokenizer = warm_policy(task, warm)
    reward = AnswerReward(config.fmt, partial=config.ppo.partial_reward)
    settings = config.ppo
    if config.fmt == "pcot":
        settings = replace(settings, beta=config.beta_programs)
    per_epoch = config.n_train / config.ppo.batch_size
    best = Checkpoint(0, validate(task, policy, tokenizer, "reft", 0, 0.0), adapter_weights(policy))
    steps = ppo(
        policy, tokenizer, task.splits["train"], config.fmt, reward, settings, config.sample,
        config.seed, task.bf16,
    )  # fmt: skip
    bar = tqdm(steps, total=config.ppo.steps, desc="ppo", leave=False, mininterval=1)
    for metrics in bar:
        step = int(metrics.pop("step"))
        task.log.log(step=step, split="train", method="reft", epoch=step / per_epoch, **metrics)
        bar.set_postfix(reward=f"{metrics['reward']:.2f}", kl=f"{metrics['kl']:.2f}")
        if step % config.ppo.eval_every == 0 or step == config.ppo.steps:
            accuracy = validate(task, policy, tokenizer, "reft", step, step / per_epoch)
            if accuracy > best.validation:
                best = Checkpoint(step, accuracy, adapter_weights(policy))
    restore(policy, best.weights)
    return policy, tokenizer, best


def test(task: Task, model: Any, tokenizer: Any, method: str) -> dict[str, Any]:
    """Read the tests, once: top-1 and voting; logs every verdict, returns the accuracies.

    The model is used up: its adapter is merged where that loses no precision.
    """
    config, found = task.config, {}
    if config.weights == "float32":
        model = lora.merge(model)  # the same policy, and half the work for each token
    sampling = {
        "test": config.sample,
        "hard": replace(config.sample, max_new_tokens=config.hard_max_new_tokens),
    }
    for split in sampling:
        rows = task.splits.get(split, [])
        for votes in (1, config.sample.votes) if rows else ():
            name = "top1" if votes == 1 else f"vote{votes}"
            examples = rows if votes == 1 else rows[: config.n_voted or None]
            result = evaluate.answer(
                model, tokenizer, examples, config.fmt, sampling[split], votes=votes,
                seed=config.seed, desc=f"{method} {split} {name}",
            )  # fmt: skip
            extra: dict[str, Any] = {}
            if votes > 1:
                paths = evaluate.distinct_paths(result, examples, config.fmt)
                extra["distinct_paths"] = sum(paths) / len(paths)
            if votes > 1 and config.dataset == "embedded":
                first = [group[0] for group in result.texts]
                extra["path_shares"] = evaluate.path_shares(first, examples, config.fmt)
            task.log.log(
                step=0,
                split=split,
                method=method,
                decoding=name,
                accuracy=result.accuracy,
                verdicts="".join("01"[c] for c in result.correct),
                **extra,
            )
            found[f"{split}_{name}"] = result.accuracy
    return found


def run_unit(config: RunConfig, folder: Path, adapters: Path | None = None) -> dict[str, Any]:
    """Run one seed in one format; returns the summary that its card keeps.

    Parameters
    ----------
    config : RunConfig
    folder : Path
        Of the run log; an unfinished run in it is replaced.
    adapters : Path, optional
        Where to save the best adapters in peft's format; not saved if None.
    """
    splits = load_splits(config)
    card = {
        "method": "compare",
        "preset": config.name,
        "fmt": config.fmt,
        "seed": config.seed,
        "config": to_dict(config),
        "data": {name: data.fingerprint(rows) for name, rows in splits.items()},
    }
    with runlog.RunLog(folder, card, overwrite=True) as log:
        task = Task(config, splits, log, adapters)
        summary: dict[str, Any] = {}
        started = time.monotonic()
        model, tokenizer, best, warm = train_sft(task)
        minutes = (time.monotonic() - started) / 60
        summary["sft"] = {"minutes": minutes, "best_epoch": best.at, "validation": best.validation}
        task.save(model, "sft")
        summary["sft"] |= test(task, model, tokenizer, "sft")
        del model
        started = time.monotonic()
        policy, tokenizer, best = train_reft(task, warm)
        minutes = warm.minutes + (time.monotonic() - started) / 60
        summary["reft"] = {"minutes": minutes, "best_step": best.at, "validation": best.validation}
        task.save(policy, "reft")
        summary["reft"] |= test(task, policy, tokenizer, "reft")
        log.finish(**summary)
    return summary
