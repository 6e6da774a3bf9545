"""The chapters' first cell, which makes a notebook run on Colab, and what it does there.

    python tools/colab.py    put the cell, with the address from _config.yml, into every chapter

Colab opens a notebook by itself, without the project around it. The cell fetches the project and
calls `prepare`, below, which installs what Colab lacks. Anywhere else the cell does nothing. The
project's address stands in one place, `repository: url:` of _config.yml; this command carries it
from there into the chapters.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TAG = "remove-cell"  # pages have no use for the cell
CELL = """\
# Colab opens a notebook without its project: fetch it, install what is missing. Elsewhere, nothing.
import sys

if "google.colab" in sys.modules:
    import os
    from subprocess import run

    if not os.path.isdir("reft"):
        run(["git", "clone", "-q", "--depth=1", "{address}", "reft"], check=True)
    sys.path.append("reft/tools")
    __import__("colab").prepare()"""
# Loosely, as in pyproject.toml: Colab brings its own torch, which is to stay.
NEEDED = re.compile(r"^([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)")


def cell(address: str) -> str:
    """Return the first cell's text for a project at `address`."""
    return CELL.format(address=address)


def missing(requirements: list[str]) -> list[str]:
    """Return those of the requirements, `name>=version`, that are not installed or too old."""
    found = []
    for requirement in requirements:
        match = NEEDED.match(requirement)
        if match is None:
            raise ValueError(f"wanted name>=version, got {requirement!r}")
        try:
            have = numbers(metadata.version(match[1]))
        except metadata.PackageNotFoundError:
            have = ()
        if have < numbers(match[2]):
            found.append(requirement)
    return found


def numbers(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers: 2.13.0+cu126 is (2, 13, 0)."""
    digits = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, digits[0].split("."))) if digits else ()


def prepare() -> None:
    """Make this Colab session ready: packages, the library, and widgets of ipywidgets 8.

    Raises
    ------
    RuntimeError
        If pip fails; its own lines stand above the message.
    """
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if wanted := missing(project["dependencies"]):
        print("installing", ", ".join(wanted))
        command = [sys.executable, "-m", "pip", "install", "-q", *wanted]
        if subprocess.run(command, check=False).returncode:
            raise RuntimeError("pip could not install what is missing; see the lines above")
        for name in [n for n in sys.modules if n.split(".")[0] == "ipywidgets"]:
            del sys.modules[name]  # Colab may have loaded its own, older one
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    output = importlib.import_module("google.colab.output")
    output.enable_custom_widget_manager()  # without it Colab shows widgets of version 7 alone


def address() -> str:
    """Return the project's address, as it stands in _config.yml; empty if it has none."""
    import yaml

    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return str((settings.get("repository") or {}).get("url") or "").strip().rstrip("/")


def with_cell(notebook: dict[str, Any], text: str) -> dict[str, Any]:
    """Return the notebook with `text` as its first code cell, in the place of an older one.

    The cell has no output, so the stored outputs of the others stay valid: the hash that says which
    sources they belong to is made anew, and cells are counted anew. An outdated notebook stays so.
    """
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    stored = notebook["metadata"].get("reft", {}).get("source_sha256")
    fresh = stored == sources_sha256(code)
    if code and "google.colab" in "".join(code[0]["source"]):
        code[0]["source"] = text.splitlines(keepends=True)
        code[0]["metadata"]["tags"] = [TAG]
    else:
        new = {"cell_type": "code", "execution_count": 1, "id": "colab", "outputs": []}
        new |= {"metadata": {"tags": [TAG]}, "source": text.splitlines(keepends=True)}
        first = notebook["cells"].index(code[0]) if code else len(notebook["cells"])
        notebook["cells"].insert(first, new)
        for number, one in enumerate(code, start=2):
            one["execution_count"] = number
            for output in one["outputs"]:
                if output["output_type"] == "execute_result":
                    output["execution_count"] = number
    if fresh:
        code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        notebook["metadata"]["reft"]["source_sha256"] = sources_sha256(code)
    return notebook


def sources_sha256(code: list[dict[str, Any]]) -> str:
    """Return the hash that tools/notebooks.py stores with a notebook's outputs."""
    sources = ["".join(one["source"]) for one in code]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def main() -> int:
    """Put the cell into the chapters; returns the exit status."""
    text = cell(address())
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = with_cell(json.loads(before), text)
        after = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"changed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
