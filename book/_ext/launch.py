"""Buttons that open a chapter in Colab, on Binder and in JupyterLab, once there is an address.

The address stands in one place, ``repository: url:`` of ``_config.yml``. While it is empty no page
has a button. (``python tools/colab.py`` puts the same address into the chapters' first cells.)
"""

from __future__ import annotations

from typing import Any

LABEL = "launch-buttons"


def _drop_without_address(app: Any, config: Any) -> None:
    """Take the services out if there is no repository that they could open."""
    options = config.html_theme_options
    if not str(options.get("repository_url") or "").strip():
        options.pop("launch_buttons", None)
        options["repository_url"] = ""


def _add_jupyterlab(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put a JupyterLab button beside Binder's, which opens the plain notebook."""
    for group in context.get("header_buttons", []):
        if group.get("label") != LABEL:
            continue
        buttons = group["buttons"]
        for binder in [b for b in buttons if b["text"] == "Binder"]:
            url = binder["url"].replace("?urlpath=tree/", "?urlpath=lab/tree/")
            new = {"text": "JupyterLab", "tooltip": "Open in JupyterLab, on Binder", "url": url}
            buttons.insert(buttons.index(binder) + 1, {**binder, **new})


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("config-inited", _drop_without_address, priority=100)  # before the theme looks
    app.connect("html-page-context", _add_jupyterlab, priority=600)  # after the theme has built
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
