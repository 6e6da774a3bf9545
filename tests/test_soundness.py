"""Reasoning behind an answer: by hand, on every known path, and on anything else."""

from __future__ import annotations

import dataclasses
import random

import pytest

from reft_lib import data, evaluate, prompts, soundness

SOUND = [
    ("12 + 5 = 17 after buying. 17 * 2 = 34 in both.\nTherefore, the answer is: 34", "34"),
    ("12 + 5 = 17. 17 * 2 = 34.\nTherefore, the answer is: 2", "34"),  # the option's number
    ("(12 + 5) * 2 = 34 in both.", "34"),
    ("34 / 4 = 8.5 each.", "8.5"),
    ("3 - 5 = -2 degrees.", "-2"),
]
UNSOUND = {
    "a false equation on the way": ("12 + 5 = 18. 17 * 2 = 34.", "34"),
    "a false last equation": ("12 + 5 = 17. 17 * 2 = 35.", "35"),
    "another number at the end": ("12 + 5 = 17. 17 * 2 = 34. 34 - 4 = 30.", "34"),
    "the number only on the way": ("17 * 2 = 34. 34 / 2 = 17.", "34"),
    "no equation": ("It is 34.\nTherefore, the answer is: 34", "34"),
    "nothing at all": ("", "34"),
    "an equation behind the trigger": ("Therefore, the answer is: 17 * 2 = 34", "34"),
    "division by zero": ("3 / 0 = 3.", "3"),
    "a power is no plain arithmetic": ("9 ** 9 = 387420489.", "387420489"),
    "an open parenthesis": ("(((1 + 1 = 2.", "2"),
    "far too long": ("1 + " * 40 + "0 = 40.", "40"),
}


@pytest.mark.parametrize(("text", "value"), SOUND)
def test_true_equations_that_end_in_the_value_are_sound(text, value):
    assert soundness.sound(text, value)


@pytest.mark.parametrize("case", UNSOUND)
def test_anything_else_is_not(case):
    assert not soundness.sound(*UNSOUND[case])


@pytest.mark.parametrize("split", ["validation", "hard"])
def test_every_path_of_every_problem_is_sound(split):
    for e in data.load("embedded", split):
        for path in e.meta["paths"]:
            said = path["ncot"] + prompts.TRIGGER + e.answer
            assert soundness.sound(said, e.answer) and not soundness.sound(said, e.answer + "1")


def test_no_text_makes_it_raise():
    rng = random.Random(0)
    signs = "0123456789.+-*/()= ,e_\n'x²"
    for _ in range(5000):
        soundness.sound("".join(rng.choices(signs, k=rng.randint(0, 60))), "7")


def test_right_answers_with_unsound_reasoning_are_counted():
    examples = data.load("embedded-choice", "validation")[:4]
    e = examples[0]
    labels = [c.answer for c in examples]
    good = [c.ncot + prompts.TRIGGER + c.answer for c in examples]
    guess = "1 + 1 = 3." + prompts.TRIGGER + labels[1]  # right option, no reason
    other = next(a for a in "12345" if a != labels[2])
    wrong = examples[2].ncot + prompts.TRIGGER + other  # sound, and then the wrong option
    texts = [good[0], guess, wrong, ""]
    graded = evaluate.judge([[text] for text in texts], examples, "ncot")
    found = soundness.verdicts(texts, graded.correct, examples)
    assert found == {"sound": "1010", "right_unsound": 0.25}
    number = dataclasses.replace(e, answer=e.meta["value"], meta={})  # asked for the number itself
    said = [e.ncot + prompts.TRIGGER + number.answer]
    assert soundness.verdicts(said, [True], [number]) == {"sound": "1", "right_unsound": 0.0}


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("She pays 5 * $1,250 = $6,250.", "5*1250=6250"),
        ("That is 5 × 1250 = 6250 in all.", "5*1250=6250"),
        ("60% / 2 = 30%, and 30 + 1 = 31.", "60/2=30; 30+1=31"),
        ("48/2 =24 clips. 48+ 24 = 72 clips.", "48/2=24; 48+24=72"),
        ("She walks, twice 3 is 6.", "She walks, twice 3 is 6."),
    ],
)
def test_one_path_in_several_spellings_is_one_path(said, same):
    assert soundness.reasoning(said, "ncot") == same
