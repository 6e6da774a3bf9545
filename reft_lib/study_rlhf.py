"""RLHF on nano: pairs, a reward model, PPO against it with several betas; DPO; the gold reward.

Every arm begins with the warm-up policy of ReFT, and with the choices of one simulated rater
between that policy's own samples. What the rater values is known (:mod:`reft_lib.preferences`), so
that each rollout batch of PPO is also graded by it: proxy and gold stand side by side over the KL.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from reft_lib import dpo, evaluate, lora, models, ppo, reward_model, rollout, sft
from reft_lib.bench import Bench
from reft_lib.config import PpoConfig
from reft_lib.data import Example
from reft_lib.method_settings_rlhf import DpoConfig, PreferenceConfig, RaterConfig, RewardConfig
from reft_lib.pairwise import responses
from reft_lib.preferences import GoldReward, Pair, Watched, ceiling, make_pairs
from reft_lib.reward_model import RewardModel
from reft_lib.rewards import Graded, RewardFn
from reft_lib.samples import split
from reft_lib.study import Study
from reft_lib.task import adapter_weights, restore

STEPS = 20
"""Rollout batches of PPO, each of as many responses as ReFT's on nano."""
ASKED = {"samples": 8, "per_question": 28, "undecided": 0.5, "flip": 0.0}
"""Responses to a question, pairs of them that the rater sees (all), and the rater's own numbers."""
REWARD = {"reward_epochs": 2, "reward_lr": 1e-3}
"""The reward model's training."""
METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"kind": "ppo", **ASKED, **REWARD, "beta": 0.05, "steps": STEPS},
    "dpo": {"kind": "dpo", **ASKED, "beta": 0.1, "epochs": 2, "lr": 3e-4},
}
"""The arms that stand for the methods, their settings chosen on validation with seed 0."""
CONTROLS: dict[str, dict[str, Any]] = {
    "betas": {**METHODS["ppo"], "kind": "betas", "beta": [0.0, 0.3]},
    "gold": {**ASKED, "kind": "gold", "beta": 0.05, "steps": STEPS},
    "noisy": {**ASKED, **REWARD, "kind": "reward", "flip": 0.25},
}
"""Other betas; PPO against the gold reward itself; a rater who errs, and what is learnt of it."""
BATCH = 64
"""Pairs in a batch, those of a question together: about ten questions with their responses."""
PLACED = 256
"""Samples by which gold reward and KL of a policy are measured that does not sample by itself."""


@dataclass(frozen=True)
class Asked:
    """What the rater was asked and said."""

    rater: RaterConfig
    pairs: list[Pair]
    gold_spread: float
    """Standard deviation of the gold score over the sampled responses."""
    tokens: int
    """Tokens that were sampled."""


@dataclass(frozen=True)
class InSpreads:
    """A reward in units of its own spread, so that one beta means the same for any reward."""

    reward: RewardFn
    spread: float

    def __call__(self, responses: Sequence[str], examples: Sequence[Example]) -> list[Graded]:
        """Return the grades, rewards divided by the spread."""
        graded = self.reward(responses, examples)
        return [replace(g, reward=g.reward / self.spread) for g in graded]


def run(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run one arm; a policy that stands for its method is tested.

    Every step of PPO is recorded with ``proxy``, the mean reward that it trained on, in standard
    deviations of that reward over the warm-up policy's responses (0 is their mean, or for the gold
    arm a gold score of 0), and with ``gold``, the mean gold score of the same responses.

    Returns
    -------
    dict
        ``pairs``, ``gold_spread``; what :func:`learn` found out about a reward model; of a tested
        arm ``validation``, ``best_step``, ``test``, ``hard``, ``sampled_tokens``,
        ``trained_tokens`` and ``labels``, annotated questions (for the warm-up).
    """
    policy, tokenizer = bench.warm_policy()
    asked = ask(bench, policy, tokenizer, settings)
    found: dict[str, Any] = {"pairs": len(asked.pairs), "gold_spread": asked.gold_spread}
    kind = settings["kind"]
    if kind == "dpo":
        found |= prefer(bench, policy, tokenizer, asked, settings)
    elif kind == "gold":
        reward = InSpreads(GoldReward(bench.fmt, asked.rater), asked.gold_spread)
        follow(bench, policy, tokenizer, reward, asked, settings["beta"], settings["steps"])
    else:
        model, facts = learn(bench, policy, tokenizer, asked, settings)
        found |= facts
        reward, fresh = InSpreads(model, model.spread), adapter_weights(policy)
        if kind == "ppo":
            found |= optimise(bench, policy, tokenizer, reward, asked, settings)
        for beta in settings["beta"] if kind == "betas" else ():
            restore(policy, fresh)
            follow(bench, policy, tokenizer, reward, asked, beta, settings["steps"])
    return found


def ask(bench: Bench, policy: Any, tokenizer: Any, settings: Mapping[str, Any]) -> Asked:
    """Sample responses to the training questions and let the rater choose between some of them."""
    rater = RaterConfig(flip=settings["flip"], undecided=settings["undecided"])
    train = bench.splits["train"]
    config = PreferenceConfig(
        samples=settings["samples"], per_question=settings["per_question"], rater=rater
    )
    with lora.reference(policy):  # its fresh adapter changes nothing yet, and would cost time
        said = evaluate.answer(
            policy, tokenizer, train, bench.fmt, bench.config.sample, votes=config.samples,
            seed=bench.seed, desc="samples of the warm-up policy",
        )  # fmt: skip
    flat = [(text, e) for group, e in zip(said.texts, train, strict=True) for text in group]
    gold = GoldReward(bench.fmt, rater)([text for text, _ in flat], [e for _, e in flat])
    pairs = make_pairs(said.texts, train, bench.fmt, config, bench.seed)
    tokens = response_tokens(tokenizer, [text for text, _ in flat])
    return Asked(rater, pairs, statistics.pstdev(g.reward for g in gold), tokens)


def learn(
    bench: Bench, policy: Any, tokenizer: Any, asked: Asked, settings: Mapping[str, Any]
) -> tuple[RewardModel, dict[str, Any]]:
    """Train a reward model on the rater's choices and hold it against choices it has not seen.

    Returns
    -------
    RewardModel
    dict
        ``held``: choices on questions that were held out; of them ``held_accuracy``, ``held_loss``
        (nats), ``held_ece``; ``ceiling_accuracy`` and ``ceiling_loss``, see
        :func:`reft_lib.preferences.ceiling`. The probability given to each choice is recorded.
    """
    config = RewardConfig(
        epochs=settings["reward_epochs"], lr=settings["reward_lr"], batch_size=BATCH
    )
    model = reward_model.train(
        policy, tokenizer, asked.pairs, bench.fmt, config, bench.config.lora, bench.seed, bench.bf16
    )
    for metrics in model.history:
        epoch = int(metrics["epoch"])
        bench.record(step=epoch, split="train", phase="reward model", **metrics)
    _, held = split(asked.pairs, config.held_out, bench.seed)
    p = reward_model.margins(model, held).sigmoid().tolist()
    bench.record(step=model.epoch, split="held", p=[round(x, 4) for x in p])
    kept, best = model.history[model.epoch - 1], ceiling(held, bench.fmt, asked.rater)
    facts = {name: kept[name] for name in ("held_accuracy", "held_loss", "held_ece")}
    facts |= {f"ceiling_{name}": best[name] for name in ("accuracy", "loss")}
    return model, {"held": len(held), **facts}


def against(
    bench: Bench,
    policy: Any,
    tokenizer: Any,
    reward: RewardFn,
    asked: Asked,
    config: PpoConfig,
) -> Iterator[dict[str, float]]:
    """Train by PPO against a reward; yields PPO's metrics with ``proxy``, ``gold`` and ``beta``."""
    watched = Watched(reward, GoldReward(bench.fmt, asked.rater))
    for metrics in ppo.ppo(
        policy, tokenizer, bench.splits["train"], bench.fmt, watched, config, bench.config.sample,
        bench.seed, bench.bf16,
    ):  # fmt: skip
        yield {**metrics, **watched.seen, "beta": config.beta}


def follow(
    bench: Bench, policy: Any, tokenizer: Any, reward: RewardFn, asked: Asked, beta: float,
    steps: int,
) -> None:  # fmt: skip
    """Follow a reward to the end, without validation, and record every step."""
    config = replace(bench.config.ppo, beta=beta, steps=steps)
    for metrics in against(bench, policy, tokenizer, reward, asked, config):
        step = int(metrics.pop("step"))
        bench.record(step=step, split="train", phase="train", **metrics)


def optimise(
    bench: Bench, policy: Any, tokenizer: Any, reward: RewardFn, asked: Asked,
    settings: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Train by PPO against a learned reward, keep the best checkpoint on validation, test it."""
    config = replace(bench.config.ppo, beta=settings["beta"], steps=settings["steps"])
    steps = against(bench, policy, tokenizer, reward, asked, config)
    found = bench.fit(policy, tokenizer, steps, config.steps, config.eval_every)
    found |= bench.test(policy, tokenizer)
    lines = [x for x in bench.lines if x["split"] == "train" and x["phase"] == "train"]
    sampled = round(config.batch_size * sum(line["length"] for line in lines))
    return found | counted(bench, tokenizer, asked.tokens + sampled, sampled * config.ppo_epochs)


def prefer(
    bench: Bench, policy: Any, tokenizer: Any, asked: Asked, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Train by DPO on the pairs that a reward model would learn from, and test the best checkpoint.

    Before the first step and at every validation it is also recorded where the policy stands, see
    :func:`place`. Returns what :func:`run` says, with ``held_accuracy`` of the implicit reward.
    """
    config = DpoConfig(
        epochs=settings["epochs"], lr=settings["lr"], beta=settings["beta"], batch_size=BATCH
    )
    training, held = split(asked.pairs, RewardConfig().held_out, bench.seed)
    total = config.epochs * dpo.steps_per_epoch(len(training), config)
    every = max(1, total // 6)
    loop = dpo.begin(policy, config, bench.seed)

    def steps() -> Iterator[dict[str, float]]:
        for metrics in dpo.dpo_steps(
            policy, tokenizer, training, bench.fmt, config, bench.seed, bench.bf16, loop
        ):
            if loop.step % every == 0 or loop.step == total:
                metrics |= place(bench, policy, tokenizer, asked.rater)
            yield metrics

    bench.record(
        step=0, split="train", phase="train", **place(bench, policy, tokenizer, asked.rater)
    )
    found = bench.fit(policy, tokenizer, steps(), total, every)
    held_accuracy = dpo.validate(policy, tokenizer, held, bench.fmt, config)["accuracy"]
    found |= bench.test(policy, tokenizer)
    read = config.epochs * read_tokens(tokenizer, training)
    found |= {"held": len(held), "held_accuracy": held_accuracy}
    return found | counted(bench, tokenizer, asked.tokens, read)


@torch.no_grad()
def place(bench: Bench, policy: Any, tokenizer: Any, rater: RaterConfig) -> dict[str, float]:
    """Return where a policy stands by samples of its own.

    These are ``gold``, ``accuracy``, ``kl`` (k1, nats a response) and ``length``, as PPO measures
    them in each step; questions and dice are the same each time.
    """
    examples = bench.splits["train"][:PLACED]
    room = models.context_length(policy) - bench.config.sample.max_new_tokens
    sampled = rollout.sample(
        policy, tokenizer, rollout.encode(tokenizer, examples, bench.fmt, room),
        bench.config.sample.max_new_tokens,
        generator=torch.Generator(policy.device).manual_seed(bench.seed),
    )  # fmt: skip
    total = (sampled.logprobs * sampled.response_mask).sum()
    for rows in torch.arange(len(examples)).split(bench.config.ppo.micro_batch):
        part = rollout.minibatch(sampled, rows)
        with lora.reference(policy):
            total -= (rollout.score(policy, part)[0] * part.response_mask).sum()
    graded = GoldReward(bench.fmt, rater)(sampled.texts, examples)
    return {
        "gold": statistics.fmean(g.reward for g in graded),
        "accuracy": statistics.fmean(g.correct for g in graded),
        "kl": float(total) / len(examples),
        "length": float(sampled.lengths.float().mean()),
    }


def read_tokens(tokenizer: Any, pairs: Sequence[Pair]) -> int:
    """Return how many tokens the different responses of some pairs have, ends included."""
    return response_tokens(tokenizer, [text for _, text in responses(pairs)])


def response_tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    """Return how many tokens some responses have, ends included."""
    return sum(
        len(ids) + 1 for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    )


def counted(bench: Bench, tokenizer: Any, sampled: int, trained: int) -> dict[str, int]:
    """Return the tokens that the policy was trained on, in the warm-up too, and its labels."""
    train = bench.splits["train"]
    warm = sum(len(target) for _, target in sft.encode(tokenizer, train, bench.fmt))
    return {
        "sampled_tokens": sampled,
        "trained_tokens": bench.config.warmup_epochs * warm + trained,
        "labels": len(train),
    }


STUDY = Study(
    name="rlhf",
    about="a learned reward: what it knows, what PPO makes of it, and DPO on the same choices",
    arms={**METHODS, **CONTROLS},
    run=run,
)
