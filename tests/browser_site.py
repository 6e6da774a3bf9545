"""A built site without a browser: its pages, links, sizes, and the widgets inside its pages."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(os.environ.get("REFT_SITE", ROOT / "_build" / "html")).resolve()
MOST_BYTES, MOST_PACKED = 3_000_000, 500_000
"""Of a page's HTML, as it is and gzipped."""
STATE, VIEW = (f"application/vnd.jupyter.widget-{kind}+json" for kind in ("state", "view"))
# Addresses that a browser loads by itself, by tag; an `a` is followed by the reader alone.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src",
          "audio": "src", "embed": "src", "object": "data", "link": "href"}  # fmt: skip
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect"}
FOREIGN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?\s*((?:https?:)?//[^"')\s]+)""")


@dataclass
class Page(HTMLParser):
    """What one file holds that others point to, what it points to, and its widgets."""

    anchors: set[str] = field(default_factory=set)
    links: list[tuple[int, str]] = field(default_factory=list)
    """Line and address."""
    loads: list[tuple[int, str]] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    """Of a glossary."""
    state: dict[str, Any] = field(default_factory=dict)
    views: list[str] = field(default_factory=list)
    """Model of each widget, in the order of the page."""

    def __post_init__(self) -> None:
        super().__init__()
        self.inside = ""
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append((self.getpos()[0], given["href"]))
        if address := given.get(LOADED.get(tag, "")):
            if tag != "link" or LOADED_LINKS & set(given.get("rel", "").split()):
                self.loads.append((self.getpos()[0], address))
        if tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            self.links.append((self.getpos()[0], given["content"].partition("url=")[2]))
        if tag == "script" and given.get("type") in (STATE, VIEW):
            self.inside, self.text = given["type"], []
        if tag == "dt" and given.get("id", "").startswith("term-"):
            self.inside, self.text = "term", []

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self.inside == "term":
            self.inside = ""
        if tag not in ("script", "dt") or not self.text:
            return
        found = "".join(self.text)
        if self.inside == STATE:
            self.state |= json.loads(found)["state"]
        elif self.inside == VIEW:
            self.views.append(json.loads(found)["model_id"])
        elif tag == "dt":
            self.terms.append(found.strip().rstrip("#¶").strip())
        self.inside, self.text = "", []


@cache
def read(path: Path) -> Page:
    """Read one page."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def pages(site: Path = SITE) -> list[str]:
    """Name the pages that a reader can open; one that leads on to another is left out."""
    return [
        str(path.relative_to(site))
        for path in _files(site)
        if b'http-equiv="refresh"' not in path.read_bytes()[:2000].lower()
    ]


def with_widgets(site: Path = SITE) -> list[str]:
    """Name the pages that hold widgets."""
    return [name for name in pages(site) if VIEW.encode() in (site / name).read_bytes()]


def _files(site: Path) -> list[Path]:
    return [p for p in sorted(site.rglob("*.html")) if "_static" not in p.relative_to(site).parts]


def broken_links(site: Path = SITE) -> list[str]:
    """Find addresses inside the site that lead nowhere, and loads from another host."""
    found = []
    for path in _files(site):
        page = read(path)
        for line, address in page.links + page.loads:
            if fault := _fault(site, path, address, loaded=(line, address) in page.loads):
                found.append(f"{path.relative_to(site)}:{line}: {address}: {fault}")
    for path in sorted(site.rglob("*.css")):
        for match in FOREIGN_STYLE.finditer(path.read_text(encoding="utf-8", errors="replace")):
            found.append(f"{path.relative_to(site)}: {match[1]}: loaded from another host")
    return found


def _fault(site: Path, path: Path, address: str, loaded: bool) -> str:
    parts = urlsplit(address)
    if parts.scheme in ("data", "blob", "mailto", "javascript"):
        return ""
    if parts.scheme or parts.netloc:
        return "loaded from another host" if loaded else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_relative_to(site.resolve()):
        return "outside the site"
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == ".html" and anchor not in read(target).anchors:
        return "no such place in that page"
    return ""


def too_large(site: Path = SITE) -> list[str]:
    """Find pages over the limits."""
    found = []
    for name in pages(site):
        text = (site / name).read_bytes()
        packed = len(gzip.compress(text, 6))
        if len(text) > MOST_BYTES or packed > MOST_PACKED:
            found.append(f"{name}: {len(text) / 1e6:.2f} MB, {packed / 1e6:.2f} MB gzipped")
    return found


@dataclass(frozen=True)
class Control:
    """One slider or list of a widget."""

    label: str
    kind: str
    """``slider`` or ``list``."""
    options: tuple[str, ...]
    start: int


@dataclass(frozen=True)
class Widget:
    """A widget of a page as its file describes it: what each position of its controls shows."""

    model: str
    controls: tuple[Control, ...]
    pictures: dict[tuple[int, ...], str]
    faults: tuple[str, ...]

    @property
    def waits(self) -> bool:
        """Whether one line says that what it shows has not been recorded yet."""
        return not self.controls and "not yet run" in spoken(self.pictures.get((), ""))

    def state(self, at: tuple[int, ...]) -> str:
        """Return the name of the picture at these positions."""
        return (names(self.pictures[at]) or ["no picture"])[0]


KINDS = {"SelectionSliderModel": "slider", "DropdownModel": "list"}


def widgets(page: Page) -> list[Widget]:
    """Read a page's widgets from its file, in their order."""
    models = page.state
    links = {
        (m["state"]["target"][0][10:], m["state"]["target"][1]): m["state"]["source"]
        for m in models.values()
        if m["model_name"] == "DirectionalLinkModel"
    }

    def child(reference: str) -> str:
        return reference.removeprefix("IPY_MODEL_")

    def controls(model: str) -> list[str]:
        boxed = models[model]["state"].get("children", [])
        return [child(c) for c in boxed[:-1]]

    def stacked(
        model: str, at: tuple[int, ...], by: list[str], faults: list[str]
    ) -> Iterator[tuple[tuple[int, ...], str]]:
        if models[model]["model_name"] == "HTMLModel":
            yield at, models[model]["state"]["value"]
            return
        source = links.get((model, "selected_index"))
        if len(at) >= len(by) or source != [f"IPY_MODEL_{by[len(at)]}", "index"]:
            faults.append(f"the pictures at {at} do not follow control {len(at)}")
        for i, inner in enumerate(models[model]["state"]["children"]):
            yield from stacked(child(inner), (*at, i), by, faults)

    found = []
    for view in page.views:
        by, faults = controls(view), []  # type: list[str], list[str]
        described = []
        for name in by:
            state, kind = models[name]["state"], models[name]["model_name"]
            if kind not in KINDS:
                faults.append(f"{kind}: a control that nobody moves here")
            options = tuple(state.get("_options_labels", ()))
            described.append(
                Control(state["description"], KINDS.get(kind, ""), options, state.get("index", 0))
            )
        last = models[view]["state"].get("children", [f"IPY_MODEL_{view}"])[-1]
        pictures = dict(stacked(child(last), (), by, faults))
        widget = Widget(view, tuple(described), pictures, ())
        faults += [] if widget.waits else state_faults(widget)
        found.append(replace(widget, faults=tuple(faults)))
    return found


def names(picture: str) -> list[str]:
    """Return the states that a picture's HTML says it shows."""
    reader = _Words()
    reader.feed(picture)
    return reader.states


def spoken(picture: str) -> str:
    """Return what a screen reader has of a picture: its text and the names of images."""
    reader = _Words()
    reader.feed(picture)
    return " ".join(" ".join(reader.words).split())


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.states: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.words += [given[name] or "" for name in ("alt", "aria-label") if name in given]
        if tag == "figure" and "data-state" in given:
            self.states.append(given["data-state"] or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def state_faults(widget: Widget) -> list[str]:
    """Find states that are missing, named wrongly, or not told apart by words."""
    found = []
    sizes = [len(control.options) for control in widget.controls]
    for at in itertools.product(*map(range, sizes)):
        if at not in widget.pictures:
            found.append(f"{at}: no picture")
    values: list[dict[int, str]] = [{} for _ in sizes]
    said: dict[str, tuple[tuple[int, ...], str]] = {}
    for at, picture in widget.pictures.items():
        state, words = names(picture), spoken(picture)
        if len(state) != 1:
            found.append(f"{at}: no picture, but: {words[:200]}")
            continue
        if not words:
            found.append(f"{at}: nothing describes the picture")
        bare = picture.replace(f'data-state="{_escaped(picture)}"', "")
        first, seen = said.setdefault(words, (at, bare))
        if seen != bare:
            found.append(f"{at}: described in the same words as {first}: {words[:200]}")
        parts = re.split(r"; (?=\w+=)", state[0])
        if len(parts) != len(sizes):
            found.append(f"{at}: {state[0]!r} does not name {len(sizes)} values")
            continue
        for i, known, part in zip(at, values, parts, strict=True):
            if known.setdefault(i, part) != part:
                found.append(f"{at}: shows {part!r}, where {known[i]!r} is expected")
    for control, known in zip(widget.controls, values, strict=True):
        if len(set(known.values())) != len(known):
            found.append(f"{control.label}: two positions show the same value: {known}")
    return found


def _escaped(picture: str) -> str:
    match = re.search(r'data-state="([^"]*)"', picture)
    return match[1] if match else ""
