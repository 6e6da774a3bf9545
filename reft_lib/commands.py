"""The commands of ``python -m reft_lib``: their options, and what they call.

Commands are dataclasses read by tyro; heavy imports come only once a command runs, so that help
is quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from reft_lib.config import Format, PretrainConfig, RunConfig, preset
from reft_lib.errors import UserError


@dataclass(frozen=True)
class Compare:
    """Train SFT and ReFT from the same base model on the same questions; print one table."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    preset: str = "nano"
    """Named configuration to start from; the other options change it."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One comparison for each seed and format."""
    formats: tuple[Format, ...] = ("ncot", "pcot")
    """Reasoning in words (ncot), as programs (pcot), or both."""
    out: Path | None = None
    """Folder of the run logs; default data/runs/PRESET. Finished units in it are kept."""
    jobs: int = 0
    """Units side by side; 0: one a core for the nano model, else one."""
    adapters: Path | None = None
    """Also save the best adapters here, in peft's format."""

    def run(self) -> None:
        """Run what is not finished and print the table of all."""
        from reft_lib.compare import compare
        from reft_lib.results import as_text

        for option in ("name", "fmt", "seed"):
            if getattr(self.config, option) != getattr(preset(self.preset), option):
                raise UserError(f"--{option} is not for compare; use --preset, --formats, --seeds")
        frame = compare(self.config, self.seeds, self.formats, self.out, self.jobs, self.adapters)
        print(as_text(frame))


@dataclass(frozen=True)
class Reproduce:
    """Run one preset with one seed on this machine, in as many calls as it takes."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    preset: str = "nano"
    """Named configuration to start from; the other options change it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes the GPU where there is one."""
    minutes: float | None = None
    """Stop before this much time has passed, with the state saved; default: run to the end."""
    resume: bool = False
    """Go on with the unfinished run in the folder."""
    out: Path | None = None
    """Folder of the run logs; default data/runs/PRESET."""
    adapters: Path | None = None
    """Also save the best adapters here, in peft's format."""
    trackers: tuple[str, ...] = ()
    """Also send metrics to these: tensorboard, wandb, trackio, or another of accelerate's."""

    def run(self) -> None:
        """Run, or go on."""
        from reft_lib.reproduce import reproduce

        if self.config.name != preset(self.preset).name:
            raise UserError("--name is not for reproduce; use --preset and --out")
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"--minutes is {self.minutes}; it must be a number above 0")
        reproduce(
            self.config,
            self.out,
            self.device,
            self.minutes,
            self.resume,
            self.adapters,
            self.trackers,
        )


@dataclass(frozen=True)
class Study:
    """Run a study of another method: every arm with several seeds, on the nano model."""

    name: tyro.conf.Positional[str] = ""
    """Of the study; left out, all are listed."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One unit for each seed and arm."""
    arms: tuple[str, ...] = ()
    """Some of its arms; default: all."""
    out: Path | None = None
    """Folder of the run logs; default data/runs/NAME. Finished units in it are kept."""
    jobs: int = 0
    """Units side by side, each on one thread; 0: one a core."""

    def run(self) -> None:
        """Run what is not finished, or list what there is."""
        from reft_lib import studies
        from reft_lib.study import run_study

        if not self.name:
            for study in map(studies.get, studies.names()):
                print(f"{study.name}: {study.about}\n    arms: {', '.join(study.arms)}")
            return
        run_study(studies.get(self.name), self.seeds, self.arms, self.out, self.jobs)


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


@dataclass(frozen=True)
class Table:
    """Print the table of finished comparisons."""

    runs: tyro.conf.Positional[Path]
    """Folder of the run logs, for example data/runs/nano."""

    def run(self) -> None:
        """Read the cards and print."""
        from reft_lib.results import as_text, table

        print(as_text(table(self.runs)))


@dataclass(frozen=True)
class PretrainNano:
    """Make the nano base model again from nothing (about 17 minutes on 2 cores)."""

    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainConfig
    )
    out: Path = Path("data/nano")
    """Folder of the model; an interrupted call goes on from the checkpoint in it."""

    def run(self) -> None:
        """Pretrain, or go on."""
        from reft_lib.pretrain import pretrain

        print(f"wrote {pretrain(self.out, self.config)}")


@dataclass(frozen=True)
class PretrainEncoder:
    """Make the small encoder again from nothing (about 5 minutes on one core)."""

    out: Path = Path("data/encoder")
    """Folder of the encoder."""

    def run(self) -> None:
        """Pretrain."""
        from reft_lib.bench import one_thread
        from reft_lib.pretrain_encoder import pretrain_encoder

        with one_thread():  # the sums keep their order, whatever the machine
            print(f"wrote {pretrain_encoder(self.out)}")


@dataclass(frozen=True)
class RecordLens:
    """Record single responses of one ReFT run token by token (about 4 minutes on one core)."""

    out: Path = Path("data/runs/lens/pcot-seed0")
    """Folder of the record; it must not hold one already."""
    seed: int = 0
    """Seed of the run."""

    def run(self) -> None:
        """Train and record."""
        from reft_lib.lens_record import record

        record(self.out, self.seed)
        print(f"wrote {self.out}")


@dataclass(frozen=True)
class MakeProblems:
    """Write the splits of the embedded problems again."""

    out: Path = Path("data/problems")
    """Folder of the splits."""

    def run(self) -> None:
        """Generate and write."""
        from reft_lib.problems import write_splits

        write_splits(self.out)
        print(f"wrote {self.out}")


@dataclass(frozen=True)
class Bench:
    """Measure speed and memory beside trl, plain generate, and what the machine can do."""

    models: tuple[str, ...] = ("nano",)
    """Their names: nano, smollm2-135m-instruct, a folder, or a model of the hub."""
    kinds: tuple[str, ...] = ("rollout", "update", "step", "memory")
    """What to measure."""
    rounds: int = 5
    """How often each engine works, in turn with the others."""
    out: Path = Path("runs/speed")
    """Folder of the records; finished ones in it are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes the GPU where there is one."""
    engines: tuple[str, ...] = ()
    """Some of the engines: generate, plain, trl, reft_lib, and, made for GPUs, generate_static,
    generate_batch; default: all, the last two on a GPU alone."""

    def run(self) -> None:
        """Measure, and print a table."""
        from reft_lib import speed, speed_records

        if self.rounds < 1:
            raise UserError(f"--rounds is {self.rounds}; it must be at least 1")
        found = speed.bench(
            self.models, self.kinds, self.rounds, self.out, self.device, self.engines
        )
        print(speed_records.as_text(found))


COMMANDS: dict[str, Any] = {
    "compare": Compare,
    "reproduce": Reproduce,
    "study": Study,
    "handover": Handover,
    "table": Table,
    "pretrain-nano": PretrainNano,
    "pretrain-encoder": PretrainEncoder,
    "record-lens": RecordLens,
    "bench": Bench,
    "make-problems": MakeProblems,
}
