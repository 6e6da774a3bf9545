"""A shifted domain: problems of a workshop's store, with its own words, units and wordings.

The rules of the problems are those of :mod:`reft_lib.kinds`, and so are trees and paths, so that
every path is right by construction. New is what the questions say: who, what, and how it is told.
Solutions keep the words of the old domain, all of which the nano model knows.

There are two kinds of data. Labelled problems come with annotations, as the embedded ones do.
Unlabelled text comes without any question's solution: stories, pages of the stock book, which
state a count now and then, and bare questions. Everything is made at load time from one seed; no
question occurs twice, whatever the split.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from reft_lib.data import Example
from reft_lib.kinds import Kind
from reft_lib.paths import value
from reft_lib.problems import DISTRACTOR_SHARE, Problem, Story, operations, write_row

SEED = 2024
"""Of the splits that the chapters use."""
STEPS_IN_TURN = (1, 1, 2, 2, 3, 4)
"""Numbers of reasoning steps, as in the embedded problems."""
SIZES = {"test": 500, "validation": 200, "train": 640}
"""Labelled problems of each split, in the order in which they are made."""
TEXTS = {"text": 1600, "held_out": 240}
"""Unlabelled documents, to train on and to measure perplexity with."""

NAMES = ("Petra", "Omar", "Greta", "Karim", "Marta", "Otto", "Hanna", "Pavel")
ITEMS = ("bolts", "screws", "nuts", "tiles", "boards", "pipes", "hooks", "metres of wire",
         "litres of oil")  # fmt: skip
BOXES = ("crates", "bins", "racks", "reels")

_MORE, _LEFT = ("after adding", "total"), ("left", "left")
_BOXES, _USED = "in all of them", ("for all of them", "used")

OPENINGS = (
    Kind("stock", "n", (),
         ("The store has {n} {items}.", "There are {n} {items} in the store."), (), n=(5, 60)),
    Kind("stock_boxes", "k*n", ((_BOXES, "start"),),
         ("The store has {k} {boxes} with {n} {items} each.",
          "There are {n} {items} in each of {k} {boxes}."), (), n=(2, 15)),
    Kind("new_and_old", "n+k", (("in both", "start"),),
         ("The store has {n} new {items} and {k} old {items}.",), (), n=(5, 30), k=(5, 30)),
)  # fmt: skip

STEPS = (
    Kind("bring", "x+n", (_MORE,),
         ("A van brings {n} {items}.", "{n} {items} come from the mill."), ()),
    Kind("come_back", "x+n", (_MORE,),
         ("{F} brings back {n} {items}.", "{n} {items} come back from a job."), ()),
    Kind("draw", "x-n", (_LEFT,),
         ("{F} draws {n} {items} for a job.", "A job eats up {n} {items}."), ()),
    Kind("scrap", "x-n", (_LEFT,),
         ("{P} scraps {n} {items}.", "{n} of the {items} rust."), ()),
    Kind("multiply", "x*k", (_MORE,),
         ("An order lifts the stock to {k} times as many {items}.",), (), k=(2, 5)),
    Kind("bring_boxes", "x+k*n", ((_BOXES, "extra"), _MORE),
         ("A van brings {k} {boxes} of {n} {items}.",
          "{k} {boxes} with {n} {items} each come from the mill."), (), n=(2, 15)),
    Kind("daily_output", "x+k*n", ((_BOXES, "extra"), _MORE),
         ("{P} turns out {n} {items} a day for {k} days.",), (), n=(2, 12)),
    Kind("jobs", "x-k*n", (_USED, _LEFT),
         ("{k} jobs eat up {n} {items} each.", "{F} draws {n} {items} for each of {k} jobs."),
         (), n=(2, 12)),
    Kind("ship_boxes", "x-k*n", ((_BOXES, "sold"), _LEFT),
         ("{k} {boxes} with {n} {items} each leave on a van.",), (), n=(2, 15)),
    Kind("rust_half", "x/2", (("after halving", "half"),),
         ("Half of the {items} rust.", "{P} scraps half of the {items}."), ()),
    Kind("rust_part", "x-x/k", (("in one part", "part"), _LEFT),
         ("One in every {k} {items} rusts.",), (), k=(3, 5)),
)  # fmt: skip

QUESTIONS = (
    Kind("now", "x", (),
         ("How many {items} are in the store now?", "What is the stock of {items}?"), ()),
    Kind("more_than", "x+n", (("in the other", "other"),),
         ("The depot has {n} more {items}. How many {items} does the depot have?",), ()),
    Kind("fewer_than", "x-n", (("in the other", "other"),),
         ("The depot has {n} fewer {items}. How many {items} does the depot have?",), ()),
    Kind("times_as_many", "x*k", (("in the other", "other"),),
         ("The depot has {k} times as many {items}. How many {items} does the depot have?",), (),
         k=(2, 5)),
    Kind("altogether", "x+n", (("together", "both"),),
         ("The depot has {n} {items}. How many {items} do depot and store have together?",), ()),
    Kind("difference", "x-n", (("as the difference", "gap"),),
         ("The depot has {n} {items}. How many more {items} does the store have?",), ()),
    Kind("share", "x/k", (("for each", "each"),),
         ("{P} splits the {items} evenly among {k} jobs. How many {items} does each job get?",),
         ()),
    Kind("pack", "x/k", (("after packing", "packed"),),
         ("{P} fills {boxes} with {k} {items} each. How many {boxes} are filled?",), (), k=(2, 9)),
    Kind("price", "x*k", (("dollars", "price"),),
         ("The {items} go at {k} dollars apiece. What is the stock worth in dollars?",), (),
         k=(2, 5)),
    Kind("goal", "n-x", (("still needed", "needed"),),
         ("An order asks for {n} {items}. How many {items} are short?",), (), n=(20, 150)),
    Kind("shipped", "x-n", (("given away", "given"),),
         ("A van takes some {items} and leaves {n}. How many {items} does the van take?",), ()),
    Kind("times_and_both", "x+x*k", (("in the other", "other"), ("together", "both")),
         ("The depot has {k} times as many {items}. How many {items} do depot and store have "
          "together?",), (), k=(2, 4)),
)  # fmt: skip

DISTRACTORS = Kind(
    "distractor", "x", (),
    ("{F} has been here for {n} years.", "A saw weighs {n} pounds.",
     "The drill runs at {n} volts.", "{P} starts at {n} past ten."), (),
)  # fmt: skip


class Stock(Story):
    """Builds one problem or text sentence by sentence, in the workshop's words."""

    def __init__(self, rng: random.Random) -> None:
        """Draw persons and goods."""
        super().__init__(rng, "task")
        persons = rng.sample(NAMES, 2)
        self.words = {
            "P": persons[0],
            "F": persons[1],
            "items": rng.choice(ITEMS),
            "boxes": rng.choice(BOXES),
        }

    def try_to_add(self, kind: Kind) -> bool:
        """Append a kind if its result stays within the allowed numbers; tell whether it did."""
        try:
            self.add(kind)
        except ValueError:
            return False
        return True

    def distract(self, at: int) -> None:
        """Insert a sentence that does not matter."""
        n = self.rng.randint(*DISTRACTORS.n)
        self.sentences.insert(at, self.sentence(DISTRACTORS, n, 0))


def make_problem(rng: random.Random, n_steps: int) -> Problem:
    """Make one problem of the workshop with exactly ``n_steps`` operations, at least 1."""
    while True:
        opening, question = rng.choice(OPENINGS), rng.choice(QUESTIONS)
        kinds, room = [opening], n_steps - operations(opening) - operations(question)
        while room > 0:
            kinds.append(rng.choice([s for s in STEPS if operations(s) <= room]))
            room -= operations(kinds[-1])
        story = Stock(rng)
        if room < 0 or not all(story.try_to_add(kind) for kind in (*kinds, question)):
            continue
        if rng.random() < DISTRACTOR_SHARE:
            story.distract(rng.randint(1, len(story.sentences) - 1))
        return Problem(" ".join(story.sentences), story.tree, tuple(story.kinds))


def story(rng: random.Random) -> str:
    """What happens in the store: no count but the first, no question."""
    told = _told(rng, rng.randint(2, 4))
    if rng.random() < DISTRACTOR_SHARE:
        told.distract(rng.randint(1, len(told.sentences)))
    return " ".join(told.sentences)


def stock_book(rng: random.Random) -> str:
    """A page of the stock book: what happens, and after each entry the count."""
    told = Stock(rng)
    while not told.try_to_add(rng.choice(OPENINGS)):
        pass
    lines, wanted = list(told.sentences), rng.randint(2, 4)
    while len(lines) < wanted + 1:
        if told.try_to_add(rng.choice(STEPS)):
            lines.append(f"{told.sentences[-1]} Now {value(told.tree)}.")
    return rng.choice(["\n", " "]).join(lines)


def _told(rng: random.Random, n: int) -> Stock:
    """Return an opening and ``n`` things that happen after it."""
    told = Stock(rng)
    while len(told.sentences) <= n:
        told.try_to_add(rng.choice(STEPS if told.sentences else OPENINGS))
    return told


def question(rng: random.Random) -> str:
    """A question without its solution."""
    return make_problem(rng, rng.choice(STEPS_IN_TURN)).question


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "story": story,
    "stock book": stock_book,
    "question": question,
}
"""Kinds of unlabelled documents, equally frequent."""


@dataclass(frozen=True)
class Workshop:
    """The new domain: labelled problems by split, and unlabelled documents by split."""

    problems: dict[str, list[Example]]
    """``train``, ``validation``, ``test``."""
    texts: dict[str, list[str]]
    """``text`` to train on, ``held_out`` to measure with."""


@lru_cache(maxsize=2)
def load(seed: int = SEED) -> Workshop:
    """Make the workshop's splits; the same seed gives the same ones.

    Returns
    -------
    Workshop
        Do not change it: later calls return the same object.
    """
    taken: set[str] = set()
    problems = {split: _labelled(split, n, seed, taken) for split, n in SIZES.items()}
    texts = {split: _unlabelled(split, n, seed, taken) for split, n in TEXTS.items()}
    return Workshop(problems, texts)


def _labelled(split: str, n: int, seed: int, taken: set[str]) -> list[Example]:
    """Make ``n`` problems whose questions are not ``taken``, which grows by them."""
    rng = random.Random(f"workshop-{split}-{seed}")
    found: list[Example] = []
    while len(found) < n:
        problem = make_problem(rng, STEPS_IN_TURN[len(found) % len(STEPS_IN_TURN)])
        if problem.question in taken:
            continue
        taken.add(problem.question)
        row = write_row(problem, f"workshop-{split}-{len(found)}", rng)
        path = row["paths"][row["annotated"]]
        meta = {key: row[key] for key in ("kinds", "n_steps", "paths")} | {"path": path["name"]}
        texts = {"ncot": path["ncot"], "pcot": path["pcot"]}
        found.append(Example(row["id"], row["question"], row["answer"], **texts, meta=meta))
    return found


def _unlabelled(split: str, n: int, seed: int, taken: set[str]) -> list[str]:
    """Make ``n`` documents, none of which is ``taken``, which grows by them."""
    rng = random.Random(f"workshop-{split}-{seed}")
    found: list[str] = []
    while len(found) < n:
        document = MAKERS[rng.choice(list(MAKERS))](rng)
        if document not in taken:
            taken.add(document)
            found.append(document)
    return found
