"""Expression trees and their rewritings, against exact fractions and plain Python arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reft_lib.kinds import OPENINGS, QUESTIONS, STEPS
from reft_lib.paths import (
    LARGEST,
    Node,
    Tree,
    apply_rule,
    expression,
    mental,
    nodes,
    paths,
    regroup,
    split,
    value,
    write_ncot,
    write_pcot,
)

RULES = sorted({kind.rule for kind in (*OPENINGS, *STEPS, *QUESTIONS)})
NOTES = [("words", "name")] * 5
EXACT = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def arithmetic(text: str) -> Fraction:
    """Compute a formula of whole numbers exactly, by Python's own precedence."""
    assert re.fullmatch(r"[\d+\-*/() ]+", text), text
    exact = re.sub(r"\d+", r"Fraction(\g<0>)", text)
    return eval(exact, {"__builtins__": {}, "Fraction": Fraction})


def exact(tree: Tree) -> Fraction:
    """Compute a tree without any limit on its numbers."""
    if isinstance(tree, int):
        return Fraction(tree)
    return EXACT[tree.op](exact(tree.left), exact(tree.right))


def valid(tree: Tree) -> bool:
    try:
        value(tree)
    except ValueError:
        return False
    return True


def stepped(start: int, steps: list[tuple[str, int, int]]) -> Tree:
    """Build a tree as a story does: one rule after the other."""
    tree: Tree = start
    for rule, n, k in steps:
        tree = apply_rule(rule, tree, n, k, NOTES)
    return tree


numbers = st.integers(1, 60)
any_trees = st.recursive(
    numbers,
    lambda inner: st.builds(Node, st.sampled_from("++--**/"), inner, inner),
    max_leaves=7,
)
chains = st.builds(
    stepped,
    numbers,
    st.lists(
        st.tuples(st.sampled_from(RULES), st.integers(2, 30), st.integers(2, 6)),
        min_size=1,
        max_size=4,
    ),
)
trees = st.one_of(any_trees, chains)
many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)


@pytest.mark.parametrize("rule", [*RULES, "x-n-k", "x-(n-k)", "x/n/k", "(x+n)*k", "x*(n-k)", "2*x"])
@given(x=st.integers(1, 99), n=st.integers(1, 40), k=st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_a_rule_means_what_python_reads_in_it(rule, x, n, k):
    text = re.sub(r"[xnk]", lambda m: str({"x": x, "n": n, "k": k}[m[0]]), rule)
    try:
        expected = arithmetic(text)
    except ZeroDivisionError:
        assume(False)
    tree = apply_rule(rule, x, n, k, NOTES)
    try:
        assert exact(tree) == expected
    except ZeroDivisionError:
        assume(False)


def test_notes_are_given_out_innermost_first():
    tree = apply_rule("x-k*n", 50, 7, 3, [("inner", "i"), ("outer", "o")])
    assert (tree.op, tree.note, tree.var) == ("-", "outer", "o")
    assert (tree.right.op, tree.right.note, tree.right.var) == ("*", "inner", "i")
    assert (tree.right.left, tree.right.right) == (3, 7)


def test_the_running_quantity_used_twice_is_one_node():
    inner = Node("+", 2, 3)
    tree = apply_rule("x+(x+n)", inner, 4, 0, NOTES)
    assert tree.left is inner and tree.right.left is inner
    assert len(nodes(tree)) == 3


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (Node("/", 84, 4), 21),
        (Node("-", Node("*", 7, 8), 6), 50),
        (Node("+", LARGEST - 1, 1), LARGEST),
        (Node("-", 5, 4), 1),
        (Node("/", 7, 2), None),  # no whole number
        (Node("-", 5, 5), None),  # nothing left
        (Node("-", 5, 9), None),
        (Node("+", LARGEST, 1), None),
        (Node("-", Node("*", 50, 50), 2400), None),  # too large on the way
    ],
)
def test_value(tree, expected):
    if expected is None:
        with pytest.raises(ValueError, match="range|whole"):
            value(tree)
    else:
        assert value(tree) == expected


@given(trees)
@many
def test_a_formula_reads_back_to_its_tree(tree):
    try:
        expected = exact(tree)
    except ZeroDivisionError:
        assume(False)
    assert arithmetic(expression(tree, {})) == expected


def test_parentheses_stand_where_they_are_needed_and_nowhere_else():
    add, sub, mul, div = (Node(op, 8, 2) for op in "+-*/")
    table = {
        "8 + 2 + 1": Node("+", add, 1),
        "9 + 8 - 2": Node("+", 9, sub),
        "9 - (8 + 2)": Node("-", 9, add),
        "9 - 8 * 2": Node("-", 9, mul),
        "(8 - 2) * 3": Node("*", sub, 3),
        "3 * (8 - 2)": Node("*", 3, sub),
        "32 / (8 * 2)": Node("/", 32, mul),
        "32 / (8 / 2)": Node("/", 32, div),
        "8 * 2 / 4": Node("/", mul, 4),
    }
    for text, tree in table.items():
        assert expression(tree, {}) == text


@pytest.mark.parametrize("rewrite", [regroup, split, mental])
@given(tree=trees)
@many
def test_rewriting_keeps_the_value(rewrite, tree):
    assume(valid(tree))
    try:
        other = rewrite(tree)
    except ValueError:  # the rewritten tree would leave the range: paths() drops it
        assume(False)
    assert exact(other) == value(tree)


def test_regrouping_by_hand():
    def text(left_op: str, op: str, a: int, b: int) -> str:
        return expression(regroup(Node(op, Node(left_op, 50, a), b)), {})

    assert text("+", "+", 12, 5) == "50 + 12 + 5"
    assert text("-", "-", 12, 5) == "50 - (12 + 5)"
    assert text("+", "-", 12, 5) == "50 + 12 - 5"
    assert text("-", "+", 12, 5) == "50 - (12 - 5)"
    assert text("+", "-", 5, 12) == "50 - (12 - 5)"
    assert text("-", "+", 5, 12) == "50 + 12 - 5"
    # the formulas look alike, the trees do not: the change is computed first
    assert expression(nodes(regroup(Node("+", Node("+", 50, 12), 5)))[0], {}) == "12 + 5"
    assert expression(regroup(Node("*", Node("-", 9, 2), 3)), {}) == "9 * 3 - 2 * 3"
    assert expression(regroup(Node("*", 9, 3)), {}) == "3 * 9"


def test_mental_arithmetic_leaves_the_last_operation():
    tree = Node("-", Node("*", 3, 12), Node("/", 8, 2), "left")
    assert expression(mental(tree), {}) == "36 - 4" and mental(tree).note == "left"
    assert expression(mental(Node("+", 3, 12)), {}) == "3 + 12", "nothing to leave out"


def test_splitting_by_hand():
    assert expression(split(Node("+", 47, 38)), {}) == "47 + 30 + 8"
    assert expression(split(Node("-", 47, 38)), {}) == "47 - 30 - 8"
    assert expression(split(Node("*", 6, 14)), {}) == "6 * 10 + 6 * 4"
    assert expression(split(Node("+", 47, 30)), {}) == "47 + 30"
    assert expression(split(Node("+", 5, 38)), {}) == "5 + 38"


@given(chains)
@many
def test_every_path_of_a_story_is_right_in_words_and_as_a_program(tree):
    assume(isinstance(tree, Node) and valid(tree))
    found = paths(tree)
    texts = [write_ncot(*way) for way in found.values()]
    assert next(iter(found)) == "steps" and len(set(texts)) == len(texts)
    for other, own in found.values():
        assert value(other) == value(tree)
        equations = re.findall(r"([\d(][\d\s()+*/-]*) = (\d+)", write_ncot(other, own))
        assert len(equations) == len(own)
        for left, right in equations:
            assert arithmetic(left) == int(right)
        assert int(equations[-1][1]) == value(tree)
        scope: dict = {}
        exec(f"def solution():{write_pcot(other, own)}", {"__builtins__": {}}, scope)
        assert scope["solution"]() == value(tree)


def test_paths_of_one_tree_by_hand():
    tree = Node("-", Node("+", Node("*", 3, 12, "in all"), 30, "then"), 11, "at last", "left")
    found = {name: write_ncot(*way) for name, way in paths(tree).items()}
    formulas = {name: re.findall(r"[\d(][\d\s()+*/-]*= \d+", text) for name, text in found.items()}
    assert formulas == {
        "steps": ["3 * 12 = 36", "36 + 30 = 66", "66 - 11 = 55"],
        "whole": ["3 * 12 + 30 - 11 = 55"],
        "fused": ["3 * 12 + 30 = 66", "66 - 11 = 55"],
        "regrouped": ["3 * 12 = 36", "30 - 11 = 19", "36 + 19 = 55"],
        "split": [
            "3 * 10 = 30",
            "3 * 2 = 6",
            "30 + 6 = 36",
            "36 + 30 = 66",
            "66 - 10 = 56",
            "56 - 1 = 55",
        ],
        "mental": ["66 - 11 = 55"],
    }


def test_names_of_a_program_do_not_hide_each_other():
    tree = Node("+", Node("*", 2, 3, "", "total"), Node("*", 4, 5, "", "total"), "", "total")
    code = write_pcot(tree, nodes(tree))
    assert code == "\n    total = 2 * 3\n    total2 = 4 * 5\n    return total + total2"
