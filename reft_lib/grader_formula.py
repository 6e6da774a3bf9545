"""The arithmetic of ``multi`` graders: formulas over the scores of named sub-graders.

A formula has numbers, the names of sub-graders, ``+ - * / ^``, brackets, and the functions of
``FUNCTIONS``. ``^`` is power: it binds tighter than a sign before it (``-2^2`` is -4) and groups
from the right (``2^3^2`` is 512), as in mathematics and most languages. ``log`` is the natural
logarithm; the documentation gives its name only.

Everything is computed in floats, so no power can hang, and every step must give a finite number.
A formula is parsed once, into a list of operations for a stack, and its length and depth are
bounded, so evaluating it takes neither recursion nor long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from reft_lib.errors import UserError
from reft_lib.grader_template import GraderError

MAX_LENGTH = 10_000
"""Characters of the longest formula."""
MAX_DEPTH = 50
"""How deep brackets, signs and powers may stand in each other."""

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": lambda *numbers: min(numbers),
    "max": lambda *numbers: max(numbers),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
"""Functions of a formula. ``min`` and ``max`` take one number or more, the others one."""
_BINARY: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": math.pow,  # not **, which gives a complex number for a root of a negative one
}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?!\w)|(?P<name>[^\W\d]\w*)|(?P<sign>[-+*/^(),]))",
    re.ASCII,
)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What a sub-grader may be called, so that a formula can name it."""


@dataclass(frozen=True)
class Formula:
    """A formula that can be evaluated."""

    text: str
    """As written."""
    steps: tuple[float | tuple[str, int], ...]
    """In the order of a stack: a number to put on it, or (operation, how many to take off). The
    operation of a name takes none."""

    @property
    def names(self) -> set[str]:
        """The sub-graders that the formula names."""
        return {s[0] for s in self.steps if isinstance(s, tuple) and s[1] == 0}

    def evaluate(self, scores: Mapping[str, float]) -> float:
        """Return the formula's value.

        Parameters
        ----------
        scores : mapping of str to float
            The score of every sub-grader that the formula names.

        Raises
        ------
        GraderError
            If a step has no finite result: a division by zero, the logarithm of 0, an overflow.
        """
        stack: list[float] = []
        for step in self.steps:
            if not isinstance(step, tuple):
                stack.append(step)
                continue
            name, taken = step
            if taken == 0:
                stack.append(float(scores[name]))
                continue
            stack[-taken:] = [self._apply(name, stack[-taken:])]
        return stack[0]

    def _apply(self, name: str, values: list[float]) -> float:
        try:
            if name == "negate":
                return -values[0]
            function = _BINARY.get(name) or FUNCTIONS[name]
            result = float(function(*values))
            if not math.isfinite(result):
                raise OverflowError("math range error")
            return result
        except (ArithmeticError, ValueError) as error:
            shown = ", ".join(f"{value:g}" for value in values)
            raise GraderError(
                "other_error", f"calculate_output: {name} of {shown} has no finite value ({error})"
            ) from error


def parse_formula(text: str, names: Collection[str], where: str) -> Formula:
    """Read a formula.

    Parameters
    ----------
    text : str
    names : collection of str
        The sub-graders there are.
    where : str
        What an error calls the formula, such as ``grader.calculate_output``.

    Raises
    ------
    UserError
        If it cannot be read, or names what is not there.
    """
    return Formula(text, tuple(_Parser(text, names, where).whole()))


class _Parser:
    """Recursive descent: sum, product, sign, power, atom, each a method."""

    def __init__(self, text: str, names: Collection[str], where: str) -> None:
        self.where, self.text, self.names = where, text, names
        self.depth = 0
        self.steps: list[float | tuple[str, int]] = []
        if len(text) > MAX_LENGTH:
            raise self._fault(f"it is longer than {MAX_LENGTH} characters", "shorten it")
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                rest = text[at:].strip()[:20]
                raise self._fault(f"{rest!r} cannot be read", "use names, numbers and + - * / ^")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()
        self.tokens.append(("end", "the end"))
        self.at = 0

    def _fault(self, what: str, right: str) -> UserError:
        return UserError(f"{self.where}: {what} in {self.text[:60]!r}; {right}")

    def _take(self, *signs: str) -> str | None:
        """Take the next token if it is one of these signs."""
        kind, value = self.tokens[self.at]
        if kind != "sign" or value not in signs:
            return None
        self.at += 1
        return value

    def _expect(self, sign: str) -> None:
        if self._take(sign) is None:
            found = self.tokens[self.at][1]
            raise self._fault(f"{found!r} stands where {sign!r} is expected", "close every bracket")

    def whole(self) -> list[float | tuple[str, int]]:
        """Read the whole text."""
        self._sum()
        if self.tokens[self.at][0] != "end":
            found = self.tokens[self.at][1]
            raise self._fault(f"{found!r} stands where an operation is expected", "use + - * / ^")
        return self.steps

    def _sum(self) -> None:
        self._product()
        while sign := self._take("+", "-"):
            self._product()
            self.steps.append((sign, 2))

    def _product(self) -> None:
        self._signed()
        while sign := self._take("*", "/"):
            self._signed()
            self.steps.append((sign, 2))

    def _signed(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._fault(f"it is nested deeper than {MAX_DEPTH}", "use fewer brackets")
        if sign := self._take("+", "-"):
            self._signed()
            if sign == "-":
                self.steps.append(("negate", 1))
        else:
            self._atom()
            if self._take("^"):
                self._signed()  # so that 2^-1 and 2^3^2 are read from the right
                self.steps.append(("^", 2))
        self.depth -= 1

    def _atom(self) -> None:
        kind, value = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            if not math.isfinite(float(value)):
                raise self._fault(f"{value} is no finite number", "write a smaller one")
            self.steps.append(float(value))
        elif kind == "name" and self.tokens[self.at] == ("sign", "("):
            self._call(value)
        elif kind == "name":
            if value not in self.names:
                known = ", ".join(self.names)
                raise self._fault(f"{value!r} is unknown", f"the sub-graders are: {known}")
            self.steps.append((value, 0))
        elif (kind, value) == ("sign", "("):
            self._sum()
            self._expect(")")
        else:
            raise self._fault(
                f"{value!r} stands where a value is expected", "give a name or number"
            )

    def _call(self, name: str) -> None:
        if name not in FUNCTIONS:
            raise self._fault(f"{name}() is unknown", f"there are: {', '.join(FUNCTIONS)}")
        self._expect("(")
        count = 1
        self._sum()
        while self._take(","):
            self._sum()
            count += 1
        self._expect(")")
        if count > 1 and name not in ("min", "max"):
            raise self._fault(f"{name}() has {count} arguments", "it takes one")
        self.steps.append((name, count))
