"""axe-core, fetched once from npm: what keeps a reader with other senses or tools from a page."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from browser_site import ROOT

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
FOLDER = ROOT / "_build" / "axe"
SERIOUS = ("serious", "critical")
# Rules that are not kept: the rule, a part of the element's HTML, and why. There are none; what
# the theme does wrong is mended in book/_ext/local_fixes.py, setup.js and book.css.
LET_PASS: tuple[tuple[str, str, str], ...] = ()
DARK = ("color-contrast", "link-in-text-block")
"""What dark colours can change; the other rules read the same page as in light ones."""
NARROW = ("scrollable-region-focusable",)
"""What a phone's width can change."""

RUN = """async ([scope, only]) => {
  const options = { resultTypes: ["violations"], preload: false };
  if (only.length) options.runOnly = { type: "rule", values: only };
  const found = await axe.run(scope ? document.querySelector(scope) : document, options);
  return found.violations.map((v) => [v.id, v.impact, v.help, v.nodes.map(
    (n) => [n.target.join(" "), n.html, n.failureSummary.split("\\n").slice(1).join("; ")])]);
}"""


@cache
def source(folder: Path = FOLDER) -> str:
    """Return axe's script, fetched on first use; skip where npm or its registry is missing."""
    script = folder / "axe.min.js"
    if not script.exists():
        npm = shutil.which("npm")
        if not npm:
            pytest.skip("npm is missing, and so axe-core: apt-get install npm")
        folder.mkdir(parents=True, exist_ok=True)
        call = [npm, "pack", "--silent", f"axe-core@{VERSION}"]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=120)
        packed = folder / f"axe-core-{VERSION}.tgz"
        if done.returncode or not packed.exists():
            pytest.skip(f"axe-core cannot be fetched from npm's registry: {done.stderr[-200:]}")
        with tarfile.open(packed) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            script.write_bytes(member.read())
        packed.unlink()
    content = script.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        pytest.fail(f"{script} is not axe-core {VERSION}; delete it")
    return content.decode()


def violations(page: Any, only: tuple[str, ...] = (), scope: str = "") -> list[str]:
    """Return the serious and critical ones, each with its element.

    Parameters
    ----------
    page : playwright.sync_api.Page
    only : tuple of str
        Rules; by default all.
    scope : str
        A selector; by default the whole page.
    """
    if not page.evaluate("!!window.axe"):
        page.evaluate(source())
    found = []
    for rule, impact, told, nodes in page.evaluate(RUN, [scope, list(only)]):
        for target, element, why in nodes if impact in SERIOUS else ():
            if not any(rule == r and part in element for r, part, _ in LET_PASS):
                found.append(f"{rule} ({impact}): {told}: {target}: {element[:200]}: {why[:300]}")
    return found
