"""Opening a chapter elsewhere: launch buttons, Colab's first cell, Binder's environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml
from test_quiz import extension

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
SETTINGS = (ROOT / "_config.yml").read_text(encoding="utf-8")
ADDRESS = "https://github.com/someone/a-book"

sys.path.insert(0, str(ROOT / "tools"))
import colab  # noqa: E402

sys.path.pop(0)
launch = extension("launch")


# ---------------------------------------------------------------- buttons


def put_notebook(path: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_markdown_cell("# A chapter")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(made, path)


def build(folder: Path, address: str) -> str:
    """Build one chapter with the book's settings and this address; returns the page."""
    book = folder / "book"
    book.mkdir(parents=True)
    shutil.copytree(BOOK / "_ext", book / "_ext")
    (book / "_assets").mkdir()
    for path in (BOOK / "_assets").glob("*.*"):
        shutil.copy(path, book / "_assets")
    (book / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (book / "references.bib").write_text("")
    put_notebook(book / "intro.ipynb", "1 + 1")
    changed, times = re.subn(r'^  url: ""$', f'  url: "{address}"', SETTINGS, flags=re.MULTILINE)
    assert times == 1
    (folder / "_config.yml").write_text(changed)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book"]
    command += ["--config", "_config.yml", "--path-output", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (folder / "_build" / "html" / "intro.html").read_text(encoding="utf-8")


@pytest.mark.skipif(
    not Path(sys.executable).with_name("jupyter-book").exists(), reason="no jupyter-book"
)
def test_buttons_lead_to_the_chapter_where_an_address_is_set(tmp_path: Path) -> None:
    page = build(tmp_path, ADDRESS)
    colabs = "https://colab.research.google.com/github/someone/a-book/blob/main/book/intro.ipynb"
    assert f'href="{colabs}"' in page
    binder = "https://mybinder.org/v2/gh/someone/a-book/main?urlpath="
    assert f'href="{binder}tree/book/intro.ipynb"' in page
    assert f'href="{binder}lab/tree/book/intro.ipynb"' in page
    for label in ("Colab", "Binder", "JupyterLab"):
        assert re.search(rf"btn__text-container\">{label}</span>", page)
    # links to follow, and nothing that the page itself would load
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?:[^\"]+)", page)
    assert not loaded


def test_the_settings_have_no_address_yet_or_a_right_one() -> None:
    address = colab.address()
    assert address == "" or re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address)


@pytest.mark.parametrize("address", ["", "  ", None])
def test_without_an_address_there_is_no_button(address: str | None) -> None:
    options = {"repository_url": address, "launch_buttons": {"colab_url": "x"}}
    launch._drop_without_address(None, SimpleNamespace(html_theme_options=options))
    assert options == {"repository_url": ""}


def test_with_an_address_the_services_stay() -> None:
    options = {"repository_url": ADDRESS, "launch_buttons": {"colab_url": "x"}}
    launch._drop_without_address(None, SimpleNamespace(html_theme_options=options))
    assert options["launch_buttons"] == {"colab_url": "x"}


# ---------------------------------------------------------------- Colab's first cell


def run_cell(folder: Path, on_colab: bool, git: int = 0) -> tuple[list[list[str]], list[str]]:
    """Run the first cell in a Python of its own; returns the commands it gave, and what it did."""
    program = f"""
import json, os, subprocess, sys, types
calls, did = [], []
def run(command, check=False):
    calls.append(command)
    if command[0] == "git" and not {git}:
        os.makedirs("reft/tools")
        text = "import sys\\ndef prepare():\\n    sys.did.append('prepared')"
        open("reft/tools/colab.py", "w").write(text)
    if {git} and check:
        raise subprocess.CalledProcessError({git}, command)
subprocess.run = run
sys.did = did
if {on_colab}:
    sys.modules["google"] = types.ModuleType("google")
    sys.modules["google.colab"] = types.ModuleType("google.colab")
for _ in range(2):
    exec({colab.cell(ADDRESS)!r}, {{}})
print(json.dumps([calls, did]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    calls, did = json.loads(done.stdout)
    return calls, did


def test_the_cell_fetches_the_project_once_and_prepares(tmp_path: Path) -> None:
    calls, did = run_cell(tmp_path, True)
    assert calls == [["git", "clone", "-q", "--depth=1", ADDRESS, "reft"]]
    assert did == ["prepared", "prepared"]  # the cell ran twice, as a reader may


def test_elsewhere_the_cell_does_nothing(tmp_path: Path) -> None:
    assert run_cell(tmp_path, False) == ([], [])
    assert not list(tmp_path.iterdir())


def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"new": "8.10.0", "old": "7.7.1", "local": "2.13.0+cu126", "rc": "5rc1"}

    def version(name: str) -> str:
        if name not in have:
            raise colab.metadata.PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr(colab.metadata, "version", version)
    wanted = ["new>=8.9", "old>=8.1", "local>=2.11", "rc>=5", "absent>=1"]
    assert colab.missing(wanted) == ["old>=8.1", "absent>=1"]
    with pytest.raises(ValueError, match="name>=version"):
        colab.missing(["torch==2"])


def test_prepare_installs_what_is_missing_and_turns_widgets_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands: list[list[str]] = []
    turned_on: list[bool] = []
    output: Any = ModuleType("google.colab.output")
    output.enable_custom_widget_manager = lambda: turned_on.append(True)
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    monkeypatch.setattr(sys, "path", ["x"])
    monkeypatch.setattr(
        colab, "missing", lambda wanted: [w for w in wanted if w.startswith("ipywidgets")]
    )

    def pip(command: list[str], check: bool) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(colab.subprocess, "run", pip)
    kept = {name: m for name, m in sys.modules.items() if name.split(".")[0] == "ipywidgets"}
    try:
        colab.prepare()
    finally:
        sys.modules.update(kept)
    assert commands[0][1:5] == ["-m", "pip", "install", "-q"]
    assert [re.sub(r"\..*", "", one) for one in commands[0][5:]] == ["ipywidgets>=8"]
    assert sys.path[0] == str(ROOT) and turned_on == [True]


def test_everything_the_library_needs_has_a_form_that_is_understood() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert colab.missing(project["dependencies"]) == []  # this environment has all of it


def stored(tmp_path: Path) -> dict[str, Any]:
    put_notebook(tmp_path / "x.ipynb", "a = 1", "a")
    made = json.loads((tmp_path / "x.ipynb").read_text())
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    for number, one in enumerate(code, start=1):
        one["execution_count"] = number
    code[1]["outputs"] = [{"output_type": "execute_result", "execution_count": 2, "data": {}}]
    made["metadata"]["reft"] = {"source_sha256": colab.sources_sha256(code)}
    return made


def test_a_cell_that_is_put_in_keeps_stored_outputs_valid(tmp_path: Path) -> None:
    made = colab.with_cell(stored(tmp_path), colab.cell(ADDRESS))
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert "".join(code[0]["source"]) == colab.cell(ADDRESS)
    assert code[0]["metadata"]["tags"] == [colab.TAG]
    assert [one["execution_count"] for one in code] == [1, 2, 3]
    assert code[2]["outputs"][0]["execution_count"] == 3
    assert made["metadata"]["reft"]["source_sha256"] == colab.sources_sha256(code)
    made["nbformat"], made["nbformat_minor"] = 4, 5
    again = json.dumps(made)
    assert json.dumps(colab.with_cell(json.loads(again), colab.cell(ADDRESS))) == again
    moved = colab.with_cell(json.loads(again), colab.cell("https://github.com/b/c"))
    code = [cell for cell in moved["cells"] if cell["cell_type"] == "code"]
    assert len(code) == 3 and "github.com/b/c" in "".join(code[0]["source"])
    assert moved["metadata"]["reft"]["source_sha256"] == colab.sources_sha256(code)


def test_outputs_of_other_sources_are_not_made_valid(tmp_path: Path) -> None:
    made = stored(tmp_path)
    made["metadata"]["reft"]["source_sha256"] = "old"
    made = colab.with_cell(made, colab.cell(ADDRESS))
    assert made["metadata"]["reft"]["source_sha256"] == "old"


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_chapter_begins_with_the_cell(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert "".join(first["source"]) == colab.cell(colab.address()), "run python tools/colab.py"
    assert first["metadata"]["tags"] == [colab.TAG] and first["outputs"] == []


# ---------------------------------------------------------------- Binder


def test_binder_installs_the_pinned_requirements() -> None:
    folder = ROOT / ".binder"
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    files = [line.split()[1] for line in lines if line.startswith(("-r ", "-c "))]
    assert {(folder / file).resolve() for file in files} == {
        ROOT / "requirements.txt",
        ROOT / "constraints.txt",
    }
    assert all((folder / file).exists() for file in files)
    script = folder / "postBuild"
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!/bin/sh")


def test_binders_python_is_one_that_the_project_takes() -> None:
    said = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least = project["requires-python"].removeprefix(">=")
    assert colab.numbers(said.removeprefix("python-")) >= colab.numbers(least)


def test_the_address_stands_in_the_settings_alone() -> None:
    settings = yaml.safe_load(SETTINGS)["repository"]
    assert set(settings) == {"url", "path_to_book", "branch"}
    assert settings["path_to_book"] == BOOK.name
