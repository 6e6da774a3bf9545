"""The map of fine-tuning: every link leads to a chapter, and every method's chapter has one."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from reft_lib import explorer, scoreboard, taxonomy

BOOK = Path(__file__).resolve().parents[1] / "book"


class Links(HTMLParser):
    """Collects the links, and checks that tags are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: dict[str, str] = {}
        self.at = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "a":
            self.at = dict(attrs)["href"] or ""

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "a":
            self.found[data] = self.at

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_link_leads_to_a_chapter_of_the_contents() -> None:
    links = Links(taxonomy.chapter_map(".html").html)
    assert not links.open
    contents = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    pages = {chapter["file"] for part in contents["parts"] for chapter in part["chapters"]}
    assert {href.removesuffix(".html") for href in links.found.values()} <= pages
    assert len(links.found) == sum(map(len, (*taxonomy.KINDS.values(), taxonomy.REFT))) + 2


def test_every_chapter_on_the_scoreboard_is_on_the_map() -> None:
    links = Links(taxonomy.chapter_map(".html").html).found
    linked = {href.removesuffix(".html") for href in links.values()}
    taught = {row.chapter for row in scoreboard.ROWS} - {"02_problems_model_lora"}
    assert taught <= linked


def test_each_kind_stands_below_its_signal() -> None:
    text = taxonomy.chapter_map(".html").text
    blocks = re.split(r"\n(?=\S)", text)
    below = {block.split(":")[0]: block for block in blocks}
    assert "11_self_supervised" in below["Unsupervised"]
    assert "13_adversarial" in below["Unsupervised"]
    assert "10_instruction_tuning" in below["Supervised"]
    assert "14_rlhf" in below["Reinforcement"] and "15_rft_graders" in below["Reinforcement"]


@pytest.mark.parametrize(("value", "ending"), [("1", ".html"), ("", ".ipynb")])
def test_links_lead_to_pages_in_a_page_and_to_notebooks_in_jupyter(
    value: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(explorer.STATIC_VARIABLE, value)
    links = Links(taxonomy.chapter_map().html).found
    assert {Path(href).suffix for href in links.values()} == {ending}


def test_numbers_of_chapters_are_those_of_their_files() -> None:
    shown = taxonomy.chapter_map(".html").html
    for page, number in re.findall(r'href="(\w+)\.html".*?chapter (\d+)</small>', shown):
        assert page.startswith(f"{int(number):02d}_")
        assert (BOOK / f"{page}.ipynb").exists()
    assert shown.count("chapter ") == shown.count("href=") > 10
