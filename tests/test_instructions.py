"""Tasks phrased as instructions: right responses pass, wrong ones fail, words are known."""

from __future__ import annotations

import collections
import itertools
import random
from dataclasses import replace

import pytest

from reft_lib import corpus, data, instructions, prompts
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.instruction_tuning import requests
from reft_lib.instruction_words import ENGLISH, LANGUAGES, PLAIN
from reft_lib.instructions import SEEN, TASKS, UNSEEN, VERDICTS, Request
from reft_lib.paths import nodes, value, write_ncot, write_pcot

LEO = Example(
    id="leo",
    question="Leo has 11 stamps in each of 2 packs. The shop has 3 lamps. Lucy has 13 stamps. "
    "How many more stamps does Leo have than Lucy?",
    answer="9",
    ncot="2 * 11 - 13 = 9 as the difference.",
    pcot="\n    return 2 * 11 - 13",
    meta={
        "kinds": ["has_boxes", "difference"],
        "paths": [
            {
                "name": "steps",
                "ncot": "2 * 11 = 22 in the packs. 22 - 13 = 9 as the difference.",
                "pcot": "\n    start = 2 * 11\n    return start - 13",
            }
        ],
    },
)


@pytest.fixture(scope="module")
def train():
    return data.load("embedded", "train")[:150]


def asked(task, response="", e=LEO):
    return Request("r", task, e.question, response, e)


def made(task, e=LEO, seed=0):
    return TASKS[task].make(e, random.Random(seed))


def test_a_tree_is_read_back_as_it_was_written(train):
    for e in train:
        tree, path = instructions.tree_of(e), e.meta["paths"][0]
        assert path["name"] == "steps" and str(value(tree)) == e.answer
        assert write_ncot(tree, nodes(tree)) == path["ncot"]
        assert write_pcot(tree, nodes(tree)) == path["pcot"]
    with pytest.raises(UserError, match="no path of single steps"):
        instructions.tree_of(Example("bare", "q", "1"))


def test_hand_worked_responses():
    wanted = {
        "solve": "2 * 11 - 13 = 9 as the difference.\nTherefore, the answer is: 9",
        "equation": "2 * 11 - 13 = 9",
        "numbers": "11, 2, 3, 13",
        "first": "A: 2 times 11.",
        "last": "A: 22 minus 13.",
        "first-sum": "2 * 11 = 22",
        "rephrase": "A: Lucy owned 13 stamps too. By what number is Lucy behind?",
        "program": "def solution():\n    return 2 * 11 - 13",
    }
    for task, response in wanted.items():
        assert made(task) == ("", response)


def test_solutions_to_check_are_wrong_as_said():
    seen = collections.Counter()
    for seed in range(60):
        below, verdict = made("check", seed=seed)
        stated = below.rsplit("Result ", 1)[1]
        assert below.startswith("Solution: ") and f"= {stated}. Result {stated}" in below
        assert (stated == "9") == (verdict == VERDICTS[True])
        if stated != "9":  # a false last sum, or a true one of other numbers or signs
            last = below.split("; ")[-1].split(". ")[0].removeprefix("Solution: ")
            formula, result = last.split(" = ")
            seen["slip" if eval(formula.replace("/", "//")) != int(result) else "spoilt"] += 1
        else:
            assert below == "Solution: 2 * 11 = 22; 22 - 13 = 9. Result 9"
    assert 20 <= sum(seen.values()) <= 40 and min(seen.values()) > 3


CASES = [
    ("solve", "11 * 2 = 22. Therefore, the answer is: 9.0", True),
    ("solve", "2 * 11 - 13 = 9", False),
    ("solve", "def solution():\n    return 2 * 11 - 13", False),
    ("equation", "2 * 11 - 13 = 9", True),
    ("equation", " 11 * 2 - 13 = 9\n", True),
    ("equation", "(11 + 11) - 13 = 9", True),
    ("equation", "9 = 9", False),
    ("equation", "6 + 3 = 9", False),  # true, but not of this problem's numbers
    ("equation", "2 * 11 - 13 = 8", False),
    ("equation", "2 * 11 = 22; 22 - 13 = 9", False),
    ("equation", "2 * 11 - 13 = 9 as the difference.", False),
    ("equation", "", False),
    ("numbers", "11, 2, 3, 13", True),
    ("numbers", "11 2 3 13", True),
    ("numbers", "2, 11, 3, 13", False),
    ("numbers", "11, 2, 13", False),
    ("numbers", "11, 2, 3, 13 stamps", False),
    ("first", "A: 2 times 11.", True),
    ("first", "A: 11 times 2", True),
    ("first", "A: 22 minus 13.", False),
    ("first", "A: 2 plus 11.", False),
    ("first", "2 * 11", False),
    ("last", "A: 22 minus 13.", True),
    ("last", "A: 13 minus 22.", False),
    ("last", "A: 2 times 11.", False),
    ("first-sum", "11 * 2 = 22", True),
    ("first-sum", "2 * 11 = 21", False),
    ("first-sum", "22 - 13 = 9", False),
    ("first-sum", "2 * 11 - 13 = 9", False),
    ("program", "def solution():\n    return 22 - 13", True),
    ("program", "\n    return 22 - 13", False),  # the body alone is no program
    ("program", "def solution():\n    return 22 + 13", False),
    ("program", "2 * 11 - 13 = 9", False),
]


def test_every_kind_of_question_is_rephrased(train):
    kinds = {e.meta["kinds"][-1]: e for e in train}
    assert len(kinds) == 14
    for kind, e in kinds.items():
        text = made("rephrase", e)[1]
        assert "{" not in text and text not in e.question, kind
        assert set(instructions.numbers_of(text)) <= set(instructions.numbers_of(e.question))
    now = replace(LEO, question="Mia has 2 cards. How many cards does Mia have in the end?")
    now = replace(now, meta={**LEO.meta, "kinds": ["has", "now"]})
    assert made("rephrase", now)[1] == "A: What is the number of cards now?"
    with pytest.raises(UserError, match="not worded as now is"):
        made("rephrase", replace(now, question="Mia has 2 cards. And now?"))


@pytest.mark.parametrize(("task", "text", "right"), CASES)
def test_checkers(task, text, right):
    assert TASKS[task].check(text, asked(task, made(task)[1])) is right


@pytest.mark.parametrize("task", ["check", "rephrase"])
def test_checkers_with_one_right_text(task):
    response = made(task)[1]
    check, r = TASKS[task].check, asked(task, response)
    assert check(response, r) and check(f" {response}\n", r)
    assert not check(response[:-1], r) and not check(LEO.question, r) and not check("", r)
    if task == "check":
        other = next(v for v in VERDICTS.values() if v != response)
        assert not check(other, r)


def test_every_task_accepts_its_own_responses(train):
    for task in TASKS:
        for r in requests(train[:40], [task], seed=1):
            assert TASKS[task].check(r.response, r), (task, r.response)


def test_phrasings_are_kept_back_indeed():
    assert set(SEEN) | set(UNSEEN) == set(TASKS) and not set(SEEN) & set(UNSEEN)
    for name, language in LANGUAGES.items():
        assert set(language) == set(TASKS), name
        seen = [p for task in SEEN for p in language[task].seen]
        back = [p for task in SEEN for p in language[task].kept_back]
        assert len({*seen, *back}) == len(seen) + len(back)  # none stands for two tasks
        assert all(language[task].kept_back for task in SEEN)
        for task in UNSEEN:
            assert not set(language[task].seen) & {*seen, *back}


def test_plain_words_and_responses_are_known_to_nano(train):
    """Every token that nano reads or writes here occurs in its pretraining text."""
    from transformers import AutoTokenizer

    from reft_lib.models import NANO_FOLDER

    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)

    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    shown = set()
    for text in itertools.islice(corpus.documents(7), 2000):
        shown.update(tokens(text))

    def unknown(text):
        return [tokenizer.decode([i]) for i in tokens(text) if i not in shown]

    for task in TASKS:
        for phrasing in (*PLAIN[task].seen, *PLAIN[task].kept_back):
            assert not unknown("\n" + phrasing), phrasing
        for r in requests(train[:40], [task]):
            assert not unknown(prompts.prompt(r.text, "ncot")) and not unknown(r.response), r
    assert all(unknown(ENGLISH[task].seen[0]) for task in SEEN)  # the control
