"""Rankings that need no model: at random, as given, by words (BM25) and by how often a text was right in training."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from irpo.chance import random_order
from irpo.evaluation.results import RankerResult
from irpo.ranking.modes import by_score
from irpo.sameness import text_key
from irpo.types import Ranking, RankingExample


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


def baselines(
    examples: Sequence[RankingExample], seed: int, popularity: Mapping[str, float] | None = None
) -> list[RankerResult]:
    """All of them; `popularity` (see `irpo.tasks.mining`) counts the training lists in which a text is relevant.

    Without counts, or where no candidate was ever counted, that row is left out: it would be one at random.
    """
    given = {e.id: Ranking(tuple(range(len(e.candidates)))) for e in examples}
    rows = [
        RankerResult("random", {e.id: at_random(e, seed) for e in examples}),
        RankerResult("input order", given),
        _by_scores("BM25", examples, bm25_scores, seed),
    ]
    counts = popularity or {}
    known = [[counts.get(text_key(text), 0.0) for text in e.texts] for e in examples]
    if any(map(any, known)):
        by_id = {e.id: scores for e, scores in zip(examples, known, strict=True)}
        rows.append(_by_scores("popularity", examples, lambda e: by_id[e.id], seed))
    return rows


def label_table(examples: Sequence[RankingExample], train: Sequence[RankingExample], seed: int) -> list[RankerResult]:
    """By a text's mean training label, the query unseen: what lists give away without being read.

    A text that training did not show has the mean of all. Nothing where no candidate was ever shown.
    """
    seen: dict[str, list[float]] = {}
    for example in train:
        for candidate in example.candidates:
            seen.setdefault(text_key(candidate.text), []).append(candidate.relevance)
    if not any(text_key(text) in seen for e in examples for text in e.texts):
        return []
    table = {key: sum(labels) / len(labels) for key, labels in seen.items()}
    every = [label for labels in seen.values() for label in labels]
    middle = sum(every) / len(every)
    return [_by_scores("label table", examples, lambda e: [table.get(text_key(t), middle) for t in e.texts], seed)]


def _by_scores(
    name: str, examples: Sequence[RankingExample], scores: Callable[[RankingExample], Sequence[float]], seed: int
) -> RankerResult:
    ranked = {e.id: by_score(scores(e), e.id, seed) for e in examples}
    rankings = {id: ranking for id, (ranking, _) in ranked.items()}
    return RankerResult(name, rankings, tied_lists=sum(tied for _, tied in ranked.values()))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
