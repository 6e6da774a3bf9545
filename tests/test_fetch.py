"""Where files come from: folder, cache, hub. No test here touches the network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reft_lib import data, fetch
from reft_lib.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the file this library was tested with")

# Rows as the hub's own data sets have them: their features, in their order.
GSM8K = {"question": "How many are 2 and 3?", "answer": "It is 2+3 = <<2+3=5>>5.\n#### 5"}
OTHER = {"question": "How many are 4 and 3?", "answer": "It is 4+3 = <<4+3=7>>7.\n#### 7"}
MATHQA = {
    "Problem": "how many are 2 and 3 ?",
    "Rationale": '"2 and 3 make 2 + 3 = 5 . answer : b"',
    "options": "a ) 4 , b ) 5 , c ) 6 , d ) 7 , e ) 8",
    "correct": "b",
    "annotated_formula": "add(2, 3)",
    "linear_formula": "add(n0,n1)|",
    "category": "general",
}
HUB = {
    ("openai/gsm8k", "main", "train"): [GSM8K],
    ("openai/gsm8k", "main", "test"): [OTHER],
    ("allenai/math_qa", None, "train"): [MATHQA],
}
AUTHORS = {
    "svamp_test_set.json": [{"item_id": "svamp_9", "question": "q ?", "answer_value": "3.0"}],
    "mathqa_test_set.json": [
        {"item_id": "mathqa_1", "question": "x ?\na ) 1 , b ) 2", "answer_value": "a"}
    ],
    "mathqa-numeric_test_set.json": [
        {"item_id": "mathqa-numeric_1", "question": "x ?", "answer_value": "1.0"}
    ],
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder, an empty cache, and nothing that answers."""
    monkeypatch.delenv("REFT_DATA_DIR", raising=False)
    monkeypatch.setenv("REFT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "reachable", lambda url: False)
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub and a server with the rows above; returns what they were asked for."""
    asked: list[Any] = []

    def load_dataset(path: str, name: str | None = None, *, split: str) -> list[dict[str, str]]:
        asked.append((path, name, split))
        return HUB[path, name, split]

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        name = url.rsplit("/", 1)[1]
        asked.append(url)
        return io.BytesIO(json.dumps(AUTHORS[name], indent=2).encode())

    monkeypatch.setattr(fetch, "reachable", lambda url: True)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_the_folder_comes_first_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, named = tmp_path / "given", tmp_path / "named"
    for folder in (given, named, fetch.cache_folder()):
        folder.mkdir(parents=True)
        (folder / "svamp_nl.json").write_text("x")
    monkeypatch.setenv("REFT_DATA_DIR", str(named))
    names = ["svamp_nl.json"]
    assert fetch.locate(names, given) == (given / "svamp_nl.json", "folder")
    assert fetch.locate(names) == (named / "svamp_nl.json", "folder")
    (named / "svamp_nl.json").unlink()
    assert fetch.locate(names) == (fetch.cache_folder() / "svamp_nl.json", "cache")


def test_the_first_place_decides_and_not_the_best_name(tmp_path: Path) -> None:
    fetch.cache_folder().mkdir(parents=True)
    (fetch.cache_folder() / "mathqa_train.json").write_text("x")
    (tmp_path / "mathqa_dev.json").write_text("x")
    names = ["mathqa_train.json", "mathqa_dev.json"]
    assert fetch.locate(names, tmp_path) == (tmp_path / "mathqa_dev.json", "folder")
    (tmp_path / "mathqa_train.json").write_text("x")
    assert fetch.locate(names, tmp_path)[0] == tmp_path / "mathqa_train.json"


def test_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the folder of data sets is .*nowhere.*; it must be"):
        fetch.locate(["svamp_nl.json"], tmp_path / "nowhere")
    monkeypatch.setenv("REFT_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="REFT_DATA_DIR is .*nowhere.*; it must be a folder"):
        fetch.locate(["svamp_nl.json"])


def test_gsm8k_from_the_hub(online: list[Any]) -> None:
    (example,), report = data.load_with_report("gsm8k", "train")
    assert (example.answer, example.ncot) == ("5", "It is 2+3 = 5.")
    assert report["places"] == {"gsm8k_train.jsonl": "hub", "gsm8k_test.jsonl": "hub"}
    assert online == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]
    report = data.load_with_report("gsm8k", "train")[1]
    assert set(report["places"].values()) == {"cache"} and len(online) == 2  # asked once


def test_mathqa_from_the_hub_is_the_train_split(online: list[Any]) -> None:
    (example,), report = data.load_with_report("mathqa-choice", "train")
    assert example.id == "mathqa_train_0" and example.answer == "b"
    assert example.ncot == "2 and 3 make 2 + 3 = 5"
    assert ("allenai/math_qa", None, "train") in online
    assert fetch.AUTHORS + "mathqa_test_set.json" in online
    assert report["places"]["mathqa_train.json"] == "hub"


def test_svamp_from_the_authors_is_kept_unchanged(online: list[Any]) -> None:
    assert [e.answer for e in data.load("svamp", "test")] == ["3"]
    kept = fetch.cache_folder() / "svamp_test_set.json"
    assert kept.read_text() == json.dumps(AUTHORS["svamp_test_set.json"], indent=2)
    assert [p.name for p in fetch.cache_folder().iterdir()] == ["svamp_test_set.json"]


def test_rows_of_the_hub_are_written_as_the_originals() -> None:
    # The known hashes are of the original files; see the real-file test below.
    assert fetch._as_written("x.jsonl", [GSM8K, OTHER]).count("\n") == 2
    assert fetch._as_written("x.json", [MATHQA]).startswith('[\n    {\n        "Problem": "how')


NOWHERE = [
    ("gsm8k", r"gsm8k_train.jsonl is not at hand .*the hub cannot be reached\); set REFT_DATA_DIR"),
    (
        "svamp",
        r"svamp_test_set.json is not at hand .*githubusercontent.com cannot be reached\); set",
    ),
    ("mathqa-numeric", r"mathqa_train.json is not at hand .*; set REFT_DATA_DIR to a folder that"),
]


@pytest.mark.parametrize(("name", "message"), NOWHERE)
def test_one_line_says_what_to_set(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        data.load(name, "train")
    assert "\n" not in str(caught.value)


def test_without_the_package(online: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        data.load("gsm8k", "test")


def test_a_hub_that_fails(online: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no such data set\nand a long story")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match="cannot be loaded from the hub: no such data") as caught:
        data.load("gsm8k", "test")
    assert "\n" not in str(caught.value)


def test_a_server_that_fails(online: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(url: str, timeout: float) -> None:
        raise urllib.error.URLError("gone")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError, match="svamp_test_set.json cannot be read"):
        data.load("svamp", "test")
    assert not fetch.cache_folder().exists()


def test_offline_by_choice_the_package_is_still_asked(
    online: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(fetch, "reachable", lambda url: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # it may have a cache of its own
    assert len(data.load("gsm8k", "train")) == 1


def test_a_cache_that_cannot_be_written(
    online: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written .*set REFT_CACHE_DIR"):
        data.load("gsm8k", "test")


def test_an_unknown_file() -> None:
    with pytest.raises(UserError, match="x.json is not a known file; there are: gsm8k_train"):
        fetch.fetch("x.json")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert fetch.cache_folder() == tmp_path / "cache" / "datasets"
    monkeypatch.delenv("REFT_CACHE_DIR")
    assert fetch.cache_folder().parts[-3:] == (".cache", "reft_lib", "datasets")


def test_asking_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(fetch, "PROBE_SECONDS", 0.1)

    def urlopen(request: Any, timeout: float) -> None:
        time.sleep(0.6)
        raise OSError("too late")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    started = time.monotonic()
    assert not fetch.reachable("https://example.org")
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (urllib.error.HTTPError("u", 404, "not found", None, None), True),  # type: ignore[arg-type]
        (urllib.error.URLError("no route"), False),
        (ValueError("no url"), False),
        (None, True),
    ],
)
def test_any_answer_will_do(
    error: Exception | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    def urlopen(request: Any, timeout: float) -> io.BytesIO:
        if error:
            raise error
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert fetch.reachable("https://example.org") is expected


# ---------------------------------------------------------------- known files

SHA = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"
DIFFERENT = [
    ("gsm8k_test.jsonl", 1319, SHA, None),
    ("gsm8k_test.jsonl", 1318, SHA, "1,319 rows are expected, not 1,318"),
    ("gsm8k_test.jsonl", 1319, "0" * 64, "as many rows, but its SHA-256 begins 000000000000, not"),
    ("mathqa_train.json", 29837, "0" * 64, None),  # known by its rows only
    ("mathqa_train.json", 3, "0" * 64, "29,837 rows are expected, not 3"),
    ("mine.json", 3, "0" * 64, None),
]


@pytest.mark.parametrize(("name", "rows", "sha256", "expected"), DIFFERENT)
def test_difference(name: str, rows: int, sha256: str, expected: str | None) -> None:
    line = fetch.difference(name, rows, sha256)
    assert (line is None) == (expected is None)
    if line is not None and expected is not None:
        assert line.startswith(f"{name} is not the file this library was tested with")
        assert expected in line and "\n" not in line


def test_another_file_is_read_with_a_warning(tmp_path: Path) -> None:
    for split, row in (("train", GSM8K), ("test", OTHER)):
        (tmp_path / f"gsm8k_{split}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.warns(UserWarning, match="gsm8k_train.jsonl is not the file .* expected, not 1"):
        examples, report = data.load_with_report("gsm8k", "train", tmp_path)
    assert len(examples) == 1 and len(report["warnings"]) == 2


HERE = Path(os.environ.get("REFT_DATA_DIR") or "?")


@pytest.mark.data
@pytest.mark.skipif(
    not (HERE / "gsm8k_train.jsonl").is_file(), reason="REFT_DATA_DIR names no folder of data sets"
)
def test_real_files_are_the_known_ones_and_would_be_from_the_hub() -> None:
    for name, known in fetch.FILES.items():
        if not (HERE / name).is_file():
            continue
        content = (HERE / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == known.sha256, name
        if known.hub is not None:  # the same rows, written anew, are the same bytes
            lines = content.decode().splitlines() if name.endswith("l") else []
            rows = [json.loads(line) for line in lines] or json.loads(content)
            assert len(rows) == known.rows
            assert fetch._as_written(name, rows).encode() == content, name
