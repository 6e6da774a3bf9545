"""From a solution in words to a program: each calculation becomes a line, earlier results names.

GSM8K marks its calculations, ``48/2 = <<48/2=24>>24 clips``, and its kin write plain equations.
Here each becomes one line of a program. The words beside a result name its variable, and a number
that equals an earlier result becomes that variable, so that the program derives its answer instead
of listing numbers::

    clips_in_may = 48 / 2
    clips_altogether = 48 + clips_in_may
    return clips_altogether

Of several equal results a number refers to the earliest that has not been used yet, for results
are worked out to be used; if all have been, to the latest, unless the question gives the number
(then it stands). Steps that the answer does not rest on are left out.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reft_lib.answers import TOLERANCE, normalise
from reft_lib.number_words import COUNTS, PARTS

_MARK = r"<<(?P<marked>[^<>=]*)=(?P<marked_result>[^<>]*)>>"
# No number that a calculation goes on from: "= 5 * 3 = 15" states 15 only.
_RESULT = (
    r"=\s*[$£€]?\s*(?P<result>-?[0-9][0-9,]*+(?:\.[0-9]++)?+)(?![ \t]*[-+*/x×÷(][ \t]*[$£€(0-9])"
)
_CALCULATION = re.compile(f"{_MARK}|{_RESULT}")
_DIGITS = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_ARITHMETIC = re.compile(
    rf"(?<![0-9.])\(*-?(?:{_DIGITS})(?:\s*\)*\s*[-+*/]\s*\(*\s*(?:{_DIGITS}))+\s*\)*\s*$"
)
_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+")
_SPELT = COUNTS | PARTS | {"twice": 2, "double": 2, "pair": 2, "triple": 3, "week": 7, "dozen": 12}

# A phrase ends at one of these words ("24 clips because ..."), and a name at none of the others.
_CLAUSE = set(
    "although and are as be because but had has have he hence if is it or she since so than that"
    " then therefore they this thus was we were when where which while who will would".split()
)
_LOOSE = set(
    "a about after all also an another at away before by each every for from her his how i in into"
    " its just left less many more much my of off on only other our out over per the their them"
    " there these those to total under until up with without your".split()
)
_LOOSE |= set("add calculate divide find first get means multiply next now second subtract".split())
_SUBJECT = re.compile(r"(.*)(?:\b(?:is|was|are|were|be|costs?|equals)\s|:)|([^=]*)=")
_MONEY = {"$": "dollars", "£": "pounds", "€": "euros"}
_MOST_WORDS = 3


@dataclass(frozen=True)
class Step:
    """One calculation of a solution."""

    expression: str
    """Arithmetic as Python would read it, for example ``48/2``."""
    result: float
    """What it comes to."""
    name: str
    """A name for the result; several steps may have the same."""


# ---------------------------------------------------------------- reading calculations


def numbers_in(text: str) -> set[float]:
    """Return the numbers that a text gives, in digits or as small words (half: 2)."""
    found = {float(n.replace(",", "")) for n in _NUMBER.findall(text)}
    return found | {
        float(_SPELT[word]) for word in re.findall("[a-z]+", text.lower()) if word in _SPELT
    }


def parse(expression: str) -> ast.expr | None:
    """Return plain arithmetic as a tree, None if it is something else."""
    try:  # leading zeros are no Python
        tree = ast.parse(re.sub(r"(?<![0-9.])0+(?=[0-9])", "", expression).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree.body if value_of(tree.body) is not None else None


_OPERATIONS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def value_of(node: ast.expr) -> float | None:
    """Return what plain arithmetic comes to, None if it is something else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, (int, float)) else None
    if isinstance(node, ast.BinOp):
        operation, parts = _OPERATIONS.get(type(node.op)), [node.left, node.right]
    elif isinstance(node, ast.UnaryOp):
        operation, parts = _OPERATIONS.get(type(node.op)), [node.operand]
    else:
        return None
    values = [value_of(part) for part in parts]
    if operation is None or None in values:
        return None
    try:
        return operation(*values)
    except (ZeroDivisionError, OverflowError):
        return None


def plain_arithmetic(text: str) -> str | None:
    """Return the arithmetic that a text ends with, written as Python, None if there is none.

    Currency, units and the words between numbers are taken out: ``$810,000 x 5/100`` is
    ``810000 * 5/100``, and ``13 girls x 3 boys/girl`` is ``13 * 3``.
    """
    line = re.split(r"[=\n]|[.;:!?]\s", text)[-1].replace(",", "").translate(_SIGNS)
    line = re.sub(r"([*x])\s*100\s*%", r"\1 100", line)  # a share, told in per cent
    line = re.sub(rf"({_DIGITS})\s*%", r"(\1/100)", line)
    line = re.sub(r"(?<=[0-9\s)])x(?=[\s0-9($])", "*", re.sub("[$£€]", "", line))
    line = re.sub(r"(?:/\s*)?[A-Za-z][A-Za-z'’.-]*", " ", line)
    found = _ARITHMETIC.search(line)
    return found[0].strip() if found else None


_SIGNS = str.maketrans({"×": "*", "÷": "/", "–": "-", "−": "-"})


def steps_in(solution: str) -> list[Step]:
    """Return the calculations of a solution that hold, marked ones and plain ones, in order."""
    found, start = [], 0
    for match in _CALCULATION.finditer(solution):
        before, after = solution[start : match.start()], solution[match.end() :]
        expression, result = match["marked"], match["marked_result"] or match["result"]
        if expression is None or not re.search("[-+*/]", expression):
            expression = plain_arithmetic(before.rstrip(" =$£€")) or expression
        if match["marked"] is None:
            after = match[0].lstrip("= ") + after
        start = match.end()
        tree = parse(expression) if expression else None
        stated = normalise(result)
        if tree is None or stated is None:
            continue
        if abs((value_of(tree) or 0.0) - stated) <= TOLERANCE:
            found.append(Step(ast.unparse(tree), stated, name_of(before, result, after)))
    return found


# ---------------------------------------------------------------- names


def _words(text: str) -> list[str]:
    """Return the words of a text, without what follows an apostrophe, and without a times sign."""
    found = re.findall("[a-z]+", re.sub(r"['’]\w*", "", text.lower()))
    return [word for word in found if word != "x"]


def _phrase(text: str) -> list[str]:
    """Return the words with which a text begins, up to the end of their phrase."""
    match = re.match(r"[ \t]*([^.,;:!?()\n=+*/$£€0-9<>\"“”–-]*)", text)
    assert match is not None
    words = _words(match[1])
    ends = [i for i, word in enumerate(words) if word in _CLAUSE]
    return words[: ends[0] if ends else None]


def _trim(words: list[str], front: bool = True) -> list[str]:
    """Return at most three words, without those that say nothing at either end."""
    while front and words and words[0] in _LOOSE:
        words = words[1:]
    words = words[:_MOST_WORDS]
    while words and words[-1] in _LOOSE:
        words = words[:-1]
    return words


def name_of(before: str, result: str, after: str) -> str:
    """Return a variable's name for a result from the text on both sides of it.

    In this order: the words right after it ("24 clips in May"); those after the same number
    earlier in the sentence ("there are 24 clips because 48 / 2 = 24"); what "is" or "was" the
    calculation ("the number of seats sold was 0.75 * 60 = 45"). The calculation
    belongs to ``before``; ``after`` may begin with the result, as GSM8K's marks have it.
    """
    head = re.match(r"\s*[$£€]?\s*(?:[0-9][0-9.,]*(?<![.,])|\.[0-9]+)?[ \t]*(%?)", after)
    assert head is not None
    sentence = re.split(r"\n|[.;!?]\s", before)[-1]
    same = next((m for m in _NUMBER.finditer(sentence) if m[0] == result), None)
    coins = [sentence, after.lstrip()[:1], sentence[: same.start()] if same else ""]
    money = next((_MONEY[c.rstrip()[-1:]] for c in coins if c.rstrip()[-1:] in _MONEY), None)
    words = _trim(_phrase(after[head.end() :]), front=not money)
    if not words and same:
        words = _trim(_phrase(sentence[same.end() :]))
    subject = _SUBJECT.match(sentence)
    if not words and subject:
        clause = re.split("[,;(]", subject[1] or subject[2] or "")[-1]
        last = _words(clause)[-_MOST_WORDS:]
        words = _trim([word for word in last if word not in _CLAUSE])
    if money and words[:1] not in ([money], ["cents"]):
        words = [money, *words]
    elif head[1]:
        words = ["percent", *words]
    name = "_".join(words) or "result"
    return f"the_{name}" if keyword.iskeyword(name) else name


# ---------------------------------------------------------------- programs


class _Link(ast.NodeTransformer):
    """Put references in place of the numbers that earlier steps came to."""

    def __init__(self, results: Sequence[float], used: set[int], given: set[float]) -> None:
        self.results, self.used, self.given = results, used, given

    def visit_Constant(self, node: ast.Constant) -> ast.AST:  # noqa: N802 (ast's own name)
        """Replace a number, if it is an earlier result."""
        value = float(node.value)  # type: ignore[arg-type]  # value_of has read the whole tree
        same = [i for i, result in enumerate(self.results) if abs(result - value) < 1e-9]
        fresh = [i for i in same if i not in self.used]
        if not same or (not fresh and value in self.given):
            return node
        chosen = fresh[0] if fresh else same[-1]
        self.used.add(chosen)
        return ast.Name(f"<{chosen}>")


def program(steps: Sequence[Step], question: str, answer: str) -> str | None:
    """Return the body of ``solution()`` that takes these steps.

    Parameters
    ----------
    steps : sequence of Step
        All of a solution.
    question : str
        Its numbers may stand in the program.
    answer : str
        The gold answer, a number; the last step that comes to it is returned.

    Returns
    -------
    str or None
        None if no step comes to the answer, or if no step behind the answer is a calculation.
    """
    ends = [i for i, step in enumerate(steps) if abs(step.result - float(answer)) <= TOLERANCE]
    if not ends:
        return None
    results, given, used = [step.result for step in steps], numbers_in(question), set[int]()
    lines = []
    for i, step in enumerate(steps[: ends[-1] + 1]):
        tree = _Link(results[:i], used, given).visit(ast.parse(step.expression, mode="eval").body)
        lines.append((step.name, ast.unparse(tree)))
    wanted = needed(lines)
    if not any(re.search("[-+*/]", lines[i][1].lstrip("-")) for i in wanted):
        return None
    return assemble([lines[i] if i in wanted else None for i in range(len(lines))])


_REFERENCE = re.compile(r"<(\d+)>")


def needed(lines: Sequence[tuple[str, str]]) -> set[int]:
    """Return the numbers of the lines that the last line rests on, its own included."""
    found, queue = set(), [len(lines) - 1]
    while queue:
        found.add(i := queue.pop())
        queue += [int(reference) for reference in _REFERENCE.findall(lines[i][1])]
    return found


def assemble(lines: Sequence[tuple[str, str] | None]) -> str:
    """Return the body of ``solution()`` that assigns these lines and returns the last.

    Parameters
    ----------
    lines : sequence of (str, str) or None
        A name, which gets a number if it is taken, and an expression, in which ``<2>`` refers to
        the variable of line 2. None: a line that is left out.
    """
    names: dict[int, str] = {}
    body = []
    for i, line in enumerate(lines):
        if line is None:
            continue
        name, n = line[0], 1
        while name in names.values():
            name = f"{line[0]}_{(n := n + 1)}"
        names[i] = name
        body.append(f"{name} = " + _REFERENCE.sub(lambda m: names[int(m[1])], line[1]))
    if any("math." in line for line in body):
        body.insert(0, "import math")
    return "".join(f"\n    {line}" for line in [*body, f"return {name}"])
