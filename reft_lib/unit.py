"""One unit of a comparison: one seed in one format, from base model to tested policies.

SFT trains for all its epochs and keeps the checkpoint that is best on validation; the checkpoint
after the warm-up epochs is where ReFT begins, and ReFT too keeps its best on validation. Only
then is the test read, once. The unit writes a run log, and can be stopped and taken up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reft_lib import (
    data,
    evaluate,
    lora,
    machine,
    models,
    parallel,
    resume,
    runlog,
    soundness,
    trackers,
    verifier,
)
from reft_lib.config import Method, RunConfig, to_dict
from reft_lib.data import Example
from reft_lib.evaluate import Answers
from reft_lib.phases import PHASES, trained_verifier
from reft_lib.task import STATE, Phase, Progress, Task, adapter_weights, part, restore, unfinished

SHOWN = 12
"""Validation questions whose answers are stored at every validation."""
SHOWN_METRICS = ("loss", "reward", "kl")
"""What stands behind the progress bar, where a step has it."""


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
        "train": data.subset(train, config.n_train) if config.n_train else train,
        "validation": data.subset(validation, config.n_validation),
        "test": data.load(config.dataset, "test"),
    }
    if config.n_test:
        splits["test"] = data.subset(splits["test"], config.n_test)
    if config.n_hard:
        splits["hard"] = data.subset(data.load(config.dataset, "hard"), config.n_hard)
    return splits


def run_unit(
    config: RunConfig,
    folder: Path,
    adapters: Path | None = None,
    clock: resume.Clock | None = None,
    device: str = "auto",
    watchers: Sequence[trackers.Watcher] = (),
) -> dict[str, Any]:
    """Run one seed in one format; returns the summary that its card keeps.

    An unfinished run in the folder is taken up where its state was last saved.

    Parameters
    ----------
    config : RunConfig
    folder : Path
        Of the run log.
    adapters : Path, optional
        Where to save the best adapters in peft's format; not saved if None.
    clock : resume.Clock, optional
        When to save and when to stop.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    watchers : sequence of callables
        Are told every line of the run log; see :mod:`reft_lib.trackers`.

    Raises
    ------
    OutOfTime
        If the clock says stop; the state has been saved.
    UserError
        If the run in the folder cannot be taken up; see :func:`reft_lib.task.unfinished`.
    """
    with parallel.first_goes_first():
        splits = load_splits(config)
    used = models.pick_device(device).type
    prints = {name: data.fingerprint(rows) for name, rows in splits.items()}
    saved = parallel.from_first(lambda: resume.load(folder / STATE))
    progress = Progress()
    if saved is not None:
        progress = parallel.from_first(lambda: unfinished(saved[1], config, folder, used, prints))
    card = {
        "method": "compare",
        "preset": config.name,
        "fmt": config.fmt,
        "seed": config.seed,
        "config": to_dict(config),
        "data": prints,
        # a GPU that is there and not used is not what the run was made on
        "device": machine.device()
        | ({"gpu": None} if used == "cpu" else {})
        | ({"processes": parallel.world()} if parallel.world() > 1 else {}),
    }
    kept = (progress.lines, progress.seconds) if saved is not None else None
    with runlog.RunLog(folder, card, overwrite=True, resume=kept) as log:
        log.watchers += watchers
        task = Task(config, splits, log, clock or resume.Clock(), adapters, device, progress)
        if saved is None:
            resume.clear(folder / STATE)  # responses without a state belong to no run
        else:
            task.tensors = saved[0]
            task.best, task.warm = part(saved[0], "best"), part(saved[0], "warm")
        for method in config.methods:
            if method not in task.progress.summary:
                run_phase(task, method)
        log.finish(**task.progress.summary)
    resume.clear(folder / STATE)
    return task.progress.summary


def run_phase(task: Task, method: Method) -> None:
    """Train and test one method, or go on with it; its results go into the summary."""
    if task.progress.method != method:
        done = task.progress
        task.progress = Progress(
            method,
            began=done.ended,  # what it prepared before a stop counts, too
            verified=done.verified,
            warm_minutes=done.warm_minutes,
            summary=done.summary,
        )
        task.best, task.tensors = {}, {}
    progress = task.progress
    phase = PHASES[method](task)
    if task.tensors:
        phase.loop.restore(part(task.tensors, "loop"), progress.loop)
        restore(phase.policy, part(task.tensors, "policy"))
    train(task, phase)
    task.keep_adapter(phase.policy, method)
    test(task, phase)
    progress.summary[method] = {
        "minutes": progress.minutes + (progress.warm_minutes if phase.after_warm_up else 0.0),
        f"best_{phase.counts}": progress.best_step,
        "validation": progress.best,
        **progress.tested,
    }
    progress.ended = task.log.seconds
    task.save_progress()
    resume.forget(task.folder, method)


def train(task: Task, phase: Phase) -> None:
    """Run a phase to its end, validating on the way; leaves its best checkpoint in the policy."""
    progress, loop = task.progress, phase.loop
    warm = task.config.warmup_epochs * phase.per_epoch if phase.method == "sft" else None
    bar = tqdm(total=phase.total, initial=loop.step, desc=phase.method, leave=False, mininterval=1)
    while not progress.trained:
        if loop.step in phase.validate_at and loop.step not in progress.validated:
            task.save(phase)
            accuracy = validate(task, phase)
            progress.validated.append(loop.step)
            if accuracy > progress.best:
                progress.best, progress.best_step = accuracy, phase.at()[0]
                task.best = adapter_weights(phase.policy)
            if loop.step == warm:
                task.warm = adapter_weights(phase.policy)
                progress.warm_minutes = (task.log.seconds - progress.began) / 60
        if loop.step == phase.total:
            progress.trained = True
            progress.minutes = (task.log.seconds - progress.began) / 60
            break
        metrics = next(phase.steps)
        progress.history.append(metrics)
        shown = {name: f"{metrics[name]:.2f}" for name in SHOWN_METRICS if name in metrics}
        bar.set_postfix(shown | {"best validation": f"{max(0.0, progress.best):.2f}"})
        bar.update()
        if loop.step % phase.log_every == 0:
            step, epoch = phase.at()
            line: dict[str, Any] = phase.summarise(progress.history)
            line |= {"step": step, "epoch": epoch}
            task.log.log(split="train", method=phase.method, **line)
            progress.history = []
        task.clock.tick(lambda: task.save(phase))
    bar.close()
    restore(phase.policy, task.best)
    task.save(phase)


def validate(task: Task, phase: Phase) -> float:
    """Measure greedy accuracy on validation, log it with some answers, return it."""
    config = task.config
    result = evaluate.answer(
        phase.policy, phase.tokenizer, task.splits["validation"], config.fmt, config.sample,
        desc=f"{phase.method} validation", memo=task.memo(f"{phase.key} validation"),
    )  # fmt: skip
    step, epoch = phase.at()
    task.log.log(
        step=step,
        split="validation",
        method=phase.method,
        epoch=epoch,
        accuracy=result.accuracy,
        texts=[group[0] for group in result.texts[:SHOWN]],
        correct=result.correct[:SHOWN],
        **reasoning(config, result, task.splits["validation"]),
    )
    return result.accuracy


def reasoning(config: RunConfig, result: Answers, examples: Sequence[Example]) -> dict[str, Any]:
    """Judge the reasoning of greedy answers, too, where its equations can be read surely."""
    if config.fmt == "pcot" or not config.dataset.startswith("embedded"):
        return {}
    return soundness.verdicts([t[0] for t in result.texts], result.correct, examples)


def test(task: Task, phase: Phase) -> None:
    """Read the tests, once: top-1 and voting; logs every verdict, keeps the accuracies.

    The policy is used up: its adapter is merged where that loses no precision.
    """
    config, tested = task.config, task.progress.tested
    if config.weights == "float32":
        phase.policy = lora.merge(phase.policy)  # half the work for each token
    for split, votes in product(("test", "hard"), (1, config.sample.votes)):
        name = "top1" if votes == 1 else f"vote{votes}"
        if task.splits.get(split) and f"{split}_{name}" not in tested:
            for decoding, found in read_test(task, phase, split, votes).items():
                task.log.log(step=0, split=split, method=phase.method, decoding=decoding, **found)
                tested[f"{split}_{decoding}"] = found["accuracy"]
            task.save_progress()


def read_test(task: Task, phase: Phase, split: str, votes: int) -> dict[str, dict[str, Any]]:
    """Let the policy answer a test once; returns what the log keeps, for each way of choosing."""
    config, examples = task.config, task.splits[split]
    if votes > 1:
        examples = examples[: config.n_voted or None]
    sampling = config.sample
    if split == "hard":
        sampling = replace(sampling, max_new_tokens=config.hard_max_new_tokens)
    result = evaluate.answer(
        phase.policy, phase.tokenizer, examples, config.fmt, sampling, votes=votes,
        seed=config.seed, desc=f"{phase.method} {split} {votes}",
        memo=task.memo(f"{phase.key} {split} {votes}"),
    )  # fmt: skip
    if votes == 1:
        return {"top1": verdicts(result) | reasoning(config, result, examples)}
    paths = evaluate.distinct_paths(result, examples, config.fmt)
    found: dict[str, Any] = {"distinct_paths": sum(paths) / len(paths)}
    if config.dataset.startswith("embedded"):
        first = [group[0] for group in result.texts]
        found["path_shares"] = evaluate.path_shares(first, examples, config.fmt)
    ks = [2**i for i in range(votes.bit_length())]  # 1, 2, 4, ... up to the number of samples
    found["pass_at"] = {k: sum(evaluate.pass_at_k(result, k)) / len(examples) for k in ks}
    decodings = {f"vote{votes}": verdicts(result) | found}
    if config.rerank:
        scores = verifier.score(trained_verifier(task), examples, result.texts)
        decodings[f"rerank{votes}"] = verdicts(evaluate.rerank(result, scores))
        decodings[f"wvote{votes}"] = verdicts(evaluate.weighted_vote(result, scores))
        decodings[f"chance{votes}"] = {"accuracy": sum(evaluate.chance(result)) / len(examples)}
    return decodings


def verdicts(result: Answers) -> dict[str, Any]:
    """Return the accuracy of final answers, and each verdict."""
    shown = "".join("01"[c] for c in result.correct)
    return {"accuracy": result.accuracy, "verdicts": shown}
