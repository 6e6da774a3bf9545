"""Put the state of a run on disk, whole or not at all, in files that travel.

A state is a set of tensors and a set of notes (what JSON can hold). The tensors go into
safetensors files of at most ``SHARD_BYTES`` each, because some machines and hosts refuse larger
ones. ``state.json`` names them and is replaced last and in one piece: whoever reads the folder
finds the old state or the new one, at whatever moment the writer was killed.

Evaluations are long, too. The responses they have sampled so far are kept beside the state
(:class:`Memo`), and :class:`Clock` says, between two pieces of work, when to save and when to stop.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reft_lib import parallel
from reft_lib.errors import UserError

NOTES = "state.json"
"""The file that names the others."""
ANSWERS = "answers"
"""What the names of the files begin with that hold responses of evaluations."""
SHARD_BYTES = 15_000_000
"""Largest sum of tensor sizes in a file; a tensor larger than that has a file of its own."""


class OutOfTime(Exception):
    """The time that the run was given is over; its state has been saved."""


class Clock:
    """Says between two pieces of work when to save, and when to stop.

    Parameters
    ----------
    minutes : float, optional
        Stop before this much time has passed; never if None.
    save_every : float
        Seconds between two saves.
    """

    def __init__(self, minutes: float | None = None, save_every: float = 60.0) -> None:
        self.last = self.saved = time.monotonic()
        self.deadline = None if minutes is None else self.last + 60 * minutes
        self.save_every = save_every
        self.longest = 0.0

    def tick(self, save: Callable[[], None]) -> None:
        """Save if it is time; raise :class:`OutOfTime` if another such piece might not fit."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self.last)
        stop = self.deadline is not None and now + 1.25 * self.longest > self.deadline
        due = stop or now - self.saved >= self.save_every
        stop, due = parallel.from_first(lambda: (stop, due))  # one clock counts for all processes
        if due:
            save()
            self.saved = time.monotonic()
        if stop:
            raise OutOfTime
        self.last = time.monotonic()


class Memo:
    """Responses of one evaluation, by chunk of questions, so that none is sampled twice.

    Parameters
    ----------
    folder : Path
        Where the state lies.
    key : str
        Names the evaluation, and its files, of at most ``SHARD_BYTES`` each.
    after : callable
        Called after every chunk; may raise :class:`OutOfTime`.
    """

    def __init__(self, folder: Path, key: str, after: Callable[[], None]) -> None:
        slug = re.sub(r"\W+", "-", key)
        self.folder, self.name, self.after = folder, f"{ANSWERS}-{slug}", after
        self.files = 0
        self.found: dict[int, tuple[Any, Tensor]] = parallel.from_first(self._read)

    def _read(self) -> dict[int, tuple[Any, Tensor]]:
        found = {}
        while (path := self.path).is_file():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # without a last line that was cut off
            for row in map(json.loads, whole.splitlines()):
                state = torch.tensor(list(bytes.fromhex(row["generator"])), dtype=torch.uint8)
                found[row["chunk"]] = (row["sampled"], state)
            if whole != text:
                write_text(path, whole)
            self.files += 1
        self.files = max(0, self.files - 1)
        return found

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self.folder / f"{self.name}.{self.files}.jsonl"

    def put(self, chunk: int, sampled: Any, generator: torch.Generator) -> None:
        """Keep what was sampled for a chunk, and where the random numbers stand after it."""
        state = bytes(generator.get_state().tolist()).hex()
        self._append(json.dumps({"chunk": chunk, "sampled": sampled, "generator": state}) + "\n")
        self.after()

    @parallel.first_only
    def _append(self, line: str) -> None:
        with refusing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.is_file() and self.path.stat().st_size + len(line) > SHARD_BYTES:
                self.files += 1
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)


@parallel.first_only
def save(folder: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write a state in place of the one that the folder holds.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    from safetensors.torch import save_file

    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        old = {path.name for path in folder.glob("*.safetensors")}
        version = 1 + max((int(name.split("-")[1]) for name in old), default=0)
        shards = {}
        for i, names in enumerate(split_shards(tensors)):
            file = f"state-{version}-{i}.safetensors"
            save_file({n: tensors[n].detach().cpu().contiguous() for n in names}, folder / file)
            shards[file] = names
        _write_notes(folder, shards, notes)
        for name in old:
            (folder / name).unlink()


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in writing to a folder into a UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk, too
        raise UserError(
            f"{folder}: the state of the run cannot be written ({error}); make room, or choose a "
            "folder that can be written"
        ) from error


def load_notes(folder: Path) -> dict[str, Any]:
    """Return the notes of the state that a folder holds."""
    return json.loads((folder / NOTES).read_text(encoding="utf-8"))["notes"]


@parallel.first_only
def save_notes(folder: Path, notes: dict[str, Any]) -> None:
    """Replace the notes of a state, and leave its tensors."""
    shards = json.loads((folder / NOTES).read_text(encoding="utf-8"))["shards"]
    _write_notes(folder, shards, notes)


def _write_notes(folder: Path, shards: dict[str, list[str]], notes: dict[str, Any]) -> None:
    write_text(folder / NOTES, json.dumps({"shards": shards, "notes": notes}))


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all; raises UserError if that cannot be done."""
    unfinished = path.with_name(f".{path.name}.part")
    with refusing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)


def split_shards(tensors: dict[str, Tensor], limit: int = SHARD_BYTES) -> list[list[str]]:
    """Return the names of the tensors of each file, in order."""
    shards: list[list[str]] = []
    room = 0
    for name, x in tensors.items():
        size = x.numel() * x.element_size()
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and notes of a folder, None if there is no state in it.

    Raises
    ------
    UserError
        If the state is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / NOTES
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tensors: dict[str, Tensor] = {}
        for file, names in found["shards"].items():
            shard = load_file(folder / file)
            tensors |= {name: shard[name] for name in names}
        return tensors, found["notes"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{path}: the state of the run is damaged ({error}); remove the folder to begin anew"
        ) from error


@parallel.first_only
def forget(folder: Path, key: str) -> None:
    """Remove the responses of the evaluations whose keys begin like this."""
    for path in folder.glob(f"{ANSWERS}-{key}*.jsonl"):
        path.unlink()


@parallel.first_only
def clear(folder: Path) -> None:
    """Remove a state and its folder."""
    if folder.is_dir():
        shutil.rmtree(folder)
