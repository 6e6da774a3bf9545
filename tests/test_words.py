"""The glossary and the page of symbols: complete, sorted, and true of the library."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
GLOSSARY = (BOOK / "glossary.md").read_text(encoding="utf-8")
NOTATION = (BOOK / "notation.md").read_text(encoding="utf-8")
ENTRIES = re.split(r"\n\n(?=\S)", GLOSSARY.split("```{glossary}\n")[1].split("\n```")[0])
TERMS = [entry.split("\n")[0] for entry in ENTRIES]
TERM_ROLE = re.compile(r"\{term\}`([^`]+)`")


def prose(path: Path) -> str:
    """Return a page's text; of a notebook its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


PAGES = [*sorted(BOOK.glob("*.ipynb")), *sorted(BOOK.glob("*.md"))]
TEXTS = {path.stem: prose(path) for path in PAGES}
TEXTS |= {f"quiz {path.stem}": prose(path) for path in sorted((BOOK / "quizzes").glob("*.yml"))}


def test_terms_are_sorted_and_stand_once() -> None:
    keys = [term.lower().replace("–", "-") for term in TERMS]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) > 100


@pytest.mark.parametrize("entry", ENTRIES, ids=TERMS)
def test_entry_has_its_chinese_term_and_a_definition(entry: str) -> None:
    _, definition = entry.split("\n", 1)
    match = re.match(r"  \(([^)]*)\) (.+)", definition, re.DOTALL)
    assert match and re.search(r"[\u4e00-\u9fff]|^distinct-n|^pass@k|^self-BLEU", match[1])
    assert len(match[2].split()) > 5 and match[2].rstrip().endswith((".", "?"))


@pytest.mark.parametrize("name", TEXTS)
def test_every_term_of_a_page_is_in_the_glossary(name: str) -> None:
    known = {term.lower() for term in TERMS}
    for role in TERM_ROLE.findall(TEXTS[name]):
        plain = " ".join(role.split())
        target = re.sub(r"^.*<(.*)>$", r"\1", plain)
        assert target.lower() in known, f"{name}: {plain}"


def rows() -> list[list[str]]:
    """Return the rows of the symbols' tables, cell by cell."""
    lines = [line for line in NOTATION.splitlines() if line.startswith("| $")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def member(path: str) -> Any:
    """Return what a dotted path of the library names, or fail."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(f"there is no {path}")


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_library_has_what_a_symbol_is_called_there(row: list[str]) -> None:
    assert len(row) == 4, row
    cell = row[2]
    roles = list(re.finditer(r"((?:`\w+`(?:, )?)+) of \{py:\w+\}`~([\w.]+)`", cell))
    for role in roles:
        thing = member(role[2])
        names = set(inspect.signature(thing).parameters)
        if inspect.isclass(thing):
            names |= set(dir(thing)) | set(getattr(thing, "__annotations__", {}))
        assert set(re.findall(r"`(\w+)`", role[1])) <= names, role[0]
    for path in re.findall(r"\{py:\w+\}`~([\w.]+)`", cell):
        member(path)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_symbol_occurs_in_the_chapters_that_introduce_it(row: list[str]) -> None:
    chapters = re.findall(r"\{doc\}`(\w+)`", row[3])
    assert chapters
    first = re.match(r"\$(.+?)\$", row[0])
    assert first
    bare = re.sub(r"_\{?\\text.*|_\{?t\}?$|_\{i,t\}$|\(.*", "", first[1])
    letters = squeeze(bare)
    for chapter in chapters:
        maths = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", TEXTS[chapter], re.DOTALL)
        found = any(letters in squeeze(one) for one in maths)
        assert found, f"{chapter} has no {letters}"


def squeeze(text: str) -> str:
    """Return mathematics without spaces and brackets."""
    return re.sub(r"[\s{}]|\\[,;:! ]|\\operatorname", "", text)


def test_every_greek_letter_of_the_chapters_is_explained() -> None:
    greek = "alpha beta gamma delta epsilon varepsilon theta lambda mu pi rho sigma tau phi ell"
    used = set()
    for name, text in TEXTS.items():
        if name != "notation":
            for maths in re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, re.DOTALL):
                used |= set(re.findall(r"\\([a-z]+)", maths))
    symbols = " ".join(row[0] for row in rows())
    explained = set(re.findall(r"\\([a-z]+)", symbols))
    assert used & set(greek.split()) <= explained
