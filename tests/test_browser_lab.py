"""The book's widgets in JupyterLab, behind them a kernel, moved by keys. Needs jupyterlab, which
the book does not: pip install jupyterlab
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from browser_page import Visit, launched
from browser_site import ROOT

from reft_lib import widgets

NAMES = [name for name in widgets.__all__ if name not in ("Explorer", "Knob", "explore")]
PATIENCE = 20.0
"""Seconds for a kernel to draw a picture, on a busy machine."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jupyterlab") is None,
        reason="jupyterlab is missing: pip install jupyterlab",
    ),
]

# What the cell of one widget shows. Controls are sliders, lists, and boxes of text.
LOOK = """(number) => {
  const cell = document.querySelectorAll(".jp-CodeCell")[number];
  const figure = cell && cell.querySelector("figure[data-state]");
  const alert = cell && cell.querySelector("[role=alert], .jp-RenderedText[data-mime-type*=error]");
  return {
    state: figure ? figure.dataset.state : "",
    words: figure ? figure.textContent + [...figure.querySelectorAll("img")].map((i) => i.alt) : "",
    alert: alert ? alert.textContent : "",
    controls: cell
      ? [...cell.querySelectorAll(".noUi-handle, select, textarea, input[type=text]")]
        .filter((c) => c.closest(".widget-vbox")).map((c) => c.tagName)
      : [],
  };
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """A running JupyterLab with a notebook of one cell for each widget; gives its address."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [
        nbformat.v4.new_code_cell(f"from reft_lib import widgets\n\nwidgets.{name}()")
        for name in NAMES
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, folder / "widgets.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    call = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
            "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
            "jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    environment = os.environ | own | {"PYTHONPATH": paths}
    environment.pop("REFT_STATIC_WIDGETS", None)
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(call, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        address = f"http://127.0.0.1:{port}/"
        for _ in range(240):
            try:
                urlopen(f"{address}api", timeout=5)
                break
            except (URLError, OSError):
                assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
                time.sleep(0.5)
        yield f"{address}lab/tree/widgets.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


@pytest.fixture(scope="module")
def notebook(lab) -> Iterator[Visit]:
    """The notebook in a tab, all its cells run."""
    with launched() as context:
        tab = context.new_page()
        visit = Visit(tab, lab.split("lab/")[0])
        tab.goto(lab, timeout=120_000)
        tab.locator(".jp-CodeCell").first.wait_for(timeout=120_000)
        # Before it has a kernel, the notebook would ask for one.
        tab.get_by_text(re.compile(r"\| Idle$")).first.wait_for(timeout=120_000)
        tab.get_by_role("menuitem", name="Run", exact=True).click()
        tab.get_by_role("menuitem", name=re.compile("^Run All Cells")).first.click()
        yield visit


def values(state: str) -> dict[str, str]:
    """Return the knobs of a state's name."""
    return dict(part.split("=", 1) for part in re.split(r"; (?=\w+=)", state))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_draws_what_the_keys_ask_for(notebook, name):
    number = NAMES.index(name)
    here = f"({LOOK})({number})"
    cell = notebook.page.locator(".jp-CodeCell").nth(number)
    cell.scroll_into_view_if_needed()
    assert notebook.becomes(f"{here}.state || {here}.alert", 300), "no picture"
    first = notebook.page.evaluate(LOOK, number)
    if "not yet run" in first["alert"]:
        pytest.xfail(first["alert"])
    assert not first["alert"]
    knobs = list(values(first["state"]))
    handles = cell.locator(".widget-vbox").first.locator(
        ".noUi-handle, select, textarea, input[type=text]"
    )
    assert handles.count() == len(knobs) == len(first["controls"])
    pictures = {first["words"]}
    for i, (knob, kind) in enumerate(zip(knobs, first["controls"], strict=True)):
        before = notebook.page.evaluate(LOOK, number)
        handles.nth(i).focus()
        keys = {"DIV": "ArrowRight ArrowLeft", "SELECT": "ArrowDown ArrowUp"}.get(kind, "")
        for key in keys.split():
            if kind == "SELECT":  # JupyterLab takes the arrows for itself: they change the cell
                handles.nth(i).select_option(index=1 if key == "ArrowDown" else 0)
            else:
                notebook.page.keyboard.press(key)
            moved = f"{here}.state !== {before['state']!r}"
            if not notebook.becomes(moved, PATIENCE):
                continue  # it stood at its end already
            after = notebook.page.evaluate(LOOK, number)
            changed = [
                k for k, v in values(after["state"]).items() if v != values(before["state"])[k]
            ]
            assert changed == [knob], f"{key}: {before['state']} became {after['state']}"
            pictures.add(after["words"])  # some knobs do not matter in some states
            if kind == "DIV":
                readout = handles.nth(i).locator(
                    "xpath=ancestor::*[contains(@class,'widget-slider')]"
                )
                shown = readout.locator(".widget-readout").inner_text()
                said = values(after["state"])[knob]
                assert float(shown.split()[0]) == pytest.approx(float(said)) or said in shown
            break
        else:
            assert not keys, f"{knob} cannot be moved"
    assert len(pictures) > 1
