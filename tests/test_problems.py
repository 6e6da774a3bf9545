"""The embedded problems: every path leads to the answer, and the splits are what they claim."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reft_lib import kinds, problems
from reft_lib.data import PROBLEMS
from reft_lib.errors import UserError
from reft_lib.kinds import DISTRACTORS, NAMES, Kind
from reft_lib.paths import nodes, paths, value
from reft_lib.problems import DISTRACTOR_SHARE, SPLITS, Story, make_problem, write_row
from reft_lib.prompts import program
from reft_lib.sandbox import run_programs

EQUATION = re.compile(r"([\d(][\d\s()+*/-]*) = (\d+)")
BY_NAME = {k.name: k for k in (*kinds.OPENINGS, *kinds.STEPS, *kinds.QUESTIONS)}


@cache
def arithmetic(text: str) -> Fraction:
    """Compute a formula of whole numbers exactly, by Python's own precedence."""
    assert re.fullmatch(r"[\d+\-*/() ]+", text), text
    exact = re.sub(r"\d+", r"Fraction(\g<0>)", text)
    return eval(exact, {"__builtins__": {}, "Fraction": Fraction})


def check_paths_in_words(row: dict) -> None:
    """Check every N-CoT of a row: equations that hold, the last one giving the answer."""
    assert row["paths"]
    for path in row["paths"]:
        equations = EQUATION.findall(path["ncot"])
        assert len(equations) == path["ncot"].count("=") >= 1
        for left, right in equations:
            assert arithmetic(left) == int(right), (row["id"], path)
        assert equations[-1][1] == row["answer"], (row["id"], path)
    for part in ("name", "ncot", "pcot"):
        texts = [path[part] for path in row["paths"]]
        assert len(set(texts)) == len(texts), (row["id"], part)
    assert 0 <= row["annotated"] < len(row["paths"])
    assert "{" not in json.dumps([row["question"], *(list(p.values()) for p in row["paths"])])


def check_programs(rows: list[dict]) -> None:
    """Run every P-CoT of the rows in the sandbox: each returns its row's answer."""
    asked = [(row, path["pcot"]) for row in rows for path in row["paths"]]
    for (row, body), outcome in zip(
        asked, run_programs([program(body) for _, body in asked]), strict=True
    ):
        assert outcome.ok, (row["id"], body, outcome.error)
        assert float(outcome.value) == int(row["answer"]), (row["id"], body)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    return {
        name: [
            json.loads(line)
            for line in (PROBLEMS / f"{name}.jsonl").read_text("utf-8").splitlines()
        ]
        for name in SPLITS
    }


@pytest.fixture(scope="module")
def rows(splits) -> list[dict]:
    return [row for split in splits.values() for row in split]


# ---------------------------------------------------------------- any seed


@given(
    seed=st.integers(0, 2**32), n_steps=st.integers(1, 7), style=st.sampled_from(["task", "web"])
)
@settings(max_examples=60, deadline=None)
def test_any_problem_has_its_steps_and_every_path_leads_to_its_answer(seed, n_steps, style):
    rng = random.Random(seed)
    problem = make_problem(rng, n_steps, style)
    row = write_row(problem, "row", rng)
    assert row["n_steps"] == n_steps == sum(len(BY_NAME[name].notes) for name in problem.kinds)
    assert row["answer"] == str(value(problem.tree))
    check_paths_in_words(row)
    check_programs([row])
    met = [word for word in re.findall(r"[A-Z]\w+", row["question"]) if word in NAMES]
    assert met, "somebody has the things"


@given(seed=st.integers(0, 2**32), style=st.sampled_from(["task", "web"]))
@settings(max_examples=30, deadline=None)
def test_the_persons_of_a_story_are_three_different_ones(seed, style):
    words = Story(random.Random(seed), style).words
    persons = {words["P"], words["F"], words["G"]}
    assert len(persons) == 3
    assert persons <= set(NAMES)


def test_the_same_seed_makes_the_same_problem():
    first, again, other = (make_problem(random.Random(s), 3) for s in (4, 4, 5))
    assert first.question == again.question != other.question


# ---------------------------------------------------------------- the shipped splits


def test_every_path_in_words_of_every_shipped_problem_leads_to_its_answer(rows):
    for row in rows:
        check_paths_in_words(row)


def test_every_program_of_every_shipped_problem_runs_to_its_answer(rows):
    check_programs(rows)


def test_the_splits_have_their_sizes_and_steps(splits):
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 2000, "validation": 500, "test": 1000, "hard": 500}
    for name, split in splits.items():
        found = [row["n_steps"] for row in split]
        stated = itertools.islice(itertools.cycle(SPLITS[name][1]), len(split))
        assert found == list(stated), name
        assert set(found) == ({5, 6} if name == "hard" else {1, 2, 3, 4}), name
        assert min(Counter(found).values()) > 0.1 * len(split), name


def test_no_question_occurs_twice_in_or_across_splits(rows):
    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower()))

    assert len({plain(row["question"]) for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_at_least_twenty_kinds_occur_in_every_split(splits):
    for name, split in splits.items():
        assert len({kind for row in split for kind in row["kinds"]}) >= 20, name
    in_all = {kind for row in splits["train"] for kind in row["kinds"]}
    assert in_all == set(BY_NAME), "and in train all of them"


def test_most_problems_have_several_paths(rows):
    counts = [len(row["paths"]) for row in rows]
    assert sum(count > 1 for count in counts) / len(counts) > 0.9
    assert sum(counts) / len(counts) > 3


def test_the_annotated_path_is_drawn_evenly(splits):
    """Each of a row's k paths is annotated with probability 1/k: variance (1/k)(1 - 1/k)."""
    drawn: Counter[str] = Counter()
    mean: Counter[str] = Counter()
    variance: Counter[str] = Counter()
    for row in splits["train"]:
        k = len(row["paths"])
        drawn[row["paths"][row["annotated"]]["name"]] += 1
        for path in row["paths"]:
            mean[path["name"]] += 1 / k
            variance[path["name"]] += (1 / k) * (1 - 1 / k)
    assert set(drawn) == {"steps", "whole", "fused", "regrouped", "split", "mental"}
    for name in drawn:
        assert abs(drawn[name] - mean[name]) < 3.5 * variance[name] ** 0.5, name


def distracted(question: str) -> bool:
    """Tell whether one of the distracting sentences stands in a question."""
    words = {"P": r"\w+", "F": r"\w+", "n": r"\d+"}
    return any(re.search(wording.format(**words), question) for wording in DISTRACTORS.task)


def test_the_share_of_distracted_questions_and_where_they_stand(rows):
    share = sum(distracted(row["question"]) for row in rows) / len(rows)
    error = (DISTRACTOR_SHARE * (1 - DISTRACTOR_SHARE) / len(rows)) ** 0.5
    assert abs(share - DISTRACTOR_SHARE) < 4 * error
    for row in rows:
        sentences = re.split(r"(?<=[.?]) ", row["question"])
        assert not distracted(sentences[0]) and not distracted(sentences[-1])
        assert sum(map(distracted, sentences)) <= 1


def test_no_sentence_names_a_person_twice(rows):
    """Nobody gives to himself or is compared with himself (tests/test_kinds.py reads roles)."""
    for row in rows:
        persons = []
        for sentence in re.split(r"(?<=[.?]) ", row["question"]):
            named = [word for word in re.findall(r"\w+", sentence) if word in NAMES]
            assert len(set(named)) == len(named), row["question"]
            persons += named
        assert 1 <= len(set(persons)) <= 3, row["question"]


def test_generating_again_gives_the_shipped_bytes(tmp_path):
    problems.write_splits(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in PROBLEMS.iterdir() if path.suffix == ".jsonl")
    for name in names:
        assert (tmp_path / name).read_bytes() == (PROBLEMS / name).read_bytes(), name


def test_another_seed_gives_other_questions(rows):
    taken: set[str] = set()
    made = list(problems.make_rows("test", 40, (1, 2), 1, taken))
    assert len(taken) == len(made) == 40
    shipped = {row["question"] for row in rows}
    assert not any(row["question"] in shipped for row in made)


def test_a_taken_question_is_not_made_again():
    first = list(problems.make_rows("train", 5, (1,), 2024, set()))
    taken = {first[0]["question"], first[3]["question"]}
    again = list(problems.make_rows("train", 5, (1,), 2024, set(taken)))
    assert not taken & {row["question"] for row in again}
    assert [row["id"] for row in again] == [f"train-{i}" for i in range(5)]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.below: Not a directory"):
        problems.write_splits(tmp_path / "file" / "below")


def test_operations_counts_reasoning_steps():
    assert problems.operations(Kind("none", "x", (), ("a",), ("b",))) == 0
    assert problems.operations(BY_NAME["more_and_both"]) == 2
    tree = make_problem(random.Random(1), 4).tree
    assert len(nodes(tree)) == 4 and "steps" in paths(tree)
