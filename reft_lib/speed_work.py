"""What the benchmark measures, each in a process of its own: rollouts, updates, whole steps.

An engine is a function that prepares everything and then does the same piece of work whenever the
gate opens. Engines of one kind do the same work: the same model and adapter, prompts, number of
responses, distribution of their lengths, precision of weights. trl and transformers work with the
layers of peft and transformers, not with this library's.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from reft_lib import fused, losses, machine, models, prompts, relatives, rollout, switch
from reft_lib.config import SampleConfig
from reft_lib.method_settings import RelativesConfig
from reft_lib.rewards import Graded
from reft_lib.speed_case import (
    Case,
    Gate,
    Work,
    policy_of,
    questions,
    rollout_work,
    step_work,
    update_work,
    weights,
)

Sampler = Callable[..., list[int]]
"""Samples once with a policy and returns the length of every response."""


def _rollout(sample: Sampler) -> Callable[[Case, Gate], None]:
    """Make an engine of a function that samples once."""

    def engine(case: Case, gate: Gate) -> None:
        policy, tokenizer = policy_of(case)
        ids = rollout.encode(tokenizer, questions(case, tokenizer), "ncot")
        prompts, size = [len(row) for row in ids], 2 if case.bf16 else 4
        seed = 0
        while gate.wait():
            seed += 1
            with torch.no_grad():
                lengths = sample(policy, tokenizer, ids, case, seed)
            gate.done(sum(lengths), partial(rollout_work, policy, prompts, lengths, size))

    return engine


def _generate(
    policy: Any, tokenizer: Any, ids: Any, case: Case, seed: int, **more: Any
) -> list[int]:
    """Sample with transformers' ``generate``, in the precision of the weights, as trl does."""
    eos = tokenizer.eos_token_id
    tokens, mask = rollout.pad_left(ids, eos, policy.device)
    torch.manual_seed(seed)
    with fused.plain():
        out = policy.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=case.most, do_sample=True,
            top_k=0, top_p=1.0, temperature=1.0, pad_token_id=eos, **more,
        )[:, tokens.shape[1] :]  # fmt: skip
    ends = (out == eos).int()
    return [int(n) for n in (ends.cumsum(dim=1) - ends < 1).sum(dim=1)]


def _ours(policy: Any, tokenizer: Any, ids: Any, case: Case, seed: int) -> list[int]:
    """Sample with :func:`reft_lib.rollout.sample`, as this library's loops do."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    with models.autocast(policy.device, case.bf16):
        sampled = rollout.sample(policy, tokenizer, ids, case.most, generator=generator)
    return [int(n) for n in sampled.lengths]


def _plainly(*given: Any) -> list[int]:
    """The same, with peft's layers and transformers' cache."""
    with fused.plain():
        return _ours(*given)


def _static(*given: Any) -> list[int]:
    """Let ``generate`` use a static cache, which it compiles into CUDA graphs on a GPU."""
    return _generate(*given, cache_implementation="static")


def _batch(policy: Any, tokenizer: Any, ids: Any, case: Case, seed: int) -> list[int]:
    """Sample with ``generate_batch``: a cache in pages, rows that have ended make room for others.

    It takes half of a GPU's free memory, since others have theirs beside it, and stays ready from
    one rollout to the next.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = policy.get_base_model()
    model.set_attn_implementation("sdpa")
    how = GenerationConfig(
        max_new_tokens=case.most, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    pages = ContinuousBatchingConfig(max_memory_percent=0.5, seed=seed)
    with fused.plain():
        found = model.generate_batch(ids, how, pages, persistent_manager=True)
    if failed := [one.error for one in found.values() if one.error is not None]:
        raise RuntimeError(failed[0])
    return [len(one.generated_tokens) for one in found.values()]


def _at_once(case: Case) -> int:
    """Return the rows of a micro-batch: as many as wanted; padded ones as far as memory allows."""
    few = case.micro and not switch.enabled()
    return min(case.at_once, case.micro) if few else case.at_once


def _update(case: Case, gate: Gate) -> None:
    """Read sampled responses again and add up the gradient, as an update of PPO or GRPO does."""
    policy, tokenizer = policy_of(case)
    ids = rollout.encode(tokenizer, questions(case, tokenizer), "ncot")
    generator = torch.Generator(policy.device).manual_seed(0)
    sampled = rollout.sample(policy, tokenizer, ids, case.most, generator=generator)
    order = sampled.attention_mask.sum(dim=1).argsort(stable=True)
    tokens = int(sampled.attention_mask.sum())
    # a row's last token predicts nothing, and so has not to be read
    read = (sampled.attention_mask.sum(dim=1) - 1).tolist()
    work = partial(update_work, policy, read, int(sampled.lengths.sum()))
    fused.fuse(policy)
    while gate.wait():
        policy.zero_grad()
        for rows in order.split(_at_once(case)):
            part = rollout.minibatch(sampled, rows)
            with models.autocast(policy.device, case.bf16):
                logp, _ = rollout.score(policy, part)
                loss = -losses.masked_mean(logp, part.response_mask)
            loss.backward()
        gate.done(tokens, work)


def _update_plainly(case: Case, gate: Gate) -> None:
    """The same, with peft's layers and transformers' attention."""
    with fused.plain():
        _update(case, gate)


def _reward(texts: list[str]) -> list[float]:
    """Grade for next to nothing: half of the responses are worth something."""
    return [float(len(text) % 2) for text in texts]


def _step(case: Case, gate: Gate) -> None:
    """Take whole steps of :func:`reft_lib.relatives.train`, kind GRPO."""
    policy, tokenizer = policy_of(case)
    config = RelativesConfig(
        "grpo", case.group, 10**9, case.rows, micro_batch=_at_once(case), lr=1e-6, beta=0.04
    )

    def reward(texts: Any, batch: Any) -> list[Graded]:
        return [Graded(r, None, r > 0) for r in _reward(texts)]

    asked = questions(case, tokenizer)
    steps: Iterator[Any] = relatives.train(
        policy, tokenizer, asked, "ncot", reward, config, SampleConfig(case.most), bf16=case.bf16
    )
    work = _step_work(policy, tokenizer, asked, case)
    while gate.wait():
        tokens = round(next(steps)["length"] * case.rows)
        gate.done(tokens, partial(work, tokens))


def _step_work(policy: Any, tokenizer: Any, asked: Any, case: Case) -> Callable[[int], Work]:
    """Return a function that counts what a step must do, from the tokens of its responses.

    Weights are counted at once: trl puts a second adapter on the policy, its reference.
    """
    ids = rollout.encode(tokenizer, asked, "ncot")
    prompts = sum(map(len, ids)) / len(ids) * case.rows / case.group
    return partial(step_work, weights(policy), prompts, case.rows)


def _step_plainly(case: Case, gate: Gate) -> None:
    """The same, with peft's layers, transformers' attention and its cache."""
    with fused.plain():
        _step(case, gate)


def _step_trl(case: Case, gate: Gate) -> None:
    """Take whole steps of trl's GRPOTrainer: one update a batch, the same loss, no logging."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Asked(TrainerCallback):
        """Begins each step when the gate opens."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if not gate.wait():
                raise SystemExit

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            tokens = counted.pop()
            gate.done(tokens, partial(work, tokens))

    counted: list[int] = []

    def reward(completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        counted.append(sum(len(ids) for ids in completion_ids))
        return _reward(completions)

    policy, tokenizer = policy_of(case)
    examples = questions(case, tokenizer)
    work = _step_work(policy, tokenizer, examples, case)
    asked = [{"prompt": prompts.prompt(e, "ncot")} for e in examples]
    device, micro = policy.device, min(case.micro or case.rows, case.rows)
    with tempfile.TemporaryDirectory() as folder, fused.plain():
        config = GRPOConfig(
            folder, per_device_train_batch_size=micro, num_generations=case.group,
            gradient_accumulation_steps=case.rows // micro,
            max_completion_length=case.most, max_steps=10**6, beta=0.04, epsilon=0.2,
            loss_type="grpo", learning_rate=1e-6,
            bf16=case.bf16 and models.has_fast_bf16(device), use_cpu=device.type == "cpu",
            report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, gradient_checkpointing=False, temperature=1.0, seed=0,
        )  # fmt: skip
        GRPOTrainer(
            policy, reward, config, Dataset.from_list(asked), processing_class=tokenizer,
            callbacks=[Asked()],
        ).train()  # fmt: skip


ENGINES: dict[str, dict[str, Callable[[Case, Gate], None]]] = {
    "rollout": {
        "generate": _rollout(_generate),
        "plain": _rollout(_plainly),
        "reft_lib": _rollout(_ours),
    },
    "update": {"plain": _update_plainly, "reft_lib": _update},
    "step": {"trl": _step_trl, "plain": _step_plainly, "reft_lib": _step},
}
"""By kind of work and name; the last of each is what the library uses."""
ON_GPU = {"generate_static": _rollout(_static), "generate_batch": _rollout(_batch)}
"""More engines of rollouts, made for GPUs: elsewhere they work when they are asked for by name."""


def serve(pipe: Any, kind: str, name: str, case: Case) -> None:
    """Run an engine in this process until its pipe says no more; errors are sent as text."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        if name in ("plain", "reft_lib"):
            machine.keep_memory()
            machine.keep_few_kernels()
        else:  # the others as their users find them, whatever this library's commands have set
            machine.keep_few_kernels(None)
        engines = ENGINES["step" if kind == "memory" else kind] | ON_GPU
        on_gpu = models.pick_device(case.device).type == "cuda"
        engines[name](case, Gate(pipe, kind == "memory", on_gpu))
    except (SystemExit, EOFError):
        pass
    except Exception as error:  # whatever it is, the parent must not wait for ever
        pipe.send({"error": f"{type(error).__name__}: {error}"})
