"""The wordings mean what the rules compute: a reader that sees nothing but the text agrees.

The reader below was written from the sentences alone. It turns each into arithmetic on the
number of things, so that a wording that says one thing while its rule does another is found.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable
from fractions import Fraction

import pytest

from reft_lib.data import PROBLEMS
from reft_lib.kinds import (
    BOXES,
    DISTRACTORS,
    ITEMS,
    NAMES,
    OPENINGS,
    QUESTIONS,
    STEPS,
)
from reft_lib.paths import value
from reft_lib.problems import SPLITS, Story, make_problem

KINDS = (*OPENINGS, *STEPS, *QUESTIONS)
BY_NAME = {kind.name: kind for kind in KINDS}

# P: the person of the story, Q: any other, I: the things, B: what they are packed in, #: a number.
# Each function takes x (what P has so far) and the numbers in the order of the text.
OPENING_MEANS: dict[str, Callable[..., Fraction]] = {
    "P has # I.": lambda x, n: n,
    "P starts with # I.": lambda x, n: n,
    "P has # B with # I in each.": lambda x, k, n: k * n,
    "P has # I in each of # B.": lambda x, n, k: k * n,
    "P has # red I and # blue I.": lambda x, n, m: n + m,
}
STEP_MEANS: dict[str, Callable[..., Fraction]] = {
    "P buys # more I.": lambda x, n: x + n,
    "At the market P buys another # I.": lambda x, n: x + n,
    "P finds # I in a drawer.": lambda x, n: x + n,
    "Then P finds # more I.": lambda x, n: x + n,
    "Q gives P # I.": lambda x, n: x + n,
    "P gets # I from Q.": lambda x, n: x + n,
    "P gives # I to Q.": lambda x, n: x - n,
    "Q gets # I from P.": lambda x, n: x - n,
    "P loses # of the I.": lambda x, n: x - n,
    "On the way home # I get lost.": lambda x, n: x - n,
    "P uses # I at school.": lambda x, n: x - n,
    "# of the I break.": lambda x, n: x - n,
    "P sells # I.": lambda x, n: x - n,
    "Q buys # I from P.": lambda x, n: x - n,
    "By summer P has # times as many I.": lambda x, k: x * k,
    "Then the number of I grows to # times as many.": lambda x, k: x * k,
    "P buys # B of # I.": lambda x, k, n: x + k * n,
    "P buys # B with # I each.": lambda x, k, n: x + k * n,
    "# friends give P # I each.": lambda x, k, n: x + k * n,
    "P gets # I from each of # friends.": lambda x, n, k: x + k * n,
    "P sells # B of # I.": lambda x, k, n: x - k * n,
    "P sells # B with # I each.": lambda x, k, n: x - k * n,
    "P uses # I a day for # days.": lambda x, n, d: x - n * d,
    "For # days P gives away # I every day.": lambda x, d, n: x - n * d,
    "For # days P finds # I every day.": lambda x, d, n: x + n * d,
    "P makes # I a day for # days.": lambda x, n, d: x + n * d,
    "P gives half of the I to Q.": lambda x: x - x / 2,
    "Half of the I get lost.": lambda x: x - x / 2,
    "P gives one in every # I to Q.": lambda x, k: x - x / k,
    "One in every # I breaks.": lambda x, k: x - x / k,
}
DISTRACTING = (
    "Q has # pens.",
    "P is # years old.",
    "There are # chairs in the room.",
    "The bus ride takes # minutes.",
    "Q lives # miles away.",
    "The shop has # lamps.",
)
QUESTION_MEANS: dict[str, Callable[..., Fraction]] = {
    "How many I does P have now?": lambda x: x,
    "How many I does P have in the end?": lambda x: x,
    "Q has # more I than P. How many I does Q have?": lambda x, n: x + n,
    "Q has # fewer I than P. How many I does Q have?": lambda x, n: x - n,
    "P has # more I than Q. How many I does Q have?": lambda x, n: x - n,
    "Q has # times as many I as P. How many I does Q have?": lambda x, k: x * k,
    "Q has # I. How many I do they have altogether?": lambda x, n: x + n,
    "Q has # I. How many more I does P have than Q?": lambda x, n: x - n,
    "P shares the I equally among # friends. How many I does each friend get?": lambda x, k: x / k,
    "P puts the I into B of #. How many B does P need?": lambda x, k: x / k,
    "P sells all the I for # dollars each. How many dollars does P get?": lambda x, k: x * k,
    "P wants to have # I. How many more I does P need?": lambda x, n: n - x,
    "P gives some I to Q and has # left. How many I did P give to Q?": lambda x, n: x - n,
    "Q has # more I than P. How many I do they have altogether?": lambda x, n: x + (x + n),
    "Q has # times as many I as P. How many I do they have altogether?": lambda x, k: x + x * k,
}
ANY_NAME = "|".join(NAMES)


def shape(text: str, hero: str) -> str:
    """Replace names, things, packings and numbers by the letters of the tables above."""
    text = re.sub(rf"\b{hero}\b", "P", text)
    text = re.sub(rf"\b(?:{ANY_NAME})\b", "Q", text)
    text = re.sub(rf"\b(?:{'|'.join(ITEMS)})\b", "I", text)
    text = re.sub(rf"\b(?:{'|'.join(BOXES)})\b", "B", text)
    return re.sub(r"\d+", "#", text)


def read(question: str) -> tuple[Fraction, list[str]]:
    """Answer a question from its words alone; returns the answer and the shapes it met."""
    sentences = re.split(r"(?<=[.?]) ", question)
    hero = re.match(rf"({ANY_NAME})\b", sentences[0])[1]
    assert len({w for w in re.findall(r"\w+", question) if w in ITEMS}) == 1, "one kind of things"
    ask = 1 if shape(sentences[-1], hero) in QUESTION_MEANS else 2
    units = [*sentences[:-ask], " ".join(sentences[-ask:])]
    x, met = Fraction(0), []
    for i, unit in enumerate(units):
        form = shape(unit, hero)
        met.append(form)
        numbers = [Fraction(n) for n in re.findall(r"\d+", unit)]
        last = i == len(units) - 1
        if not last and i > 0 and form in DISTRACTING:
            continue
        table = QUESTION_MEANS if last else STEP_MEANS if i else OPENING_MEANS
        assert form in table, f"the reader of this test cannot read {unit!r}"
        x = table[form](x, *numbers)
    return x, met


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    files = (PROBLEMS / f"{split}.jsonl" for split in SPLITS)
    return [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]


def test_every_shipped_question_has_the_answer_that_its_words_say(rows):
    met: set[str] = set()
    for row in rows:
        answer, shapes = read(row["question"])
        assert answer == int(row["answer"]), row["question"]
        met.update(shapes)
    assert met == {*OPENING_MEANS, *STEP_MEANS, *QUESTION_MEANS, *DISTRACTING}, "every wording"


def test_new_questions_have_the_answer_that_their_words_say():
    rng = random.Random(0)
    for i in range(1000):
        problem = make_problem(rng, 1 + i % 6)
        assert read(problem.question)[0] == value(problem.tree), problem.question


def test_the_reader_on_two_stories_read_by_hand():
    question = (
        "Tom has 4 bags with 6 shells in each. Tom is 9 years old. Tom gives half of the shells"
        " to Mia. Leo has 3 more shells than Tom. How many shells do they have altogether?"
    )  # 24, then 12; Leo has 15; together 27
    assert read(question)[0] == 27
    question = "Mia has 30 beads. Mia wants to have 41 beads. How many more beads does Mia need?"
    assert read(question)[0] == 11


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_wordings_name_the_numbers_of_their_rule_and_nothing_unknown(kind):
    numbers = set(re.findall(r"[nk]", kind.rule))
    for style in ("task", "web"):
        wordings = getattr(kind, style)
        assert wordings
        for wording in wordings:
            fields = {name for _, name, _, _ in string.Formatter().parse(wording) if name}
            assert fields & {"n", "k"} == numbers, wording
            assert fields <= {"n", "k", "P", "F", "G", "items", "boxes"}, wording
            assert wording[-1] in ".?"
    for note, var in kind.notes:
        fields = {name for _, name, _, _ in string.Formatter().parse(note) if name}
        assert fields <= {"P", "F", "G", "items", "boxes"}
        assert var.isidentifier()
    assert len(kind.notes) == sum(kind.rule.count(sign) for sign in "+-*/")


def test_there_are_at_least_twenty_kinds_and_the_styles_differ():
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 20
    for kind in (*KINDS, DISTRACTORS):
        assert not set(kind.task) & set(kind.web), kind.name


# ---------------------------------------------------------------- stories worked by hand


class Fixed(random.Random):
    """Draws the numbers it is told, in order, and always the first wording."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__(0)
        self.numbers = numbers

    def randint(self, a: int, b: int) -> int:
        return self.numbers.pop(0)

    def choice(self, seq):
        return seq[0]

    def sample(self, population, k, **kwargs):
        return list(population[:k])


# Tom is the person, Anna a friend on the way, Sam the one of the question; apples, in bags.
# Each kind takes two numbers, n then k; 0 where its rule has no use for one.
BY_HAND: list[tuple[list[tuple[str, int, int]], str, int]] = [
    ([("has", 20, 0), ("buy", 7, 0), ("now", 0, 0)],
     "Tom has 20 apples. Tom buys 7 more apples. How many apples does Tom have now?", 27),
    ([("has", 30, 0), ("sell_boxes", 6, 4), ("now", 0, 0)],
     "Tom has 30 apples. Tom sells 4 bags of 6 apples. How many apples does Tom have now?", 6),
    ([("has", 30, 0), ("give_part", 0, 5), ("now", 0, 0)],
     "Tom has 30 apples. Tom gives one in every 5 apples to Anna. How many apples does Tom have"
     " now?", 24),
    ([("has_boxes", 8, 3), ("give_half", 0, 0), ("goal", 50, 0)],
     "Tom has 3 bags with 8 apples in each. Tom gives half of the apples to Anna. Tom wants to"
     " have 50 apples. How many more apples does Tom need?", 38),
    ([("two_colours", 9, 12), ("share", 0, 7)],
     "Tom has 9 red apples and 12 blue apples. Tom shares the apples equally among 7 friends."
     " How many apples does each friend get?", 3),
    ([("has", 10, 0), ("less_than_reversed", 4, 0)],
     "Tom has 10 apples. Tom has 4 more apples than Sam. How many apples does Sam have?", 6),
    ([("has", 10, 0), ("more_and_both", 4, 0)],
     "Tom has 10 apples. Sam has 4 more apples than Tom. How many apples do they have"
     " altogether?", 24),
    ([("has", 10, 0), ("multiply", 0, 3), ("times_and_both", 0, 2)],
     "Tom has 10 apples. By summer Tom has 3 times as many apples. Sam has 2 times as many apples"
     " as Tom. How many apples do they have altogether?", 90),
    ([("has", 12, 0), ("friends_give", 5, 4), ("pack", 0, 8)],
     "Tom has 12 apples. 4 friends give Tom 5 apples each. Tom puts the apples into bags of 8."
     " How many bags does Tom need?", 4),
    ([("has", 40, 0), ("daily_loss", 3, 6), ("difference", 15, 0)],
     "Tom has 40 apples. Tom uses 3 apples a day for 6 days. Sam has 15 apples. How many more"
     " apples does Tom have than Sam?", 7),
    ([("has", 33, 0), ("lose", 3, 0), ("given_away", 18, 0)],
     "Tom has 33 apples. Tom loses 3 of the apples. Tom gives some apples to Sam and has 18 left."
     " How many apples did Tom give to Sam?", 12),
    ([("has", 6, 0), ("daily_gain", 2, 7), ("price", 0, 5)],
     "Tom has 6 apples. For 7 days Tom finds 2 apples every day. Tom sells all the apples for 5"
     " dollars each. How many dollars does Tom get?", 100),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "question", "answer"), BY_HAND, ids=lambda x: str(x)[:40])
def test_stories_worked_by_hand(steps, question, answer):
    story = Story(Fixed([number for _, n, k in steps for number in (n, k)]), "task")
    for name, _, _ in steps:
        story.add(BY_NAME[name])
    assert " ".join(story.sentences) == question
    assert value(story.tree) == answer


def test_a_story_whose_number_leaves_the_range_is_refused():
    story = Story(Fixed([5, 0, 9, 0]), "task")
    story.add(BY_NAME["has"])
    with pytest.raises(ValueError, match="range"):
        story.add(BY_NAME["give"])
    assert len(story.sentences) == len(story.kinds) == 1, "what was refused leaves no trace"
