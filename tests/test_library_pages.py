"""The page of the library and the chapters lead to each other."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docutils import nodes
from docutils.utils import new_document
from sphinx import addnodes
from test_quiz import extension

pages = extension("library_pages")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from reft_lib import ppo, sft as s", {"ppo", "sft"}),
        ("from reft_lib.ppo import update\nimport reft_lib.kl", {"ppo", "kl"}),
        ("%matplotlib inline\n!ls\nfrom reft_lib import kl", {"kl"}),
        ("import torch\nfrom reft_lib import __version__, nothing", set()),
        ("this is no Python", set()),
    ],
)
def test_modules_that_a_cell_imports(code: str, found: set[str]) -> None:
    assert pages.modules_in(code, {"ppo", "sft", "kl"}) == found


def notebook(folder: Path, name: str, *cells: str) -> None:
    made = [{"cell_type": "code", "source": [line]} for line in cells]
    made.append({"cell_type": "markdown", "source": ["from reft_lib import kl"]})
    (folder / f"{name}.ipynb").write_text(json.dumps({"cells": made}))


def test_a_section_names_its_chapters_in_order(tmp_path: Path) -> None:
    notebook(tmp_path, "02_b", "from reft_lib import ppo", "from reft_lib import ppo")
    notebook(tmp_path, "01_a", "from reft_lib import ppo, sft")
    users = pages.chapters_by_module(tmp_path, ["01_a", "02_b", "gone"], {"ppo", "sft", "kl"})
    assert users == {"ppo": ["01_a", "02_b"], "sft": ["01_a"]}
    text = (
        "# Head\n\n## ppo\n\n.. automodule:: reft_lib.ppo\n\n## kl\n\n.. automodule:: reft_lib.kl\n"
    )
    after = pages.with_users(text, users)
    assert "## ppo\n\nUsed in: {doc}`01_a`; {doc}`02_b`.\n\n.. automodule:: reft_lib.ppo" in after
    assert after.count("Used in") == 1


def linked(*paragraphs: nodes.paragraph) -> list[Any]:
    document = new_document("page")
    document.extend(paragraphs)
    pages._link_names(SimpleNamespace(env=SimpleNamespace(docname="page")), document)
    return list(document.findall(addnodes.pending_xref))


def test_a_line_that_is_a_full_name_becomes_a_link() -> None:
    line = nodes.paragraph("", "", nodes.literal("", "reft_lib.ppo.gather"))
    (link,) = linked(line)
    assert (link["refdomain"], link["reftarget"]) == ("py", "reft_lib.ppo.gather")
    assert not link["refwarn"] and line.astext() == "reft_lib.ppo.gather"


@pytest.mark.parametrize(
    "text", ["reft_lib", "ppo.gather", "reft_lib.ppo.gather(x)", "a reft_lib.x"]
)
def test_other_code_stays_as_it_is(text: str) -> None:
    assert not linked(nodes.paragraph("", "", nodes.literal("", text)))


def test_a_name_within_a_sentence_stays_as_it_is() -> None:
    inside = [nodes.Text("see "), nodes.literal("", "reft_lib.ppo.gather")]
    assert not linked(nodes.paragraph("", "", *inside))
