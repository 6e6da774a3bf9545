"""Keeps the page `api` in step with the library.

Every section of `api.md` that describes a module not (or no longer) in the library is left out, so
that the page can name the whole flow while modules come and go. tests/test_layout.py checks the
other direction: every module has its section.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

_SECTION = re.compile(r"^(?=## )", re.MULTILINE)
_MODULE = re.compile(r"^\.\. automodule:: (reft_lib\.\w+)", re.MULTILINE)


def present_sections(text: str) -> str:
    """Return `text` without the sections whose module cannot be found."""
    kept = []
    for section in _SECTION.split(text):
        modules = _MODULE.findall(section)
        if all(importlib.util.find_spec(name) is not None for name in modules):
            kept.append(section)
    return "".join(kept)


def _on_read(app: Any, docname: str, source: list[str]) -> None:
    if docname == "api":
        source[0] = present_sections(source[0])


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _on_read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
