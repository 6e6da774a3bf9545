"""Quizzes: their form, what they may say, and the HTML that a page gets."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

BOOK = Path(__file__).resolve().parents[1] / "book"
FILES = sorted((BOOK / "quizzes").glob("*.yml"))
CHAPTERS = [path.stem for path in sorted(BOOK.glob("[01][0-9]_*.ipynb"))]


def extension(name: str) -> ModuleType:
    """Import a Sphinx extension of the book by its file."""
    spec = importlib.util.spec_from_file_location(name, BOOK / "_ext" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


quiz = extension("quiz")


def test_every_chapter_has_a_quiz_and_no_other() -> None:
    assert [path.stem for path in FILES] == CHAPTERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestFile:
    def test_form(self, path: Path) -> None:
        found = quiz.load(path)
        assert 3 <= len(found) <= 5
        for item in found:
            assert item["question"].strip()[-1] in "?."
            assert 3 <= len(item["options"]) <= 4
            texts = [option["text"].strip() for option in item["options"]]
            assert len(set(texts)) == len(texts)
            for option in item["options"]:
                assert option["why"].strip().endswith((".", "?"))
                assert len(option["why"].split()) >= 3

    def test_the_right_option_stands_in_several_places(self, path: Path) -> None:
        places = [[o["right"] for o in item["options"]].index(True) for item in quiz.load(path)]
        assert len(set(places)) > 1

    def test_no_figure_that_a_new_recording_could_change(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\d\s*%|±|\d points\b|\d\s*minutes|\bseeds? \d|data/runs", text)


def test_right_options_are_spread_over_the_places() -> None:
    places: Counter[int] = Counter()
    lengths = []
    for path in FILES:
        for item in quiz.load(path):
            right = [o["right"] for o in item["options"]].index(True)
            places[right] += 1
            lengths.append(max(item["options"], key=lambda o: len(o["text"]))["right"])
    assert min(places[i] for i in range(3)) > 0.2 * sum(places.values())
    # whoever picks the longest option must not be right nearly always
    assert sum(lengths) < 0.6 * len(lengths)


GOOD: list[dict[str, Any]] = [
    {
        "question": "Which?",
        "options": [
            {"text": "this", "why": "It is."},
            {"text": "that", "why": "It is not.", "right": True},
        ],
    }
]


def broken(change: Any) -> Any:
    copy = yaml.safe_load(yaml.safe_dump(GOOD))
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "a list of questions"),
        ([], "a list of questions"),
        (broken(lambda q: q[0].pop("question")), "question 1: wanted question and options"),
        (broken(lambda q: q[0].update(more=1)), "question 1: wanted question and options"),
        (broken(lambda q: q[0]["options"].pop()), "two options"),
        (broken(lambda q: q[0]["options"][0].pop("why")), "text, why"),
        (broken(lambda q: q[0]["options"][0].update(right=True)), "exactly one right"),
        (broken(lambda q: q[0]["options"][1].update(right=False)), "exactly one right"),
    ],
)
def test_another_form_is_one_line(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(quiz.ExtensionError, match=said) as info:
        quiz.load(path)
    assert "\n" not in str(info.value) and "x.yml" in str(info.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(quiz.ExtensionError, match="none.yml"):
        quiz.load(tmp_path / "none.yml")


class Form(HTMLParser):
    """What a page's form elements are, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.all if name == tag]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build two pages, one with a quiz and one without, and return their folder."""
    folder = tmp_path_factory.mktemp("quiz")
    (folder / "quizzes").mkdir()
    shutil.copy(BOOK / "quizzes" / "04_ppo_by_hand.yml", folder / "quizzes")
    shutil.copy(BOOK / "_assets" / "quiz.js", folder)
    (folder / "index.md").write_text(
        "# With\n\n```{quiz} 04_ppo_by_hand\n```\n\n```{toctree}\nother\nbad\n```\n"
    )
    (folder / "other.md").write_text("# Without\n")
    (folder / "bad.md").write_text("# Bad\n\n```{quiz} none\n```\n")
    settings = (
        "import sys\n"
        f"sys.path.insert(0, {str(BOOK / '_ext')!r})\n"
        "extensions = ['myst_parser', 'quiz']\n"
        "myst_enable_extensions = ['dollarmath']\n"
        "html_static_path = ['quiz.js']\n"
        "html_theme = 'basic'\n"
    )
    (folder / "conf.py").write_text(settings)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", ".", "out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (folder / "out" / "log.txt").write_text(done.stderr)
    return folder / "out"


def test_the_page_has_a_group_of_radio_buttons_for_each_question(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    asked = quiz.load(BOOK / "quizzes" / "04_ppo_by_hand.yml")
    form = Form(page)
    assert len(form.of("fieldset")) == len(form.of("legend")) == len(asked)
    radios = form.of("input")
    radios = [one for one in radios if one.get("type") == "radio"]
    by_name = Counter(one["name"] for one in radios)
    assert list(by_name.values()) == [len(item["options"]) for item in asked]
    ids = [one["id"] for one in radios]
    assert len(set(ids)) == len(ids)
    assert [one["for"] for one in form.of("label") if "for" in one and one["for"] in ids] == ids
    right = [one["id"] for one in radios if one.get("data-right") == "yes"]
    wanted = [
        f"quiz-{n}-{'abcd'[[o['right'] for o in item['options']].index(True)]}"
        for n, item in enumerate(asked, start=1)
    ]
    assert right == wanted
    for one in ids:
        assert f'id="{one}-why"' in page


def test_without_a_script_the_answers_open_and_the_button_is_hidden(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    form = Form(page)
    asked = quiz.load(BOOK / "quizzes" / "04_ppo_by_hand.yml")
    assert len(form.of("details")) == len(form.of("summary")) == len(asked)
    buttons = [one for one in form.of("button") if "quiz-check" in (one.get("class") or "")]
    assert len(buttons) == len(asked) and all("hidden" in one for one in buttons)
    assert page.count("✓ Right:") == len(asked)
    assert "\\varepsilon" in page  # mathematics went through the Markdown parser


def test_the_script_is_loaded_where_there_is_a_quiz_and_only_there(site: Path) -> None:
    assert "quiz.js" in (site / "index.html").read_text(encoding="utf-8")
    assert "quiz.js" not in (site / "other.html").read_text(encoding="utf-8")


def test_the_script_asks_no_host_for_anything() -> None:
    script = (BOOK / "_assets" / "quiz.js").read_text(encoding="utf-8")
    assert not re.search(r"https?:|fetch|import\b|XMLHttp|console\.", script)


def test_a_quiz_that_is_missing_is_reported_with_its_page(site: Path) -> None:
    log = (site / "log.txt").read_text(encoding="utf-8")
    assert "bad.md:3" in log and "none.yml" in log
