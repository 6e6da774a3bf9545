"""Read grader JSON: every field is checked here, so that grading meets no malformed grader.

The fields are those of OpenAI's public reference for graders (``string_check``,
``text_similarity``, ``python``, ``score_model``, ``label_model``, ``multi``). Where its guide and
its reference differ, both are taken: ``name`` is required by the one and missing in examples of the
other, so it may be left out; "not equal" is ``ne`` in the reference and ``neq`` in the guide.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reft_lib import grader_sandbox, grader_worker
from reft_lib.errors import UserError
from reft_lib.grader_formula import NAME, parse_formula
from reft_lib.grader_template import Template, parse_template
from reft_lib.grader_text import METRICS
from reft_lib.grader_types import (
    Grader,
    LabelModel,
    Message,
    Multi,
    PythonGrader,
    ScoreModel,
    Single,
    StringCheck,
    TextSimilarity,
)

OPERATIONS = ("eq", "ne", "like", "ilike")
_FIELDS: dict[str, tuple[str, ...]] = {
    "string_check": ("input", "reference", "operation"),
    "text_similarity": ("input", "reference", "evaluation_metric", "pass_threshold"),
    "python": ("source", "image_tag"),
    "score_model": ("model", "input", "range", "sampling_params", "pass_threshold"),
    "label_model": ("model", "input", "labels", "passing_labels"),
    "multi": ("graders", "calculate_output"),
}
_ROLES = ("system", "developer", "user", "assistant")
_SAMPLING = ("seed", "temperature", "top_p", "max_completions_tokens", "reasoning_effort")


def load_grader(path: Path | str) -> Grader:
    """Return the grader in a JSON file.

    Raises
    ------
    UserError
        If the file cannot be read, is not JSON, or is no grader; one line names file and field.
    """
    try:
        spec = json.loads(
            Path(path).read_text(encoding="utf-8"),
            object_pairs_hook=_no_double,
            parse_constant=float,
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; it must be a file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); it must hold one grader") from error
    return parse_grader(spec, where=f"{path}: grader")


def _no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a field is there twice among {', '.join(key for key, _ in pairs)}")
    return found


def parse_grader(spec: Any, where: str = "grader") -> Grader:
    """Check a grader and return it with its templates and its formula read.

    Parameters
    ----------
    spec : mapping
        As ``json.loads`` gives it.
    where : str
        What errors call it.

    Raises
    ------
    UserError
        If it is malformed; the message names the path of the field, such as
        ``grader.graders.email.operation``, and what would be right.
    """
    return _parse(spec, where, None)


def _parse(spec: Any, where: str, key: str | None) -> Grader:
    """Read a grader, or the sub-grader ``key`` of a multi grader."""
    if not isinstance(spec, Mapping):
        raise UserError(f"{where} is {_shown(spec)}; it must be a JSON object")
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        what = f"is {_shown(kind)}" if "type" in spec else "is missing"
        raise UserError(f"{where}.type {what}; it must be one of {', '.join(_FIELDS)}")
    if key is not None and kind == "multi":
        raise UserError(f"{where}.type is 'multi'; a multi grader cannot stand in another one")
    fields = ("type", "name", *_FIELDS[kind])
    if unknown := [field for field in spec if field not in fields]:
        raise UserError(
            f"{where}.{unknown[0]} is unknown; a {kind} grader has the fields {', '.join(fields)}"
        )
    name = _text(spec, "name", where) if "name" in spec else key or kind
    return _PARSERS[kind](spec, where, name)


def _string_check(spec: Mapping[str, Any], where: str, name: str) -> StringCheck:
    operation = "ne" if spec.get("operation") == "neq" else spec.get("operation")
    _one_of(operation, OPERATIONS, spec, "operation", where)
    assert isinstance(operation, str)
    return StringCheck(
        name, _template(spec, "input", where), _template(spec, "reference", where), operation
    )


def _text_similarity(spec: Mapping[str, Any], where: str, name: str) -> TextSimilarity:
    metric = spec.get("evaluation_metric")
    _one_of(metric, (*METRICS, "cosine"), spec, "evaluation_metric", where)
    assert isinstance(metric, str)
    pair = _template(spec, "input", where), _template(spec, "reference", where)
    return TextSimilarity(name, *pair, metric, _number(spec, "pass_threshold", where))


def _python(spec: Mapping[str, Any], where: str, name: str) -> PythonGrader:
    source = _text(spec, "source", where)
    if len(source.encode("utf-8", "surrogatepass")) > grader_sandbox.MAX_SOURCE:
        raise UserError(f"{where}.source is longer than {grader_sandbox.MAX_SOURCE} bytes")
    if fault := grader_worker.fault(source):
        raise UserError(f"{where}.source {fault}")
    tag = _text(spec, "image_tag", where) if spec.get("image_tag") is not None else None
    return PythonGrader(name, source, tag)


def _score_model(spec: Mapping[str, Any], where: str, name: str) -> ScoreModel:
    bounds = spec.get("range")
    bounds = [0, 1] if bounds is None else bounds
    numbers = isinstance(bounds, list | tuple) and all(map(_is_number, bounds))
    if not numbers or len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise UserError(f"{where}.range is {_shown(bounds)}; it must be two numbers, low and high")
    return ScoreModel(
        name,
        _text(spec, "model", where),
        _messages(spec, where),
        (float(bounds[0]), float(bounds[1])),
        _sampling(spec, where),
        _number(spec, "pass_threshold", where),
    )


def _label_model(spec: Mapping[str, Any], where: str, name: str) -> LabelModel:
    labels, passing = _labels(spec, "labels", where), _labels(spec, "passing_labels", where)
    if others := [label for label in passing if label not in labels]:
        raise UserError(
            f"{where}.passing_labels has {others[0]!r}; each must be one of labels: "
            f"{', '.join(labels)}"
        )
    return LabelModel(name, _text(spec, "model", where), _messages(spec, where), labels, passing)


def _multi(spec: Mapping[str, Any], where: str, name: str) -> Multi:
    subs = spec.get("graders")
    if not isinstance(subs, Mapping) or not subs:
        raise UserError(f"{where}.graders is {_shown(subs)}; it must map names to graders")
    graders: dict[str, Single] = {}
    for key, sub in subs.items():
        if not isinstance(key, str) or not NAME.fullmatch(key):
            raise UserError(
                f"{where}.graders has {_shown(key)}; a name that a formula can use has letters, "
                "digits and '_', and begins with no digit"
            )
        parsed = _parse(sub, f"{where}.graders.{key}", key)
        assert not isinstance(parsed, Multi)
        graders[key] = parsed
    text = _text(spec, "calculate_output", where)
    return Multi(name, graders, parse_formula(text, graders, f"{where}.calculate_output"))


_PARSERS: dict[str, Any] = {
    "string_check": _string_check,
    "text_similarity": _text_similarity,
    "python": _python,
    "score_model": _score_model,
    "label_model": _label_model,
    "multi": _multi,
}

# ---------------------------------------------------------------- fields


def _shown(value: Any) -> str:
    """Return a value as an error shows it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _text(spec: Mapping[str, Any], field: str, where: str) -> str:
    if field not in spec:
        raise UserError(f"{where}.{field} is missing; it must be a text")
    value = spec[field]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}.{field} is {_shown(value)}; it must be a text that is not empty")
    return value


def _template(spec: Mapping[str, Any], field: str, where: str) -> Template:
    value = spec.get(field)
    if field not in spec or not isinstance(value, str):  # an empty text can be compared with
        what = f"is {_shown(value)}" if field in spec else "is missing"
        right = "a text, such as '{{ sample.output_text }}'"
        raise UserError(f"{where}.{field} {what}; it must be {right}")
    return parse_template(value, f"{where}.{field}")


def _one_of(
    value: Any, allowed: tuple[str, ...], spec: Mapping[str, Any], field: str, where: str
) -> None:
    if value not in allowed:
        what = f"is {_shown(value)}" if field in spec else "is missing"
        raise UserError(f"{where}.{field} {what}; it must be one of {', '.join(allowed)}")


def _number(spec: Mapping[str, Any], field: str, where: str) -> float | None:
    value = spec.get(field)
    if value is not None and not _is_number(value):
        raise UserError(f"{where}.{field} is {_shown(value)}; it must be a number")
    return None if value is None else float(value)


def _labels(spec: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    found = spec.get(field)
    fine = isinstance(found, list | tuple) and all(isinstance(x, str) and x.strip() for x in found)
    if not fine or not found or len(set(found)) < len(found):
        raise UserError(f"{where}.{field} is {_shown(found)}; it must be a list of different texts")
    return tuple(found)


def _messages(spec: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    found = spec.get("input")
    if not isinstance(found, list | tuple) or not found:
        raise UserError(
            f"{where}.input is {_shown(found)}; it must be a list of messages with role and content"
        )
    return tuple(_message(one, f"{where}.input[{i}]") for i, one in enumerate(found))


def _message(found: Any, where: str) -> Message:
    if not isinstance(found, Mapping):
        raise UserError(f"{where} is {_shown(found)}; it must be an object with role and content")
    if unknown := [field for field in found if field not in ("role", "content", "type")]:
        raise UserError(f"{where}.{unknown[0]} is unknown; a message has role and content")
    _one_of(found.get("role"), _ROLES, found, "role", where)
    content = found.get("content")
    blocks = content if isinstance(content, list) else [content]
    found_texts = [block.get("text") if isinstance(block, Mapping) else block for block in blocks]
    texts = [text for text in found_texts if isinstance(text, str)]
    if not texts or len(texts) < len(blocks):
        raise UserError(
            f"{where}.content is {_shown(content)}; it must be a text (no image or sound)"
        )
    return Message(found["role"], parse_template("".join(texts), f"{where}.content"))


def _sampling(spec: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    found = spec.get("sampling_params")
    if found is None:
        return None
    if not isinstance(found, Mapping) or any(key not in _SAMPLING for key in found):
        raise UserError(
            f"{where}.sampling_params is {_shown(found)}; it may have {', '.join(_SAMPLING)}"
        )
    for key in _SAMPLING[:4]:
        if (value := _number(found, key, f"{where}.sampling_params")) is not None and value < 0:
            raise UserError(f"{where}.sampling_params.{key} is {value:g}; it must not be negative")
    return dict(found)
