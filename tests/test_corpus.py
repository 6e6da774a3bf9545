"""The pretraining text: apart from the task, of the stated mixture, and with every needed token."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter

import numpy as np
import pytest
from transformers import AutoTokenizer

from reft_lib import corpus
from reft_lib.config import PretrainConfig
from reft_lib.data import PROBLEMS
from reft_lib.kinds import DISTRACTORS, NAMES, OPENINGS, QUESTIONS, STEPS
from reft_lib.paths import LARGEST, value
from reft_lib.pretrain import train_tokenizer
from reft_lib.problems import SPLITS, make_problem
from reft_lib.prompts import TRIGGER, program, prompt

SAMPLE = 30_000
NANO = PROBLEMS.parent / "nano"


@pytest.fixture(scope="module")
def docs() -> list[str]:
    """The first documents of the very text that the nano model reads."""
    return list(itertools.islice(corpus.documents(PretrainConfig().seed), SAMPLE))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    files = (PROBLEMS / f"{split}.jsonl" for split in SPLITS)
    return [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]


def occurring(needles: list[str], docs: list[str], end: str, width: int = 40) -> list[str]:
    """Return the needles, all ending in ``end``, that occur in a document.

    A needle's last ``width`` characters must then stand before some ``end`` of a document: only
    those few that do are looked for as a whole.
    """
    assert all(needle.endswith(end) for needle in needles)
    tails = {
        doc[max(0, at.end() - width) : at.end()]
        for doc in docs
        for at in re.finditer(re.escape(end), doc)
    }
    suspects = [n for n in needles if n[-width:] in tails or len(n) < width]
    text = "\0".join(docs)
    return [needle for needle in suspects if needle in text]


def test_the_search_finds_what_is_there(docs):
    asked = [doc for doc in docs[:300] if doc.endswith("?")]
    assert asked and occurring(asked, docs, "?") == asked
    assert occurring(["How many apples does Nobody have now?"], docs, "?") == []


# ---------------------------------------------------------------- apart from the task


def test_no_question_of_any_split_occurs(docs, rows):
    assert occurring([row["question"] for row in rows], docs, "?") == []


def test_no_question_occurs(docs, rows):
    assert occurring([row["question"] for row in rows], docs, "?") == []


def as_pattern(wording: str) -> str:
    """Return a regular expression for a wording with any names, things and numbers in it."""
    return re.sub(r"\\{(\w)\w*\\}", r"\\w+", re.escape(wording))


def test_no_solved_question_is_worded_as_the_task_throughout(docs):
    """Every solved question has a sentence that the task never has, whoever its persons are."""
    kinds = (*OPENINGS, *STEPS, *QUESTIONS, DISTRACTORS)
    odd = re.compile("|".join(as_pattern(w) for kind in kinds for w in kind.web))
    plain = re.compile("|".join(as_pattern(w) for kind in kinds for w in kind.task))
    assert plain.search("Tom has 12 apples.") and not odd.search("Tom has 12 apples.")
    solved = [doc.split("\n")[0] for doc in docs if kind_of(doc) == "solved"]
    assert len(solved) > 1000
    assert [question for question in solved if not odd.search(question)] == []
    assert sum(bool(plain.search(question)) for question in solved) > 0.5 * len(solved)


def test_no_annotation_occurs(docs, rows):
    """Neither a target in words (reasoning, trigger, answer) nor reasoning of several steps.

    A lone equation of a one-step annotation may stand on a work sheet by chance, and a short
    program may be one of the many that the text has, without their questions: few of them do.
    """
    texts = [path["ncot"] for row in rows for path in row["paths"]]
    answers = [row["answer"] for row in rows for _ in row["paths"]]
    triggers = ["\n".join(d.split("\n")[-2:]) for d in docs if TRIGGER.strip() in d]
    targets = {f"{text}{TRIGGER}{answer}" for text, answer in zip(texts, answers, strict=True)}
    assert triggers and not targets & set(triggers)

    several = [text for text in texts if text.count("=") > 1]
    assert len(several) > 5000 and occurring(several, docs, ".") == []

    annotated = [row["paths"][row["annotated"]] for row in rows]
    alone = [path["ncot"] for path in annotated if path["ncot"].count("=") == 1]
    assert len(occurring(alone, docs, ".")) < 0.05 * len(alone)
    programs = {doc[doc.index("def solution():") :] for doc in docs if "def solution():" in doc}
    assert sum(program(path["pcot"]) in programs for path in annotated) < 0.002 * len(annotated)


# ---------------------------------------------------------------- the mixture


def kind_of(doc: str) -> str:
    """Tell a document's kind from its looks alone."""
    if re.search(r"\n(?:A|Solution): |print\(", doc):
        return "solved"
    if not re.search("[A-Za-z]", doc):
        return "arithmetic"
    return "form" if "?" in doc or "=" in doc else "story"


def test_documents_have_the_stated_shares_of_kinds(docs):
    assert sum(corpus.SHARES.values()) == pytest.approx(1)
    counts = Counter(map(kind_of, docs))
    assert set(counts) == set(corpus.SHARES)
    for kind, share in corpus.SHARES.items():
        assert counts[kind] / len(docs) == pytest.approx(share, abs=0.015), kind


def result_of(solution: str) -> int:
    """Return the result of a solution: as it states it, or as its script prints it."""
    if "print(" in solution:
        printed: list[float] = []
        exec(solution, {"__builtins__": {}, "print": printed.append})
        assert printed[0] == int(printed[0])
        return int(printed[0])
    return int(re.search(r"(?:Result|It is) (\d+)$", solution)[1])


def test_the_stated_share_of_solutions_is_wrong():
    """The same seed makes the same problem again, without its solution."""
    wrong, n = 0, 3000
    for seed in range(n):
        question, solution = corpus.solved(random.Random(seed)).split("\n", 1)
        rng = random.Random(seed)
        problem = make_problem(rng, rng.choice([1, 1, 2, 2, 3, 4]), style="web")
        assert problem.question == question
        wrong += result_of(solution) != value(problem.tree)
    error = (corpus.WRONG_SHARE * (1 - corpus.WRONG_SHARE) / n) ** 0.5
    assert wrong / n == pytest.approx(corpus.WRONG_SHARE, abs=4 * error)


def test_a_spoilt_tree_has_another_value_within_the_range():
    rng = random.Random(0)
    for _ in range(300):
        tree = make_problem(rng, rng.randint(1, 4), "web").tree
        other = corpus.wrong(rng, tree)
        assert value(other) != value(tree) and 1 <= value(other) <= LARGEST


def test_arithmetic_is_right():
    rng = random.Random(0)
    for _ in range(200):
        for line in re.split(r"\n|\. |, ", corpus.arithmetic(rng)):
            left, right = line.split(" = ")
            assert re.fullmatch(r"[\d+\-*/ ]+", left) and eval(left) == int(right), line


def test_work_sheets_and_quizzes_are_right():
    rng = random.Random(0)
    for _ in range(200):
        for page in (corpus._work_sheet(rng), corpus._quiz(rng)):
            found = re.findall(r"(\d+ [-+*/] \d+) = (\d+)", page)
            assert found and all(eval(left) == int(right) for left, right in found), page


def test_the_same_seed_gives_the_same_text(docs):
    again = list(itertools.islice(corpus.documents(PretrainConfig().seed), 500))
    other = list(itertools.islice(corpus.documents(PretrainConfig().seed + 1), 500))
    assert again == docs[:500]
    assert len(set(again) & set(other)) < 5


def test_nothing_of_a_template_is_left_and_no_document_is_empty(docs):
    assert not any("{" in doc or "}" in doc for doc in docs)
    assert all(doc.strip() for doc in docs)
    everyone = set(re.findall(r"[A-Z][a-z]+", " ".join(docs[:5000])))
    assert set(NAMES) <= everyone


# ---------------------------------------------------------------- the tokens that targets need


@pytest.fixture(scope="module")
def tokenizer(docs):
    if (NANO / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(NANO)
    return train_tokenizer(docs[:20_000], PretrainConfig().vocab)


def test_every_token_of_the_task_occurs_in_the_pretraining_text(docs, rows, tokenizer):
    """LoRA leaves embeddings frozen: a token never seen before could not be learnt."""
    needed: set[str] = set()
    for row in rows:
        needed |= {prompt(row["question"], "ncot"), prompt(row["question"], "pcot")}
        for path in row["paths"]:
            needed |= {path["ncot"] + TRIGGER + row["answer"], path["pcot"]}

    def ids(texts) -> np.ndarray:
        encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return np.fromiter(itertools.chain.from_iterable(encoded), dtype=np.int64)

    seen = np.bincount(ids(docs), minlength=len(tokenizer))
    wanted = np.unique(ids(needed))
    assert len(wanted) > 100
    rare = {tokenizer.decode([i]): int(seen[i]) for i in wanted if seen[i] < 20}
    assert not rare, f"tokens of the task that pretraining hardly shows: {rare}"
