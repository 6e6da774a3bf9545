"""The nano model's pretraining text: a small web.

Four kinds of documents, as a stand-in for what a real base model has read:

- **arithmetic**: sums, most with one operation, some with two or three;
- **stories**: what persons do with their things, with no question and no solution;
- **solved questions** worded otherwise, with other ways of writing a solution, a share of which
  contains a wrong step, as the web's do;
- **pages with forms**: work sheets, lists of questions without stories or answers, quizzes and
  small programs, which show the words and signs that later targets need. LoRA leaves embeddings
  frozen, so a token that never occurred here could not be learnt later.

No question of the task occurs here: each solved question has a sentence worded as the task never
words it. Nor does a target of the task, or an annotation of several steps. Work sheets hold single
sums with their words, some of which are by chance also a one-line annotation, without its question;
tests/test_corpus.py measures how many.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

from reft_lib.kinds import BOXES, DISTRACTORS, NAMES, OPENINGS, QUESTIONS, STEPS
from reft_lib.paths import (
    LARGEST,
    OPS,
    Node,
    Tree,
    expression,
    paths,
    stated,
    value,
    write_pcot,
)
from reft_lib.problems import Story, make_problem

WRONG_SHARE = 0.15
"""Share of solved questions with a wrong step."""
SHARES = {"arithmetic": 0.1, "story": 0.1, "solved": 0.65, "form": 0.15}
"""Share of documents of each kind."""
SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def easy_sum(rng: random.Random) -> tuple[int, str, int]:
    """Draw a, op, b whose result is a whole number from 1 to ``LARGEST``."""
    while True:
        op = rng.choice("++--**/")
        if op in "+-":
            a, b = rng.randint(1, 150), rng.randint(1, 60)
        elif op == "*":
            a, b = rng.randint(2, 60), rng.randint(2, 15)
        else:
            b = rng.randint(2, 9)
            a = b * rng.randint(1, 30)
        if 1 <= OPS[op](a, b) <= LARGEST:
            if op in "+*" and rng.random() < 0.3:
                a, b = b, a
            return a, op, b


def arithmetic(rng: random.Random) -> str:
    """A column of sums; one in six has two operations."""
    lines = []
    for _ in range(rng.randint(4, 10)):
        a, op, b = easy_sum(rng)
        c = OPS[op](a, b)
        if rng.random() < 1 / 6:
            d = rng.randint(2, 40)
            sign = "+" if c - d < 1 or rng.random() < 0.5 else "-"
            lines.append(f"{a} {op} {b} {sign} {d} = {OPS[sign](c, d)}")
        else:
            lines.append(f"{a} {op} {b} = {c}")
    return rng.choice(["\n", ". ", ", "]).join(lines)


def story(rng: random.Random) -> str:
    """Some steps of somebody's story, in either style of wording, without a question."""
    sentences = []
    for _ in range(rng.randint(1, 3)):
        built = Story(rng, rng.choice(["task", "web"]))
        others = DISTRACTORS if rng.random() < 0.3 else rng.choice(STEPS)
        for kind in (rng.choice(OPENINGS), rng.choice(STEPS), others):
            n, k = rng.randint(*kind.n), rng.randint(*kind.k)
            sentences.append(built.sentence(kind, n, k))
    return " ".join(sentences)


def spoil(rng: random.Random, tree: Tree) -> Tree:
    """Return the tree with one operation or number changed."""
    if isinstance(tree, int):
        return max(1, tree + rng.choice([-10, -2, -1, 1, 2, 10]))
    if rng.random() < 0.5:
        op = rng.choice([op for op in "+-*" if op != tree.op])
        return Node(op, tree.left, tree.right, tree.note, tree.var)
    if isinstance(tree.left, Node) and rng.random() < 0.7:
        return Node(tree.op, spoil(rng, tree.left), tree.right, tree.note, tree.var)
    return Node(tree.op, tree.left, spoil(rng, tree.right), tree.note, tree.var)


def solved(rng: random.Random) -> str:
    """A question of the web with its solution, which is wrong in a share of the cases."""
    problem = make_problem(rng, rng.choice([1, 1, 2, 2, 3, 4]), style="web")
    tree = problem.tree
    if rng.random() < WRONG_SHARE:
        tree = wrong(rng, tree)
    ways = paths(tree)
    name = rng.choice(list(ways)) if rng.random() < 0.2 else "steps"
    way = ways[name]
    return problem.question + "\n" + rng.choice(STYLES)(*way)


def wrong(rng: random.Random, tree: Tree) -> Tree:
    """Return a spoilt tree whose value is another one than the tree's."""
    while True:
        other = spoil(rng, tree)
        try:
            if value(other) != value(tree):
                return other
        except ValueError:
            continue


def _listed(tree: Tree, own: list[Node]) -> str:
    return _solution(tree, stated(own))


def _annotated(tree: Tree, own: list[Node]) -> str:
    pairs = zip(stated(own), own, strict=True)
    return _solution(tree, [f"{text} ({node.note})" for text, node in pairs])


def _solution(tree: Tree, steps: list[str]) -> str:
    return f"Solution: {'; '.join(steps)}. Result {value(tree)}"


def _spoken(tree: Tree, own: list[Node]) -> str:
    text = _listed(tree, own)
    for sign, word in {**SPOKEN, "=": "is"}.items():
        text = text.replace(f" {sign} ", f" {word} ")
    return text.replace("Solution: ", "A: ").replace(". Result ", ". It is ")


def _script(tree: Tree, own: list[Node]) -> str:
    shown: dict[Node, str] = {}
    lines = []
    for node, name in zip(own, itertools.cycle("xyzuvw")):
        lines.append(f"{name} = {expression(node, shown)}")
        shown[node] = name
    return "\n".join([*lines, f"print({shown[own[-1]]})"])


def _named_script(tree: Tree, own: list[Node]) -> str:
    body = write_pcot(tree, own).replace("\n    ", "\n").replace("\nreturn ", "\nresult = ")
    return body.strip("\n") + "\nprint(result)"


STYLES = (_spoken, _listed, _annotated, _annotated, _script, _named_script)
"""Ways of writing a solution, drawn from; one that stands twice comes twice as often."""


def form(rng: random.Random) -> str:
    """A work sheet, a list of questions, a quiz or a small program: words and signs alone."""
    return rng.choice([_work_sheet, _questions, _quiz, _program, _program])(rng)


NOTES = [
    (note, var, next(c for c in kind.rule if c in "+-*/"))
    for kind in (*OPENINGS, *STEPS, *QUESTIONS)
    for note, var in kind.notes[-1:]
] + [("of change", "change", "-"), ("in one part", "part", "*"),
     ("in the other part", "other", "*"), ("with the tens", "tens", "+"),
     ("with the tens", "tens", "-"), ("from the tens", "tens", "*"), ("from the ones", "ones", "*"),
     ("in the {boxes}", "extra", "*"), ("in the {boxes}", "start", "*"),
     ("in the {boxes}", "sold", "*"), ("from the friends", "extra", "*"),
     ("over the days", "used", "*"), ("over the days", "extra", "*"),
     ("in one part", "part", "/"), ("for {G}", "friend", "*")]  # fmt: skip
"""(words, variable, sign) as they occur on work sheets."""


def _noted_sum(rng: random.Random) -> tuple[str, str, int, str, int]:
    note, var, sign = rng.choice(NOTES)
    name = rng.choice(NAMES)
    while True:
        a, op, b = easy_sum(rng)
        if op == sign:
            return note.format(boxes=rng.choice(BOXES), G=name), var, a, op, b


def _work_sheet(rng: random.Random) -> str:
    sums = [_noted_sum(rng) for _ in range(rng.randint(3, 6))]
    lines = (f"{a} {op} {b} = {OPS[op](a, b)} {note}." for note, _, a, op, b in sums)
    return rng.choice(["\n", " "]).join(lines)


def _questions(rng: random.Random) -> str:
    built = Story(rng, "task")
    kinds = rng.sample(QUESTIONS, 3)
    return " ".join(
        built.sentence(kind, rng.randint(*kind.n), rng.randint(*kind.k)) for kind in kinds
    )


def _quiz(rng: random.Random) -> str:
    a, op, b = easy_sum(rng)
    c = OPS[op](a, b)
    return (
        f"Question:\nWhat is {a} {op} {b}?\nAnswer reasoning:\n{a} {op} {b} = {c}.\n"
        f"Therefore, the answer is: {c}"
    )


def _program(rng: random.Random) -> str:
    _, var, a, op, b = _noted_sum(rng)
    lines = [f"{var} = {a} {op} {b}"]
    for _ in range(rng.randint(0, 2)):
        _, other, c, op, _ = _noted_sum(rng)
        other = other if other != var else f"{other}{rng.randint(2, 4)}"
        pair = [var, str(c)] if rng.random() < 0.7 else [str(c), var]
        lines.append(f"{other} = {pair[0]} {op} {pair[1]}")
        var = other
    if rng.random() < 0.5:
        lines.append(f"return {var} {rng.choice('+-*/')} {rng.randint(1, 40)}")
    elif rng.random() < 0.5:
        lines = [f"return ({a} {op} {b}) * {rng.randint(2, 5)}"]
    else:
        lines.append(f"return {rng.randint(1, 90)} {rng.choice('+-*')} {var}")
    asked = f"Question:\nWhat is {a} {op} {b}?\nAnswer reasoning:\n" if rng.random() < 0.3 else ""
    return f"{asked}def solution():\n    " + "\n    ".join(lines)


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "arithmetic": arithmetic,
    "story": story,
    "solved": solved,
    "form": form,
}


def documents(seed: int) -> Iterator[str]:
    """Yield pretraining documents without end, the same for the same seed."""
    rng = random.Random(f"corpus-{seed}")
    kinds, shares = list(SHARES), list(SHARES.values())
    while True:
        yield MAKERS[rng.choices(kinds, shares)[0]](rng)
