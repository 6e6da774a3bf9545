"""Word problems with several valid chains of thought each, made from a seed.

One path of a problem, drawn at random, is its annotation: supervised fine-tuning sees that one
alone. The splits have no question in common; the ``hard`` split has more steps than any other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reft_lib.errors import UserError
from reft_lib.kinds import (
    BOXES,
    DISTRACTORS,
    ITEMS,
    NAMES,
    OPENINGS,
    QUESTIONS,
    STEPS,
    Kind,
)
from reft_lib.paths import Tree, apply_rule, nodes, paths, value, write_ncot, write_pcot

Style = Literal["task", "web"]
DISTRACTOR_SHARE = 0.4
"""Share of problems with a sentence that does not matter."""
SHARED_WORDING = 0.6
"""Share of a web story's sentences that happen to be worded as in the task; never all of them, so
that no question of the task can occur in the pretraining text. Without any, the base model could
not read the task at all; with nearly all, nothing would be left to learn."""


@dataclass(frozen=True)
class Problem:
    """One generated problem, before its paths are written out."""

    question: str
    tree: Tree
    kinds: tuple[str, ...]


class Story:
    """Builds one problem sentence by sentence, keeping the running quantity as a tree."""

    def __init__(self, rng: random.Random, style: Style) -> None:
        """Draw the persons and things of a story in one of the two styles."""
        names = rng.sample(NAMES, 3)
        self.rng, self.style = rng, style
        self.only_task_wording = True
        self.words = {
            "P": names[0],
            "F": names[1],
            "G": names[2],
            "items": rng.choice(ITEMS),
            "boxes": rng.choice(BOXES),
        }
        self.tree: Tree = 0
        self.sentences: list[str] = []
        self.kinds: list[str] = []

    def sentence(self, kind: Kind, n: int, k: int) -> str:
        """Return one of the kind's wordings with its numbers filled in."""
        as_task = self.style == "task" or self.rng.random() < SHARED_WORDING
        self.only_task_wording &= as_task
        wordings = kind.task if as_task else kind.web
        return self.rng.choice(wordings).format(n=n, k=k, **self.words)

    def add(self, kind: Kind) -> None:
        """Append a kind; raises ValueError where its result leaves the allowed numbers."""
        n, k = self.rng.randint(*kind.n), self.rng.randint(*kind.k)
        notes = [(note.format(**self.words), var) for note, var in kind.notes]
        tree = apply_rule(kind.rule, self.tree, n, k, notes)
        value(tree)
        self.tree = tree
        self.kinds.append(kind.name)
        self.sentences.append(self.sentence(kind, n, k))


def operations(kind: Kind) -> int:
    """Return how many reasoning steps a kind adds."""
    return len(kind.notes)


def make_problem(rng: random.Random, n_steps: int, style: Style = "task") -> Problem:
    """Make one problem with exactly ``n_steps`` operations.

    Parameters
    ----------
    rng : random.Random
        Source of every choice.
    n_steps : int
        Reasoning steps, at least 1.
    style : {"task", "web"}
        Whose names and wordings are used.

    Returns
    -------
    Problem
    """
    while True:  # most draws succeed; a failed one has left the range of numbers
        opening = rng.choice(OPENINGS)
        question = rng.choice(QUESTIONS)
        room = n_steps - operations(opening) - operations(question)
        steps: list[Kind] = []
        while room > 0:
            steps.append(rng.choice([s for s in STEPS if operations(s) <= room]))
            room -= operations(steps[-1])
        if room < 0:
            continue
        story = Story(rng, style)
        try:
            for kind in (opening, *steps, question):
                story.add(kind)
        except ValueError:
            continue
        if rng.random() < DISTRACTOR_SHARE:
            at = rng.randint(1, len(story.sentences) - 1)
            extra = story.sentence(DISTRACTORS, rng.randint(3, 40), 0)
            story.sentences.insert(at, extra)
        if style == "web" and story.only_task_wording:
            continue
        return Problem(" ".join(story.sentences), story.tree, tuple(story.kinds))


def write_row(problem: Problem, row_id: str, rng: random.Random) -> dict[str, Any]:
    """Return a problem as a row of a split's file: question, answer, every path, one chosen."""
    written = [
        {"name": name, "ncot": write_ncot(tree, own), "pcot": write_pcot(tree, own)}
        for name, (tree, own) in paths(problem.tree).items()
    ]
    return {
        "id": row_id,
        "question": problem.question,
        "answer": str(value(problem.tree)),
        "kinds": list(problem.kinds),
        "n_steps": len(nodes(problem.tree)),
        "annotated": rng.randrange(len(written)),
        "paths": written,
    }


def make_rows(
    split: str, n: int, steps: Sequence[int], seed: int, taken: set[str]
) -> Iterator[dict]:
    """Make ``n`` rows whose questions are not in ``taken``, which grows by them.

    Parameters
    ----------
    split : str
        Name of the split, the first part of each row's id.
    n : int
        Rows.
    steps : sequence of int
        Numbers of reasoning steps, taken in turn; one that stands twice comes twice as often.
    seed : int
        Seed of the split.
    taken : set of str
        Questions that must not come again.
    """
    rng = random.Random(f"{split}-{seed}")
    made = 0
    while made < n:
        problem = make_problem(rng, steps[made % len(steps)])
        if problem.question in taken:
            continue
        taken.add(problem.question)
        yield write_row(problem, f"{split}-{made}", rng)
        made += 1


SPLITS: dict[str, tuple[int, tuple[int, ...]]] = {
    "test": (1000, (1, 1, 2, 2, 3, 4)),
    "hard": (500, (5, 6)),
    "validation": (500, (1, 1, 2, 2, 3, 4)),
    "train": (2000, (1, 1, 2, 2, 3, 4)),
}
"""Split name to (rows, numbers of steps)."""


def write_splits(folder: Path, seed: int = 2024) -> None:
    """Write every split as JSON lines into a folder, the same bytes for the same seed.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    taken: set[str] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, (n, steps) in SPLITS.items():
            write_jsonl(folder / f"{split}.jsonl", make_rows(split, n, steps, seed, taken))
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose --out") from None


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write rows as one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
