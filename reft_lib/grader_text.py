"""How alike two texts are, from 0 to 1: the metrics of ``text_similarity`` graders.

========================== ================================================================
metric                     what is computed
========================== ================================================================
``fuzzy_match``            rapidfuzz ``WRatio`` after its ``default_process`` (lower case, signs
                           become spaces), as in the documentation's own example
``bleu``                   sacrebleu ``sentence_bleu``: up to four-grams, exponential smoothing
                           (Papineni et al. 2002; Post 2018)
``gleu``                   nltk ``sentence_gleu``: the smaller of n-gram precision and recall
                           (Wu et al. 2016)
``meteor``                 nltk ``meteor_score`` without synonyms (Lavie and Agarwal 2007)
``rouge_1`` to ``rouge_5`` rouge-score: F-measure of n-grams, no stemming (Lin 2004); words are
                           made of a to z and digits, in any case, and nothing else
``rouge_l``                rouge-score: F-measure of the longest common subsequence of such words
``cosine``                 cosine of two embeddings; below 0 counts as 0
========================== ================================================================

The documentation names these metrics and, for ``fuzzy_match`` alone, the library. Where a metric
has variants, the table says which one is taken, so small differences from the hosted service are
to be expected. GLEU and METEOR cut texts into words and signs (nltk's ``wordpunct_tokenize``,
which needs no download). METEOR matches equal words and equal stems; synonyms would need WordNet,
which has to be downloaded, so a stub that knows no synonym stands in its place and scores are at
most as high as with it. Of a word that is there twice, nltk matches the later one, also where the
earlier one would make a longer chunk.

Equal texts score 1, except with METEOR, whose penalty for one unbroken chunk of m words leaves
1 - 0.5/m^3, and except with n-grams longer than the text. An empty text is like nothing, not even
another empty one.

nltk and rouge-score take seconds to import, since they bring SciPy; that happens on first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from reft_lib.errors import UserError
from reft_lib.grader_template import GraderError

MAX_TEXT = 20_000
"""Characters of the longest text compared; ``rouge_l`` costs the product of both lengths."""

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Texts -> one vector each, all of one length."""


def _fuzzy_match(text: str, reference: str) -> float:
    from rapidfuzz import fuzz, utils

    return fuzz.WRatio(text, reference, processor=utils.default_process) / 100


def _bleu(text: str, reference: str) -> float:
    import sacrebleu

    return float(sacrebleu.sentence_bleu(text, [reference]).score) / 100


def _gleu(text: str, reference: str) -> float:
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([wordpunct_tokenize(reference)], wordpunct_tokenize(text)))


class _NoSynonyms:
    """In the place of WordNet: no word has a synonym."""

    def synsets(self, word: str) -> list[Any]:
        """Return no synonym."""
        return []


def _meteor(text: str, reference: str) -> float:
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import single_meteor_score

    words = wordpunct_tokenize(reference), wordpunct_tokenize(text)
    return float(single_meteor_score(*words, wordnet=_NoSynonyms()))


@cache
def _scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name])


def _rouge(name: str) -> Callable[[str, str], float]:
    return lambda text, reference: float(_scorer(name).score(reference, text)[name].fmeasure)


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": _fuzzy_match,
    "bleu": _bleu,
    "gleu": _gleu,
    "meteor": _meteor,
    **{f"rouge_{n}": _rouge(f"rouge{n}") for n in range(1, 6)},
    "rouge_l": _rouge("rougeL"),
}
"""Metric name to function of (text, reference). ``cosine`` is not among them: it needs a model."""


def similarity(metric: str, text: str, reference: str) -> float:
    """Return how alike two texts are, from 0 to 1.

    Parameters
    ----------
    metric : str
        A key of ``METRICS``.
    text, reference : str
        What is graded, and what it is compared with.

    Raises
    ------
    UserError
        If there is no such metric.
    GraderError
        If a text is too long, or the metric's library fails on it.
    """
    if metric not in METRICS:
        raise UserError(f"unknown metric {metric!r}; there are: {', '.join(METRICS)}, cosine")
    check_length(text, reference)
    if not text.strip() or not reference.strip():
        return 0.0
    try:
        score = METRICS[metric](text, reference)
    except Exception as error:  # a sampled text may surprise a library in any way
        raise GraderError("other_error", f"{metric}: {type(error).__name__}") from error
    return min(max(score, 0.0), 1.0)  # rounding may leave 1.0000000000000002


def check_length(*texts: str) -> None:
    """Raise :class:`GraderError` if a text is too long to be compared."""
    longest = max(map(len, texts))
    if longest > MAX_TEXT:
        raise GraderError("other_error", f"a text has {longest} characters, over {MAX_TEXT}")


def cosine(pairs: Sequence[tuple[str, str]], embed: Embed) -> list[float]:
    """Return the cosine of each pair's embeddings, from 0 to 1; a negative one counts as 0.

    Parameters
    ----------
    pairs : sequence of (text, reference)
        An empty text is like nothing, and is not embedded.
    embed : callable
        Texts -> vectors. Every different text is given to it once, in one call.

    Raises
    ------
    UserError
        If it does not return one finite vector for each text, all of one length.
    """
    texts = list(dict.fromkeys(t for pair in pairs for t in pair if all(x.strip() for x in pair)))
    vectors = [[float(x) for x in vector] for vector in embed(texts)] if texts else []
    lengths = {len(vector) for vector in vectors}
    finite = all(math.isfinite(x) for vector in vectors for x in vector)
    if len(vectors) != len(texts) or len(lengths) > 1 or 0 in lengths or not finite:
        raise UserError("embed must return one finite vector for each text, all of one length")
    known = dict(zip(texts, vectors, strict=True))
    return [_cosine(known[a], known[b]) if a in known and b in known else 0.0 for a, b in pairs]


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    length_a, length_b = math.hypot(*a), math.hypot(*b)
    if not length_a or not length_b:
        return 0.0
    value = math.fsum((x / length_a) * (y / length_b) for x, y in zip(a, b, strict=True))
    return min(max(value, 0.0), 1.0)
