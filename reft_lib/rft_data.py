"""Training files for reinforcement fine-tuning, and graders as rewards.

A training file has one JSON object to a line: ``messages``, the conversation so far, whose last
message is the user's, and beside it any fields that a grader's templates name. A row is nothing
more than that object; in the grader it is the namespace ``item``. (The hosted service takes at most
50,000 rows to train on and 1,000 to test; here there is no limit. It also reads ``tools`` that the
model may call; here that is a field like any other.)

The problems of this library become such rows and come back unchanged (:func:`to_row`,
:func:`from_row`), and a grader becomes a reward for :func:`reft_lib.ppo.ppo` (:func:`reward_from`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.grader_run import Helpers
from reft_lib.grader_spec import parse_grader
from reft_lib.grader_template import spell
from reft_lib.grader_types import Grader, item_places
from reft_lib.graders import Result, grade, metrics
from reft_lib.rewards import Graded

Row = dict[str, Any]
"""One line of a training file."""

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in ``messages``."""


# ---------------------------------------------------------------- the file


def load_rows(path: Path | str) -> list[Row]:
    """Return the rows of a training file.

    Raises
    ------
    UserError
        If the file cannot be read or holds no row, or a row is malformed; file and line are named.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; it must be a file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from error
    rows = []
    # not splitlines: other line separators are legal inside a JSON string
    for number, line in enumerate(text.rstrip().split("\n"), start=1):
        where = f"{path} line {number}"
        if not line.strip():
            raise UserError(f"{where}: empty; each line must be one row")
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}); each line must be one row") from error
        check_row(row, where)
        rows.append(row)
    return rows


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Write a training file, one row to a line.

    Raises
    ------
    UserError
        If a row is malformed; it is named by its place, from 1.
    """
    lines = []
    for number, row in enumerate(rows, start=1):
        check_row(row, f"row {number}")
        try:
            lines.append(json.dumps(row, allow_nan=False) + "\n")
        except (TypeError, ValueError) as error:
            raise UserError(f"row {number} holds what JSON cannot: {error}") from error
    Path(path).write_text("".join(lines), encoding="utf-8")


def check_row(row: Any, where: str) -> None:
    """Raise :class:`UserError` unless a row has ``messages`` as it should be.

    Every message has a role, and a text or a list of text parts as content; an assistant's may
    have tool calls instead. The last one is the user's, since the model is to answer it.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: not a JSON object; a row must be one")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        what = "has to be a list of messages" if "messages" in row else "is missing"
        raise UserError(f"{where}: 'messages' {what}; the last one must be the user's")
    for i, message in enumerate(messages):
        at = f"{where}: messages[{i}]"
        if not isinstance(message, Mapping):
            raise UserError(f"{at} is no JSON object; it must have role and content")
        if message.get("role") not in ROLES:
            role = message.get("role")
            raise UserError(f"{at}.role is {role!r}; it must be one of {', '.join(ROLES)}")
        called = message["role"] == "assistant" and message.get("tool_calls")
        if message_text(message) is None and not called:
            raise UserError(f"{at}.content must be a text, or a list of parts that are texts")
    if messages[-1]["role"] != "user":
        role = messages[-1]["role"]
        raise UserError(f"{where}: the last message is of role {role!r}; it must be the user's")
    if not (message_text(messages[-1]) or "").strip():
        raise UserError(f"{where}: the last message is empty; it must ask for something")


def message_text(message: Mapping[str, Any]) -> str | None:
    """Return the text of a message, its parts joined; None if it has none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None


def check_fields(grader: Grader, rows: Sequence[Mapping[str, Any]], where: str = "row") -> None:
    """Raise :class:`UserError` if a row lacks a field that the grader's templates name.

    Parameters
    ----------
    grader : Grader
    rows : sequence of mapping
    where : str
        What stands before a row's number, from 1, such as ``train.jsonl line``.
    """
    for number, row in enumerate(rows, start=1):
        for place in item_places(grader):
            if place[1] not in row:
                there = ", ".join(row)
                raise UserError(
                    f"{where} {number}: the field {place[1]!r} is missing, which grader "
                    f"{grader.name!r} names as {{{{ {spell(place)} }}}}; the row has {there}"
                )


# ---------------------------------------------------------------- examples


def to_row(example: Example) -> Row:
    """Return an example as a row: the question as the user's message, the rest as fields.

    Returns
    -------
    dict
        ``messages``, ``id``, ``answer``, and ``ncot``, ``pcot`` and ``meta`` where there are any;
        for an example that :func:`from_row` made of somebody else's row, that row.
    """
    if "row" in example.meta:
        return dict(example.meta["row"])
    row: Row = {"messages": [{"role": "user", "content": example.question}]}
    row |= {"id": example.id, "answer": example.answer}
    optional = {"ncot": example.ncot, "pcot": example.pcot, "meta": example.meta or None}
    return row | {key: value for key, value in optional.items() if value is not None}


def from_row(row: Mapping[str, Any], number: int = 1, answer: str = "answer") -> Example:
    """Return a row as an example; of a row that :func:`to_row` made, the example as it was.

    Any other row is kept whole in ``meta["row"]``, so that a grader sees all its fields. Its
    question is the texts of its messages, with a blank line between two.

    Parameters
    ----------
    row : mapping
    number : int
        Names a row that has no text as ``id``.
    answer : str
        The field that holds the answer; the example's answer is empty if the row has no such
        field. A value that is no text is written as JSON.

    Raises
    ------
    UserError
        If the row is malformed.
    """
    check_row(row, f"row {number}")
    messages = row["messages"]
    value = row.get(answer, "")
    gold = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    name = row["id"] if isinstance(row.get("id"), str) else f"row-{number}"
    meta = row.get("meta", {})
    if answer == "answer" and len(messages) == 1 and isinstance(meta, dict):
        question = message_text(messages[0]) or ""
        plain = Example(name, question, gold, row.get("ncot"), row.get("pcot"), dict(meta))
        if to_row(plain) == row:  # then the example says all that the row says
            return plain
    texts = [message_text(message) or "" for message in messages]
    question = "\n\n".join(text for text in texts if text.strip())
    return Example(name, question, gold, meta={"row": dict(row)})


# ---------------------------------------------------------------- the reward


@dataclass
class GraderReward:
    """A grader as a :data:`reft_lib.rewards.RewardFn`; see :func:`reward_from`."""

    grader: Grader
    helpers: Helpers
    read: Callable[[str], str] | None = None
    max_error_rate: float = 1.0
    results: list[Result] = field(default_factory=list)
    """What the grader said in the last call."""
    history: list[dict[str, float]] = field(default_factory=list)
    """:func:`reft_lib.graders.metrics` of every call, in order."""

    def __call__(self, responses: Sequence[str], examples: Sequence[Example]) -> list[Graded]:
        """Grade each response against its example's row.

        Returns
        -------
        list of Graded
            ``reward`` is the score; ``correct`` says whether it passes; ``answer`` is the text that
            was graded, None where it is empty or the grader failed.

        Raises
        ------
        UserError
            If too many samples failed for another reason than being no JSON: such a reward
            teaches nothing, and is more likely the grader's fault than the model's.
        ValueError
            If there are not as many examples as responses.
        """
        texts = [self.read(text) if self.read else text for text in responses]
        rows = [to_row(example) for example in examples]
        if len(texts) != len(rows):
            raise ValueError(f"{len(texts)} responses for {len(rows)} examples")
        self.results = grade(self.grader, rows, texts, self.helpers)
        if not self.results:
            return []
        found = metrics(self.results)
        self.history.append(found)
        failed = [r for r in self.results if r.error and r.kind != "sample_parse_error"]
        if failed and len(failed) >= self.max_error_rate * len(self.results):
            raise UserError(
                f"{len(failed)} of {len(self.results)} samples could not be graded: "
                f"{failed[0].error}; mend the grader, or raise max_error_rate above 1 to go on"
            )
        return [
            Graded(result.score, None if result.error else text or None, result.passed)
            for result, text in zip(self.results, texts, strict=True)
        ]


def reward_from(
    grader: Grader | Mapping[str, Any],
    helpers: Helpers | None = None,
    read: Callable[[str], str] | None = None,
    max_error_rate: float = 1.0,
) -> GraderReward:
    """Return a grader as a reward that any method of this library can train against.

    Parameters
    ----------
    grader : Grader or mapping
        The JSON is checked here, before any training.
    helpers : Helpers, optional
        Judge, embedder and limits.
    read : callable, optional
        Turns a response into the ``output_text`` that is graded, for instance into its last line.
    max_error_rate : float
        A batch in which the grader fails on this share of the samples ends the training with an
        error. The default is all of them; above 1, none ever does.
    """
    parsed = parse_grader(grader) if isinstance(grader, Mapping) else grader
    if not max_error_rate > 0:
        raise UserError(f"max_error_rate is {max_error_rate}; it must be above 0")
    return GraderReward(parsed, helpers or Helpers(), read, max_error_rate)
