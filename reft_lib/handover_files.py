"""Write a folder from which another trainer starts: questions, reward, policy, launch script.

The questions are those that a run of the same preset trains and validates on, so that its result
can be compared; no test question is in the folder. Settings are carried over where the other
trainer has the same one. All three scripts train with GRPO, which each of the three has.

The policy begins as the warm-up policy if an adapter is given. trl takes the adapter as it is, and
keeps a frozen copy as reference. verl takes the policy without its LoRA for the reference, and
OpenRLHF trains all weights; for these two the adapter is merged into the weights, as
:mod:`reft_lib.lora` does before PPO.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reft_lib import adapter_files, data, handover, handover_ray, lora, models, unit
from reft_lib.config import RunConfig
from reft_lib.data import Example
from reft_lib.errors import UserError

TRAINERS = ("trl", "verl", "openrlhf")
SCRIPTS = Path(__file__).resolve().parents[1] / "data" / "handover"
"""The launch scripts; names between at signs stand for settings."""
GROUP = 8
"""Responses to a question, where batches allow it."""
LONGEST_PROMPT = 512
"""Tokens left for a prompt where a trainer wants the two lengths together."""


def settings(config: RunConfig, adapter: Path | None = None) -> dict[str, Any]:
    """Return what a launch script needs of a run's configuration, as JSON can hold it.

    Raises
    ------
    UserError
        If the batch cannot be divided into groups of at least two responses.
    """
    ppo = config.ppo
    group = next((g for g in range(GROUP, 1, -1) if ppo.batch_size % g == 0), 0)
    if not group:
        raise UserError(
            f"ppo.batch_size is {ppo.batch_size}; no groups of 2 to {GROUP} responses fill it"
        )
    return {
        "model": config.model,
        "weights": config.weights,
        "dataset": config.dataset,
        "fmt": config.fmt,
        "adapter": str(adapter.resolve()) if adapter else None,
        "lora": dataclasses.asdict(config.lora),
        "rank": config.lora.rank,
        "alpha": config.lora.alpha,
        "partial": ppo.partial_reward,
        "beta": config.beta,
        "steps": ppo.steps,
        "batch_size": ppo.batch_size,
        "group_size": group,
        "questions": ppo.batch_size // group,
        "micro_batch": min(ppo.micro_batch, ppo.batch_size),
        "epochs": ppo.ppo_epochs,
        "lr": ppo.lr,
        "clip": ppo.clip,
        "grad_clip": ppo.grad_clip,
        "max_new_tokens": config.sample.max_new_tokens,
        "max_len": LONGEST_PROMPT + config.sample.max_new_tokens,
        "seed": config.seed,
    }


def write(trainer: str, config: RunConfig, out: Path, adapter: Path | None = None) -> Path:
    """Write the folder and return it.

    Parameters
    ----------
    trainer : {"trl", "verl", "openrlhf"}
    config : RunConfig
        Its data set, format, model and PPO settings are carried over.
    out : path
        The folder; it must be empty or not be there.
    adapter : path, optional
        Of the warm-up policy, as :func:`reft_lib.adapter_files.save_adapter` writes it.

    Raises
    ------
    UserError
        If the trainer is unknown, the folder has files, the adapter does not fit the model, or a
        package is missing.
    """
    if trainer not in TRAINERS:
        raise UserError(f"unknown trainer {trainer!r}; there are: {', '.join(TRAINERS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there are files already; choose another --out")
    run = settings(config, adapter)
    model, tokenizer = models.load(config.model)  # float32, so that a merge loses nothing
    policy = adapter_files.load_adapter(model, adapter) if adapter else None  # refused early
    splits = unit.load_splits(config)
    chosen = {name: splits[name] for name in ("train", "validation")}
    out.mkdir(parents=True, exist_ok=True)
    run["data"] = {name: data.fingerprint(examples) for name, examples in chosen.items()}
    for name, examples in chosen.items():
        _write_rows(out / name, _rows(trainer, examples, run, tokenizer, name))
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    if trainer == "trl":
        _script(SCRIPTS / "trl.py", out / "train.py", {})
        return out
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = handover_ray.chat_template(tokenizer)
    plain = lora.merge(policy) if policy is not None else model
    plain.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    function = "compute_score" if trainer == "verl" else "reward_func"
    (out / "reward.py").write_text(
        f'"""The reward."""\n\nfrom reft_lib.handover_ray import {function}  # noqa: F401\n',
        encoding="utf-8",
    )
    _script(SCRIPTS / f"{trainer}.sh", out / "train.sh", run)
    return out


def _rows(
    trainer: str, examples: Sequence[Example], run: Mapping[str, Any], tokenizer: Any, split: str
) -> list[dict[str, Any]]:
    fmt, partial = run["fmt"], run["partial"]
    if trainer == "trl":
        return list(handover.trl_rows(examples, fmt))
    if trainer == "verl":
        return handover_ray.verl_rows(examples, fmt, run["dataset"], split, partial)
    return list(handover_ray.openrlhf_rows(examples, fmt, partial, **handover_ray.marks(tokenizer)))


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines; for verl, whose rows have a ``data_source``, parquet."""
    if "data_source" not in rows[0]:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.with_suffix(".jsonl").write_text(text, encoding="utf-8")
        return
    import pandas as pd

    try:
        pd.DataFrame(rows).to_parquet(path.with_suffix(".parquet"))
    except ImportError as err:
        raise UserError('parquet needs pyarrow; python -m pip install -e ".[data]"') from err


def _script(source: Path, target: Path, run: Mapping[str, Any]) -> None:
    """Copy a launch script with its settings filled in."""
    text = source.read_text(encoding="utf-8")
    for name, figure in run.items():
        text = text.replace(f"@{name.upper()}@", str(figure))
    target.write_text(text, encoding="utf-8")
    target.chmod(0o755)
