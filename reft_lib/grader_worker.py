"""The far side of the sandbox for graders: calls ``grade(sample, item)`` of sources sent to it.

This file is run as a script by :mod:`reft_lib.grader_sandbox`, as :mod:`reft_lib.sandbox_worker` is
by the sandbox, behind the same two walls. It takes that file's allow-list, its rights and its
protocol, and adds to the language what a grader cannot do without:

- *methods* of str, dict, list and match objects, those of ``METHODS`` alone. A call ``x.lower()``
  is rewritten to a call of a guarded function that looks at the exact type of ``x``, so what is
  compiled still holds no attribute at all. ``format`` is not among them: it could read attributes.
- functions of ``re`` and ``json.loads``, again as plain names; a pattern that runs away is ended by
  the timer of CPU time like everything else.
- ``try`` and ``raise`` with the ordinary exceptions, ``isinstance``, and imports from ``typing``,
  which import nothing.

The arguments are read from JSON anew for every call, and the source runs in a new scope, so no call
can leave anything behind for the next one.

Protocol: as in :mod:`reft_lib.sandbox_worker`, but in place of each source stands the list
``[source, sample, item]``, and the value that comes back is the score.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import math
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any


def _load_worker() -> Any:
    """Load a copy of the sandbox's worker that only this module extends; there is no package."""
    path = Path(__file__).with_name("sandbox_worker.py")
    spec = importlib.util.spec_from_file_location("_sandbox_worker_of_graders", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = _load_worker()
Refused: type[Exception] = worker.Refused

# ---------------------------------------------------------------- the language

METHODS: dict[type, dict[str, Any]] = {
    kind: {name: getattr(kind, name) for name in names.split()}
    for kind, names in {
        str: "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal"
        " isdigit islower isnumeric isspace isupper join lower lstrip partition removeprefix"
        " removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith"
        " strip swapcase title upper",
        dict: "copy get items keys pop setdefault update values",
        list: "append copy count extend index insert pop remove reverse sort",
        tuple: "count index",
        set: "add discard difference intersection issubset issuperset union update",
        float: "is_integer",
        re.Match: "end group groupdict groups span start",
    }.items()
}
"""The methods that a grader may call, by the exact type of their owner."""
_FLAGS = re.ASCII | re.DOTALL | re.IGNORECASE | re.MULTILINE | re.VERBOSE  # DEBUG would print


def _pattern(function: Any, n: int) -> Any:
    """Return a function of re that takes text arguments, then maybe flags, and nothing else."""

    def call(*texts: Any, flags: Any = 0) -> Any:
        if len(texts) == n + 1 and not flags:
            *texts, flags = texts  # type: ignore[assignment]
        if int(flags) & ~int(_FLAGS) or len(texts) != n:
            raise Refused(f"re.{function.__name__} takes {n} arguments, and flags such as re.I")
        return function(*texts, flags=flags)

    return call


_TEXTS = {"findall": 2, "fullmatch": 2, "match": 2, "search": 2, "split": 2, "sub": 3}
MODULES: dict[str, dict[str, Any]] = {
    "math": worker.MATH,
    "re": {
        **{name: _pattern(getattr(re, name), n) for name, n in _TEXTS.items()},
        **{name: getattr(re, name) for name in "A ASCII DOTALL I IGNORECASE M MULTILINE S".split()},
        **{name: getattr(re, name) for name in ("X", "VERBOSE", "escape")},
    },
    "json": {"loads": lambda text: json.loads(text)},
    "typing": {},
}
"""The modules that may be imported, and what they hold."""
_EXCEPTIONS = (
    "ArithmeticError AttributeError Exception IndexError KeyError LookupError OverflowError"
    " TypeError ValueError ZeroDivisionError"
)
worker.BUILTINS.update({name: getattr(builtins, name) for name in _EXCEPTIONS.split()})
worker.BUILTINS.update({"isinstance": isinstance, "frozenset": frozenset, "round": round})
for _module, _names in MODULES.items():
    worker.BUILTINS.update({f"<{_module}.{name}>": value for name, value in _names.items()})
worker.BUILTINS["<json.JSONDecodeError>"] = json.JSONDecodeError
worker.CHILDREN.update(
    {
        ast.Try: ("body", "handlers", "orelse", "finalbody"),
        ast.ExceptHandler: ("type", "body"),
        ast.Raise: ("exc", "cause"),
    }
)


def _guarded_method(name: str) -> Any:
    """Return a function that calls the method of this name, where its owner may have it called."""

    def call(owner: Any, *args: Any, **options: Any) -> Any:
        method = METHODS.get(type(owner), {}).get(name)  # not isinstance: exact types only
        if method is None:
            raise Refused(f"{type(owner).__name__}.{name} is not allowed here")
        return method(owner, *args, **options)

    return call


for _name in {name for names in METHODS.values() for name in names}:
    worker.BUILTINS[f"<.{_name}>"] = _guarded_method(_name)


def _attribute(node: ast.Attribute) -> ast.AST:
    owner = node.value
    if type(owner) is ast.Name and owner.id in MODULES and type(node.ctx) is ast.Load:
        name = f"<{owner.id}.{node.attr}>"
        if name in worker.BUILTINS:
            return ast.copy_location(ast.Name(name, ast.Load()), node)
        raise Refused(f"{owner.id} has no {node.attr[:40]!r} here")
    raise Refused(f"the attribute {node.attr[:40]!r} is not allowed, except as a listed method")


def _call(node: ast.Call) -> ast.AST:
    called = node.func
    if type(called) is not ast.Attribute:
        return node
    if type(called.value) is ast.Name and called.value.id in MODULES:
        return node  # _attribute sees to it
    if f"<.{called.attr}>" not in worker.BUILTINS:
        raise Refused(f"the method {called.attr[:40]!r} is not allowed")
    function = ast.copy_location(ast.Name(f"<.{called.attr}>", ast.Load()), node)
    return ast.copy_location(ast.Call(function, [called.value, *node.args], node.keywords), node)


def _check_import(names: list[str]) -> None:
    if unknown := [name for name in names if name not in MODULES]:
        allowed = ", ".join(MODULES)
        raise Refused(f"the module {unknown[0][:40]!r} is not allowed; there are: {allowed}")


def _import(node: ast.Import) -> ast.AST:
    _check_import([alias.name for alias in node.names])
    if any(alias.asname for alias in node.names):
        raise Refused("a module cannot be imported under another name")
    return ast.copy_location(ast.Pass(), node)


def _import_from(node: ast.ImportFrom) -> ast.AST:
    module = node.module or ""
    _check_import([module] if not node.level else ["."])
    if module == "typing":  # annotations are never evaluated
        return ast.copy_location(ast.Pass(), node)
    targets: list[ast.expr] = []
    values: list[ast.expr] = []
    for alias in node.names:
        if f"<{module}.{alias.name}>" not in worker.BUILTINS:
            raise Refused(f"{module} has no {alias.name[:40]!r} here")
        worker._check_name(alias.asname or alias.name)
        targets.append(ast.copy_location(ast.Name(alias.asname or alias.name, ast.Store()), node))
        values.append(ast.copy_location(ast.Name(f"<{module}.{alias.name}>", ast.Load()), node))
    left = ast.copy_location(ast.Tuple(targets, ast.Store()), node)
    right = ast.copy_location(ast.Tuple(values, ast.Load()), node)
    return ast.copy_location(ast.Assign([left], right), node)


worker._REWRITE.update(
    {
        ast.Attribute: _attribute,
        ast.Call: _call,
        ast.Import: _import,
        ast.ImportFrom: _import_from,
    }
)

# ---------------------------------------------------------------- running


@lru_cache(maxsize=4)  # every call of a batch sends the same source
def compiled(source: str) -> CodeType:
    """Check a source against the allow-list and return its code, which holds no attribute.

    Raises
    ------
    Refused, SyntaxError, ValueError, RecursionError, MemoryError
        If it holds what is not allowed, or is no Python.
    """
    tree = worker.rewrite(ast.parse(source))
    import __future__

    flag = __future__.annotations.compiler_flag  # they stay text: names in them need not exist
    return compile(tree, "<grader>", "exec", flags=flag, dont_inherit=True)


def fault(source: str) -> str | None:
    """Say what keeps a source from being a grader, None if nothing is seen before it runs."""
    try:
        compiled(source)
        tree = ast.parse(source)
    except SyntaxError as error:
        return f"is no Python: {error.msg} (line {error.lineno})"
    except (RecursionError, MemoryError):
        return "is nested too deeply"
    except (Refused, ValueError) as error:
        return f"holds what the sandbox does not allow: {error}"
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "grade"]
    if not found:
        return "defines no function grade(sample, item)"
    a = found[-1].args
    if len(a.posonlyargs + a.args) != 2 or a.vararg or a.kwonlyargs or a.kwarg or a.defaults:
        return "must define grade with exactly two arguments, grade(sample, item)"
    return None


def _line(error: BaseException) -> str:
    """Return where in the grader an error came up."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<grader>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""


def evaluate(job: list[Any]) -> tuple[bool, str | None, str | None]:
    """Call ``grade`` of one ``[source, sample, item]``; return (ok, the score, what went wrong).

    Gives no protection from time and memory; see :func:`reft_lib.sandbox_worker.evaluate`.
    """
    source, sample, item = job
    scope: dict[str, Any] = {"__builtins__": dict(worker.BUILTINS)}
    try:
        exec(compiled(source), scope)
        grade = scope.get("grade")
        if type(grade) is not FunctionType:
            raise Refused("there is no function grade(sample, item)")
        score = grade(sample, item)
        if type(score) not in (int, float):  # a bool is none: see the docstring of the sandbox
            raise Refused(f"grade returned a {type(score).__name__}; it must return a float")
        if not math.isfinite(score):
            raise Refused(f"grade returned {score}; it must return a finite float")
        return True, repr(float(score)), None
    except Exception as error:
        first = error.args[0] if error.args else ""  # messages may carry values of any size
        short = type(first) is str and 0 < len(first) <= 200
        text = f": {first}" if short or type(first) is int and abs(first) < 10**9 else ""
        kind = "" if isinstance(error, Refused) else type(error).__name__
        return False, None, f"{kind}{text}".removeprefix(": ")[:300] + _line(error)
    finally:
        scope.clear()


if __name__ == "__main__":
    worker.limit()
    os.write(1, b'"ready"\n')
    sys.stdout = None  # type: ignore[assignment]  # the pipe belongs to the protocol
    worker.evaluate = evaluate
    worker.serve(iter(sys.stdin.buffer.readline, b""))
