"""The built site as a reader meets it: links, sizes, and every page and widget in Chromium.

`make browser` runs these over _build/html, or over the folder that REFT_SITE names. What needs a
browser is skipped where Chromium is missing, and in continuous integration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from browser_axe import DARK, NARROW, violations
from browser_page import DESK, PHONE, Visit, launched, served
from browser_site import (
    ROOT,
    SITE,
    Widget,
    broken_links,
    pages,
    read,
    spoken,
    too_large,
    widgets,
    with_widgets,
)
from browser_widgets import Drive

PAGES = pages()
WITH_WIDGETS = with_widgets()
SHOTS = ROOT / "_build" / "screenshots"
SLOWEST = 6.0
"""Seconds until a page's first picture, on a busy machine. The aim is 2 on a quiet one."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PAGES, reason=f"no site in {SITE.name}/: make book"),
]


def moving(name: str) -> list[Widget]:
    """Return a page's widgets, less those that say that nothing has been recorded for them yet."""
    return [widget for widget in widgets(read(SITE / name)) if not widget.waits]


def told(faults: list[str]) -> str:
    """Return faults as lines, the first dozen."""
    return "\n".join(["", *faults[:12], *([f"... {len(faults)} in all"] * (len(faults) > 12))])


# Until the end of this file alone: Playwright keeps an event loop running, and later tests have
# loops of their own.
@pytest.fixture(scope="module")
def tabs() -> Iterator[dict[str, Visit]]:
    with launched() as context, served(SITE) as address:
        yield {
            "http": Visit(context.new_page(), address),
            "file": Visit(context.new_page(), SITE.as_uri() + "/"),
        }


@pytest.fixture(scope="module")
def measured() -> Iterator[dict[str, float]]:
    """Seconds until each page's first picture; kept beside the screenshots."""
    found: dict[str, float] = {}
    yield found
    if found:
        SHOTS.mkdir(parents=True, exist_ok=True)
        (SHOTS / "first_picture.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


@pytest.fixture(scope="module", params=PAGES)
def opened(request, tabs) -> tuple[str, Visit, list[str]]:
    """A page from the server, opened once for the tests that look at it, and its complaints."""
    name, visit = request.param, tabs["http"]
    visit.page.set_viewport_size(DESK)
    visit.page.emulate_media(color_scheme="light", reduced_motion="reduce")
    visit.open(name, len(moving(name)))
    return name, visit, list(visit.faults)


def test_no_link_is_broken_and_nothing_is_loaded_from_elsewhere():
    faults = broken_links()
    assert not faults, told(faults)


def test_no_page_is_too_large():
    faults = too_large()
    assert not faults, told(faults)


@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_a_file_holds_every_state_of_its_widgets_in_words_too(name):
    found = widgets(read(SITE / name))
    assert found
    faults = [f"widget {i}: {f}" for i, w in enumerate(found) for f in w.faults]
    assert not faults, told(faults)
    if waiting := [spoken(w.pictures[()]) for w in found if w.waits]:
        pytest.xfail(told(waiting))


def test_a_served_page_complains_of_nothing(opened):
    _, _, faults = opened
    assert not faults, told(faults)


def test_the_first_picture_is_there_soon(opened, measured):
    name, visit, _ = opened
    if name not in WITH_WIDGETS or not moving(name):
        pytest.skip("no picture on this page")
    seconds = visit.page.evaluate("window.firstPicture || 1e9")
    measured[name] = round(seconds, 2)
    assert seconds < SLOWEST, f"{seconds:.1f} s"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_from_a_page(opened, scheme):
    _, visit, _ = opened
    visit.dress(DESK, scheme)
    faults = violations(visit.page, DARK if scheme == "dark" else ())
    assert not faults, told(faults)


def test_a_page_fits_its_window_and_is_kept_as_pictures(opened):
    name, visit, _ = opened
    faults = []
    for look, size, scheme in (
        ("light", DESK, "light"),
        ("dark", DESK, "dark"),
        ("phone", PHONE, "light"),
        ("phone-dark", PHONE, "dark"),
    ):
        visit.dress(size, scheme)
        faults += [f"{look}: {line}" for line in visit.overflow()]
        if look != "phone-dark":
            visit.shoot(SHOTS / f"{name.removesuffix('.html').replace('/', '-')}.{look}.jpg")
    assert not faults, told(faults)


def test_what_scrolls_on_a_phone_is_reached_by_keys(opened):
    _, visit, _ = opened
    visit.dress(PHONE)
    faults = violations(visit.page, NARROW)
    assert not faults, told(faults)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_from_a_disk_complains_of_nothing(tabs, name):
    visit = tabs["file"]
    visit.dress()
    visit.open(name, len(moving(name)))
    assert not visit.faults, told(visit.faults)


@pytest.mark.parametrize("source", ["http", "file"])
@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_widgets_show_the_right_state_at_every_key(tabs, name, source):
    visit, found = tabs[source], moving(name)
    visit.dress(DESK if source == "http" else PHONE)
    visit.open(name, len(found))
    only = () if source == "http" else NARROW
    faults = []
    for number, widget in enumerate(found):
        drive = Drive(visit, widget, str(number), lambda area: violations(visit.page, only, area))
        faults += [f"widget {number}: {line}" for line in drive.run()]
    assert not faults + visit.faults, told(faults + visit.faults)


@pytest.mark.parametrize("source", ["http", "file"])
def test_the_search_finds_a_term_of_the_glossary(tabs, source):
    if "glossary.html" not in PAGES:
        pytest.skip("this site has no glossary")
    visit, terms = tabs[source], read(SITE / "glossary.html").terms
    assert terms
    term = next(t for t in terms if t.isalpha())
    visit.dress()
    visit.open("search.html")
    visit.page.locator("main input[name=q], #search-documentation input").first.fill(term)
    with visit.page.expect_navigation():
        visit.page.keyboard.press("Enter")
    hit = '#search-results li a[href^="glossary.html"]'
    there = visit.becomes(f"document.querySelector('{hit}')", 20)
    assert there, visit.page.locator("#search-results").inner_text()[:500]
    visit.page.wait_for_timeout(500)  # excerpts come after the titles
    assert not visit.faults, told(visit.faults)
    with visit.page.expect_navigation():
        visit.page.locator(hit).first.click()
    assert visit.becomes("document.querySelector('dl.glossary')", 20)
