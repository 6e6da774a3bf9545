"""The phases of a unit: how the training of each method is prepared.

A phase is a policy, a loop over steps, and when to validate (:class:`reft_lib.task.Phase`); what
is common to all of them, running, validating, testing, stands in :mod:`reft_lib.unit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from reft_lib import (
    evaluate,
    lora,
    parallel,
    ppo,
    resume,
    samples,
    self_training,
    sft,
    verifier,
)
from reft_lib.config import Method, PpoConfig, SelfTrainConfig, SftConfig
from reft_lib.data import Example
from reft_lib.evaluate import Answers
from reft_lib.loop import Loop
from reft_lib.rewards import AnswerReward
from reft_lib.task import Phase, Task, restore
from reft_lib.verifier import Verifier

VERIFIER = "verifier"
"""The folder of a trained verifier, beside the state."""


def begin_sft(task: Task) -> Phase:
    """Prepare SFT, on whose way the warm-up policy is kept."""
    phase = on_annotations("sft", task, task.splits["train"], task.config.sft)
    phase.validate_at.add(int(task.config.warmup_epochs * phase.per_epoch))
    return phase


def on_annotations(method: str, task: Task, rows: Sequence[Example], settings: SftConfig) -> Phase:
    """Return a phase that trains the base model on annotations, validated by the epoch."""
    config = task.config
    model, tokenizer = task.base()
    model = lora.add_adapter(model, config.lora, seed=config.seed)
    loop = sft.begin(model, settings, config.seed)
    steps = sft.sft_steps(
        model, tokenizer, rows, config.fmt, settings, config.seed, task.bf16, loop
    )
    per_epoch = sft.steps_per_epoch(len(rows), settings)
    epochs = {*range(settings.eval_every, settings.epochs, settings.eval_every), settings.epochs}
    return Phase(
        method=method,
        policy=model,
        tokenizer=tokenizer,
        loop=loop,
        steps=steps,
        total=settings.epochs * per_epoch,
        per_epoch=per_epoch,
        validate_at={epoch * per_epoch for epoch in epochs},
        counts="epoch",
        after_warm_up=False,
        log_every=per_epoch,
        summarise=sft.epoch_metrics,
    )


def warm_policy(task: Task, seed: int) -> tuple[Any, Any]:
    """Return the warm-up policy, ready to be trained on, and its tokenizer.

    It is merged and gets a fresh adapter; with bfloat16 weights, which a merge would round, its own
    adapter is trained on, and a frozen copy is the reference.
    """
    config = task.config
    model, tokenizer = task.base()
    model = lora.add_adapter(model, config.lora, seed=config.seed)
    restore(model, task.warm)
    task.keep_adapter(model, "warmup")  # a fresh adapter belongs on top of this one, merged
    if config.weights != "float32":
        return lora.keep_reference(model), tokenizer
    return lora.add_adapter(lora.merge(model), config.lora, seed=seed), tokenizer


def begin_reft(task: Task) -> Phase:
    """Prepare PPO from the warm-up policy."""
    config, settings = task.config, replace(task.config.ppo, beta=task.config.beta)
    policy, tokenizer = warm_policy(task, config.seed + 1)
    loop = ppo.begin(policy, settings, config.seed)
    reward = AnswerReward(config.fmt, partial=settings.partial_reward)
    steps = ppo.ppo(
        policy, tokenizer, task.splits["train"], config.fmt, reward, settings, config.sample,
        config.seed, task.bf16, loop,
    )  # fmt: skip
    return on_rollouts("reft", task, policy, tokenizer, loop, steps, settings)


def begin_online(task: Task) -> Phase:
    """Prepare online self-training from the warm-up policy."""
    config, settings = task.config, task.config.self_train
    policy, tokenizer = warm_policy(task, config.seed + 1)
    loop = self_training.begin(policy, settings, config.seed)
    steps = self_training.online(
        policy, tokenizer, task.splits["train"], config.fmt, AnswerReward(config.fmt), settings,
        config.sample, config.seed, task.bf16, loop,
    )  # fmt: skip
    return on_rollouts("online_st", task, policy, tokenizer, loop, steps, settings)


def on_rollouts(
    method: str,
    task: Task,
    policy: Any,
    tokenizer: Any,
    loop: Loop,
    steps: Iterator[dict[str, float]],
    settings: PpoConfig | SelfTrainConfig,
) -> Phase:
    """Return a phase whose steps are rollout batches; it is validated before the first, too."""
    return Phase(
        method=method,
        policy=policy,
        tokenizer=tokenizer,
        loop=loop,
        steps=steps,
        total=settings.steps,
        per_epoch=len(task.splits["train"]) / settings.batch_size,
        validate_at={*range(0, settings.steps, settings.eval_every), settings.steps},
    )


def begin_offline(task: Task) -> Phase:
    """Prepare offline self-training: SFT of the base model on right samples of the warm-up policy.

    The samples are kept beside the state, for sampling is most of the work.
    """
    config, train = task.config, task.splits["train"]
    result = sample_warm(task, config.self_train.samples)
    rows = self_training.keep(result, train, config.fmt, config.self_train.keep)
    epochs = replace(config.sft, epochs=config.self_train.sft_epochs)
    phase = on_annotations("offline_st", task, rows, epochs)
    phase.after_warm_up = True
    return phase


def sample_warm(task: Task, samples: int) -> Answers:
    """Sample so many responses to every training question from the warm-up policy."""
    config = task.config
    policy, tokenizer = warm_policy(task, config.seed)
    return evaluate.answer(
        lora.merge(policy) if config.weights == "float32" else policy,
        tokenizer, task.splits["train"], config.fmt, config.sample, votes=samples,
        seed=config.seed, desc="samples of the warm-up policy", memo=task.memo(f"warm {samples}"),
    )  # fmt: skip


def trained_verifier(task: Task) -> Verifier:
    """Return the verifier of a unit, trained at the first call.

    Its trunk is the warm-up policy, whose samples it learns from; tests never enter. Its training
    goes on from where it was stopped, its last step included: whoever asks again gets what it was.
    Several processes do not share this work: each trains the same verifier.
    """
    if task.verifier is None:
        config, folder = task.config, task.folder / VERIFIER
        policy, tokenizer = warm_policy(task, config.seed)
        graded = samples.distinct(sample_warm(task, config.verifier.samples), task.splits["train"])
        latest: list[Callable[[], verifier.State]] = []

        def after(state: Callable[[], verifier.State]) -> None:
            latest[:] = [state]
            task.clock.tick(save)

        def save() -> None:
            resume.save(folder, *latest[0]())
            task.save_seconds()

        task.verifier = verifier.train(
            policy, tokenizer, graded, config.fmt, config.verifier, config.lora, config.seed,
            task.bf16, parallel.from_first(lambda: resume.load(folder)), after,
        )  # fmt: skip
        if latest:
            save()
    if not task.progress.verified:
        for metrics in task.verifier.history:
            step = int(metrics["epoch"])
            task.log.log(step=step, split="train", method="verifier", **metrics)
        task.progress.verified = True
    return task.verifier


PHASES: dict[Method, Callable[[Task], Phase]] = {
    "sft": begin_sft,
    "offline_st": begin_offline,
    "online_st": begin_online,
    "reft": begin_reft,
}
"""How each method is prepared."""
