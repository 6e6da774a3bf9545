"""The command ``python -m reft_lib handover``, which :mod:`reft_lib.cli` lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reft_lib.config import RunConfig


@dataclass(frozen=True)
class Handover:
    """Write questions, reward, policy and a launch script for another trainer."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    trainer: Literal["trl", "verl", "openrlhf"] = "trl"
    """Which one; only trl's script has been run here."""
    preset: str = "nano"
    """Named configuration to start from; the other options change it."""
    adapter: Path | None = None
    """Of the warm-up policy, in peft's format; without it training begins with the base model."""
    out: Path = Path("runs/handover")
    """Folder to write; it must be empty or not be there."""

    def run(self) -> None:
        """Write, and say how to start."""
        from reft_lib import handover_files

        folder = handover_files.write(self.trainer, self.config, self.out, self.adapter)
        start = "accelerate launch --config_file data/accelerate/ddp.yaml"
        how = f"{start} {folder}/train.py" if self.trainer == "trl" else f"bash {folder}/train.sh"
        print(f"wrote {folder}; start with: {how}")
