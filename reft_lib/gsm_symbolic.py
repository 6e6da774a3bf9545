"""GSM-Symbolic (Mirzadeh et al. 2025): templates of GSM8K filled with other names and numbers.

The package ``reasoning-gym`` holds 85 such templates as code, with reasoning in words, so that
rows are made here and no file is read. Each split has a seed of its own, far from the others, and
is cut to a fixed number of rows. A question made twice is kept once: test comes first, then
validation, then train, so that no training question is in the other two. The *templates* are in
all three: this measures new numbers in known stories, not new stories.

In words (N-CoT) the solution is taken without its last line ``#### 288``; as a program (P-CoT) its
equations are strung together by :mod:`reft_lib.derivation`. Some templates round where the numbers
do not come out even ("0.44*40 = 17"): an annotation with an equation that does not hold is left
out in both formats, and so are words with unrounded floats ("26.333333333333332").
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import warnings
from pathlib import Path
from typing import Any

from reft_lib.answers import TOLERANCE
from reft_lib.derivation import parse, program, steps_in, value_of
from reft_lib.errors import UserError
from reft_lib.examples import (
    Example,
    Report,
    add_shares,
    count,
    gold_answer,
    programs_that_run,
    question_key,
    text_field,
)

SPLITS = {"test": (1_000_000, 1000), "validation": (2_000_000, 500), "train": (3_000_000, 4000)}
"""Split to (seed, rows). The package draws row i with seed + i, so the seeds are far apart."""
VERSION = "0.1.25"
"""The version of reasoning-gym that ``SHA256`` belongs to."""
SHA256 = {
    "test": "31bf94b8e3e8659150eb4e272a21e55abd810e80897f74608930b48e1b34138d",
    "validation": "32607901db760724710e57870855d893d62f1e8a0fb9b5d47b85dda44eff9912",
    "train": "c2e47b085160e2de33372a91eb2fdb84306750dcb31767d2723d91e57bc0a29d",
}
"""Of questions, answers and solutions; see :func:`rows_sha256`."""
_REQUEST = " Give the result as your final answer. Do not include units."
_MOST_TRIES = 3  # rows made for one that is kept


def _made(split: str, seen: set[str], report: Report) -> list[Any]:
    """Return the rows of a split as the package makes them, each question once.

    ``seen`` holds the questions of earlier splits and gets those of this one.
    """
    try:
        from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import (
            GSMSymbolicDataset,
            GSMSymbolicDatasetConfig,
        )
    except ImportError as error:
        raise UserError("gsm-symbolic needs the package reasoning-gym; pip install it") from error
    seed, size = SPLITS[split]
    made = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=seed, size=_MOST_TRIES * size))
    found: list[Any] = []
    for index in range(_MOST_TRIES * size):
        row = made[index]
        key = question_key(text_field(row, "question", f"gsm-symbolic {split} row {index}"))
        if key not in seen:
            seen.add(key)
            found.append(row)
        if len(found) == size:
            report["read"] = index + 1
            count(report, "left_out", "the question was made before", n=index + 1 - size)
            return found
    raise UserError(f"gsm-symbolic {split}: reasoning-gym repeats itself; {size} rows are wanted")


def rows_sha256(rows: list[Any]) -> str:
    """Return the SHA-256 of the texts of rows as the package made them."""
    digest = hashlib.sha256()
    for row in rows:
        text = [row["question"], row["answer"], row["metadata"]["answer_cot"]]
        digest.update(json.dumps(text).encode() + b"\n")
    return digest.hexdigest()


def is_true(solution: str) -> bool:
    """Say whether every plain equation of a solution holds, to a hundredth.

    Plain: nothing but numbers and signs stands left of the ``=``, back to the last word. Algebra
    and per cents are not judged.
    """
    for match in re.finditer(
        r"([-0-9.,$£€\s()+*/x×]*)=(?=\s*[$£€]?\s*(-?[0-9][0-9,.]*))", solution
    ):
        left = re.sub("[$£€,]", "", match[1]).strip().translate({ord("x"): "*", ord("×"): "*"})
        tree = parse(left) if re.search("[0-9] *[-+*/]", left) else None
        value = value_of(tree) if tree is not None else None
        stated = float(match[2].replace(",", "").rstrip(".") or 0)
        if value is not None and abs(value - stated) > TOLERANCE:
            return False
    return True


def _example(row: Any, number: int, split: str) -> Example:
    """Return a row as an example with the words of its solution, not yet checked."""
    where = f"gsm-symbolic {split} row {number}"
    question = text_field(row, "question", where).removesuffix(_REQUEST)
    solution = text_field(row["metadata"], "answer_cot", where).rpartition("####")[0].strip()
    answer = gold_answer(row, "answer", where)
    return Example(f"gsm-symbolic_{split}_{number}", question, answer, solution or None)


def load_gsm_symbolic(split: str, folder: Path | None) -> tuple[list[Example], Report]:
    """Make train, validation or test of GSM-Symbolic; ``folder`` is not used.

    Raises
    ------
    UserError
        If reasoning-gym is not installed.
    """
    report, seen = Report(), set[str]()
    for each in SPLITS:  # the splits before this one come first
        report = Report()
        rows = _made(each, seen, report)
        if each == split:
            break
    version = importlib.metadata.version("reasoning-gym")
    sha256 = rows_sha256(rows)
    report["files"] = {f"reasoning-gym {version}, {split}": sha256}
    if sha256 != SHA256[split]:
        line = f"gsm-symbolic {split} has other rows than with reasoning-gym {VERSION}"
        report["warnings"] = [line]
        warnings.warn(line, stacklevel=2)
    plain = [_example(row, number, split) for number, row in enumerate(rows)]
    true = [e.ncot is not None and is_true(e.ncot) for e in plain]
    rounded = [re.search(r"\.[0-9]{7}", e.ncot or "") is None for e in plain]
    bodies = [
        program(steps_in(e.ncot or ""), e.question, e.answer) if holds else None
        for e, holds in zip(plain, true, strict=True)
    ]
    pcots = programs_that_run(bodies, [e.answer for e in plain])
    examples = []
    for e, holds, short, body, pcot in zip(plain, true, rounded, bodies, pcots, strict=True):
        if not holds or not short:
            why = "numbers are not rounded" if holds else "an equation does not hold"
            count(report, "dropped", "ncot", why)
        if pcot is None:
            why = "no calculation in it comes to the answer"
            why = "the program does not run to the answer" if body else why
            count(report, "dropped", "pcot", why if holds else "an equation does not hold")
        examples.append(
            Example(e.id, e.question, e.answer, e.ncot if holds and short else None, pcot)
        )
    add_shares(report, examples, {"ncot": len(plain), "pcot": len(plain)})
    return examples, report
