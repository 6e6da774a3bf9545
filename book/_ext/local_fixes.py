"""Small Sphinx fixes for this book."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# What the theme and the extensions write, and what it becomes. tests/test_browser.py finds the
# fault again if one of these no longer fits.
REPAIRS = (
    # What is heard must hold the words that are seen ("Search Ctrl+K"), and these are name enough.
    (re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"'), r"\1"),
    (re.compile(r'<summary aria-label="Toggle hidden content">'), "<summary>"),
    # Three titles of pictures, two of them hidden, in a button that has its own name.
    (re.compile(r'(<i class="theme-switch [^>]*?) title="[^"]*"'), r"\1"),
    # A link in what a cell printed fits Jupyter; between pages these become links to pages.
    (re.compile(r'(<a class="reference external" href="[\w-]+)\.ipynb(?=[#"])'), r"\1.html"),
    # A list may hold items of a list alone, and this role has been given up besides.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
)

# Excerpts of what was found are fetched, which no browser does from a disk: an error for each line.
SEARCH_FROM_DISK = (
    'if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;'
)


def _dedupe_scripts(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Drop scripts that a page lists twice (sphinx-thebe adds its inline one twice)."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for script in context.get("script_files", []):
        attributes = sorted(getattr(script, "attributes", {}).items())
        key = (str(getattr(script, "filename", script) or ""), repr(attributes))
        if key not in seen:
            seen.add(key)
            kept.append(script)
    if "script_files" in context:
        context["script_files"][:] = kept


def _keep_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let the words before a colon stand where they are: napoleon takes them for a type."""
    if what in ("attribute", "data", "property") and lines and lines[0]:
        lines.insert(0, "")


def repaired(page: str) -> str:
    """Return a page's HTML without the faults that REPAIRS names."""
    for fault, better in REPAIRS:
        page = fault.sub(better, page)
    return page


def _repair(app: Any, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after = repaired(before)
        if after != before:
            path.write_text(after, encoding="utf-8")


def _search_from_disk(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    if pagename == "search":
        app.add_js_file(None, body=SEARCH_FROM_DISK)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("html-page-context", _dedupe_scripts, priority=900)
    app.add_js_file("scrollers.js", loading_method="defer")
    app.connect("html-page-context", _search_from_disk)
    app.connect("build-finished", _repair)
    app.connect("autodoc-process-docstring", _keep_colons, priority=100)  # before napoleon
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
