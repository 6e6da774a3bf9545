"""GRPO by trl 1.16, on the questions in this folder, with reft_lib's reward, from its adapter.

    accelerate launch --config_file CONFIG train.py [--steps N]

reft_lib must be importable in every process. Settings stand in run.json.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from reft_lib import adapter_files, handover, lora, models
from reft_lib.config import LoraSettings
from reft_lib.rewards import AnswerReward

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train, and save the adapter in the folder ``adapter``."""
    run = json.loads((HERE / "run.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=run["steps"], help="optimiser steps")
    steps = parser.parse_args().steps

    model, tokenizer = models.load(run["model"], dtype=run["weights"])
    if run["adapter"]:  # trl keeps a copy of it as the reference: the warm-up policy, as in ReFT
        policy = adapter_files.load_adapter(model, run["adapter"])
    else:  # the reference is the base model
        policy = lora.add_adapter(model, LoraSettings(**run["lora"]), run["seed"])

    # trl counts responses, not questions. What all processes take in one backward pass, times the
    # passes of an optimiser step, must be the batch; and a group of responses must fit into it.
    processes, micro = int(os.environ.get("WORLD_SIZE", "1")), run["micro_batch"]
    if run["batch_size"] % (processes * micro) or run["batch_size"] % run["group_size"]:
        raise SystemExit(
            f"batch_size {run['batch_size']} is no multiple of {processes} processes times "
            f"micro_batch {micro}, or of group_size {run['group_size']}; change run.json"
        )
    gpu = torch.cuda.is_available()
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=handover.trl_reward(AnswerReward(run["fmt"], run["partial"])),
        train_dataset=load_dataset("json", data_files=str(HERE / "train.jsonl"), split="train"),
        processing_class=tokenizer,
        args=GRPOConfig(
            output_dir=str(HERE / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=run["batch_size"] // (processes * micro),
            num_generations=run["group_size"],
            num_iterations=run["epochs"],
            max_completion_length=run["max_new_tokens"],
            learning_rate=run["lr"],
            lr_scheduler_type="constant",
            beta=run["beta"],
            epsilon=run["clip"],
            loss_type="grpo",
            max_grad_norm=run["grad_clip"],
            bf16=gpu,
            use_cpu=not gpu,
            logging_steps=1,
            report_to=[],
            seed=run["seed"],
        ),
    )
    trainer.train()
    # reft_lib.adapter_files.load_adapter reads either; sharded weights must be gathered first
    if trainer.is_fsdp_enabled:
        trainer.save_model(str(HERE / "adapter"))
    elif trainer.accelerator.is_main_process:
        adapter_files.save_adapter(policy, HERE / "adapter")


if __name__ == "__main__":
    main()
