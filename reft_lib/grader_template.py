"""Templates of graders: ``{{ item.answer }}`` and ``{{ sample.output_text }}`` inside texts.

There are two namespaces. ``item`` is the data row. ``sample`` is what the model answered:
``output_text``; ``output_json``, the same text read as JSON, where it is JSON; and
``output_tools``, ``choices`` and ``output_audio``, where the caller gives them. Nested values are
reached with dots and brackets, ``{{ item.people[0].name }}`` or ``{{ item["two words"] }}``.

A string is put in as it is. The documentation does not say how other values are written; here they
are written as JSON (``1.0``, ``true``, ``null``, ``["a", "b"]``). What is put in is never read as a
template again, so a model that answers ``{{ item.answer }}`` is not given the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reft_lib.errors import UserError

SAMPLE_FIELDS = ("output_text", "output_json", "output_tools", "choices", "output_audio")
"""What the namespace ``sample`` can hold."""
MAX_DEPTH = 100
"""Lists and objects in each other that count as JSON: an answer deeper than this is not read."""

Place = tuple[str | int, ...]
"""Where a value stands: namespace, field, and then fields and indices within it."""


class GraderError(ValueError):
    """A grader failed on one sample; the sample's score is 0.

    Parameters
    ----------
    kind : str
        The hosted service's name for such errors: ``sample_parse_error``,
        ``invalid_variable_error``, ``python_grader_runtime_error``,
        ``model_grader_parse_error`` or ``other_error``.
    message : str
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Template:
    """A text with places to be filled in."""

    text: str
    """As written."""
    parts: tuple[str | Place, ...]
    """Literal texts and places, in order."""

    @property
    def places(self) -> list[Place]:
        """The places alone."""
        return [part for part in self.parts if not isinstance(part, str)]


_STEP = re.compile(
    r"""\.\s*(?P<name>[^\W\d]\w*)|\[\s*(?:(?P<index>\d+)|"(?P<double>[^"]*)"|'(?P<single>[^']*)')\s*\]"""
)
_NAMESPACE = re.compile(r"[^\W\d]\w*")


def parse_template(text: str, where: str) -> Template:
    """Read a text with templates in it.

    Parameters
    ----------
    text : str
    where : str
        What an error calls the text, such as ``grader.input``.

    Raises
    ------
    UserError
        If braces are left open, or what stands in them is no place in ``item`` or ``sample``.
    """
    pieces = text.split("{{")
    parts: list[str | Place] = [pieces[0]]
    for piece in pieces[1:]:
        inside, closed, rest = piece.partition("}}")
        if not closed:
            raise UserError(f"{where}: '{{{{' is not closed; a template ends with '}}}}'")
        parts += [_parse_place(inside.strip(), where), rest]
    return Template(text, tuple(part for part in parts if part != ""))


def _parse_place(inside: str, where: str) -> Place:
    """Read what stands between the braces."""
    shown = f"{where}: {{{{ {inside[:60]} }}}}"
    namespace = _NAMESPACE.match(inside)
    if namespace is None or namespace[0] not in ("item", "sample"):
        raise UserError(f"{shown} is unknown; a template begins with 'item.' or 'sample.'")
    place: list[str | int] = [namespace[0]]
    at = namespace.end()
    while at < len(inside):
        step = _STEP.match(inside, at)
        if step is None:
            raise UserError(f"{shown} cannot be read; write it like item.people[0].name")
        keys = (step["name"], step["double"], step["single"])
        named = next((key for key in keys if key is not None), None)
        place.append(int(step["index"]) if named is None else named)
        at = step.end()
    if len(place) == 1:
        raise UserError(f"{shown} names no field; write it like {namespace[0]}.name")
    if place[0] == "sample" and place[1] not in SAMPLE_FIELDS:
        raise UserError(f"{shown} is unknown; a sample has {', '.join(SAMPLE_FIELDS)}")
    return tuple(place)


def spell(place: Place) -> str:
    """Return a place as it is written in a template."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in place[1:]]
    return str(place[0]) + "".join(steps)


def fill(template: Template, item: Mapping[str, Any], sample: Mapping[str, Any]) -> str:
    """Return the text with every place filled in.

    Parameters
    ----------
    template : Template
    item : mapping
        The data row.
    sample : mapping
        As :func:`sample_of` makes it.

    Raises
    ------
    GraderError
        If a place is not there: ``sample_parse_error`` if the output was to be JSON and is not,
        else ``invalid_variable_error``.
    """
    spaces = {"item": item, "sample": sample}
    return "".join(
        part if isinstance(part, str) else _written(_look_up(part, spaces))
        for part in template.parts
    )


def _look_up(place: Place, spaces: Mapping[str, Mapping[str, Any]]) -> Any:
    value: Any = spaces[str(place[0])]
    for n, step in enumerate(place[1:], start=1):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            raise _missing(place, n, value)
    return value


def _missing(place: Place, n: int, value: Any) -> GraderError:
    """Return the error of a place whose step ``n`` is not in ``value``."""
    shown = f"{{{{ {spell(place)} }}}}"
    if place[:2] == ("sample", "output_json") and n == 1:
        return GraderError("sample_parse_error", f"{shown}: the output is not JSON")
    if isinstance(value, Mapping):
        there = f"it has {', '.join(map(str, list(value)[:8])) or 'no field at all'}"
    elif isinstance(value, list):
        there = f"it is a list of {len(value)}"
    else:
        there = f"it is {_written(value)[:40]!r}"
    message = f"{shown}: there is no {place[n]!r} in {spell(place[:n])}; {there}"
    return GraderError("invalid_variable_error", message)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def sample_of(output: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the namespace ``sample`` for what a model answered.

    Parameters
    ----------
    output : str or mapping
        The text, or a mapping with ``output_text`` and other fields of ``SAMPLE_FIELDS``.
        ``output_json`` is added where the text is JSON.

    Raises
    ------
    UserError
        If a mapping has no text, or fields that a sample does not have.
    """
    if isinstance(output, str):
        sample: dict[str, Any] = {"output_text": output}
    else:
        sample = dict(output)
        unknown = [key for key in sample if key not in SAMPLE_FIELDS]
        if unknown or not isinstance(sample.get("output_text"), str):
            what = f"has the field {unknown[0]!r}" if unknown else "has no text as output_text"
            raise UserError(f"an output {what}; a sample has {', '.join(SAMPLE_FIELDS)}")
    if "output_json" not in sample:
        try:
            read = json.loads(sample["output_text"], parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return sample
        if _depth(read) <= MAX_DEPTH:
            sample["output_json"] = read
    return sample


def _depth(value: Any) -> int:
    """Return how deep lists and objects stand in each other, without recursion."""
    depth, level = 0, [value]
    while level := [x for x in level if isinstance(x, list | dict)]:
        depth += 1
        level = [y for x in level for y in (x.values() if isinstance(x, dict) else x)]
    return depth
