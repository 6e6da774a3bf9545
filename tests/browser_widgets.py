"""A widget of a page moved by keys alone, and compared with what its file says it must show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from browser_page import CALM, Visit
from browser_site import VIEW, Widget

PATIENCE = 3.0
"""Seconds for a picture to follow a key, on a busy machine."""
KEYS = {
    "slider": {"first": "Home", "on": "ArrowRight", "back": "ArrowLeft"},
    "list": {"first": "Home", "on": "ArrowDown", "back": "ArrowUp"},
}

# The widget stands before the script that names its model.
MARK = """([type, model, mark]) => {
  for (const script of document.querySelectorAll(`script[type="${type}"]`)) {
    const area = script.previousElementSibling;
    if (JSON.parse(script.textContent).model_id !== model || !area) continue;
    area.setAttribute("data-tested", mark);
    return true;
  }
  return false;
}"""

# What a widget shows, and what its controls say they stand at.
LOOK = """(mark) => {
  const area = document.querySelector(`[data-tested="${mark}"]`);
  const plain = (text) => (text || "").replace(/\\s+/g, " ").trim();
  const figures = [...area.querySelectorAll("figure[data-state]")]
    .filter((f) => f.checkVisibility() && f.getBoundingClientRect().height > 0);
  const controls = [...area.querySelectorAll(".noUi-handle, select")];
  return {
    shown: figures.map((f) => f.dataset.state),
    empty: figures.some((f) => [...f.querySelectorAll("img")]
      .some((i) => !i.complete || !i.naturalWidth)),
    focus: controls.indexOf(document.activeElement),
    controls: controls.map((c) => c.tagName === "SELECT"
      ? [plain(c.labels[0] && c.labels[0].textContent), plain(c.selectedOptions[0].textContent)]
      : [c.getAttribute("aria-label"), plain(c.getAttribute("aria-valuetext"))]),
  };
}"""


def plain(text: str) -> str:
    """Return a text with single spaces, as the page's own are compared."""
    return " ".join(text.split())


@dataclass
class Drive:
    """One widget under the keys."""

    visit: Visit
    widget: Widget
    mark: str
    inspect: Callable[[str], list[str]] | None = None
    """Called with a selector of the widget at the end of each control; returns faults."""

    def run(self) -> list[str]:
        """Move every control through all its values by keys; return what went wrong.

        Each control goes to its first value, on to its last, and back by one, where it stays while
        the next ones move. The Tab key leads from one control to the next.
        """
        page, found = self.visit.page, list(self.widget.faults)
        if not page.evaluate(MARK, [VIEW, self.widget.model, self.mark]):
            return [*found, "the page does not show this widget"]
        at = [control.start for control in self.widget.controls]
        found += self.compare(at, "at the beginning")
        handles = page.locator(f'[data-tested="{self.mark}"]').locator(".noUi-handle, select")
        for number, control in enumerate(self.widget.controls):
            if number == 0:
                handles.nth(0).focus()
            else:
                page.keyboard.press("Tab")
            if (focus := self.look()["focus"]) != number:
                found.append(f"the Tab key leads to control {focus}, not to {control.label!r}")
                handles.nth(number).focus()
            found += self.sweep(number, at)
        return found

    def sweep(self, number: int, at: list[int]) -> list[str]:
        """Move one control through its values; stop at the first fault."""
        control, keys = self.widget.controls[number], KEYS[self.widget.controls[number].kind]
        last = len(control.options) - 1
        way = [(keys["first"], 0), *((keys["on"], i) for i in range(1, last + 1))]
        for key, position in [*way, (keys["back"], max(0, last - 1))]:
            self.visit.page.keyboard.press(key)
            at[number] = position
            if wrong := self.compare(at, f"after {key} on {control.label!r}"):
                return wrong
            if self.inspect and position in (0, last):
                self.visit.page.wait_for_timeout(CALM)
                if wrong := self.inspect(f'[data-tested="{self.mark}"]'):
                    return [f"{line}, in state {self.widget.state(tuple(at))!r}" for line in wrong]
        return []

    def look(self) -> dict[str, Any]:
        """Return what the widget shows now."""
        return self.visit.page.evaluate(LOOK, self.mark)

    def compare(self, at: list[int], when: str) -> list[str]:
        """Wait for the picture of these positions; return what is shown in its stead."""
        wanted = self.widget.state(tuple(at))
        look = f"({LOOK})('{self.mark}')"
        steady = f"(() => {{ const s = {look}; return !s.empty && JSON.stringify(s.shown) === "
        self.visit.becomes(f"{steady}{_js([wanted])}; }})()", PATIENCE)
        seen, found = self.look(), []
        if seen["shown"] != [wanted]:
            found.append(f"{when}: shows {seen['shown']}, not {wanted!r}")
        elif seen["empty"]:
            found.append(f"{when}: the picture of {wanted!r} cannot be drawn")
        said = [[plain(c.label), plain(c.options[i])] for c, i in self._placed(at)]
        if seen["controls"] != said:
            found.append(f"{when}: controls are called {seen['controls']}, not {said}")
        if wide := self.visit.overflow():
            found.append(f"{when}: {wide}")
        return found

    def _placed(self, at: list[int]) -> list[tuple[Any, int]]:
        return list(zip(self.widget.controls, at, strict=True))


def _js(value: Any) -> str:
    """Write a value as JSON.stringify would, inside a JavaScript string."""
    return json.dumps(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
