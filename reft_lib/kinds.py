"""The wording of the embedded problems: each kind of step and question as one table row.

A problem is a chain: an *opening* gives a person some things, *steps* change their number, and a
*question* asks for something about the result. Every row has wordings of two styles: ``task``
(the embedded problems) and ``web`` (a share of the sentences, and at least one, of every solved
question in the nano model's pretraining text).

The rule of a row is written with ``x`` for the running quantity and ``n``, ``k`` for numbers
that the row draws: ``x+n``, ``x-k*n``, ``n-x``. ``{P}`` is the person of the story, ``{F}`` someone
who gives or takes on the way, ``{G}`` someone of whom only the question speaks. A note is what a
chain of thought says of a step's result, a variable what a program calls it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of opening, step or question."""

    name: str
    rule: str
    """Formula over x (so far), n and k; see :func:`reft_lib.problems.apply_rule`."""
    notes: tuple[tuple[str, str], ...]
    """(words, variable) for every operation of the rule, innermost first."""
    task: tuple[str, ...]
    web: tuple[str, ...]
    n: tuple[int, int] = (2, 30)
    """Range of n, both ends included."""
    k: tuple[int, int] = (2, 6)
    """Range of k, both ends included."""


NAMES = ("Tom", "Anna", "Sam", "Lucy", "Ben", "Emma", "Max", "Nina", "Leo", "Rosa", "Jack", "Mia")
ITEMS = ("apples", "stamps", "marbles", "cards", "books", "coins", "shells", "pencils", "stickers",
         "cookies", "balloons", "beads")  # fmt: skip
BOXES = ("bags", "boxes", "packs", "jars")

_BUY = ("after buying", "total")
_LEFT = ("left", "left")

OPENINGS = (
    Kind("has", "n", (),
         ("{P} has {n} {items}.", "{P} starts with {n} {items}."),
         ("Once {P} owned {n} {items}.", "There were {n} {items} on the desk of {P}."), n=(5, 60)),
    Kind("has_boxes", "k*n", (("in the {boxes}", "start"),),
         ("{P} has {k} {boxes} with {n} {items} in each.",
          "{P} has {n} {items} in each of {k} {boxes}."),
         ("{P} owned {k} {boxes}, each full of {n} {items}.",), n=(2, 15)),
    Kind("two_colours", "n+k", (("in both colours", "start"),),
         ("{P} has {n} red {items} and {k} blue {items}.",),
         ("{P} owned {n} blue and {k} red {items}.",), k=(5, 30), n=(5, 30)),
)  # fmt: skip

STEPS = (
    Kind("buy", "x+n", (_BUY,),
         ("{P} buys {n} more {items}.", "At the market {P} buys another {n} {items}."),
         ("Later {P} bought {n} extra {items}.",)),
    Kind("find", "x+n", (("after finding", "total"),),
         ("{P} finds {n} {items} in a drawer.", "Then {P} finds {n} more {items}."),
         ("Another {n} {items} were found by {P}.",)),
    Kind("receive", "x+n", (("after the gift", "total"),),
         ("{F} gives {P} {n} {items}.", "{P} gets {n} {items} from {F}."),
         ("{n} {items} were sent to {P} by {F}.",)),
    Kind("give", "x-n", (("after giving", "left"),),
         ("{P} gives {n} {items} to {F}.", "{F} gets {n} {items} from {P}."),
         ("{P} handed {n} of the {items} over to {F}.",)),
    Kind("lose", "x-n", (("after losing", "left"),),
         ("{P} loses {n} of the {items}.", "On the way home {n} {items} get lost."),
         ("Sadly {n} {items} went missing.",)),
    Kind("use", "x-n", (("after using", "left"),),
         ("{P} uses {n} {items} at school.", "{n} of the {items} break."),
         ("{P} spent {n} {items} on a project.",)),
    Kind("sell", "x-n", (("after selling", "left"),),
         ("{P} sells {n} {items}.", "{F} buys {n} {items} from {P}."),
         ("A neighbour bought {n} {items} from {P}.",)),
    Kind("multiply", "x*k", (("after growing", "total"),),
         ("By summer {P} has {k} times as many {items}.",
          "Then the number of {items} grows to {k} times as many."),
         ("A year later the collection was {k} times as large.",), k=(2, 5)),
    Kind("buy_boxes", "x+k*n", (("in the {boxes}", "extra"), _BUY),
         ("{P} buys {k} {boxes} of {n} {items}.", "{P} buys {k} {boxes} with {n} {items} each."),
         ("Later {P} bought {k} {boxes}, each full of {n} {items}.",), n=(2, 15)),
    Kind("friends_give", "x+k*n", (("from the friends", "extra"), ("after the gift", "total")),
         ("{k} friends give {P} {n} {items} each.", "{P} gets {n} {items} from each of {k} friends."),
         ("Each of {k} friends sent {n} {items} to {P}.",), n=(2, 15)),
    Kind("sell_boxes", "x-k*n", (("in the {boxes}", "sold"), ("after selling", "left")),
         ("{P} sells {k} {boxes} of {n} {items}.", "{P} sells {k} {boxes} with {n} {items} each."),
         ("A neighbour bought {k} {boxes}, each full of {n} {items}.",), n=(2, 15)),
    Kind("daily_loss", "x-k*n", (("over the days", "used"), ("after using", "left")),
         ("{P} uses {n} {items} a day for {k} days.",
          "For {k} days {P} gives away {n} {items} every day."),
         ("On each of {k} days {n} {items} went missing.",), n=(2, 12)),
    Kind("daily_gain", "x+k*n", (("over the days", "extra"), ("after adding", "total")),
         ("For {k} days {P} finds {n} {items} every day.", "{P} makes {n} {items} a day for {k} days."),
         ("On each of {k} days {n} {items} were found by {P}.",), n=(2, 12)),
    Kind("give_half", "x/2", (("after halving", "half"),),
         ("{P} gives half of the {items} to {F}.", "Half of the {items} get lost."),
         ("One half of the {items} went missing.",)),
    Kind("give_part", "x-x/k", (("in one part", "part"), _LEFT),
         ("{P} gives one in every {k} {items} to {F}.", "One in every {k} {items} breaks."),
         ("Out of every {k} {items} one went missing.",), k=(3, 5)),
)  # fmt: skip

QUESTIONS = (
    Kind("now", "x", (),
         ("How many {items} does {P} have now?", "How many {items} does {P} have in the end?"),
         ("What is the number of {items} now?",)),
    Kind("more_than", "x+n", (("for {G}", "friend"),),
         ("{G} has {n} more {items} than {P}. How many {items} does {G} have?",),
         ("{G} owned {n} {items} above that number. What is the number for {G}?",)),
    Kind("fewer_than", "x-n", (("for {G}", "friend"),),
         ("{G} has {n} fewer {items} than {P}. How many {items} does {G} have?",),
         ("{G} owned {n} {items} below that number. What is the number for {G}?",)),
    Kind("less_than_reversed", "x-n", (("for {G}", "friend"),),
         ("{P} has {n} more {items} than {G}. How many {items} does {G} have?",),
         ("That is {n} {items} above the number of {G}. What is the number for {G}?",)),
    Kind("times_as_many", "x*k", (("for {G}", "friend"),),
         ("{G} has {k} times as many {items} as {P}. How many {items} does {G} have?",),
         ("{G} owned {k} times that number. What is the number for {G}?",), k=(2, 5)),
    Kind("altogether", "x+n", (("together", "both"),),
         ("{G} has {n} {items}. How many {items} do they have altogether?",),
         ("{G} owned {n} {items} too. What is the number for both?",)),
    Kind("difference", "x-n", (("as the difference", "gap"),),
         ("{G} has {n} {items}. How many more {items} does {P} have than {G}?",),
         ("{G} owned {n} {items} too. By what number is {G} behind?",)),
    Kind("share", "x/k", (("for each", "each"),),
         ("{P} shares the {items} equally among {k} friends. How many {items} does each friend get?",),
         ("{k} people split all of them evenly. What is the number for one?",)),
    Kind("pack", "x/k", (("after packing", "packed"),),
         ("{P} puts the {items} into {boxes} of {k}. How many {boxes} does {P} need?",),
         ("All of them went into {boxes}, {k} in one. What is the number of {boxes}?",), k=(2, 9)),
    Kind("price", "x*k", (("dollars", "price"),),
         ("{P} sells all the {items} for {k} dollars each. How many dollars does {P} get?",),
         ("One was worth {k} dollars. What were all of them worth?",)),
    Kind("goal", "n-x", (("still needed", "needed"),),
         ("{P} wants to have {n} {items}. How many more {items} does {P} need?",),
         ("The aim was {n} {items}. By what number is {P} behind?",), n=(20, 150)),
    Kind("given_away", "x-n", (("given away", "given"),),
         ("{P} gives some {items} to {G} and has {n} left. How many {items} did {P} give to {G}?",),
         ("Some went missing until {n} were there. What number went missing?",)),
    Kind("more_and_both", "x+(x+n)", (("for {G}", "friend"), ("together", "both")),
         ("{G} has {n} more {items} than {P}. How many {items} do they have altogether?",),
         ("{G} owned {n} {items} above that number. What is the number for both?",)),
    Kind("times_and_both", "x+x*k", (("for {G}", "friend"), ("together", "both")),
         ("{G} has {k} times as many {items} as {P}. How many {items} do they have altogether?",),
         ("{G} owned {k} times that number. What is the number for both?",), k=(2, 4)),
)  # fmt: skip

DISTRACTORS = Kind(
    "distractor", "x", (),
    ("{F} has {n} pens.", "{P} is {n} years old.", "There are {n} chairs in the room.",
     "The bus ride takes {n} minutes.", "{F} lives {n} miles away.", "The shop has {n} lamps."),
    ("{F} owned {n} lamps.", "The room had {n} chairs.", "A bus came after {n} minutes.",
     "{P} was {n} years old.", "It was {n} miles away.", "Some {n} pens were in the shop."),
)  # fmt: skip
