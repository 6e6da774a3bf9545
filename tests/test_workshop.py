"""The shifted domain: right by construction, disjoint splits, nothing to solve in the text."""

from __future__ import annotations

import random
import re

import pytest

from reft_lib import data, kinds, models, paths, problems, workshop
from reft_lib.rewards import AnswerReward


@pytest.fixture(scope="module")
def world():
    return workshop.load()


@pytest.fixture(scope="module")
def nano_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.NANO_FOLDER)


def test_one_problem_worked_by_hand():
    told = workshop.Stock(random.Random(0))
    by_name = {kind.name: kind for kind in (*workshop.OPENINGS, *workshop.STEPS)}
    tree = 40
    for name, n, k, result in [
        ("draw", 7, 0, 33),
        ("bring_boxes", 4, 3, 45),
        ("rust_part", 0, 5, 36),
    ]:
        kind = by_name[name]
        tree = paths.apply_rule(kind.rule, tree, n, k, [*kind.notes])
        assert paths.value(tree) == result  # 40 - 7; 33 + 3 * 4; 45 - 45 / 5
        said = told.sentence(kind, n, k)
        assert all(str(x) in said for x in (n, k) if x)


def test_every_path_leads_to_the_answer_in_words_and_as_a_program(world):
    some = world.problems["validation"][:60]
    for fmt in ("ncot", "pcot"):
        asked, said = [], []
        for e in some:
            for path in e.meta["paths"]:
                asked.append(e)
                end = "" if fmt == "pcot" else f"\nTherefore, the answer is: {e.answer}"
                said.append(path[fmt] + end)
        assert all(g.correct for g in AnswerReward(fmt)(said, asked))
    for e in some:
        for path in e.meta["paths"]:
            last = re.findall(r"= (\d+)", path["ncot"])[-1]
            assert last == e.answer


def test_splits_share_no_question_and_the_text_holds_none_of_them(world):
    questions = [e.question for rows in world.problems.values() for e in rows]
    documents = [text for texts in world.texts.values() for text in texts]
    assert {name: len(rows) for name, rows in world.problems.items()} == workshop.SIZES
    assert {name: len(texts) for name, texts in world.texts.items()} == workshop.TEXTS
    assert len(set(questions)) == len(questions) and len(set(documents)) == len(documents)
    assert not set(questions) & set(documents)
    old = {e.question for split in ("train", "test") for e in data.load("embedded", split)}
    assert not old & set(questions)


def test_the_text_holds_no_solution(world):
    for text in world.texts["text"]:
        assert "=" not in text and "return" not in text and "answer" not in text
    counts = sum("Now " in text for text in world.texts["text"])
    asked = sum(text.endswith("?") for text in world.texts["text"])
    n = len(world.texts["text"])
    assert n / 4 < counts < n / 2 and n / 4 < asked < n / 2
    assert not any("Now " in text and "?" in text for text in world.texts["text"])


def test_the_stock_book_counts_right():
    page = workshop.stock_book(random.Random(3)).replace("\n", " ")
    first, *entries = re.split(r"(?<=Now \d)\. |(?<=Now \d\d)\. |(?<=Now \d\d\d)\. ", page)
    assert "Now" in first and len(entries) >= 1
    rng, checked = random.Random(5), 0
    for _ in range(200):
        page = workshop.stock_book(rng).replace("\n", " ")
        # opening with one number, then one that adds one number
        match = re.match(
            r"(?:The store has|There are) (\d+) (\D+?)(?: in the store)?\. A van brings (\d+) \2\. "
            r"Now (\d+)\.",
            page,
        )
        if match:
            assert int(match[1]) + int(match[3]) == int(match[4])
            checked += 1
    assert checked > 0


def test_the_same_seed_gives_the_same_world_and_another_another(world):
    workshop.load.cache_clear()
    again = workshop.load()
    assert again.problems == world.problems and again.texts == world.texts
    rng, other = random.Random(1), random.Random(2)
    assert workshop.make_problem(rng, 3) != workshop.make_problem(other, 3)


def test_problems_have_the_steps_asked_for():
    rng = random.Random(0)
    for n in (1, 2, 3, 4):
        for _ in range(20):
            assert len(paths.nodes(workshop.make_problem(rng, n).tree)) == n


def test_words_and_sentences_differ_from_the_old_domain():
    old = {w for kind in (*kinds.OPENINGS, *kinds.STEPS, *kinds.QUESTIONS) for w in kind.task}
    new = {
        w for kind in (*workshop.OPENINGS, *workshop.STEPS, *workshop.QUESTIONS) for w in kind.task
    }
    assert not old & new
    assert not set(workshop.ITEMS) & set(kinds.ITEMS) and not set(workshop.NAMES) & set(kinds.NAMES)


def test_solutions_use_only_tokens_that_pretraining_showed(world, nano_tokenizer):
    """An adapter cannot teach a token whose embedding means nothing."""
    import itertools

    from reft_lib import corpus

    seen: set[int] = set()
    for ids in nano_tokenizer(list(itertools.islice(corpus.documents(7), 4000)))["input_ids"]:
        seen |= set(ids)
    rows = world.problems["train"]
    targets = [t for e in rows for t in (e.pcot, f"{e.ncot}\nTherefore, the answer is: {e.answer}")]
    written = {i for ids in nano_tokenizer(targets)["input_ids"] for i in ids}
    assert not written - seen
    # the questions, however, are new to it: that is the shift
    read = {i for ids in nano_tokenizer([e.question for e in rows])["input_ids"] for i in ids}
    assert len(read - seen) > 50


def test_a_problem_out_of_range_is_drawn_again():
    story = workshop.Stock(random.Random(0))
    times = next(kind for kind in workshop.STEPS if kind.name == "multiply")
    story.tree = problems.Problem("", 150, ()).tree
    assert not story.try_to_add(times) and story.tree == 150 and not story.sentences
