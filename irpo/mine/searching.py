"""Searches of a pool of texts: by words (BM25) or by embeddings (sentence-transformers)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Protocol

import numpy as np

from irpo.mine.asking import Asked, name_of
from irpo.sameness import text_key, tidy
from irpo.tasks.mining import Bm25, sentence_model, top_places

_QUERIES = 1024  # that are searched for at once
_FOR_EACH = 5  # texts that a dense search returns at first for one that is wanted: some are left out
_FURTHER = 4  # times as many it returns where these are too few
_RETURNED = 2**20  # texts, of all queries together, that one search returns
# Of a query: places with their scores, best first, and its positive's score.
_Near = tuple[Sequence[tuple[int, float]], float]


@dataclass(frozen=True)
class Pool:
    """Texts that may become negatives, each once, in the order of the alphabet, with their ids."""

    texts: tuple[str, ...]
    ids: tuple[str, ...]

    @classmethod
    def of(cls, documents: Iterable[tuple[str, str]]) -> Pool:
        """Of (id, text): a text that comes again keeps its first id, a second text of one id gets an id of its own."""
        found: dict[str, tuple[str, str]] = {}
        taken: set[str] = set()
        for id, text in documents:
            if (key := text_key(text)) and key not in found:
                found[key] = tidy(text), name_of(text) if id in taken else id
                taken.add(id)
        ordered = [found[key] for key in sorted(found)]
        return cls(tuple(text for text, _ in ordered), tuple(id for _, id in ordered))

    @cached_property
    def places(self) -> dict[str, int]:
        """Where the text of a key stands."""
        return {text_key(text): place for place, text in enumerate(self.texts)}


@dataclass(frozen=True)
class Found:
    """What a search returns for a query: places in the pool with their scores, best first, and the positives' score.

    `positive` is the lowest of a query's positives, as in `mine_hard_negatives`: the careful choice.
    """

    places: Iterator[tuple[int, float]]
    positive: float

    def ceiling(self, margin: float | None) -> float:
        """What a negative may score at most: the positive's score less that share of it; without a margin, anything."""
        if margin is None:
            return float("inf")
        return self.positive - margin * abs(self.positive)


class Search(Protocol):
    """A search for all queries in turn; every positive's text is in the pool."""

    def __call__(self, pool: Pool, asked: Sequence[Asked]) -> Iterator[Found]: ...


@dataclass(frozen=True)
class ByWords:
    """BM25; a text without a word of the query is not found."""

    def __call__(self, pool: Pool, asked: Sequence[Asked]) -> Iterator[Found]:
        """See `Search`."""
        index = Bm25(pool.texts)
        for item in asked:
            # Rounded: sums of floats may differ in the last digit between machines.
            scores = np.round(index(item.query), 4)
            positive = min(float(scores[pool.places[text_key(c.text)]]) for c in item.positives)
            yield Found(((place, float(scores[place])) for place in top_places(scores)), positive)


@dataclass(frozen=True)
class ByEmbeddings:
    """`mine_hard_negatives` of sentence-transformers; the margin is taken on its scores, so that it can be counted.

    It returns the nearest texts. A query for which too many of them are left out is searched for again, in a larger
    range, until that is enough or the pool ends.
    """

    model: str
    wanted: int  # negatives of a list
    is_short: Callable[[Asked, Found], bool]  # whether what was found gives fewer

    def __call__(self, pool: Pool, asked: Sequence[Asked]) -> Iterator[Found]:
        """See `Search`."""
        model = sentence_model(self.model)
        rest = iter(asked)
        with tempfile.TemporaryDirectory() as cache:  # the pool is embedded once
            while some := list(islice(rest, _QUERIES)):
                yield from self._searched(pool, some, partial(_nearest, pool, model=model, cache=cache))

    def _searched(self, pool: Pool, asked: Sequence[Asked], nearest: Callable[..., Mapping[str, _Near]]) -> list[Found]:
        positives: dict[str, list[str]] = {}
        for item in asked:
            texts = [pool.texts[pool.places[text_key(c.text)]] for c in item.positives]
            positives.setdefault(item.query, []).extend(texts)
        near: dict[str, _Near] = {}
        left, reach = list(positives), min(len(pool.texts), _FOR_EACH * self.wanted)
        while left:
            size = max(1, _RETURNED // reach)
            for start in range(0, len(left), size):
                near |= nearest({query: positives[query] for query in left[start : start + size]}, reach)
            short = {item.query for item in asked if self.is_short(item, _found(near, item.query))}
            left = [query for query in positives if query in short] if reach < len(pool.texts) else []
            reach = min(len(pool.texts), _FURTHER * reach)
        return [_found(near, item.query) for item in asked]


def _found(near: Mapping[str, _Near], query: str) -> Found:
    places, positive = near.get(query, ((), 0.0))
    return Found(iter(places), positive)


def _nearest(
    pool: Pool, positives: Mapping[str, Sequence[str]], reach: int, *, model: object, cache: str
) -> dict[str, _Near]:
    """The nearest `reach` texts of each query, its positives aside; a query for which there is none is left out."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    pairs = [(query, text) for query, texts in positives.items() for text in texts]
    rows = mine_hard_negatives(
        Dataset.from_dict({"query": [query for query, _ in pairs], "positive": [text for _, text in pairs]}),
        model,
        corpus=list(pool.texts),
        num_negatives=reach,
        range_max=reach,
        output_format="labeled-list",
        output_scores=True,
        verbose=False,
        cache_folder=cache,
    )
    found: dict[str, _Near] = {}
    for row in rows:  # one for each positive, with the same negatives
        own, *scores = row["scores"]
        _, before = found.get(row["query"], ((), own))
        places = [pool.places[text_key(text)] for text in row["positive"][1:]]
        found[row["query"]] = list(zip(places, scores, strict=True)), min(before, own)
    return found
