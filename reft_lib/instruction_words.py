"""How instructions are put: several phrasings of each task, some of them kept back from training.

There are two languages. ``plain`` is made of the few words that the nano model's pretraining text
has (:mod:`reft_lib.corpus`), which knows no "write", no "list" and no "wrong". ``english`` is for
models that have read English. Given to nano it shows what unknown words do: embeddings are frozen
under LoRA, so a word that was never met is read as it was initialised.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrasings:
    """The ways to ask for one task, in one language."""

    seen: tuple[str, ...]
    """Used in training; the first one alone where there shall be little variety."""
    kept_back: tuple[str, ...]
    """Used in no training."""


_SIGNS = "plus, minus, times, divided by"

PLAIN: dict[str, Phrasings] = {
    "solve": Phrasings(
        (
            "What is the answer, with the reasoning?",
            "Answer with all the reasoning.",
            "What is the reasoning? Then what is the answer?",
            "with reasoning, what is the answer?",
            "Therefore, what is the answer?",
        ),
        (
            "What answer is there, with all of the reasoning?",
            "Answer, with what reasoning?",
        ),
    ),
    "equation": Phrasings(
        (
            "What is all of that in one =?",
            "Answer with one =.",
            "What is one = for all of that?",
            "There is one = for all of that. What is that?",
            "Solution in one =.",
        ),
        ("What one = is there for all of that?", "Answer, all in one =."),
    ),
    "numbers": Phrasings(
        (
            "What is each number in that?",
            "Answer with every number.",
            "print each number.",
            "each number that was given?",
            "There is what number? What other number?",
        ),
        ("What is every number in that?", "print every number that was given."),
    ),
    "first": Phrasings(
        (
            f"What is at the start: {_SIGNS}?",
            f"start with what: {_SIGNS}?",
            f"Answer with the start: {_SIGNS}.",
            f"What do they start with, {_SIGNS}?",
            "What is the start of the reasoning?",
        ),
        (f"What is the start, {_SIGNS}?", "Answer with the start of the reasoning."),
    ),
    "program": Phrasings(
        (
            "What is the solution()?",
            "def solution() with the answer.",
            "def solution() for that?",
            "print a solution() for that.",
            "There is a solution() for that. What is that?",
        ),
        ("What solution() has the answer?", "Answer with a solution() for all of that."),
    ),
    "check": Phrasings(
        (
            "What is the Result: the answer, another number?",
            "What does the solution give: the answer, another number?",
            "There is a Result. What is that: the answer, another number?",
            "Answer: the answer, another number?",
            "What was the Result, the answer, some other number?",
        ),
        (
            "What is that Result, the answer to that?",
            "What does the Result give: the answer, some other number?",
        ),
    ),
    "rephrase": Phrasings(
        (
            "Question in another way?",
            "What is that in another way?",
            "print that in another way.",
            "in some other way, what is that?",
            "Answer with that in some other way.",
        ),
        ("There is another way. What is that?", "What is that, the other way?"),
    ),
}
PLAIN["first-sum"] = Phrasings(("What is the start in one =?", "Answer with the start, one =."), ())
PLAIN["last"] = Phrasings(
    (f"What is at the end: {_SIGNS}?", "What is the end of the reasoning?"), ()
)

ENGLISH: dict[str, Phrasings] = {
    "solve": Phrasings(
        (
            "Solve the problem step by step.",
            "Explain how to find the answer, then state it.",
            "Show your work and give the final answer.",
        ),
        ("Work it out and tell me the result with your steps.",),
    ),
    "equation": Phrasings(
        (
            "Give the equation only.",
            "Write a single equation for this problem, nothing else.",
            "Which equation solves it? Reply with just that.",
        ),
        ("Put the whole calculation into one equation.",),
    ),
    "numbers": Phrasings(
        (
            "List the numbers in the text.",
            "Which numbers are mentioned? Keep their order.",
            "Write down every number that occurs above.",
        ),
        ("Name all numbers in this problem, in order.",),
    ),
    "first": Phrasings(
        (
            "Which operation comes first?",
            "What has to be calculated first?",
            "Name the first step of the calculation.",
        ),
        ("With which operation do you begin?",),
    ),
    "program": Phrasings(
        (
            "Write a Python function solution() that returns the answer.",
            "Write the program that solves this.",
            "Solve it in Python.",
        ),
        ("Turn this problem into Python code.",),
    ),
    "check": Phrasings(
        (
            "Is this solution right or wrong?",
            "Check the solution above.",
            "Does the solution reach the right answer?",
        ),
        ("Judge whether the solution is correct.",),
    ),
    "rephrase": Phrasings(
        (
            "Rephrase the question.",
            "Ask the question in other words.",
            "How else could one ask this?",
        ),
        ("Put the question differently.",),
    ),
}
ENGLISH["first-sum"] = Phrasings(
    ("Give the equation of the first operation.", "Write the first step as one equation."), ()
)
ENGLISH["last"] = Phrasings(("Which operation comes last?", "Name the last step."), ())

LANGUAGES = {"plain": PLAIN, "english": ENGLISH}
"""Name to task to phrasings."""
