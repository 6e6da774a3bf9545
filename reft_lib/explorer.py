"""A picture with sliders, which moves in a page without a kernel as it does in Jupyter.

A *draw* function makes the picture of one state from the values of the sliders, which are called
knobs here. For a page every state is drawn beforehand, and the browser shows the one that the
sliders name: a stack of pictures for each knob, nested, linked in the browser alone. In a live
kernel the same function is called whenever a slider moves, and knobs may be continuous. So the
mathematics is written once, in Python.
"""

from __future__ import annotations

import html
import itertools
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from reft_lib.errors import UserError
from reft_lib.pages import PAPER, Html, sized
from reft_lib.style import describe, to_bytes

STATIC_VARIABLE = "REFT_STATIC_WIDGETS"
"""Set while the book is built: knobs then have the listed values alone, and no kernel behind."""
MOST_STATES = 150
"""More pictures would make a page slow; a live kernel has no such limit."""
INK = "color:#1a1a1a;text-align:left;font-weight:normal"
"""Of captions; the theme's own grey is too pale, and its letters too thin."""
SCROLLS = "overflow-x:auto;width:0;min-width:100%"
"""A wide picture scrolls by itself; width 0 keeps it from widening what it stands in."""
MOST_BYTES = 2_500_000
"""Of the pictures of one explorer in a page."""


def plain(value: Any) -> str:
    """Write a knob's value as its slider shows it."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class Knob:
    """One slider, or one list to choose from, and the values that it takes in a page."""

    label: str
    values: Sequence[Any]
    start: int = 0
    """Position in ``values`` at the beginning."""
    step: float = 0.0
    """Live, a number moves from the least to the largest value by this; 0: listed values alone."""
    words: Callable[[Any], str] = plain
    """How a value is written."""
    lines: int = 0
    """Live, a box of so many lines to type any text in, at first the start value; 0: none."""

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers: a slider; otherwise a list."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)


@dataclass(repr=False)
class Explorer:
    """What :func:`explore` returns: a widget where widgets are shown, else its first picture."""

    widget: Any
    first: Html
    states: dict[str, str] = field(default_factory=dict)
    """In a page: the picture of each state, HTML, by the state's :func:`signature`."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "text/html": self.first.html,
            "text/plain": self.first.text,
        }

    def __repr__(self) -> str:
        return self.first.text


def explore(
    draw: Callable[..., Figure | Html], caption: str = "", live: bool | None = None, **knobs: Knob
) -> Explorer:
    """Put sliders on a picture.

    Parameters
    ----------
    draw : callable
        Called with a value for each knob, by name; returns a figure with alternative text
        (:func:`reft_lib.style.finish`) or :class:`reft_lib.pages.Html`. What it raises as
        ``UserError`` stands in the picture's place, in one line.
    caption : str
        Text below the picture.
    live : bool, optional
        Whether a kernel stays behind the widget. By default yes, except while the book is built.
    **knobs : Knob
        By the name of the argument of ``draw``.

    Returns
    -------
    Explorer
        A cell's last line shows it. Too many states for a page, or no value for a knob, is said in
        one line in its place.
    """
    live = is_live() if live is None else live
    try:
        for name, knob in knobs.items():
            if not knob.values or not 0 <= knob.start < len(knob.values):
                raise UserError(f"{name}: wanted values, and a start among them")
        count = math.prod(len(knob.values) for knob in knobs.values())
        if count > MOST_STATES and not live:
            raise UserError(f"{count} states; a page takes at most {MOST_STATES}; thin out a knob")
        return _live(draw, caption, knobs) if live else _static(draw, caption, knobs)
    except UserError as error:
        return complaint(str(error))


def is_live() -> bool:
    """Tell whether a kernel stays behind what is shown: always, except while the book is built."""
    return not os.environ.get(STATIC_VARIABLE)


def complaint(message: str) -> Explorer:
    """Return one line that stands where a widget should be, and says why there is none."""
    import ipywidgets

    line = f"<strong>No picture:</strong> {html.escape(message)}"
    text = f'<p role="alert" style="{PAPER}">{line}</p>'
    return Explorer(ipywidgets.HTML(text), Html(text, f"No picture: {message}"))


def signature(values: dict[str, Any]) -> str:
    """Return a state in a line, as ``beta=0.05; step=3``; a picture carries it as data-state."""
    return "; ".join(f"{name}={plain(value)}" for name, value in values.items())


def picture(draw: Callable[..., Figure | Html], caption: str, values: dict[str, Any]) -> Html:
    """Draw one state; what the draw function complains of stands in the picture's place."""
    try:
        drawn = draw(**values)
    except UserError as error:
        return complaint(str(error)).first
    below = f'<figcaption style="{INK}">{html.escape(caption)}</figcaption>' if caption else ""
    if isinstance(drawn, Html):
        inside, text = drawn.html, drawn.text
    else:
        inside, text = image(drawn), describe(drawn)
    state = html.escape(signature(values))
    return Html(
        f'<figure data-state="{state}" style="margin:0;{PAPER}">'
        f'<div style="{SCROLLS}">{inside}</div>{below}</figure>',
        text,
    )


def image(fig: Figure) -> str:
    """Return a figure as an HTML image, for a draw function that puts more beside it."""
    alt = html.escape(describe(fig))
    # class and look keep the theme from dimming and framing the picture in dark mode
    look = f"{sized(fig)};padding:0;background:#fff"
    picture = f'<img class="dark-light" alt="{alt}" src=\'{data_uri(fig)}\' style="{look}">'
    return f'<div style="{SCROLLS}">{picture}</div>'


def data_uri(fig: Figure) -> str:
    """Return a figure as an SVG inside an address, for an attribute in single quotes."""
    text = shortened(to_bytes(fig, letters=True).decode())
    for raw, safe in (("%", "%25"), ("#", "%23"), ("&", "%26"), ("'", "%27")):
        text = text.replace(raw, safe)
    return f"data:image/svg+xml;charset=utf-8,{text}"


def shortened(svg: str) -> str:
    """Return matplotlib's SVG without what no browser shows, and to a hundredth of a point."""
    unseen = r"<metadata>.*?</metadata>|<!--.*?-->|<\?.*?\?>|<!DOCTYPE.*?>"
    svg = re.sub(unseen, "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"| transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), svg)
    return re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").strip()


def _controls(knobs: dict[str, Knob], live: bool) -> dict[str, Any]:
    """Return the slider or list of each knob."""
    import ipywidgets

    style = {"description_width": "initial"}
    layout = ipywidgets.Layout(width="32em", max_width="98%")
    found: dict[str, Any] = {}
    for name, knob in knobs.items():
        common = {"description": knob.label, "style": style, "layout": layout}
        options = [(knob.words(v), i) for i, v in enumerate(knob.values)]
        if live and knob.lines:
            box = ipywidgets.Text if knob.lines == 1 else ipywidgets.Textarea
            size = {"rows": knob.lines} if knob.lines > 1 else {}
            found[name] = box(
                value=knob.values[knob.start], continuous_update=False, **size, **common
            )
        elif live and knob.numeric and knob.step:
            lo, hi = float(min(knob.values)), float(max(knob.values))
            start = float(knob.values[knob.start])
            digits = len(f"{knob.step:g}".partition(".")[2])
            found[name] = ipywidgets.FloatSlider(
                value=start, min=lo, max=hi, step=knob.step, readout_format=f".{digits}f", **common
            )
        elif knob.numeric:
            found[name] = ipywidgets.SelectionSlider(options=options, index=knob.start, **common)
        else:
            found[name] = ipywidgets.Dropdown(options=options, index=knob.start, **common)
    return found


def _static(draw: Callable[..., Any], caption: str, knobs: dict[str, Knob]) -> Explorer:
    """Draw every state; nested stacks, linked to the sliders in the browser."""
    import ipywidgets

    controls, names = _controls(knobs, live=False), list(knobs)
    pictures: dict[tuple[int, ...], Html] = {}
    for at in itertools.product(*(range(len(knob.values)) for knob in knobs.values())):
        values = {n: knobs[n].values[i] for n, i in zip(names, at, strict=True)}
        pictures[at] = picture(draw, caption, values)
    size = sum(len(p.html) for p in pictures.values())
    if size > MOST_BYTES:
        raise UserError(
            f"{len(pictures)} pictures of {size / 1e6:.1f} MB in all; a page takes at most "
            f"{MOST_BYTES / 1e6:.1f} MB; thin out a knob or draw less"
        )
    shared = ipywidgets.Layout(width="100%")

    def build(at: tuple[int, ...]) -> Any:
        if len(at) == len(names):
            return ipywidgets.HTML(pictures[at].html, layout=shared)
        name = names[len(at)]
        children = [build((*at, i)) for i in range(len(knobs[name].values))]
        stack = ipywidgets.Stack(children, selected_index=knobs[name].start, layout=shared)
        ipywidgets.jsdlink((controls[name], "index"), (stack, "selected_index"))
        return stack

    box = ipywidgets.VBox([*controls.values(), build(())])
    first = pictures[tuple(knob.start for knob in knobs.values())]
    states = {
        signature({n: knobs[n].values[i] for n, i in zip(names, at, strict=True)}): p.html
        for at, p in pictures.items()
    }
    return Explorer(box, first, states)


def _live(draw: Callable[..., Any], caption: str, knobs: dict[str, Knob]) -> Explorer:
    """Draw the present state, and again whenever a slider moves."""
    import ipywidgets

    controls = _controls(knobs, live=True)
    shown = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%"))

    def values() -> dict[str, Any]:
        found = {}
        for name, control in controls.items():
            listed = hasattr(control, "index")  # else any number of a slider, or any text
            found[name] = knobs[name].values[control.index] if listed else control.value
        return found

    def redraw(_: Any = None) -> None:
        shown.value = picture(draw, caption, values()).html

    for control in controls.values():
        control.observe(redraw, "value")
    first = picture(draw, caption, values())
    shown.value = first.html
    return Explorer(ipywidgets.VBox([*controls.values(), shown]), first)
