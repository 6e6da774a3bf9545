"""Keeps the page `api` in step with the library, and ties it to the chapters in both directions.

Every section of `api.md` that describes a module not (or no longer) in the library is left out, so
that the page can name the whole flow while modules come and go. tests/test_layout.py checks the
other direction: every module has its section. Below each section stands which chapters use the
module; and where a chapter shows a function's source, the name above it leads to the section.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes

PACKAGE = "reft_lib"
_SECTION = re.compile(r"^(?=## )", re.MULTILINE)
_MODULE = re.compile(r"^\.\. automodule:: (reft_lib\.\w+)", re.MULTILINE)
_NAME = re.compile(rf"{PACKAGE}(\.\w+)+")


def present_sections(text: str) -> str:
    """Return `text` without the sections whose module cannot be found."""
    kept = []
    for section in _SECTION.split(text):
        modules = _MODULE.findall(section)
        if all(importlib.util.find_spec(name) is not None for name in modules):
            kept.append(section)
    return "".join(kept)


def modules_in(code: str, known: set[str]) -> set[str]:
    """Return the library's modules that a chapter's code imports; what is no Python is skipped."""
    try:
        tree = ast.parse(re.sub(r"^\s*[%!].*$", "pass", code, flags=re.MULTILINE))
    except SyntaxError:
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in found]
    return {p[1] for p in parts if len(p) > 1 and p[0] == PACKAGE and p[1] in known}


def chapters_by_module(folder: Path, pages: list[str], known: set[str]) -> dict[str, list[str]]:
    """Return for each module the pages whose cells import it, in the order of `pages`."""
    users: dict[str, list[str]] = {}
    for page in pages:
        path = folder / f"{page}.ipynb"
        if not path.exists():
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                for module in modules_in("".join(cell["source"]), known):
                    users.setdefault(module, [])
                    if page not in users[module]:
                        users[module].append(page)
    return users


def with_users(text: str, users: dict[str, list[str]]) -> str:
    """Return `text` with a line at each section's head that links to the chapters using it."""
    sections = []
    for section in _SECTION.split(text):
        pages = [page for m in _MODULE.findall(section) for page in users.get(m.split(".")[1], [])]
        if pages:
            links = "; ".join(f"{{doc}}`{page}`" for page in dict.fromkeys(pages))
            head, _, rest = section.partition("\n")
            section = f"{head}\n\nUsed in: {links}.\n{rest}"
        sections.append(section)
    return "".join(sections)


def _on_read(app: Any, docname: str, source: list[str]) -> None:
    if docname == "api":
        text = present_sections(source[0])
        known = {name.split(".")[1] for name in _MODULE.findall(text)}
        pages = sorted(page for page in app.env.found_docs if page != "api")
        # the first page shows pictures from everywhere, and explains none of them
        pages = [page for page in pages if page != app.config.root_doc]
        source[0] = with_users(text, chapters_by_module(Path(app.srcdir), pages, known))


def _link_names(app: Any, tree: Any) -> None:
    """Make a link of each paragraph that is nothing but the full name of something documented.

    This is the line that `reft_lib.notebook.source` writes above a function's text. A name that the
    page `api` does not have stays as it is.
    """
    for paragraph in list(tree.findall(nodes.paragraph)):
        inside = paragraph.children
        if len(inside) != 1 or not isinstance(inside[0], nodes.literal):
            continue
        name = inside[0].astext()
        if not _NAME.fullmatch(name):
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=name, refexplicit=True, refwarn=False,
            refdoc=app.env.docname,
        )  # fmt: skip
        link += inside[0].deepcopy()
        paragraph.replace(inside[0], link)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _on_read)
    app.connect("doctree-read", _link_names)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
