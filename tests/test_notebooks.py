"""The chapters in git, and the tool that executes them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))


def named_pages(toc: dict[str, Any]) -> list[str]:
    """List the pages of the table of contents: everything called root or file, at any depth."""
    found: list[str] = []
    pending: list[Any] = [toc]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            found.extend(str(item[key]) for key in ("root", "file") if key in item)
            pending.extend(value for value in item.values() if isinstance(value, list))
    return sorted(found)


PAGES = named_pages(TOC)
CHAPTERS = sorted(path.stem for path in BOOK.glob("*.ipynb"))


def load(name: str) -> Any:
    return nbformat.read(BOOK / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("page", PAGES)
def test_page_of_the_contents_exists(page: str) -> None:
    present = [end for end in (".ipynb", ".md") if (BOOK / f"{page}{end}").exists()]
    assert len(present) == 1, f"book/_toc.yml names '{page}'; found {present or 'no such file'}"


def test_contents_begin_with_the_introduction_and_hold_every_notebook() -> None:
    assert TOC["root"] == "intro"
    assert {path.relative_to(BOOK).with_suffix("").as_posix() for path in BOOK.rglob("*.ipynb")
            if ".ipynb_checkpoints" not in path.parts} <= set(PAGES)  # fmt: skip


@pytest.mark.parametrize("name", CHAPTERS)
class TestChapter:
    def test_is_a_valid_notebook(self, name: str) -> None:
        notebook = load(name)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
        assert notebook.metadata.kernelspec.name == "python3"

    def test_was_executed_in_order(self, name: str) -> None:
        cells = code(load(name))
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        for cell in cells:
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    assert output.execution_count == cell.execution_count

    def test_ended_without_errors_or_noise(self, name: str) -> None:
        for cell in code(load(name)):
            for output in cell.outputs:
                assert output.output_type != "error", f"{cell.source}\n{output}"
                assert output.get("name") != "stderr", f"{cell.source}\n{output.get('text')}"

    def test_outputs_belong_to_the_present_source(self, name: str) -> None:
        notebook = load(name)
        sources = json.dumps([cell.source for cell in code(notebook)])
        present = hashlib.sha256(sources.encode()).hexdigest()
        stored = notebook.metadata.get("reft", {}).get("source_sha256")
        assert stored == present, f"run `make notebooks ONLY={name}`"

    def test_computed_text_has_no_roles(self, name: str) -> None:
        """Sphinx reads {term} and its like in prose alone; in an output they stay as they are."""
        for cell in load(name).cells:
            for output in cell.get("outputs", []):
                text = output.get("data", {}).get("text/markdown", "")
                found = [] if "```" in text else re.findall(r"\{[\w:]+\}`[^`]+`", text)
                assert not found, f"{name}: {found[0]} in computed text; write it plainly"

    def test_holds_no_widget_state_and_no_times(self, name: str) -> None:
        notebook = load(name)
        assert not {"widgets", "papermill", "key"} & set(notebook.metadata)
        assert set(notebook.metadata.language_info) <= {"name", "pygments_lexer"}
        for cell in notebook.cells:
            assert not {"execution", "ExecuteTime", "papermill"} & set(cell.metadata)
            for output in cell.get("outputs", []):
                assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a small project with the real tool and a one-chapter book."""
    for folder in ("tools", "book", "reft_lib"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tools" / "notebooks.py", tmp_path / "tools")
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (tmp_path / "reft_lib" / "part.py").write_text("ONE = 1\n")
    return tmp_path


def put(project: Path, *sources: str, name: str = "intro") -> Path:
    cells = [nbformat.v4.new_markdown_cell("# A chapter")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["widgets"] = {"state": "old"}
    path = project / "book" / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def tool(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/notebooks.py", *words]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=280)


def test_tool_stores_outputs_in_order_and_without_noise(project: Path) -> None:
    path = put(project, "import sys\nsys.executable", "print('a')\nprint('b')")
    done = tool(project, "run", "--in-place")
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(path, as_version=4)
    first, second = code(notebook)
    assert (first.execution_count, second.execution_count) == (1, 2)
    assert first.outputs[0].data["text/plain"] == repr(sys.executable)
    assert second.outputs[0].text == "a\nb\n"
    assert "widgets" not in notebook.metadata and "execution" not in first.metadata
    before = path.read_bytes()
    assert tool(project, "run", "--in-place").returncode == 0
    assert path.read_bytes() == before


def test_tool_names_notebook_cell_and_error_in_one_line(project: Path) -> None:
    path = put(project, "x = 1", "y = {}\ny['missing']")
    before = path.read_bytes()
    done = tool(project, "run", "--in-place")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "book/intro.ipynb, cell 3 of 3" in line and "KeyError: 'missing'" in line
    assert path.read_bytes() == before


def book_of_two(project: Path, first: str, second: str) -> None:
    toc = "format: jb-book\nroot: intro\nchapters:\n  - file: second\n"
    (project / "book" / "_toc.yml").write_text(toc)
    put(project, first)
    put(project, second, name="second")


def test_tool_executes_chapters_side_by_side(project: Path) -> None:
    """Each waits for what the other writes, so neither could end alone."""
    wait = (
        "import pathlib, time\npathlib.Path('{0}').touch()\n"
        "while not pathlib.Path('{1}').exists(): time.sleep(0.05)"
    )
    book_of_two(project, wait.format("a", "b"), wait.format("b", "a"))
    done = tool(project, "run", "--jobs", "2", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    executed = {path.stem for path in (project / "_build" / "executed").glob("*.ipynb")}
    assert executed == {"intro", "second"}


def test_a_kernel_ends_with_its_chapter(project: Path) -> None:
    """With eighteen chapters, kernels that lived on would fill the memory."""
    book_of_two(
        project,
        "import os, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))",
        "import pathlib\npathlib.Path('/proc', pathlib.Path('pid').read_text()).exists()",
    )
    done = tool(project, "run", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    second = nbformat.read(project / "_build" / "executed" / "second.ipynb", as_version=4)
    assert code(second)[0].outputs[0].data["text/plain"] == "False"


def test_a_chapter_that_fails_ends_the_others(project: Path) -> None:
    book_of_two(project, "import time\ntime.sleep(200)", "1 / 0")
    began = time.monotonic()
    done = tool(project, "run", "--jobs", "2")
    assert done.returncode == 1 and time.monotonic() - began < 150
    assert "book/second.ipynb, cell 2 of 2" in done.stderr and "ZeroDivisionError" in done.stderr


def test_tool_stops_a_cell_that_takes_too_long(project: Path) -> None:
    put(project, "import time\ntime.sleep(60)")
    done = tool(project, "run", "--timeout", "1")
    assert done.returncode == 1
    assert "cell 2 of 2" in done.stderr and "longer than 1 s" in done.stderr


def test_tool_executes_again_only_when_code_or_library_changed(project: Path) -> None:
    path = put(project, "1 + 1")
    assert "unchanged" not in tool(project, "run").stdout
    assert "unchanged" in tool(project, "run").stdout
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# Another title"
    nbformat.write(notebook, path)
    assert "unchanged" in tool(project, "run").stdout
    assert tool(project, "stage").returncode == 0
    staged = nbformat.read(project / "_build" / "book" / "intro.ipynb", as_version=4)
    assert staged.cells[0].source == "# Another title"
    assert code(staged)[0].outputs[0].data["text/plain"] == "2"
    (project / "reft_lib" / "part.py").write_text("ONE = 1.0\n")
    assert "unchanged" not in tool(project, "run").stdout


def test_tool_refuses_outputs_of_another_source(project: Path) -> None:
    put(project, "1 + 1")
    assert tool(project, "run").returncode == 0
    put(project, "1 + 2")
    done = tool(project, "stage")
    assert done.returncode == 1 and "has not been executed as it is now" in done.stderr


def test_tool_says_which_page_is_missing(project: Path) -> None:
    done = tool(project, "run")
    assert done.returncode == 1
    assert "names 'intro'" in done.stderr and len(done.stderr.strip().splitlines()) == 1
