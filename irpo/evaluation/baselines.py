"""Rankings that need no model, and the rule for equal scores."""

from __future__ import annotations

import re
from collections.abc import Sequence

from irpo.chance import random_order
from irpo.types import Ranking, RankingExample


def by_score(scores: Sequence[float], example_id: str, seed: int) -> tuple[Ranking, bool]:
    """Candidates by score, highest first, and whether any two are equal; NaN comes last.

    Equal scores are put in a random order fixed by (seed, example id): the order of the input would be a hint.
    """
    lot = {j: place for place, j in enumerate(random_order(len(scores), "ties", seed, example_id))}
    known = [score if score == score else float("-inf") for score in scores]
    order = sorted(range(len(scores)), key=lambda j: (-known[j], lot[j]))
    return Ranking(tuple(order)), len(set(known)) < len(known)


def at_random(example: RankingExample, seed: int) -> Ranking:
    """One random order a list, fixed by (seed, example id)."""
    return Ranking(random_order(len(example.candidates), "random", seed, example.id))


def bm25_scores(example: RankingExample) -> list[float]:
    """BM25 (Lucene's form, k1 = 1.5, b = 0.75) of each candidate for the query; the list is the whole collection."""
    import bm25s

    texts = [_words(text) for text in example.texts]
    query = [word for word in _words(example.query) if any(word in text for text in texts)]
    if not query:
        return [0.0] * len(texts)
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(texts, show_progress=False)
    return [float(score) for score in index.get_scores(query)]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
