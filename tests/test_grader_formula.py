"""Formulas of multi graders: hand-worked values, Python's own arithmetic, and bounds."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reft_lib.errors import UserError
from reft_lib.grader_formula import MAX_DEPTH, MAX_LENGTH, parse_formula
from reft_lib.grader_template import GraderError

SCORES = {"a": 1.0, "b": 0.5, "min": 0.25, "e": 3.0, "lambda": 2.0, "_x1": 4.0}


def value(text: str, scores: dict[str, float] = SCORES) -> float:
    return parse_formula(text, scores, "grader.calculate_output").evaluate(scores)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 1.0),
        ("(a + b) / 2", 0.75),
        ("0.5 * a + 0.5 * b", 0.75),
        ("1 - 2 - 3", -4.0),
        ("8 / 4 / 2", 1.0),
        ("2 + 3 * 4", 14.0),
        ("2 * 3 ^ 2", 18.0),
        ("2 ^ 3 ^ 2", 512.0),  # from the right
        ("-2 ^ 2", -4.0),  # the sign comes after the power
        ("2 ^ -1", 0.5),
        ("2 * -3", -6.0),
        ("--2", 2.0),
        ("-+-2", 2.0),
        ("min(a, b)", 0.5),
        ("min(a)", 1.0),
        ("max(a, b, 2)", 2.0),
        ("abs(b - a)", 0.5),
        ("floor(2.7) + ceil(2.1)", 5.0),
        ("floor(-0.5)", -1.0),
        ("exp(0)", 1.0),
        ("sqrt(16)", 4.0),
        ("log(exp(2))", 2.0),  # the natural logarithm
        ("min + min(min, 1)", 0.5),  # a sub-grader may be called like a function
        ("e + 1e1 + 1.e-1", 13.1),  # and like the e of a number
        ("lambda * _x1", 8.0),  # and like a word of Python
        (".5", 0.5),
        ("  (\n((a))\t) ", 1.0),
        ("min(0, a) ^ 0", 1.0),
    ],
)
def test_hand_worked(text: str, expected: float) -> None:
    assert value(text) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0", "a / (b - b)", "0 ^ -1", "log(0)", "log(-1)", "sqrt(-1)", "(0 - 1) ^ 0.5",
        "exp(1000)", "9 ^ 9 ^ 9 ^ 9", "10 ^ 308 * 10", "min(1, 10 ^ 400)", "1e308 + 1e308",
        "0 * (1e308 * 10)",
    ],
)  # fmt: skip
def test_no_finite_value_is_the_graders_error(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(GraderError, match="no finite value") as caught:
        value(text)
    assert caught.value.kind == "other_error"
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a value is expected"),
        ("  ", "a value is expected"),
        ("a +", "a value is expected"),
        ("* a", "a value is expected"),
        ("a ** 2", "a value is expected"),
        ("min()", "a value is expected"),
        ("(a", "'\\)' is expected"),
        ("min(a, b", "'\\)' is expected"),
        ("a)", "an operation is expected"),
        ("a b", "an operation is expected"),
        ("2 a", "an operation is expected"),
        ("a, b", "an operation is expected"),
        ("2a", "cannot be read"),
        ("a.b", "cannot be read"),
        ("a; b", "cannot be read"),
        ("a = 1", "cannot be read"),
        ("'a'", "cannot be read"),
        ("a[0]", "cannot be read"),
        ("٣", "cannot be read"),
        ("ａ", "cannot be read"),
        ("c", "'c' is unknown .* the sub-graders are: a, b"),
        ("sin(1)", "sin\\(\\) is unknown .* there are: min"),
        ("__import__(1)", "__import__\\(\\) is unknown"),
        ("sqrt(1, 2)", "it takes one"),
        ("1e999", "no finite number"),
        ("(" * 99 + "a" + ")" * 99, "nested deeper"),
        ("-" * 99 + "a", "nested deeper"),
        ("^".join("2" * 99), "nested deeper"),
        ("a+" * 9999 + "a", f"longer than {MAX_LENGTH}"),
    ],
)
def test_malformed_formulas_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^grader.calculate_output: .*{words}") as caught:
        value(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_the_longest_and_deepest_formulas() -> None:
    assert value("+".join(["a"] * (MAX_LENGTH // 2))) == MAX_LENGTH // 2
    depth = MAX_DEPTH - 1
    assert value("(" * depth + "a" + ")" * depth) == 1


NUMBERS = st.sampled_from(["0", "1", "2", "3", "0.5", "1.25", "a", "b"])
SIGNS = st.sampled_from([" + ", " - ", " * ", " / ", " + -", " * -"])


@given(st.lists(st.tuples(SIGNS, NUMBERS), max_size=8), NUMBERS, st.data())
def test_precedence_is_pythons(rest, first, data) -> None:  # type: ignore[no-untyped-def]
    parts = [first, *(sign + number for sign, number in rest)]
    for _ in range(2):  # two powers at most, so that nothing overflows
        i = data.draw(st.integers(0, len(parts) - 1))
        parts[i] += "^" + data.draw(NUMBERS)
    parts[0] = "(" + parts[0]
    parts[data.draw(st.integers(0, len(rest)))] += ")"
    text = "".join(parts)
    try:
        expected = eval(text.replace("^", "**"), {"a": 1.0, "b": 0.5})
    except ZeroDivisionError:
        with pytest.raises(GraderError):
            value(text)
        return
    assert value(text) == pytest.approx(expected, rel=1e-12, abs=1e-12)


LEAVES = st.sampled_from(["a", "b", "1", "2.5"])


def _nodes(inner):  # type: ignore[no-untyped-def]
    one = st.tuples(st.sampled_from(["abs", "floor", "ceil", "exp", "sqrt", "log"]), inner)
    two = st.tuples(st.sampled_from(["min", "max", "+", "-", "*"]), inner, inner)
    return one | two


def _write(tree) -> str:  # type: ignore[no-untyped-def]
    if isinstance(tree, str):
        return tree
    name, *children = tree
    texts = [_write(child) for child in children]
    return f"({name.join(texts)})" if name in "+-*" else f"{name}({','.join(texts)})"


def _compute(tree) -> float:  # type: ignore[no-untyped-def]
    if isinstance(tree, str):
        return float(SCORES.get(tree) or tree)
    name, *children = tree
    values = [_compute(child) for child in children]
    known = {"+": sum, "-": lambda v: v[0] - v[1], "*": math.prod, "min": min, "max": max}
    if name in known:
        result = known[name](values)
    else:
        result = abs(values[0]) if name == "abs" else getattr(math, name)(values[0])
    if not math.isfinite(result):
        raise OverflowError
    return result


@given(st.recursive(LEAVES, _nodes, max_leaves=12))
def test_trees_have_the_value_of_their_own_arithmetic(tree) -> None:  # type: ignore[no-untyped-def]
    try:
        expected = _compute(tree)
    except (ValueError, OverflowError):
        with pytest.raises(GraderError):
            value(_write(tree))
        return
    assert value(_write(tree)) == pytest.approx(expected, rel=1e-12)


@given(st.text("ab+-*/^(),.0123456789e minsqrt", max_size=40))
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        assert math.isfinite(value(text))
    except (UserError, GraderError):
        pass


def test_the_names_of_a_formula() -> None:
    formula = parse_formula("min(a, 2) * b - min", SCORES, "g")
    assert formula.names == {"a", "b", "min"}
