"""What test_browser.py looks with sees each fault, on pages made up here."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import pytest
from browser_axe import violations
from browser_page import PHONE, Visit, launched, served
from browser_site import STATE, VIEW, broken_links, pages, read, too_large, widgets
from browser_widgets import Drive

needs_browser = pytest.mark.browser


def page(body: str, head: str = "") -> str:
    """Return a page without a fault but what is put into it."""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>made up</title>'
        f'<link rel="icon" href="data:,">{head}</head><body><main><h1>One</h1>{body}</main></body>'
    )


def figure(state: str, words: str) -> str:
    return f'<figure data-state="{state}"><p>{words}</p></figure>'


def models(pictures: list[list[str]], link: bool = True) -> dict:
    """Return the models of a widget of a list and a slider, as ipywidgets would write them."""
    made: dict = {}

    def add(name: str, kind: str, **state) -> str:
        made[name] = {"model_name": kind, "state": state}
        return f"IPY_MODEL_{name}"

    def follow(control: str, stack: str) -> None:
        if link:
            ends = {"source": [control, "index"], "target": [stack, "selected_index"]}
            add(f"link to {stack}", "DirectionalLinkModel", **ends)

    controls = [
        add("list", "DropdownModel", description="sign", index=0, _options_labels=["up", "down"]),
        add(
            "slider",
            "SelectionSliderModel",
            description="size",
            index=1,
            _options_labels="1 2 3".split(),
        ),
    ]
    outer = []
    for i, row in enumerate(pictures):
        inner = [add(f"picture {i}{j}", "HTMLModel", value=p) for j, p in enumerate(row)]
        outer.append(add(f"inner {i}", "StackModel", children=inner))
        follow(controls[1], outer[-1])
    follow(controls[0], add("outer", "StackModel", children=outer))
    add("all", "VBoxModel", children=[*controls, "IPY_MODEL_outer"])
    return made


def right() -> list[list[str]]:
    return [[figure(f"s={s}; n={n}", f"{s} by {n}") for n in (1, 2, 3)] for s in ("up", "down")]


# A stand-in for the widget manager; `late` shows the picture before the right one.
MANAGER = """
const pictures = PICTURES, at = [0, 1], late = LATE;
const area = document.querySelector(".widget-subarea");
const list = area.querySelector("select"), handle = area.querySelector(".noUi-handle");
function show(i, j) { area.querySelector("div.shown").innerHTML = pictures[i][j]; }
function moved() {
  const before = [...at];
  at[0] = list.selectedIndex;
  at[1] = Number(handle.getAttribute("aria-valuenow"));
  show(...(late ? before : at));
}
list.addEventListener("change", moved);
handle.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -9 }[event.key] || 0;
  const now = Math.min(2, Math.max(0, Number(handle.getAttribute("aria-valuenow")) + step));
  handle.setAttribute("aria-valuenow", now);
  handle.setAttribute("aria-valuetext", ["1", "2", "3"][now]);
  moved();
});
show(0, 1);
"""


def widget_page(late: bool = False, label: str = "size") -> str:
    script = MANAGER.replace("PICTURES", json.dumps(right())).replace("LATE", json.dumps(late))
    return page(
        f'<div><div class="widget-subarea"><label for="l">sign</label><select id="l">'
        f"<option>up<option>down</select>"
        f'<div class="noUi-handle" role="slider" tabindex="0" aria-label="{label}" '
        f'aria-valuenow="1" aria-valuetext="2">o</div><div class="shown"></div></div>'
        f'<script type="{VIEW}">{{"model_id": "all"}}</script></div>'
        f"<script>{script}</script>",
        f'<script type="{STATE}">{json.dumps({"state": models(right())})}</script>',
    )


@pytest.fixture
def site(tmp_path):
    """A function that writes pages into a folder, and returns the folder."""

    def write(**texts: str):
        for name, text in texts.items():
            (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture(scope="module")
def context() -> Iterator:
    with launched() as found:
        yield found


def opened(context, folder, name="a.html", source="file", pictures=0) -> Iterator[Visit]:
    """Open a page of a folder in a tab of its own."""
    tab = context.new_page()
    try:
        if source == "file":
            visit = Visit(tab, folder.as_uri() + "/")
            visit.open(name, pictures)
            yield visit
        else:
            with served(folder) as address:
                visit = Visit(tab, address)
                visit.open(name, pictures)
                yield visit
    finally:
        tab.close()


def test_broken_links_are_found_without_a_browser(site):
    folder = site(
        a=page(
            '<a href="b.html">1</a><a href="b.html#here">2</a><a href="#top">3</a>'
            '<a href="c.html">4</a><a href="../x">5</a><a href="https://example.org/">6</a>'
            '<img src="no.png" alt=""><img src="data:," alt=""><a href="b.html?q=1#nowhere">7</a>',
            '<script src="https://example.org/a.js"></script><link rel="canonical" href="https://e.g/">',
        ),
        b=page('<p id="here">there</p>'),
        index='<meta http-equiv="Refresh" content="0; url=gone.html" />',
    )
    (folder / "a.css").write_text("@import '//example.org/x.css'; p {background: url(y.png)}")
    found = [line.split(": ", 1)[-1] for line in broken_links(folder)]
    assert sorted(found) == sorted(
        [
            "#top: no such place in that page",
            "c.html: no such file",
            "../x: outside the site",
            "no.png: no such file",
            "b.html?q=1#nowhere: no such place in that page",
            "https://example.org/a.js: loaded from another host",
            "gone.html: no such file",
            "//example.org/x.css: loaded from another host",
        ]
    )
    assert pages(folder) == ["a.html", "b.html"]


def test_large_pages_are_found(site):
    noise = "".join(chr(33 + (i * i * 7919 + i // 7) % 90) for i in range(3_000_001))
    folder = site(a=page("x"), b=page(noise.replace("<", "-").replace("&", "-")))
    assert [line.split(":")[0] for line in too_large(folder)] == ["b.html"]


def told(pictures, link=True, **changes) -> list[str]:
    """Return the faults of a widget whose page holds these pictures."""
    made = models(pictures, link)
    for name, state in changes.items():
        made[name]["state"] |= state

    class Stub:
        state, views = made, ["all"]

    (widget,) = widgets(Stub())  # type: ignore[arg-type]
    return list(widget.faults)


def test_a_widget_is_read_from_its_page(site):
    folder = site(a=widget_page())
    (widget,) = widgets(read(folder / "a.html"))
    assert widget.faults == () and not widget.waits
    assert [(c.kind, c.label, c.start) for c in widget.controls] == [
        ("list", "sign", 0),
        ("slider", "size", 1),
    ]
    for (i, s), (j, n) in itertools.product(enumerate(("up", "down")), enumerate((1, 2, 3))):
        assert widget.state((i, j)) == f"s={s}; n={n}"


def test_wrong_states_are_found_in_the_file():
    assert told(right()) == []
    assert any("do not follow" in f for f in told(right(), link=False))
    missing = right()
    missing[1].pop()
    assert told(missing) == ["(1, 2): no picture"]
    swapped = right()
    swapped[1][0], swapped[1][1] = swapped[1][1], swapped[1][0]
    assert any("(1, 0): shows 'n=2', where 'n=1' is expected" in f for f in told(swapped))
    broken = right()
    broken[0][2] = '<p role="alert">No picture: damaged</p>'
    assert told(broken) == ["(0, 2): no picture, but: No picture: damaged"]
    silent = right()
    silent[0][0] = '<figure data-state="s=up; n=1"><img alt="" src="x"></figure>'
    assert told(silent) == ["(0, 0): nothing describes the picture"]
    alike = right()
    for n in (0, 1):
        alike[0][n] = f'<figure data-state="s=up; n={n + 1}"><img alt="same" src="{n}"></figure>'
    assert told(alike) == ["(0, 1): described in the same words as (0, 0): same"]
    for n in (0, 1):
        alike[0][n] = re.sub('src="."', 'src="x"', alike[0][n])
    assert told(alike) == []


FAULTY = {
    "console error": ("<script>console.error('oh')</script>", "console error: oh"),
    "unknown warning": ("<script>console.warn('hm')</script>", "console warning: hm"),
    "page error": ("<script>nowhere()</script>", "page error: nowhere is not defined"),
    "missing file": ('<img src="no.png" alt="x">', "no.png"),
    "foreign": ('<img src="http://127.0.0.1:9/x.png" alt="x">', "request to elsewhere"),
    "formula": ("<mjx-merror>x^</mjx-merror>", "a formula is not understood: x^"),
}


@needs_browser
@pytest.mark.parametrize("source", ["file", "http"])
@pytest.mark.parametrize("fault", [None, *FAULTY])
def test_complaints_of_a_page_are_heard(context, site, fault, source):
    body, expected = FAULTY.get(fault, ("", ""))
    for visit in opened(context, site(a=page(body)), source=source):
        if fault:
            assert any(expected in line for line in visit.faults), visit.faults
        else:
            assert visit.faults == []


@needs_browser
def test_a_widget_that_never_comes_is_missed(context, site, monkeypatch):
    monkeypatch.setattr("browser_page.LONGEST", 0.3)
    for visit in opened(context, site(a=page("")), pictures=1):
        assert visit.faults == ["0 of 1 widgets are there after 0.3 s"]


@needs_browser
def test_what_reaches_over_the_edge_is_named(context, site):
    wide = '<div id="wide" style="width:500px">x</div>'
    scroller = f'<div style="overflow-x:auto" tabindex="0">{wide}</div>'
    for body, expected in ((wide, 'id="wide"'), (scroller, "")):
        view = '<meta name="viewport" content="width=device-width">'
        for visit in opened(context, site(a=page(body, view))):
            visit.dress(PHONE)
            found = visit.overflow()
            assert (expected in found[1]) if expected else found == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_keeps_somebody_away_is_found(context, site, scheme):
    style = "<style>@media (prefers-color-scheme: dark) {p {color: #ddd; background: #fff}}</style>"
    for visit in opened(context, site(a=page("<p>words</p>", style), b=page("<button></button>"))):
        visit.dress(scheme=scheme)
        found = violations(visit.page)
        assert [f.split(" ")[0] for f in found] == (["color-contrast"] if scheme == "dark" else [])
        visit.open("b.html")
        assert violations(visit.page)[0].startswith("button-name (critical)")


@needs_browser
@pytest.mark.parametrize("fault", [None, "late", "label"])
def test_a_picture_that_lags_or_a_wrong_name_is_found(context, site, fault, monkeypatch):
    monkeypatch.setattr("browser_widgets.PATIENCE", 0.4)
    text = widget_page(late=fault == "late", label="else" if fault == "label" else "size")
    for visit in opened(context, site(a=text), pictures=1):
        (widget,) = widgets(read(site() / "a.html"))
        found = Drive(visit, widget, "0").run()
        if fault == "late":
            assert "after ArrowDown on 'sign': shows ['s=up; n=2'], not 's=down; n=2'" in found
            assert any(" on 'size': shows" in f for f in found)
        elif fault == "label":
            assert all("controls are called" in f for f in found) and found
        else:
            assert found == [] and visit.faults == []


@needs_browser
def test_a_picture_of_a_page_is_kept(context, site, tmp_path):
    for visit in opened(context, site(a=page('<div style="height:20000px">x</div>'))):
        visit.shoot(tmp_path / "shots" / "a.jpg")
    assert (tmp_path / "shots" / "a.jpg").stat().st_size > 1000
