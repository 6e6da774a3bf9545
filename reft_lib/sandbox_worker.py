"""The far side of the sandbox: checks one program after another and runs what is allowed.

This file is run as a script by :mod:`reft_lib.sandbox`, in a process of its own with no
environment, no site packages and almost no rights; it imports the standard library only.
Programs are written by a model, so they are hostile by assumption. Two walls stand around them:

1. *The language.* A program is parsed, and its syntax tree may hold only what ``ALLOWED`` lists:
   no classes, ``try``, ``with``, lambdas, f-strings, generators with ``yield`` or ``global``;
   no name with two underscores; no attribute except ``math.something``; no import except of
   ``math``. Imports and ``math.x`` are then rewritten to plain names, so what is compiled holds
   neither an import nor an attribute at all, and its builtins are those of ``BUILTINS`` alone.
   Without attributes there is no way from a value to the interpreter's insides.
2. *The kernel.* The process may open no file or socket, start no process, write no file and own
   only so much memory; started by root, it is root no longer, for root may exceed some limits.
   A timer of CPU time kills it in the middle of any instruction.

The valid results of ``solution()`` are an int, a finite float, or a short string. A bool is not:
``True`` is no answer to a question about a number, although Python would count it as 1.

Protocol: a line of JSON in (``{"timeout": seconds, "sources": [...]}``), one line of JSON out for
each source (``[ok, value, error]``), as soon as it is known, so that the reader can tell which
program killed the process. Before everything, the line ``"ready"``.
"""

from __future__ import annotations

import ast
import builtins
import gc
import json
import math
import os
import signal
import sys
import time
import unicodedata  # noqa: F401  (the parser wants it for names like café, when no file opens)
from collections.abc import Iterator
from types import FunctionType
from typing import Any

MAX_DIGITS = 100
"""Digits of the longest whole number, in a program or as its result."""
MAX_TEXT = 100
"""Characters of the longest string that counts as a result."""
MAX_BITS = 4096
"""Bits of the largest power or shift (about 1,200 digits)."""
MEMORY = 256 * 2**20
"""Bytes of address space of a worker, of which Python itself takes about 20 MiB."""
NOBODY = 65534
"""The user without rights, and its group."""


class Refused(Exception):
    """A program asks for what is not allowed, or returns what is not an answer."""


# ---------------------------------------------------------------- the language

ALLOWED = (
    "Module FunctionDef arguments arg Return Assign AugAssign AnnAssign For While If Break"
    " Continue Pass Expr Import ImportFrom BinOp UnaryOp BoolOp Compare IfExp Call keyword"
    " Constant Name Attribute Tuple List Dict Set Subscript Slice ListComp SetComp DictComp"
    " GeneratorExp comprehension"
)
_NOT_CHILDREN = {"ctx", "op", "ops", "type_comment", "kind", "simple", "is_async"}
CHILDREN: dict[type[ast.AST], tuple[str, ...]] = {
    getattr(ast, name): tuple(f for f in getattr(ast, name)._fields if f not in _NOT_CHILDREN)
    for name in ALLOWED.split()
}
"""Every allowed kind of node, with the fields that are visited in turn."""

MATH = {name: f for name, f in vars(math).items() if not name.startswith("_")}
_PLAIN = (
    "abs all any bool dict divmod enumerate filter float int len list map max min range reversed"
    " round set sorted str sum tuple zip"
)


def _power(base: Any, exponent: Any, modulus: Any = None) -> Any:
    """Return ``base ** exponent``, refusing whole numbers too long to be an answer."""
    if modulus is None and type(base) is int and type(exponent) is int:
        if base.bit_length() * exponent > MAX_BITS and abs(base) > 1:
            raise Refused("a power is too large")
    return pow(base, exponent, modulus)


def _shift(number: Any, places: Any) -> Any:
    """Return ``number << places``, refusing whole numbers too long to be an answer."""
    if type(places) is int and places > MAX_BITS:
        raise Refused("a shift is too large")
    return number << places


def _no_print(*_: object, **__: object) -> None:
    """Stand in for ``print``: a program may call it, and nothing is written."""


# Names in angle brackets cannot be spelt in a program: only the rewriting below uses them.
BUILTINS: dict[str, Any] = {
    **{name: getattr(builtins, name) for name in _PLAIN.split()},
    **{f"<math.{name}>": value for name, value in MATH.items()},
    **{"pow": _power, "print": _no_print, "<pow>": _power, "<shift>": _shift},
}


def _name(name: str, at: ast.AST) -> ast.expr:
    return ast.copy_location(ast.Name(name, ast.Load()), at)


def _guarded(op: ast.operator, left: ast.expr, right: ast.expr, at: ast.AST) -> ast.expr | None:
    """Return the guarded call for a power or a shift, None for another operation."""
    guard = {ast.Pow: "<pow>", ast.LShift: "<shift>"}.get(type(op))
    if guard is None:
        return None
    return ast.copy_location(ast.Call(_name(guard, at), [left, right], []), at)


def _math(name: str, at: ast.AST) -> ast.expr:
    if name not in MATH:
        raise Refused(f"math has no {name[:40]!r}")
    return _name(f"<math.{name}>", at)


def _attribute(node: ast.Attribute) -> ast.AST:
    owner = node.value
    if type(owner) is ast.Name and owner.id == "math" and type(node.ctx) is ast.Load:
        return _math(node.attr, node)
    raise Refused("attributes are not allowed, except functions of math")


def _import(node: ast.Import) -> ast.AST:
    if any(alias.name != "math" or alias.asname for alias in node.names):
        raise Refused("only 'import math' and 'from math import ...' are allowed")
    return ast.copy_location(ast.Pass(), node)


def _import_from(node: ast.ImportFrom) -> ast.AST:
    if node.module != "math" or node.level:
        raise Refused("only 'import math' and 'from math import ...' are allowed")
    targets: list[ast.expr] = []
    for name in [alias.asname or alias.name for alias in node.names]:
        _check_name(name)
        targets.append(ast.copy_location(ast.Name(name, ast.Store()), node))
    values = [_math(alias.name, node) for alias in node.names]
    left = ast.copy_location(ast.Tuple(targets, ast.Store()), node)
    right = ast.copy_location(ast.Tuple(values, ast.Load()), node)
    return ast.copy_location(ast.Assign([left], right), node)


def _aug_assign(node: ast.AugAssign) -> ast.AST:
    if type(node.op) not in (ast.Pow, ast.LShift):
        return node
    if type(node.target) is not ast.Name:
        raise Refused("**= and <<= are allowed for plain variables only")
    value = _guarded(node.op, _name(node.target.id, node), node.value, node)
    assert value is not None
    return ast.copy_location(ast.Assign([node.target], value), node)


def _constant(node: ast.Constant) -> ast.AST:
    value = node.value
    if type(value) in (bytes, complex):
        raise Refused(f"a {type(value).__name__} constant is not allowed")
    if type(value) is int and value >= 10**MAX_DIGITS:
        raise Refused(f"a number has more than {MAX_DIGITS} digits")
    return node


def _check_name(name: str) -> None:
    if "__" in name:
        raise Refused("names with two underscores are not allowed")


# What is done to some kinds of node before their children are visited.
_REWRITE: dict[type[ast.AST], Any] = {
    ast.Attribute: _attribute,
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.AugAssign: _aug_assign,
    ast.Constant: _constant,
    ast.BinOp: lambda n: _guarded(n.op, n.left, n.right, n) or n,
}


def rewrite(node: ast.AST) -> ast.AST:
    """Check a syntax tree against the allow-list and return it without imports or attributes.

    The tree, as ``ast.parse`` gives it, is changed in place. Raises :class:`Refused` if anything
    in it is not allowed.
    """
    if type(node) not in CHILDREN:
        raise Refused(f"{type(node).__name__} is not allowed")
    # Names are checked as the parser has normalised them, so look-alike letters do not help.
    for name in (getattr(node, field, None) for field in ("id", "name", "arg")):
        if type(name) is str:
            _check_name(name)
    if (change := _REWRITE.get(type(node))) is not None:
        node = change(node)
    for field in CHILDREN[type(node)]:
        child = getattr(node, field, None)
        if type(child) is list:
            child[:] = [rewrite(c) if isinstance(c, ast.AST) else c for c in child]
        elif isinstance(child, ast.AST):
            setattr(node, field, rewrite(child))
    return node


# ---------------------------------------------------------------- running


def answer_text(result: Any) -> str:
    """Return a result as text; raise :class:`Refused` unless it is a number or a short string."""
    kind = type(result)  # not isinstance: bool is a subclass of int, and is refused
    if kind is int and abs(result) < 10**MAX_DIGITS:
        return str(result)
    if kind is float and math.isfinite(result):
        return repr(result)
    if kind is str and 0 < len(result) <= MAX_TEXT and result.isprintable():
        return result
    if kind in (int, float, str):
        raise Refused(f"returned a {kind.__name__} that is too long, not finite, or not printable")
    raise Refused(f"returned a {kind.__name__}, not a number or a short string")


def evaluate(source: str) -> tuple[bool, str | None, str | None]:
    """Run ``solution()`` of a program; return (ok, the result's text, what went wrong).

    Never raises what the program causes, but gives no protection from time and memory: call it
    only in a process under :func:`limit`.
    """
    scope: dict[str, Any] = {"__builtins__": dict(BUILTINS)}
    try:
        tree = rewrite(ast.parse(source))
        exec(compile(tree, "<program>", "exec", dont_inherit=True), scope)  # type: ignore[call-overload]
        solution = scope.get("solution")
        if type(solution) is not FunctionType:
            raise Refused("there is no function solution()")
        return True, answer_text(solution()), None
    except (Refused, SyntaxError, NameError) as error:  # their messages are short
        return False, None, f"{type(error).__name__}: {error}"[:200]
    except Exception as error:  # others may carry values of any size: the kind will do
        return False, None, type(error).__name__
    finally:
        scope.clear()


def limit() -> None:
    """Take every right away from this process that running a program does not need."""
    import resource

    wanted = {"AS": MEMORY, "FSIZE": 0, "NOFILE": 3, "NPROC": 0, "CORE": 0}
    for name, size in wanted.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (size, size))
        except (AttributeError, ValueError, OSError):
            pass  # not every system has every limit; the allow-list does not rest on them
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        except OSError:
            pass  # a container may not know another user
    # A parent may have blocked or ignored these, and both are inherited.
    for number in (signal.SIGPROF, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF, signal.SIGXCPU})


def _allow_seconds(seconds: float) -> None:
    """Let the process use so much more CPU time in all, should the timer ever fail."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 2, hard))


def serve(lines: Iterator[bytes]) -> None:
    """Answer requests until there are no more."""
    gc.disable()  # collected after each program instead, so that none pays for another's
    gc.freeze()
    for line in lines:
        request = json.loads(line)
        timeout = request["timeout"]
        _allow_seconds(timeout * len(request["sources"]))
        for source in request["sources"]:
            # The default action of SIGPROF ends the process, even inside one long C call.
            signal.setitimer(signal.ITIMER_PROF, timeout)
            reply = evaluate(source)
            gc.collect()
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(1, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    limit()
    os.write(1, b'"ready"\n')
    serve(iter(sys.stdin.buffer.readline, b""))
