"""The directive ``quiz``: questions at a chapter's end that the page itself checks, offline.

    ```{quiz} 03_sft
    ```

shows the questions of ``quizzes/03_sft.yml``: fieldsets with radio buttons, and below each of them
its answer with what is to be said for and against every option, in a ``<details>`` that opens
without any script. With the script ``quiz.js`` a button checks what was chosen. Nothing here is
executed by a kernel, so a quiz can change without its chapter being executed again.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes  # type: ignore[import-untyped]
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

FOLDER = "quizzes"
SCRIPT = "quiz.js"


class Tag(nodes.General, nodes.Element):
    """An HTML element with children that Sphinx knows: ``element`` and ``attrs``; else nothing."""


def tag(element: str, /, *children: nodes.Node, **attrs: str) -> Tag:
    """Make an element; an attribute's underscore becomes a dash."""
    made = Tag("", *children)
    made["element"] = element
    made["attrs"] = {key.rstrip("_").replace("_", "-"): value for key, value in attrs.items()}
    return made


def load(path: Path) -> list[dict[str, Any]]:
    """Read a quiz and check its form.

    Returns
    -------
    list of dict
        Each with ``question``, and ``options``: at least two, each with ``text``, ``why`` and
        ``right``; exactly one is right.

    Raises
    ------
    ExtensionError
        If the file is missing or of another form; the message names file and question.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ExtensionError(f"{path.name}: cannot be read: {error}") from None
    if not isinstance(found, list) or not found:
        raise ExtensionError(f"{path.name}: wanted a list of questions")
    for number, item in enumerate(found, start=1):
        where = f"{path.name}, question {number}"
        if not isinstance(item, dict) or set(item) != {"question", "options"}:
            raise ExtensionError(f"{where}: wanted question and options, and nothing else")
        if not isinstance(item["options"], list) or len(item["options"]) < 2:
            raise ExtensionError(f"{where}: wanted two options or more")
        for option in item["options"]:
            if not isinstance(option, dict) or not {"text", "why"} <= set(option) <= {
                "text", "why", "right",
            }:  # fmt: skip
                raise ExtensionError(f"{where}: an option has text, why and perhaps right")
            option["text"], option["why"] = str(option["text"]), str(option["why"])
            option["right"] = option.get("right", False) is True
        if sum(option["right"] for option in item["options"]) != 1:
            raise ExtensionError(f"{where}: wanted exactly one right option")
    return found


class Quiz(SphinxDirective):
    """``{quiz} name``: the questions of ``quizzes/name.yml``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        path = Path(self.env.srcdir) / FOLDER / f"{name}.yml"
        self.env.note_dependency(str(path))
        try:
            made = [self._question(i, item) for i, item in enumerate(load(path), start=1)]
        except ExtensionError as error:
            return [self.state.document.reporter.error(str(error), line=self.lineno)]
        return [tag("div", *made, class_="quiz")]

    def _question(self, number: int, item: dict[str, Any]) -> nodes.Node:
        name = f"quiz-{number}"
        count = tag("span", nodes.Text(f"{number}. "), class_="quiz-number")
        rows, answers = [], []
        for i, option in enumerate(item["options"]):
            one = f"{name}-{'abcdefgh'[i]}"
            given = {"type": "radio", "name": name, "id": one}
            given |= {"data_right": "yes"} if option["right"] else {}
            label = tag("label", *self._inline(option["text"]), for_=one)
            rows.append(tag("div", tag("input", **given), label, class_="quiz-option"))
            verdict = nodes.strong("", "✓ Right: " if option["right"] else "✗ Wrong: ")
            said = [verdict, *self._inline(option["text"])]
            why = tag("p", *self._inline(option["why"]), class_="quiz-why")
            answers.append(tag("li", tag("p", *said), why, id=f"{one}-why"))
        summary = tag("summary", nodes.Text(f"Answer to question {number}, option by option"))
        check = tag("button", nodes.Text("Check"), type="button", class_="quiz-check", hidden="")
        verdict_line = tag("div", class_="quiz-verdict", role="status")
        return tag(
            "div",
            tag("fieldset", tag("legend", count, *self._inline(item["question"])), *rows),
            check,
            verdict_line,
            tag("details", summary, tag("ul", *answers), class_="quiz-answer"),
            class_="quiz-question",
        )

    def _inline(self, text: str) -> list[nodes.Node]:
        """Parse one paragraph of Markdown; returns what is inside it."""
        parsed = nodes.Element()
        self.state.nested_parse([" ".join(text.split())], self.content_offset, parsed)
        if len(parsed) != 1 or not isinstance(parsed[0], nodes.paragraph):
            raise ExtensionError(f"quiz {self.arguments[0]}: not one paragraph: {text!r}")
        return list(parsed[0].children)


def _visit(translator: Any, node: Tag) -> None:
    given = "".join(f' {key}="{html.escape(value)}"' for key, value in node["attrs"].items())
    translator.body.append(f"<{node['element']}{given}>")


def _depart(translator: Any, node: Tag) -> None:
    if node["element"] != "input":
        translator.body.append(f"</{node['element']}>")


def _skip(translator: Any, node: Tag) -> None:
    raise nodes.SkipNode


def _add_script(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Load the script on pages that hold a quiz."""
    if tree is not None and next(iter(tree.findall(Tag)), None) is not None:
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_node(Tag, html=(_visit, _depart), latex=(_skip, None), text=(_skip, None))
    app.add_directive("quiz", Quiz)
    app.connect("html-page-context", _add_script)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
