"""Execute the book's chapters, each from top to bottom in a fresh kernel, several side by side.

    python tools/notebooks.py run              what `make book` needs: chapters that changed
    python tools/notebooks.py run --in-place   what `make notebooks` does: all, outputs into book/
    python tools/notebooks.py stage            book/ with the executed chapters, in _build/book
    python tools/notebooks.py first-page       the path of the built book's first page

An executed chapter is kept in _build/executed under a key made of everything its outputs depend
on: its code, the library, data/ and the pinned requirements. A chapter whose key is unchanged is
not executed again by `run`; `run --fresh` executes it all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
EXECUTED = ROOT / "_build" / "executed"
STAGE = ROOT / "_build" / "book"
HTML = ROOT / "_build" / "html"

# The chapters execute on the CPU, without a network, with the same threads and the same hashes
# everywhere, and without progress bars: what they store is then a function of their source.
KERNEL_ENV = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
    "REFT_STATIC_WIDGETS": "1",  # the pages have no kernel: every state is drawn beforehand
    "SOURCE_DATE_EPOCH": "315532800",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
# Metadata that tells about one execution or one editor and not about the chapter.
NOTEBOOK_NOISE = ("widgets", "papermill", "vscode", "colab", "toc", "varInspector", "signature")
CELL_NOISE = ("execution", "ExecuteTime", "papermill", "trusted", "scrolled", "collapsed", "vscode")
LONG_MINUTES = 2.0  # what the book promises for one chapter on two cores


class Stop(Exception):
    """The work cannot go on; the message is the one line that the user reads."""


def toc_entries(toc: Any) -> Iterator[str]:
    """Yield the pages of a parsed _toc.yml in reading order, the root first."""
    if isinstance(toc, dict):
        for key in ("root", "file"):
            if key in toc:
                yield str(toc[key])
        for key in ("parts", "chapters", "sections", "subtrees", "entries"):
            yield from toc_entries(toc.get(key, []))
    elif isinstance(toc, list):
        for item in toc:
            yield from toc_entries(item)


def pages() -> list[Path]:
    """Return the source file of every page named in the table of contents."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    found = []
    for entry in toc_entries(toc):
        stem = BOOK / entry
        files = [stem.with_name(stem.name + end) for end in (".ipynb", ".md")]
        present = [file for file in files if file.exists()]
        if not present:
            raise Stop(f"book/_toc.yml names '{entry}', but there is no book/{entry}.ipynb or .md")
        found.append(present[0])
    return found


def chapters(only: str | None = None) -> list[Path]:
    """Return the notebooks among the pages, or the one whose name is `only`."""
    found = [page for page in pages() if page.suffix == ".ipynb"]
    if only is None:
        return found
    chosen = [page for page in found if page.stem == Path(only).stem]
    if not chosen:
        names = ", ".join(page.stem for page in found)
        raise Stop(f"no chapter is named '{only}'; there are: {names}")
    return chosen


def read(path: Path) -> Any:
    """Read a notebook in the format's present version."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise Stop(f"{shown(path)} is not a readable notebook: {error}") from None


def write(path: Path, notebook: Any) -> None:
    """Write a notebook at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    nbformat.write(notebook, scratch)
    os.replace(scratch, path)


def shown(path: Path) -> str:
    """Return a path as a message shows it: from the project's folder where it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def code_cells(notebook: Any) -> list[Any]:
    """Return the code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def source_sha256(notebook: Any) -> str:
    """Return the hash of the code cells' sources: what stored outputs must belong to."""
    sources = [cell.source for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def surroundings_sha256() -> str:
    """Return the hash of everything beside its own code that a chapter's outputs depend on."""
    files = [ROOT / "requirements.txt", ROOT / "constraints.txt", Path(__file__)]
    files += [*(ROOT / "reft_lib").rglob("*.py"), *BOOK.glob("*.py")]
    files += [path for path in (ROOT / "data").rglob("*") if path.is_file()]
    total = hashlib.sha256(sys.version.encode())
    for path in sorted(files):
        if path.exists():
            total.update(shown(path).encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def first_line(text: str) -> str:
    """Return the first line of a text, without terminal colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
    return plain.splitlines()[0] if plain else ""


async def execute(path: Path, timeout: int) -> Any:
    """Execute one chapter in a fresh kernel of this very Python and return it with its outputs."""
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    # No kernel folders: what answers to "python3" is then always the Python that runs this file.
    manager = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )
    at = {"cell": 0}
    total = len(code_cells(notebook))
    with (
        tempfile.TemporaryDirectory() as scratch,
        # disable=None: a moving bar on a terminal, none in a log
        tqdm(total=total, desc=path.stem, unit="cell", leave=False, disable=None) as bar,
    ):
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=timeout,
            startup_timeout=300,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            skip_cells_with_tag="",
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_execute=lambda cell, cell_index: at.update(cell=cell_index),
            on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
        )
        environment = {**os.environ, **KERNEL_ENV, "IPYTHONDIR": scratch}
        environment.setdefault("OMP_NUM_THREADS", "1")  # small matrices gain nothing from more
        environment.pop("REFT_DATA_DIR", None)  # a chapter needs nothing that is not in the project
        try:
            # the manager is ours, so nbclient would leave the kernel, and its memory, to the end
            await client.async_execute(env=environment, cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise Stop(failure(path, notebook, at["cell"], error, timeout)) from None
        except RuntimeError as error:  # nbclient's word for a kernel that does not answer
            raise Stop(
                f"{shown(path)}: the kernel did not start: {first_line(str(error))}"
            ) from None
    return notebook


def failure(path: Path, notebook: Any, cell: int, error: Exception, timeout: int) -> str:
    """Keep what is known about a failed execution and return one line about it."""
    write(EXECUTED / f"{path.stem}.failed.ipynb", notebook)
    report = EXECUTED / f"{path.stem}.error.txt"
    report.write_text(re.sub(r"\x1b\[[0-9;]*m", "", str(error)), encoding="utf-8")
    if isinstance(error, CellExecutionError):
        what = f"{error.ename}: {first_line(error.evalue)}"
    elif isinstance(error, CellTimeoutError):
        what = f"it ran longer than {timeout} s"
    else:
        what = "the kernel died (was there enough memory?)"
    code = first_line(notebook.cells[cell].source)
    where = f"{shown(path)}, cell {cell + 1} of {len(notebook.cells)} ({code!r})"
    return f"{where}: {what}. The traceback is in {shown(report)}"


def stripped(notebook: Any) -> Any:
    """Return a copy for git: outputs in order, and nothing that differs from run to run."""
    copy = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for key in NOTEBOOK_NOISE:
        copy.metadata.pop(key, None)
    copy.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    copy.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    copy.metadata["reft"] = {"source_sha256": source_sha256(copy)}
    copy.nbformat_minor = max(copy.nbformat_minor, 5)
    for number, cell in enumerate(copy.cells, start=1):
        cell.setdefault("id", f"cell-{number:02d}")
        for key in CELL_NOISE:
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_MIME, None)  # its state is not stored in git
    return copy


def run(in_place: bool, fresh: bool, only: str | None, timeout: int, jobs: int) -> None:
    """Execute the chapters; `in_place` also stores their outputs in book/."""
    surroundings = surroundings_sha256()
    pages = chapters(only)
    began = time.monotonic()
    # On a new machine matplotlib reports that it looks for fonts: here, and not in a chapter.
    importlib.import_module("matplotlib.font_manager")
    print(f"== executing {len(pages)} chapter{'s' if len(pages) != 1 else ''}", flush=True)
    todo = {}
    for path in pages:
        key = hashlib.sha256(f"{source_sha256(read(path))} {surroundings}".encode()).hexdigest()
        kept = EXECUTED / path.name
        if not (in_place or fresh) and kept.exists() and read(kept).metadata.get("key") == key:
            print(f"   {path.stem:<26} unchanged since it was executed", flush=True)
        else:
            todo[path] = key
    asyncio.run(run_side_by_side(todo, in_place, timeout, jobs or min(4, os.cpu_count() or 1)))
    print(f"   {'all chapters':<26} {(time.monotonic() - began) / 60:5.2f} min", flush=True)


async def run_side_by_side(todo: dict[Path, str], in_place: bool, timeout: int, jobs: int) -> None:
    """Execute chapters, `jobs` at a time; the first that fails ends the others.

    A chapter computes on one thread, so as many as there are cores do not disturb each other.
    """
    gate = asyncio.Semaphore(jobs)

    async def one(path: Path, key: str) -> None:
        async with gate:
            start = time.monotonic()
            notebook = await execute(path, timeout)
            notebook.metadata["key"] = key
            write(EXECUTED / path.name, notebook)
            if in_place:
                del notebook.metadata["key"]
                store(path, notebook)
            minutes = (time.monotonic() - start) / 60
            note = f"   (over {LONG_MINUTES:g} minutes)" if minutes > LONG_MINUTES else ""
            tqdm.write(f"   {path.stem:<26} {minutes:5.2f} min{note}")

    tasks = [asyncio.create_task(one(path, key)) for path, key in todo.items()]
    try:
        for task in asyncio.as_completed(tasks):
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def merge(page: Any, executed: Any) -> Any:
    """Return `page` with the outputs of `executed`, whose code is the same."""
    for target, origin in zip(code_cells(page), code_cells(executed), strict=True):
        target.outputs = origin.outputs
        target.execution_count = origin.execution_count
    if "widgets" in executed.metadata:
        page.metadata["widgets"] = executed.metadata["widgets"]
    return page


def store(path: Path, executed: Any) -> None:
    """Put the outputs into the chapter in book/, whose text may have been edited meanwhile."""
    present = read(path)
    if source_sha256(present) != source_sha256(executed):
        raise Stop(f"the code of {shown(path)} was changed while it was executed; run it again")
    write(path, stripped(merge(present, executed)))


def stage() -> None:
    """Make _build/book: the pages as they are now, with the outputs of the latest execution."""
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.copytree(BOOK, STAGE, ignore=shutil.ignore_patterns("_build", ".*", "__pycache__"))
    for path in chapters():
        page, kept = read(path), EXECUTED / path.name
        if not kept.exists() or source_sha256(read(kept)) != source_sha256(page):
            raise Stop(f"{shown(path)} has not been executed as it is now; run `make book` again")
        write(STAGE / path.relative_to(BOOK), merge(page, read(kept)))


def first_page() -> None:
    """Print the path of the book's first page."""
    page = (HTML / pages()[0].relative_to(BOOK)).with_suffix(".html")
    if not page.exists():
        raise Stop(f"{shown(page)} was not built")
    print(f"The book is ready. Its first page:\n{page}")


def main() -> int:
    """Read the command line, do the work, and turn what stops it into one line."""
    parser = argparse.ArgumentParser(description="Execute the book's chapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="execute the chapters")
    runner.add_argument("--in-place", action="store_true", help="store the outputs in book/, too")
    runner.add_argument("--fresh", action="store_true", help="execute unchanged chapters, too")
    runner.add_argument("--only", help="the name of one chapter, for example 03_sft")
    runner.add_argument("--jobs", type=int, default=0, help="chapters side by side; 0: one a core")
    runner.add_argument("--timeout", type=int, default=600, help="seconds that one cell may take")
    commands.add_parser("stage", help="make the folder that the pages are built from")
    commands.add_parser("first-page", help="print the path of the first page")
    args = parser.parse_args()
    try:
        if args.command == "run":
            run(args.in_place, args.fresh, args.only, args.timeout, args.jobs)
        elif args.command == "stage":
            stage()
        else:
            first_page()
    except Stop as stop:
        print(f"stop: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stop: interrupted; the chapters that were finished are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
