"""The data sets by name.

:func:`load` gives the examples of one split of a named data set; :func:`load_with_report` also
tells how many rows were read and left out, which share of their annotations is kept, and the
hashes of the files. An annotation is kept only if it leads to the row's own answer: a program must
run to it, and each loader says what it asks of a chain of thought in words.

=================== ================================================== ========================
name                what                                               module
=================== ================================================== ========================
``embedded``        problems shipped in ``data/problems``              :mod:`reft_lib.embedded`
``embedded-choice`` the same, the answer one of five options           :mod:`reft_lib.embedded`
``svamp``           SVAMP, annotated by the ReFT authors               :mod:`reft_lib.svamp`
``gsm8k``           GSM8K                                              :mod:`reft_lib.gsm8k`
``mathqa-numeric``  MathQA, the answer a number                        :mod:`reft_lib.mathqa`
``mathqa-choice``   MathQA, the answer a letter                        :mod:`reft_lib.mathqa`
``gsm-symbolic``    GSM8K's stories with other numbers                 :mod:`reft_lib.gsm_symbolic`
=================== ================================================== ========================

Where the files come from is the business of :mod:`reft_lib.fetch`. A data set without validation
split has it cut from train (:func:`split_validation`), question by question. No training question
is in the test. Another data set is one more entry of ``SOURCES``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reft_lib.embedded import PROBLEMS, load_embedded, load_embedded_choice
from reft_lib.errors import UserError
from reft_lib.examples import (
    Example,
    Report,
    fingerprint,
    split_validation,
    subset,
    with_cot,
)
from reft_lib.gsm8k import load_gsm8k
from reft_lib.gsm_symbolic import load_gsm_symbolic
from reft_lib.mathqa import load_mathqa_choice, load_mathqa_numeric
from reft_lib.svamp import load_svamp

__all__ = [
    "PROBLEMS",
    "SOURCES",
    "Example",
    "Report",
    "fingerprint",
    "load",
    "load_with_report",
    "split_validation",
    "subset",
    "with_cot",
]

Loader = Callable[[str, Path | None], tuple[list[Example], Report]]
SOURCES: dict[str, tuple[tuple[str, ...], Loader]] = {
    "embedded": (("train", "validation", "test", "hard"), load_embedded),
    "embedded-choice": (("train", "validation", "test", "hard"), load_embedded_choice),
    "svamp": (("train", "test"), load_svamp),
    "gsm8k": (("train", "test"), load_gsm8k),
    "mathqa-numeric": (("train", "test"), load_mathqa_numeric),
    "mathqa-choice": (("train", "test"), load_mathqa_choice),
    "gsm-symbolic": (("train", "validation", "test"), load_gsm_symbolic),
}
"""Data set name to (its splits, its loader)."""


def load_with_report(
    name: str, split: str, folder: Path | str | None = None
) -> tuple[list[Example], Report]:
    """Return the examples of a split, in file order, and a report for the run's card.

    Parameters
    ----------
    name : str
        A key of ``SOURCES``.
    split : str
        One of its splits.
    folder : path, optional
        Where the files lie, if not in the default place (see :mod:`reft_lib.fetch`).

    Raises
    ------
    UserError
        If the name, the split, the folder, a file or a row of it is not as it should be.
    """
    if name not in SOURCES:
        raise UserError(f"unknown data set {name!r}; there are: {', '.join(SOURCES)}")
    splits, loader = SOURCES[name]
    if split not in splits:
        raise UserError(f"{name} has no split {split!r}; there are: {', '.join(splits)}")
    return loader(split, Path(folder) if folder is not None else None)


def load(name: str, split: str, folder: Path | str | None = None) -> list[Example]:
    """Return the examples of a split; see :func:`load_with_report`."""
    return load_with_report(name, split, folder)[0]
