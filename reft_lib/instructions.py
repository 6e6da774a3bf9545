"""Instruction fine-tuning: many tasks over the same problems, each asked for in words.

One problem serves nine tasks. Seven are trained on (:data:`SEEN`): solve it in words, give one
equation, list the numbers, name the first operation, write a program, check a solution, rephrase
the question. Two are in no training (:data:`UNSEEN`): give the first operation as an equation,
which puts two seen tasks together, and name the *last* operation, the opposite of a seen one. Every
task has an exact checker, so that accuracy is measured task by task. How tasks are asked for, in
phrasings of which some are kept back, stands in :mod:`reft_lib.instruction_words`; the loop in
:mod:`reft_lib.instruction_tuning`.

Whether a model follows instructions that no training showed is the question of Wei et al. 2022
("Finetuned language models are zero-shot learners") and Sanh et al. 2022 ("Multitask prompted
training enables zero-shot task generalization").
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from reft_lib import corpus
from reft_lib.answers import PROGRAM_SEED, TRIGGER
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.kinds import QUESTIONS
from reft_lib.paths import Node, Tree, expression, nodes, stated, value
from reft_lib.rewards import AnswerReward
from reft_lib.soundness import sound

VERDICTS = {True: "A: It is the answer.", False: "A: It is another number."}
"""What is said of a right and of a wrong solution, in words that nano knows. So is the "A:":
it knows " It", but no "It" at the beginning of a line."""
_WORDS = corpus.SPOKEN
_STEP = re.compile(r"(\d+) [-+*/] (\d+) = \d+ ([^.]+)\.")


@dataclass(frozen=True)
class Request:
    """One instruction about one problem, with the response wanted."""

    id: str
    task: str
    text: str
    """What the user says: problem, for some tasks more, and the instruction on the last line."""
    response: str
    """One right response; other right ones may exist."""
    example: Example
    """The problem."""
    instruction: str = ""
    """The last line alone."""


# ---------------------------------------------------------------- what problems are made of


def tree_of(example: Example) -> Node:
    """Read an embedded problem's expression tree out of its path of single steps.

    Raises
    ------
    UserError
        If the example has no such path, so is not one of the embedded problems.
    """
    path = next((p for p in example.meta.get("paths", ()) if p["name"] == "steps"), None)
    lines = [] if path is None else path["pcot"].strip().splitlines()
    notes = [] if path is None else [found[2] for found in _STEP.findall(path["ncot"])]
    if not lines or len(lines) != len(notes):
        raise UserError(f"{example.id} has no path of single steps; take embedded problems")
    known: dict[str, Tree] = {}
    for line, note in zip(lines, notes, strict=True):
        name, _, formula = line.strip().removeprefix("return ").rpartition(" = ")
        left, op, right = formula.split()
        a, b = (known[x] if x in known else int(x) for x in (left, right))
        node = Node(op, a, b, note, name or "total")
        known[name] = node
    return node


def numbers_of(text: str) -> list[int]:
    """Return the whole numbers of a text, in order."""
    return [int(n) for n in re.findall(r"\d+", text)]


def _operation(node: Node) -> str:
    return f"A: {value(node.left)} {_WORDS[node.op]} {value(node.right)}."


def _solution(tree: Tree) -> str:
    """Write a solution as the pretraining text does."""
    return f"Solution: {'; '.join(stated(nodes(tree)))}. Result {value(tree)}"


def _slip(text: str, rng: random.Random) -> str:
    """Make a solution's last sum wrong by a little."""
    head, last = text.rsplit("Result ", 1)
    other = int(last) + rng.choice([d for d in (-10, -2, -1, 1, 2, 10) if int(last) + d > 0])
    return f"{head[: -len(last) - 2]}{other}. Result {other}"


# ---------------------------------------------------------------- the tasks

Made = tuple[str, str]
"""What stands below the problem, if anything, and the response."""


def _check_request(e: Example, rng: random.Random) -> Made:
    tree, right = tree_of(e), rng.random() < 0.5
    text = _solution(tree)
    if not right:
        spoilt = rng.random() < 0.5
        text = _solution(corpus.wrong(rng, tree)) if spoilt else _slip(text, rng)
    return text, VERDICTS[right]


def _rephrased(e: Example) -> str:
    """Return the question as the pretraining text words it."""
    kind = next(kind for kind in QUESTIONS if kind.name == e.meta["kinds"][-1])
    for wording in kind.task:
        seen: set[str] = set()

        def group(brace: re.Match[str], seen: set[str] = seen) -> str:
            name, again = brace[1], brace[1] in seen
            seen.add(name)
            return f"(?P={name})" if again else rf"(?P<{name}>\w+)"

        # re.escape has put a backslash before every brace
        form = re.sub(r"\\{(\w+)\\}", group, re.escape(wording))
        if found := re.search(form + "$", e.question):
            return "A: " + kind.web[0].format(**found.groupdict())
    raise UserError(f"{e.id}: its question is not worded as {kind.name} is; take embedded problems")


def _equation(e: Example, rng: random.Random) -> Made:
    return "", f"{expression(tree_of(e), {})} = {e.answer}"


def _is_equation(text: str, r: Request) -> bool:
    """One true equation that gives the answer, from numbers that the problem has."""
    form = re.fullmatch(r"([\d ()+*/-]+[-+*/][\d ()+*/-]+)= \d+", text.strip())
    allowed = {*numbers_of(r.example.question), *numbers_of(r.response.split("=")[0])}
    return (
        form is not None
        and set(numbers_of(form[1])) <= allowed
        and sound(text.strip(), r.example.answer)
    )


def _is_step(at: int, form: str, signs: dict[str, str]) -> Callable[[str, Request], bool]:
    """Check the step at a place of the path of single steps; sums and products may be turned.

    ``form`` is a pattern for two numbers, the sign between them and, perhaps, the result.
    """

    def check(text: str, r: Request) -> bool:
        node, found = nodes(tree_of(r.example))[at], re.fullmatch(form, text.strip())
        if found is None or found["sign"] != signs[node.op]:
            return False
        a, b = value(node.left), value(node.right)
        wanted = {(a, b), (b, a)} if node.op in "+*" else {(a, b)}
        result = found.groupdict().get("result", str(value(node)))
        return (int(found["a"]), int(found["b"])) in wanted and int(result) == value(node)

    return check


IN_WORDS = r"A: (?P<a>\d+) (?P<sign>[a-z ]+) (?P<b>\d+)\.?"
IN_SIGNS = r"(?P<a>\d+) (?P<sign>[-+*/]) (?P<b>\d+) = (?P<result>\d+)"


def _lists_numbers(text: str, r: Request) -> bool:
    wanted = numbers_of(r.example.question)
    return bool(re.fullmatch(r"[\d, ]+", text.strip())) and numbers_of(text) == wanted


def _same(text: str, r: Request) -> bool:
    return " ".join(text.split()) == r.response


def _solves(text: str, r: Request) -> bool:
    return AnswerReward("ncot")([text], [r.example])[0].correct


def _runs(text: str, r: Request) -> bool:
    body = text.lstrip().removeprefix(PROGRAM_SEED)
    return body != text.lstrip() and AnswerReward("pcot")([body], [r.example])[0].correct


@dataclass(frozen=True)
class Task:
    """One thing to be asked of a problem."""

    about: str
    make: Callable[[Example, random.Random], Made]
    check: Callable[[str, Request], bool]
    """Whether a response does what was asked: exactly, by program."""


TASKS: dict[str, Task] = {
    "solve": Task(
        "solve it in words",
        lambda e, rng: ("", e.cot("ncot") + TRIGGER + e.answer),
        _solves,
    ),
    "equation": Task("give one equation, nothing else", _equation, _is_equation),
    "numbers": Task(
        "list the numbers, in order",
        lambda e, rng: ("", ", ".join(map(str, numbers_of(e.question)))),
        _lists_numbers,
    ),
    "first": Task(
        "say which operation comes first",
        lambda e, rng: ("", _operation(nodes(tree_of(e))[0])),
        _is_step(0, IN_WORDS, _WORDS),
    ),
    "program": Task("write the program", lambda e, rng: ("", PROGRAM_SEED + e.cot("pcot")), _runs),
    "check": Task("say whether a solution is right", _check_request, _same),
    "rephrase": Task("rephrase the question", lambda e, rng: ("", _rephrased(e)), _same),
    "first-sum": Task(
        "give the first operation as an equation",
        lambda e, rng: ("", stated(nodes(tree_of(e)))[0]),
        _is_step(0, IN_SIGNS, {sign: sign for sign in "+-*/"}),
    ),
    "last": Task(
        "say which operation comes last",
        lambda e, rng: ("", _operation(nodes(tree_of(e))[-1])),
        _is_step(-1, IN_WORDS, _WORDS),
    ),
}
SEEN = ("solve", "equation", "numbers", "first", "program", "check", "rephrase")
"""Tasks of training, in the order of every table."""
UNSEEN = ("first-sum", "last")
"""Tasks of no training."""
