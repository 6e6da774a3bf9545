"""Which sentences of the embedded problems a story is made of.

The problems are written from the wordings in :mod:`reft_lib.kinds`, so whether a text is one of
them can be decided exactly, by no model's opinion: it must consist of the task's own sentences,
steps first and one question last. That makes a judge of generated stories that no training sees.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from reft_lib.kinds import BOXES, DISTRACTORS, ITEMS, NAMES, OPENINGS, QUESTIONS, STEPS, Kind

_SLOTS = {"n": r"\d+", "k": r"\d+", "items": "|".join(ITEMS), "boxes": "|".join(BOXES)}
_SLOTS |= dict.fromkeys("PFG", "|".join(NAMES))


def _pattern(wording: str) -> str:
    """Return a regular expression for one wording: what it names twice must be the same twice."""
    parts, seen = [], set()
    for part in re.split(r"(\{\w+\})", wording):
        slot = part[1:-1] if part.startswith("{") else ""
        if not slot:
            parts.append(re.escape(part))
        elif slot in seen:
            parts.append(f"(?P={slot})")
        else:
            seen.add(slot)
            parts.append(f"(?P<{slot}>{_SLOTS[slot]})")
    return "".join(parts)


@cache
def _table() -> list[tuple[str, re.Pattern[str]]]:
    """Return (kind, pattern) of every wording of the task, longer wordings first."""
    kinds: list[Kind] = [*OPENINGS, *STEPS, *QUESTIONS, DISTRACTORS]
    found = [(kind.name, wording) for kind in kinds for wording in kind.task]
    found.sort(key=lambda pair: -len(pair[1]))
    return [(name, re.compile(_pattern(wording))) for name, wording in found]


def read(text: str) -> tuple[list[str], str]:
    """Read a text as far as it consists of the task's sentences.

    Numbers and names are not checked against each other across sentences, so where two kinds share
    a wording but for who is the person of the story, one of them is named.

    Returns
    -------
    kinds, unread : list of str, str
        The kinds of those sentences in order, and what is left of the text after them.
    """
    text, found = text.strip(), []
    while text:
        hits = [(m.end(), name) for name, p in _table() if (m := p.match(text))]
        if not hits:
            break
        end, name = max(hits)  # of a sentence and a longer wording that begins with it, the longer
        found.append(name)
        text = text[end:].lstrip()
    return found, text


_ASKING = frozenset(kind.name for kind in QUESTIONS)
_OPENING = frozenset(kind.name for kind in OPENINGS)


def is_problem(text: str) -> bool:
    """Tell whether a text is worded as a problem: opening, steps, and one question at the end.

    All of it must be about the same things. Whether the right person is asked for, and whether the
    numbers come out, is not looked at.
    """
    found, unread = read(text)
    if unread or len(found) < 2 or found[0] not in _OPENING or found[-1] not in _ASKING:
        return False
    things = set(re.findall("|".join(ITEMS), text))
    return not (_ASKING | _OPENING) & set(found[1:-1]) and len(things) == 1


def effective_kinds(texts: Sequence[str]) -> float:
    """Return among how many kinds of sentences some texts choose: the perplexity of the kinds.

        exp(-sum_k p_k log p_k)        p_k: share of kind k among the sentences that were read

    Openings are left out, for they may stand in a prompt. 0 where no other sentence is the task's.
    """
    counts = Counter(kind for text in texts for kind in read(text)[0] if kind not in _OPENING)
    n = counts.total()
    return math.exp(-sum(c / n * math.log(c / n) for c in counts.values())) if n else 0.0
