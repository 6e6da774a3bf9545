"""Expression trees, and the several valid chains of thought that each of them has.

A problem's meaning is an expression tree. Every *path* is another way to the same answer: one
operation a step, two operations at once, everything in one line, regrouped, with each hard sum
split into easy ones, or the last operation alone with the others done in the head. All are right,
which is the situation that ReFT starts from (Luong et al. 2024, section 1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

LARGEST = 200
"""No intermediate result is larger, so that a tiny model can learn the arithmetic."""


@dataclass(frozen=True, eq=False)
class Node:
    """An operation of an expression tree; compared by identity, so that a shared one is one."""

    op: str
    left: Tree
    right: Tree
    note: str = "so far"
    var: str = "total"


Tree = int | Node
OPS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


def value(tree: Tree) -> int:
    """Return the value of an expression tree.

    Raises
    ------
    ValueError
        If some intermediate result is not a whole number from 1 to ``LARGEST``.
    """
    if isinstance(tree, int):
        return tree
    a, b = value(tree.left), value(tree.right)
    if tree.op == "/" and a % b:
        raise ValueError("not a whole number")
    result = OPS[tree.op](a, b)
    if not 1 <= result <= LARGEST:
        raise ValueError("out of range")
    return result


def nodes(tree: Tree) -> list[Node]:
    """Return the operations of a tree, operands before what uses them, each once."""
    found: list[Node] = []

    def visit(t: Tree) -> None:
        if isinstance(t, Node) and t not in found:
            visit(t.left)
            visit(t.right)
            found.append(t)

    visit(tree)
    return found


def apply_rule(rule: str, x: Tree, n: int, k: int, notes: list[tuple[str, str]]) -> Tree:
    """Return the tree of a kind's rule, for example ``x-k*n``.

    Parameters
    ----------
    rule : str
        A formula over x, n, k and whole numbers with ``+ - * /`` and parentheses.
    x : Tree
        The running quantity; used twice, it stays one shared node.
    n, k : int
        The row's numbers.
    notes : list of (str, str)
        Words and variable for every operation, innermost first.
    """
    names: dict[str, Tree] = {"x": x, "n": n, "k": k}
    words = iter(notes)
    tokens = re.findall(r"\w+|[^\w]", rule)

    def operand() -> Tree:
        token = tokens.pop(0)
        if token == "(":
            inner = chain("+-")
            tokens.pop(0)
            return inner
        return names[token] if token in names else int(token)

    def chain(level: str) -> Tree:
        left = chain("*/") if level == "+-" else operand()
        while tokens and tokens[0] in level:
            op = tokens.pop(0)
            right = chain("*/") if level == "+-" else operand()
            left = Node(op, left, right, *next(words))
        return left

    return chain("+-")


# ---------------------------------------------------------------- paths: rewriting the tree


def regroup(tree: Tree) -> Tree:
    """Return an equal tree in another order: net change first, or distributed, or swapped."""
    if isinstance(tree, int):
        return tree
    left, right, op = tree.left, tree.right, tree.op
    if isinstance(left, Node) and op in "+-" and left.op in "+-" and isinstance(right, int):
        a, sign = left.right, left.op
        if isinstance(a, int) and a != right:
            if sign == op:
                net = Node("+", a, right, "of change", "change")
                return Node(op, left.left, net, tree.note, tree.var)
            big, small, outer = (a, right, sign) if a > right else (right, a, op)
            net = Node("-", big, small, "of change", "change")
            return Node(outer, left.left, net, tree.note, tree.var)
    if isinstance(left, Node) and op == "*" and left.op in "+-" and isinstance(right, int):
        first = Node("*", left.left, right, "in one part", "part")
        second = Node("*", left.right, right, "in the other part", "other")
        return Node(left.op, first, second, tree.note, tree.var)
    inner = left if _shares(tree) else regroup(left)
    if op in "+*":
        return Node(op, right, inner, tree.note, tree.var)
    return Node(op, inner, right, tree.note, tree.var)


def _shares(tree: Tree) -> bool:
    """Tell whether some operation's result is used twice."""
    uses = [t for node in nodes(tree) for t in (node.left, node.right) if isinstance(t, Node)]
    return len(uses) != len(set(uses))


def split(tree: Tree, done: dict[Node, Tree] | None = None) -> Tree:
    """Return an equal tree in which sums of two large numbers go through the tens."""
    if isinstance(tree, int):
        return tree
    done = {} if done is None else done  # a shared node must stay one node
    if tree not in done:
        done[tree] = _split_one(tree, split(tree.left, done), split(tree.right, done))
    return done[tree]


def _split_one(tree: Node, left: Tree, right: Tree) -> Tree:
    if isinstance(right, int) and right > 10 and right % 10:
        tens, ones = right - right % 10, right % 10
        if tree.op in "+-" and value(left) >= 10:
            part = Node(tree.op, left, tens, "with the tens", "tens")
            return Node(tree.op, part, ones, tree.note, tree.var)
        if tree.op == "*" and isinstance(left, int):
            first = Node("*", left, tens, "from the tens", "tens")
            second = Node("*", left, ones, "from the ones", "ones")
            return Node("+", first, second, tree.note, tree.var)
    return Node(tree.op, left, right, tree.note, tree.var)


def mental(tree: Tree) -> Tree:
    """Return the last operation alone, on the results that those before it have."""
    if isinstance(tree, int):
        return tree
    return Node(tree.op, value(tree.left), value(tree.right), tree.note, tree.var)


def equations(tree: Tree, fuse: Callable[[Node], bool]) -> list[Node]:
    """Return the nodes that get an equation of their own; the others are written inline."""
    return [node for node in nodes(tree) if node is tree or not fuse(node)]


def _every_other(tree: Tree) -> Callable[[Node], bool]:
    order = nodes(tree)
    return lambda node: order.index(node) % 2 == 0


def expression(node: Tree, shown: dict[Node, str], parent: str = "", right: bool = False) -> str:
    """Return a tree as a formula; operations in ``shown`` stand for what they were called."""
    if isinstance(node, int):
        return str(node)
    if node in shown:
        return shown[node]
    text = (
        f"{expression(node.left, shown, node.op)} {node.op} "
        f"{expression(node.right, shown, node.op, right=True)}"
    )
    weak = node.op in "+-" and (parent in ("*", "/") or (right and parent == "-"))
    return f"({text})" if weak or (right and parent == "/") else text


def stated(own: list[Node]) -> list[str]:
    """Return ``formula = value`` for every node in ``own``; later ones use earlier values."""
    shown: dict[Node, str] = {}
    texts = []
    for node in own:
        texts.append(f"{expression(node, shown)} = {value(node)}")
        shown[node] = str(value(node))
    return texts


def write_ncot(tree: Tree, own: list[Node]) -> str:
    """Write a path in words: one short sentence with an equation for every node in ``own``."""
    return " ".join(f"{text} {node.note}." for text, node in zip(stated(own), own, strict=True))


def write_pcot(tree: Tree, own: list[Node]) -> str:
    """Write a path as the body of ``solution()``: an assignment for every node, then return."""
    shown: dict[Node, str] = {}
    lines = []
    for node in own:
        text = expression(node, shown)
        if node is tree:
            lines.append(f"return {text}")
            break
        name, count = node.var, 2
        while name in shown.values():  # a live name would be lost
            name, count = f"{node.var}{count}", count + 1
        lines.append(f"{name} = {text}")
        shown[node] = name
    return "".join(f"\n    {line}" for line in lines)


def paths(tree: Tree) -> dict[str, tuple[Tree, list[Node]]]:
    """Return every distinct valid path of a tree: name to (tree, nodes with own equation)."""
    every = nodes(tree)
    found: dict[str, tuple[Tree, list[Node]]] = {"steps": (tree, every)}
    if not _shares(tree):  # written inline, a shared node would stand twice
        found["whole"] = (tree, equations(tree, lambda node: True))
        if len(every) > 2:
            found["fused"] = (tree, equations(tree, _every_other(tree)))
    for name, rewrite in (("regrouped", regroup), ("split", split), ("mental", mental)):
        try:
            other = rewrite(tree)
            value(other)
        except ValueError:
            continue
        found[name] = (other, nodes(other))
    distinct: dict[str, tuple[Tree, list[Node]]] = {}
    seen: set[str] = set()
    for name, path in found.items():
        text = write_ncot(*path)
        if text not in seen:
            seen.add(text)
            distinct[name] = path
    return distinct
