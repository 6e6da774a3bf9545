"""Graders' own Python: what it may do, and one adversarial property per test."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest

from reft_lib import grader_sandbox, grader_worker
from reft_lib.grader_sandbox import MAX_ARGUMENTS, MAX_SOURCE, run_calls
from reft_lib.sandbox import Outcome, run_programs

SAMPLE = {"output_text": " The answer is 17. ", "output_json": {"x": [1, 2]}}
ITEM = {"answer": "17", "words": ["a", "b"]}
FINE = "def grade(sample, item):\n    return 1.0"


def source(text: str, head: str = "") -> str:
    """Make a grader of the lines of a body."""
    body = textwrap.indent(textwrap.dedent(text).strip("\n"), "    ")
    return f"{head}\ndef grade(sample, item):\n{body}"


def run(text: str, head: str = "", timeout_s: float = 1.0) -> Outcome:
    """Run a body between two calls of a good grader, which must not suffer from it."""
    assert run_calls(FINE, [(SAMPLE, ITEM)]) == [Outcome(True, "1.0", None)]
    (outcome,) = run_calls(source(text, head), [(SAMPLE, ITEM)], timeout_s)
    assert run_calls(FINE, [(SAMPLE, {"again": 1})]) == [Outcome(True, "1.0", None)]
    return outcome


@pytest.mark.parametrize(
    ("text", "head", "score"),
    [
        ("return 1", "", 1.0),
        ("return 0.25", "", 0.25),
        ("return -3", "", -3.0),
        ("return float('17' in sample['output_text'])", "", 1.0),
        ("return float(sample['output_text'].strip().lower() == 'the answer is 17.')", "", 1.0),
        ("return float(sample.get('missing', 0.5))", "", 0.5),
        ("return len(sample['output_json']['x']) / 4", "", 0.5),
        ("return sum(k in ('answer', 'words') for k in item.keys()) / 2", "", 1.0),
        ("words = [w.upper() for w in item['words']]\nwords.append('C')\nreturn len(words) / 3",
         "", 1.0),
        ("m = re.search(r'is (\\d+)', sample['output_text'])\nreturn float(m.group(1)) / 17",
         "import re", 1.0),
        ("return float(bool(re.match('A', 'a', re.I)))", "import re", 1.0),
        ("return len(re.findall('a', 'AaA', flags=re.IGNORECASE)) / 3", "import re", 1.0),
        ("return float(sub('[.]', '', '1.0.') == '10')", "from re import sub", 1.0),
        ("return json.loads('{\"x\": 0.5}')['x']", "import json", 0.5),
        ("try:\n    return json.loads('no')\nexcept json.JSONDecodeError:\n    return 0.1",
         "import json", 0.1),
        ("try:\n    return item['zz']\nexcept (KeyError, ValueError) as e:\n    return 0.2",
         "", 0.2),
        ("return math.sqrt(0.25)", "import math", 0.5),
        ("return helper(2)", "def helper(x):\n    return x / 4", 0.5),
        ("return 1.0 if isinstance(item['answer'], str) else 0.0", "", 1.0),
        ("x: Unknown = 1.0\nreturn x", "from typing import Any", 1.0),
        ("return float('-'.join(['a', 'b']) == 'a-b')", "", 1.0),
        ("print('hello')\nreturn 1.0", "", 1.0),
    ],
)  # fmt: skip
def test_what_a_grader_may_do(text: str, head: str, score: float) -> None:
    assert run(text, head) == Outcome(True, repr(score), None)


def test_the_documentations_annotations_are_no_matter() -> None:
    text = (
        "from typing import Any\n\n"
        "def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:\n    return 1.0"
    )
    assert run_calls(text, [(SAMPLE, ITEM)]) == [Outcome(True, "1.0", None)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("return item['zz']", "KeyError: zz (line 3)"),
        ("x = 1\nreturn x / 0", "ZeroDivisionError: division by zero (line 4)"),
        ("return [][3]", "IndexError: list index out of range (line 3)"),
        ("return float('x')", "ValueError: could not convert string to float: 'x' (line 3)"),
        ("raise ValueError('x' * 300)", "ValueError (line 3)"),
        ("x = 9\nfor _ in range(15):\n    x = x * x\nraise ValueError(x)", "ValueError (line 6)"),
        ("return {}[7]", "KeyError: 7 (line 3)"),
        ("raise ValueError('my own words')", "ValueError: my own words (line 3)"),
        ("return nothing", "NameError: name 'nothing' is not defined (line 3)"),
        ("return grade(sample, item)", "RecursionError: maximum recursion depth exceeded (line 3)"),
    ],
)
def test_an_error_is_told_with_its_line(text: str, error: str) -> None:
    assert run(text) == Outcome(False, None, error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("return True", "bool"),
        ("return '1.0'", "str"),
        ("return None", "NoneType"),
        ("pass", "NoneType"),
        ("return [1.0]", "list"),
        ("return float('nan')", "nan"),
        ("return float('inf')", "inf"),
        ("return -1e999", "-inf"),
    ],
)
def test_only_finite_numbers_are_scores(text: str, kind: str) -> None:
    outcome = run(text)
    assert not outcome.ok and "grade returned " in str(outcome.error)
    assert kind in str(outcome.error) and "must return a" in str(outcome.error)


# ---------------------------------------------------------------- the language

REFUSED: list[tuple[str, str, str]] = [
    ("return sample.__class__", "", "attribute '__class__'"),
    ("return ().__class__.__base__.__subclasses__()", "", "'__subclasses__' is not allowed"),
    ("return '{0.__class__}'.format(sample)", "", "the method 'format'"),
    ("return '{a}'.format_map(sample)", "", "the method 'format_map'"),
    ("f = 'a'.upper\nreturn 1.0", "", "attribute 'upper'"),
    ("sample.x = 1\nreturn 1.0", "", "attribute 'x'"),
    ("return grade.__globals__", "", "attribute '__globals__'"),
    ("return __builtins__", "", "two underscores"),
    ("return __import__('os')", "", "two underscores"),
    ("import os\nreturn 1.0", "", "module 'os'"),
    ("return 1.0", "import os", "module 'os'"),
    ("return 1.0", "import subprocess, re", "module 'subprocess'"),
    ("return 1.0", "import os.path", "module 'os.path'"),
    ("return 1.0", "import re as r", "another name"),
    ("return 1.0", "from . import x", "module"),
    ("return 1.0", "from re import _compiler", "re has no"),
    ("return 1.0", "from json import *", "json has no"),
    ("return re.sys", "import re", "re has no 'sys'"),
    ("return json.codecs", "import json", "json has no 'codecs'"),
    ("return re.compile('a')", "import re", "re has no 'compile'"),
    ("return re.DEBUG", "import re", "re has no 'DEBUG'"),
    ("return json.loads.__globals__", "import json", "'__globals__' is not allowed"),
    ("return open('/etc/passwd')", "", ""),
    ("return 1.0", "class A:\n    pass", "ClassDef is not allowed"),
    ("return (lambda: 1.0)()", "", "Lambda is not allowed"),
    ("return f'{sample!r}'", "", "JoinedStr is not allowed"),
    ("global x\nreturn 1.0", "", "Global is not allowed"),
    ("yield 1.0", "", "Yield is not allowed"),
    ("with sample:\n    return 1.0", "", "With is not allowed"),
    ("del sample\nreturn 1.0", "", "Delete is not allowed"),
    ("x = (y := 1.0)\nreturn x", "", "NamedExpr is not allowed"),
    ("try:\n    return 1.0\nexcept* ValueError:\n    pass", "", "TryStar is not allowed"),
    ("try:\n    x = 1\nexcept KeyError as __e:\n    x = 2\nreturn x", "", "two underscores"),
    ("return 1.0", "async def f():\n    pass", "AsyncFunctionDef is not allowed"),
    ("return 1.0", "@grade\ndef f():\n    pass", ""),
]


@pytest.mark.parametrize(("text", "head", "why"), REFUSED)
def test_refused_by_the_sandbox(text: str, head: str, why: str) -> None:
    outcome = run(text, head)
    assert not outcome.ok and why in str(outcome.error)
    if why:  # the same is seen before anything runs
        assert why in str(grader_worker.fault(source(text, head)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("items = item.items\nreturn 1.0", "attribute 'items'"),
        ("return item.strip()", "dict.strip is not allowed here"),
        ("return (1).count(1)", "int.count is not allowed here"),
        ("return grade.copy()", "function.copy is not allowed here"),
        ("x = len\nreturn x.index(1)", "builtin_function_or_method.index is not allowed here"),
        ("x = ValueError('a')\nreturn x.get('a')", "ValueError.get is not allowed here"),
    ],
)
def test_methods_are_those_of_exact_types(text: str, why: str) -> None:
    assert why in str(run(text).error)


def test_debug_output_of_patterns_cannot_reach_the_protocol() -> None:
    for call in ("re.findall('a', 'a', 128)", "re.findall('a', 'a', flags=128)"):
        assert "takes 2 arguments" in str(run(f"return len({call})", "import re").error)
    assert "takes 2 arguments" in str(run("return re.search('a', 'a', 0, 1)", "import re").error)


# ---------------------------------------------------------------- time, memory, processes


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("while True:\n    pass", ""),
        ("while True:\n    try:\n        x = 1 / 0\n    except Exception:\n        pass", ""),
        ("return float(bool(re.match('(a+)+$', 'a' * 60 + 'b')))", "import re"),
        ("return 1.0", "while True:\n    pass"),
        ("return sum(i for i in range(10 ** 12))", ""),
    ],
)
def test_what_does_not_end_is_ended(text: str, head: str) -> None:
    assert run(text, head, timeout_s=0.3).error == "used more than 0.3 s"


@pytest.mark.parametrize(
    "text",
    [
        "return len('a' * 10 ** 11)",
        "x = ['a' * 10 ** 6]\nwhile True:\n    x.append(x[-1] + 'b')",
        "return float(len('a'.join(['b' * 10 ** 5] * 10 ** 5)))",
        "return float(len('a' * 10 ** 6) * len('ab'.replace('b', 'c' * 10 ** 9)))",
        "return 9 ** 9 ** 9",
    ],
)
def test_memory_is_bounded(text: str) -> None:
    error = str(run(text).error)
    assert "MemoryError" in error or "too large" in error or "crashed" in error


def test_nothing_is_left_for_the_next_call() -> None:
    text = source("n = len(memory)\nmemory.append(1)\nitem.clear_not = 1\nreturn n", "memory = []")
    assert not run_calls(text, [(SAMPLE, ITEM)])[0].ok
    text = source("memory.append(1)\nitem.update({'a': 1})\nreturn len(memory) + len(item)",
                  "memory = []")  # fmt: skip
    outcomes = run_calls(text, [(SAMPLE, {"i": i}) for i in range(50)])
    assert {o.value for o in outcomes} == {"3.0"}


def test_arguments_are_copies() -> None:
    item: dict[str, Any] = {"list": [1]}
    text = source("item['list'].append(2)\nsample.update({'x': 1})\nreturn len(item['list'])")
    assert run_calls(text, [(SAMPLE, item)])[0].value == "2.0"
    assert item == {"list": [1]} and "x" not in SAMPLE


def test_a_call_that_dies_costs_only_itself() -> None:
    text = source("if item['i'] % 10 == 3:\n    while True:\n        pass\nreturn item['i']")
    outcomes = run_calls(text, [(SAMPLE, {"i": i}) for i in range(40)], 0.2)
    for i, outcome in enumerate(outcomes):
        assert outcome.ok == (i % 10 != 3), i
        assert not outcome.ok or outcome.value == repr(float(i))


def test_outcomes_come_in_order_and_equal_calls_agree() -> None:
    text = source("return item['i']")
    outcomes = run_calls(text, [(SAMPLE, {"i": i % 7}) for i in range(100)])
    assert [o.value for o in outcomes] == [repr(float(i % 7)) for i in range(100)]
    assert run_calls(text, []) == []


def test_a_forged_reply_is_none() -> None:
    assert run("print('[true, \"1.0\", null]')\nreturn 0.5").value == "0.5"


def test_long_sources_and_arguments_are_not_run() -> None:
    assert "longer than" in str(run_calls(FINE + "#" * MAX_SOURCE, [(SAMPLE, ITEM)])[0].error)
    long = {"text": "x" * MAX_ARGUMENTS}
    bad, good = run_calls(FINE, [(SAMPLE, long), (SAMPLE, ITEM)])
    assert "longer than" in str(bad.error) and good.ok


def test_large_arguments_fit_into_a_worker() -> None:
    # what takes most memory for its length, as many as are sent at a time
    lists = [[[] for _ in range(MAX_ARGUMENTS // 4 - 100)], ["x"]]
    outcomes = run_calls(source("return 1.0"), [(SAMPLE, {"i": i, "x": lists}) for i in range(64)])
    assert all(o.ok for o in outcomes)


def test_a_source_of_nearly_the_longest_length_runs() -> None:
    text = FINE + "\n" + "x = 1\n" * 20_000
    assert len(text) < MAX_SOURCE
    assert run_calls(text, [(SAMPLE, {"i": i}) for i in range(3)], 5.0)[2].ok


def test_the_language_of_programs_is_as_strict_as_before() -> None:
    # a copy of the worker is extended, not the one that runs a model's programs
    bodies = [
        "return 'A'.lower()",
        "import re\n    return 1",
        "try:\n        return 1\n    finally: pass",
    ]
    outcomes = run_programs([f"def solution():\n    {body}" for body in bodies])
    assert [o.ok for o in outcomes] == [False] * 3


def test_only_positive_times_make_sense() -> None:
    with pytest.raises(ValueError, match="positive"):
        run_calls(FINE, [(SAMPLE, ITEM)], 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def grade(sample, item): return", None),
        ("def grade(sample, item, /): return 1", None),
        ("", "defines no function grade"),
        ("x = 1", "defines no function grade"),
        ("def Grade(sample, item): return 1", "defines no function grade"),
        ("def grade(sample): return 1", "exactly two arguments"),
        ("def grade(sample, item, more): return 1", "exactly two arguments"),
        ("def grade(*both): return 1", "exactly two arguments"),
        ("def grade(sample, item=None): return 1", "exactly two arguments"),
        ("def grade(sample, item):\nreturn 1", "is no Python: .* \\(line 2\\)"),
        ("\x00", "is no Python"),
        ("\ud800", "does not allow"),
        ("(" * 5000, "is no Python|nested"),
        ("-" * 100_000 + "1", "nested"),
    ],
)
def test_faults_seen_before_running(text: str, why: str | None) -> None:
    fault = grader_worker.fault(text)
    if why is None:
        assert fault is None
    else:
        assert fault is not None
        assert re.search(why, fault), fault


def test_workers_are_those_of_graders() -> None:
    run_calls(FINE, [(SAMPLE, ITEM)])
    pool = grader_sandbox._pool
    assert pool is not None and pool.script.name == "grader_worker.py" and pool.workers
