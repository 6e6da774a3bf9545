"""The reward lab shows what the reward itself does, marks the right place, and takes any text."""

from __future__ import annotations

import dataclasses
import re

import pytest

from reft_lib import explorer, widget_rewards, widgets
from reft_lib.answers import TRIGGER
from reft_lib.data import Example
from reft_lib.errors import UserError
from reft_lib.rewards import AnswerReward
from reft_lib.style import FORMATS
from reft_lib.widget_rewards import CAKE, GALLERY, PARTIALS, TOLERANCES, Answer, answer_html

BY_NAME = {a.name: a for a in GALLERY}
# What each answer is worth with a partial reward of 0.1, by tolerance; read off the texts by hand.
WORTH = {
    "words: right": (1, 1, 1),
    "words: right, spelt as money": (1, 1, 1),
    "words: right, spelt as a fraction": (1, 1, 1),
    "words: wrong number": (0.1, 0.1, 0.1),
    "words: a hundredth off": (0.1, 1, 1),
    "words: two numbers": (0, 0, 0),
    "words: no trigger, so no answer": (0, 0, 0),
    "words: two triggers, the last one counts": (1, 1, 1),
    "words: right number, unsound reasoning": (1, 1, 1),
    "words: text after the answer": (1, 1, 1),
    "program: right": (1, 1, 1),
    "program: wrong number, but close": (0.1, 0.1, 1),
    "program: does not parse": (0, 0, 0),
    "program: runs for ever": (0, 0, 0),
    "program: prints and does not return": (0, 0, 0),
    "program: text after the function": (1, 1, 1),
}


@pytest.fixture(scope="module")
def page():
    return widgets.reward_lab(live=False)


def test_every_answer_earns_what_it_should(page):
    assert list(WORTH) == list(BY_NAME)
    assert len(page.states) == len(WORTH) * len(PARTIALS) * len(TOLERANCES) <= explorer.MOST_STATES
    for name, worth in WORTH.items():
        for tol, expected in zip(TOLERANCES, worth, strict=True):
            for partial in PARTIALS:
                text = page.states[f"answer={name}; partial={partial:g}; tol={tol:g}"]
                earned = partial if expected == 0.1 else expected
                assert f"<strong>Reward {earned:g}</strong>" in text, (name, partial, tol)
    assert sum(map(len, page.states.values())) < 400_000


@pytest.mark.parametrize("answer", GALLERY, ids=lambda a: a.name)
def test_the_lab_grades_as_the_reward_does(answer):
    graded = AnswerReward(answer.fmt, 0.3, 0.01)([answer.text], [answer.example])[0]
    assert widget_rewards.judge(answer, 0.3, 0.01).graded == graded


def underlined(answer):
    """Return what is underlined, and the text before it."""
    shown = widget_rewards.marked(answer, widget_rewards.judge(answer, 0.1, 0.01))
    found = re.search(r"(.*)<mark[^>]*>(.*)</mark>", shown, re.DOTALL)
    return (found[2], found[1]) if found else (None, shown)


def test_what_is_extracted_is_underlined_where_it_stands():
    assert underlined(BY_NAME["words: right, spelt as money"])[0] == "$1,200.00"
    said, before = underlined(BY_NAME["words: two triggers, the last one counts"])
    assert said == "1200" and before.count("Therefore, the answer is:") == 2
    assert underlined(BY_NAME["words: no trigger, so no answer"])[0] is None
    said, before = underlined(BY_NAME["words: text after the answer"])
    assert said == "1200" and before.endswith("answer is: ") and "Rosa" not in before
    assert underlined(BY_NAME["program: text after the function"])[0] == "1200"
    assert underlined(BY_NAME["program: runs for ever"])[0] == "nothing"
    # the letter also occurs in the trigger's own words
    letter = Example("l", "Which?\na ) 1 , b ) 2", "A")
    said, before = underlined(Answer("x", "ncot", "So." + TRIGGER + "a", letter))
    assert said == "a" and before.endswith("answer is: ")
    said, before = underlined(
        Answer("x", "ncot", "So.\nThe answer <b>\n" + TRIGGER + "\n\n  7 <i>")
    )
    assert said == "7 &lt;i&gt;" and "&lt;b&gt;" in before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("words: no trigger, so no answer", "no line follows a trigger. stated: nothing."),
        ("words: two numbers", "what is stated cannot be read as one. stated: 1200 or 74."),
        ("words: wrong number", "Reward 0.1: an answer, but a wrong one. stated: 74. read as: 74."),
        ("words: a hundredth off", "difference: 0.01; equal up to 0.01"),
        ("words: right number, unsound reasoning", "does not add up to the right answer; the"),
        ("words: right, spelt as a fraction", "read as: 0.75. right answer: 0.75. difference: 0;"),
        ("words: right", "reasoning: adds up; the reward does not ask."),
        ("program: does not parse", "the program failed (SyntaxError: invalid syntax"),
        ("program: runs for ever", "the program failed (used more than 1 s)"),
        ("program: prints and does not return", "returned a NoneType"),
    ],
)
def test_the_words_say_why(page, name, said):
    shown = answer_html(BY_NAME[name], 0.1, 0.01)
    assert said in shown.text
    assert shown.html in page.states[f"answer={name}; partial=0.1; tol=0.01"]


def test_live_any_text_can_be_graded():
    found = widgets.reward_lab(live=True)
    _, partial, tol, text, form, gold, picture = found.widget.children
    assert "Reward 1<" in picture.value
    text.value = "So it is 5.\nTherefore, the answer is: 4.8"
    assert "Reward 0.1<" in picture.value and "Your own text" in picture.value
    gold.value = "5"
    partial.value, tol.value = 0.25, 0.1
    assert "Reward 0.25<" in picture.value
    tol.value = 0.2
    assert "Reward 1<" in picture.value
    gold.value = "five apples or six"
    assert "wanted a number, or a letter A to E" in picture.value
    gold.value, text.value, form.index = "5", "\n    return 2 + 3", list(FORMATS).index("pcot")
    assert "Reward 1<" in picture.value and "solution() gives" in picture.value
    text.value = " "
    assert "24 * 50 = 1200" in picture.value


def test_a_readers_own_responses_take_the_gallerys_place():
    responses = [TRIGGER + "0.7", TRIGGER + "3/4"]
    found = widgets.reward_lab(responses, [CAKE, CAKE], live=False)
    assert len(found.states) == 2 * len(PARTIALS) * len(TOLERANCES)
    assert "Reward 0.1<" in found.first.html and "0.7" in found.first.text


@pytest.mark.parametrize(
    ("responses", "examples", "said"),
    [
        ([], [], "0 responses and 0 examples"),
        (["x"], None, "1 responses and 0 examples"),
        (["x"] * 2, [CAKE], "2 responses and 1 examples"),
        (["x"] * 30, [CAKE] * 30, "270 states; a page takes at most 150"),
    ],
)
def test_what_cannot_be_shown_is_one_line(responses, examples, said):
    found = widgets.reward_lab(responses, examples, live=False)
    assert said in found.first.text and 'role="alert"' in found.first.html
    assert "\n" not in found.first.text


@pytest.mark.parametrize(
    ("partial", "tol", "gold"), [(1.0, 0.0, "1"), (-0.1, 0.0, "1"), (0.1, -1.0, "1"), (0.1, 0, "?")]
)
def test_what_cannot_be_graded_is_refused(partial, tol, gold):
    with pytest.raises(UserError):
        answer_html(Answer("x", "ncot", "7", dataclasses.replace(CAKE, answer=gold)), partial, tol)
