"""Pictures with sliders: every state is there, the right one shows, bad input is one line."""

from __future__ import annotations

import re
from urllib.parse import unquote
from xml.etree import ElementTree

import ipywidgets
import pytest

from reft_lib import explorer
from reft_lib.errors import UserError
from reft_lib.explorer import Knob, explore
from reft_lib.pages import Html
from reft_lib.plots import panels
from reft_lib.style import finish, style


def words(a, b="x"):
    """Draw a state as text."""
    if a == 13:
        raise UserError("13 is not to be drawn <here>")
    return Html(f"<p>{a} and {b}</p>", f"{a} and {b}")


TITLE = """100% of "it" & its' #1 <2>"""


@style()
def line(a):
    """Draw a state as a figure."""
    fig, axes = panels(3, 2)
    axes[0][0].plot([0, 1], [0, a])
    axes[0][0].set_title(TITLE)
    return finish(fig, f"A line up to {a}.")


KNOBS = {"a": Knob("first", (1, 2, 5), start=1), "b": Knob("second", ("x", "y"))}


def shown(widget):
    """Return the HTML that nested stacks show now."""
    while not isinstance(widget, ipywidgets.HTML):
        widget = widget.children[widget.selected_index]
    return widget.value


def move(box, **indices):
    """Put sliders to positions and do in Python what the browser does with the links."""
    controls, stack = box.children[:-1], box.children[-1]
    for control, (_, index) in zip(controls, indices.items(), strict=True):
        control.index = index

    def follow(widget, depth):
        if isinstance(widget, ipywidgets.Stack):
            widget.selected_index = controls[depth].index
            for child in widget.children:
                follow(child, depth + 1)

    follow(stack, 0)
    return shown(stack)


def test_a_page_holds_every_state_and_begins_at_the_start():
    found = explore(words, live=False, **KNOBS)
    assert list(found.states) == [f"a={a}; b={b}" for a in (1, 2, 5) for b in ("x", "y")]
    box = found.widget
    assert [c.description for c in box.children[:-1]] == ["first", "second"]
    assert "<p>2 and x</p>" in shown(box.children[-1]) == found.first.html
    assert 'data-state="a=5; b=y"' in move(box, a=2, b=1)
    assert "<p>1 and y</p>" in move(box, a=0, b=1)


def test_sliders_and_stacks_are_linked_in_the_browser(monkeypatch):
    made = []
    monkeypatch.setattr(ipywidgets, "jsdlink", lambda source, target: made.append((source, target)))
    box = explore(words, live=False, **KNOBS).widget
    first, second, stack = box.children
    assert ((first, "index"), (stack, "selected_index")) in made
    inner = [((second, "index"), (child, "selected_index")) for child in stack.children]
    assert all(link in made for link in inner) and len(made) == 1 + len(inner)


def test_numbers_get_a_slider_and_words_a_list():
    first, second = explore(words, live=False, **KNOBS).widget.children[:-1]
    assert isinstance(first, ipywidgets.SelectionSlider)
    assert isinstance(second, ipywidgets.Dropdown)
    assert [label for label, _ in first.options] == ["1", "2", "5"]


def test_live_the_slider_moves_between_the_listed_values():
    knob = Knob("first", (1, 2, 5), start=1, step=0.25)
    found = explore(words, live=True, a=knob, b=KNOBS["b"])
    slider, listed, picture = found.widget.children
    assert (slider.min, slider.max, slider.step, slider.value) == (1.0, 5.0, 0.25, 2.0)
    assert not found.states and "2.0 and x" in picture.value
    slider.value = 3.25
    assert "3.25 and x" in picture.value
    listed.index = 1
    assert "3.25 and y" in picture.value and 'data-state="a=3.25; b=y"' in picture.value


@pytest.mark.parametrize(("lines", "kind"), [(1, ipywidgets.Text), (3, ipywidgets.Textarea)])
def test_live_a_text_can_be_typed(lines, kind):
    knobs = {"a": Knob("first", (1, 2)), "b": Knob("second", ("x", "y"), start=1, lines=lines)}
    found = explore(words, live=True, **knobs)
    _, box, picture = found.widget.children
    assert type(box) is kind and box.value == "y" and "1 and y" in picture.value
    box.value = "<anything>"
    assert "1 and <anything>" in picture.value
    assert 'data-state="a=1; b=&lt;anything&gt;"' in picture.value
    listed = explore(words, live=False, **knobs).widget.children[1]
    assert isinstance(listed, ipywidgets.Dropdown)  # a page has no kernel to answer to a text


def test_while_the_book_is_built_pages_are_the_default(monkeypatch):
    monkeypatch.setenv(explorer.STATIC_VARIABLE, "1")
    assert explore(words, **KNOBS).states
    monkeypatch.delenv(explorer.STATIC_VARIABLE)
    assert not explore(words, **KNOBS).states


def test_a_figure_is_an_image_with_its_alternative_text():
    found = explore(line, "What it <shows>", live=False, a=Knob("a", (1, 2)))
    text = found.states["a=2"]
    assert 'alt="A line up to 2."' in text and "What it &lt;shows&gt;" in text
    source = re.search(r"src='data:image/svg\+xml;charset=utf-8,([^']*)'", text)[1]
    assert "#" not in source and "&" not in source
    svg = unquote(source)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and TITLE in "".join(root.itertext())
    assert len(svg) < 12_000


def test_a_shortened_picture_draws_the_same(tmp_path):
    fig = line(2)
    raw = explorer.to_bytes(fig, letters=True).decode()
    short = explorer.shortened(raw)
    assert len(short) < 0.8 * len(raw)
    numbers = [float(x) for x in re.findall(r"(?<=[ML ])-?\d+\.?\d*(?= )", raw)]
    kept = [float(x) for x in re.findall(r"(?<=[ML ])-?\d+\.?\d*(?= )", short)]
    assert len(kept) > 20 and {round(x, 1) for x in kept} <= {round(x, 1) for x in numbers} | {0.0}
    ids = set(re.findall(r'id="([^"]+)"', short))
    assert {
        m for m in re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", short) for m in m if m
    } <= ids


def test_what_cannot_be_drawn_stands_in_the_pictures_place():
    found = explore(words, live=False, a=Knob("a", (1, 13)))
    assert "13 is not to be drawn &lt;here&gt;" in found.states["a=13"]
    assert 'role="alert"' in found.states["a=13"] and "1 and x" in found.states["a=1"]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"a": Knob("a", ())}, "a: wanted values, and a start among them"),
        ({"a": Knob("a", (1, 2), start=2)}, "a: wanted values, and a start among them"),
        ({"a": Knob("a", range(151))}, "151 states; a page takes at most 150; thin out a knob"),
    ],
)
def test_what_cannot_be_an_explorer_is_one_line(knobs, said):
    found = explore(words, live=False, **knobs)
    assert found.first.text == f"No picture: {said}"
    assert "\n" not in found.first.html and 'role="alert"' in found.widget.value


def test_too_large_for_a_page_is_one_line():
    big = lambda a: Html("x" * 1_500_000, "big")  # noqa: E731
    found = explore(big, live=False, a=Knob("a", (1, 2)))
    assert "2 pictures of 3.0 MB in all; a page takes at most 2.5 MB" in found.first.text


def test_a_cell_shows_the_widget_or_else_its_first_picture():
    found = explore(words, live=False, **KNOBS)
    bundle = found._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == found.widget.model_id
    assert bundle["text/html"] == found.first.html
    assert bundle["text/plain"] == "2 and x" == repr(found)


@pytest.mark.parametrize(("step", "form"), [(1, ".0f"), (0.5, ".1f"), (0.01, ".2f"), (0.25, ".2f")])
def test_a_slider_writes_as_many_digits_as_its_step_has(step, form):
    knob = Knob("a", (1, 2, 5), step=step)
    assert explore(words, live=True, a=knob).widget.children[0].readout_format == form
