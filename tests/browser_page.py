"""A page in Chromium: what it complains of, how wide it is, and its widgets moved by keys."""

from __future__ import annotations

import functools
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-features=OptimizationHints,MediaRouter",
]  # fmt: skip
DESK, PHONE = {"width": 1250, "height": 900}, {"width": 390, "height": 800}
LONGEST = 30.0
"""Seconds to wait for widgets before they count as missing."""
CALM = 500
"""Milliseconds for scripts that wait until a window has its new size; the theme's wait 300."""
# Warnings that a page may give. An error is never let pass.
WARNINGS = {
    r"^strict mode: use allowUnionTypes": "the widget manager's own schema, read by its validator",
}


def chromium() -> str:
    """Return the browser's path, or skip: the machine has none, or is one for every change."""
    if os.environ.get("CI"):
        pytest.skip("no browser is driven in continuous integration")
    pytest.importorskip("playwright", reason="playwright is missing: requirements-dev.txt")
    found = shutil.which("chromium")
    if not found:
        pytest.skip("chromium is missing: apt-get install chromium")
    return found


@contextmanager
def launched() -> Iterator[Any]:
    """Start a browser; give a context whose pages do without moving colours."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        context = browser.new_context(viewport=DESK, reduced_motion="reduce", color_scheme="light")
        context.add_init_script(NOTE_FIRST_PICTURE)
        yield context
        browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; give its address, which ends in a slash."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


NOTE_FIRST_PICTURE = """(() => {
  const look = () => {
    for (const figure of document.querySelectorAll("figure[data-state]"))
      if (figure.getBoundingClientRect().height > 0) {
        window.firstPicture = performance.now() / 1000;
        return;
      }
    if (performance.now() < 30000) setTimeout(look, 30);
  };
  look();
})()"""

# Formulas, fonts and pictures may come after the page itself.
SETTLED = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  await document.fonts.ready;
  await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
  return [...document.querySelectorAll('mjx-merror, [data-mml-node="merror"]')]
    .map((e) => e.textContent);
}"""


# True as soon as an expression is, false when it is not after so many seconds.
BECOMES = """async ([expression, seconds]) => {
  const holds = new Function("return (" + expression + ")");
  const end = performance.now() + 1000 * seconds;
  while (!holds() && performance.now() < end) await new Promise((go) => setTimeout(go, 15));
  return !!holds();
}"""

# What reaches over the right edge and is in no scroller of its own, widest first.
TOO_WIDE = """() => {
  const edge = window.innerWidth, root = document.documentElement;
  if (root.scrollWidth <= edge) return [];
  const held = (e) => {
    for (let up = e.parentElement; up && up !== document.body; up = up.parentElement)
      if (getComputedStyle(up).overflowX !== "visible") return true;
    return false;
  };
  const found = [...document.body.querySelectorAll("*")]
    .map((e) => [Math.round(e.getBoundingClientRect().right), e])
    .filter(([right, e]) => right > edge + 1 && !held(e))
    .sort((one, other) => other[0] - one[0]);
  return [`${root.scrollWidth} px wide on ${edge} px`].concat(found.slice(0, 4).map(
    ([right, e]) => `up to ${right} px: ${e.outerHTML.slice(0, 160)}`));
}"""


@dataclass
class Visit:
    """One tab, and what the page in it has complained of so far."""

    page: Any
    base: str
    """file: or http:, ends in a slash; a request to anywhere else is a fault."""
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("requestfailed", lambda r: self.faults.append(f"failed: {_short(r.url)}"))
        self.page.on("response", self._answered)
        self.page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(f"console error: {message.text}")
        elif message.type == "warning":
            known = any(re.search(pattern, message.text) for pattern in WARNINGS)
            (self.warnings if known else self.faults).append(f"console warning: {message.text}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status}: {_short(response.url)}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:", "about:")):
            self.faults.append(f"request to elsewhere: {_short(request.url)}")

    def becomes(self, expression: str, seconds: float) -> bool:
        """Wait until a JavaScript expression is true; say whether it came to be."""
        return self.page.evaluate(BECOMES, [expression, seconds])

    def open(self, name: str, pictures: int = 0) -> None:
        """Load a page and wait for its formulas, and for the pictures of so many widgets."""
        self.faults.clear()
        self.page.goto(self.base + name, wait_until="load", timeout=60_000)
        if pictures:
            shown = f"document.querySelectorAll('{SHOWN}').length"
            if not self.becomes(f"{shown} >= {pictures}", LONGEST):
                seen = self.page.evaluate(shown)
                self.faults.append(f"{seen} of {pictures} widgets are there after {LONGEST} s")
        for formula in self.page.evaluate(SETTLED):
            self.faults.append(f"a formula is not understood: {formula}")

    def dress(self, size: dict[str, int] = DESK, scheme: str = "light") -> None:
        """Change the window's size and the colours that the reader prefers."""
        self.page.set_viewport_size(size)
        self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        self.page.evaluate(SETTLED)
        self.page.wait_for_timeout(CALM)

    def overflow(self) -> list[str]:
        """Return what makes the page wider than its window."""
        return self.page.evaluate(TOO_WIDE)

    def shoot(self, path: Path) -> None:
        """Keep a picture of the whole page, or of as much as Chromium draws in one piece."""
        path.parent.mkdir(parents=True, exist_ok=True)
        size = self.page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 12_000)}
        self.page.screenshot(path=path, full_page=True, clip=clip, type="jpeg", quality=80)


SHOWN = ".widget-subarea figure[data-state]"


def _short(address: str) -> str:
    return address if len(address) < 200 else f"{address[:200]}..."
