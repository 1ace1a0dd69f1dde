"""Making candidate lists: each text once, and distractors that are mined or drawn.

Rules that hold for every list:

* an empty text is no candidate; the same text twice (blanks and case aside) is one candidate, at the first place,
  with the best label;
* candidates are shuffled by (seed, example id), so that position says nothing about the label;
* where scores tie, the text decides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from irpo.chance import Chance
from irpo.sameness import singular, text_key, tidy, words_of
from irpo.types import Candidate, RankingExample, UserError


def first_words(text: str, limit: int) -> str:
    """At most `limit` words of the text, blanks tidied; 0 keeps all."""
    words = text.split()
    return " ".join(words[:limit] if limit else words)


@dataclass(frozen=True)
class Draft:
    """What may become a `Candidate`: its text may still be empty or a repetition."""

    id: str
    text: str
    relevance: float
    source: str


def distinct(drafts: Iterable[Draft], dropped: Counter[str], *, tidied: bool = True) -> list[Candidate]:
    """The drafts as candidates in the given order, without empty and repeated texts, which are counted in `dropped`.

    Texts have single blanks where they are `tidied`, else they are as they were.
    """
    kept: dict[str, Candidate] = {}
    for draft in drafts:
        text, key = tidy(draft.text), text_key(draft.text)
        if text and not tidied:
            text = draft.text
        if not text:
            dropped["candidate with an empty text"] += 1
        elif key not in kept:
            kept[key] = Candidate(draft.id, text, draft.relevance, draft.source)
        else:
            dropped["candidate with the text of another one in its list"] += 1
            if draft.relevance > kept[key].relevance:
                kept[key] = replace(kept[key], id=draft.id, relevance=draft.relevance, source=draft.source)
    return list(kept.values())


_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by do does for from has have how in into is it its most of on or that the their then "
        "there these they this to was were what when where which who why will with would you your",
    )
)


@lru_cache(maxsize=2**16)
def search_words(text: str) -> tuple[str, ...]:
    """The words that a search compares: singular, without stop words, each once."""
    return tuple(dict.fromkeys(singular(w) for w in words_of(text) if w not in _STOPWORDS))


class Likeness(Protocol):
    """Likeness of every text of a collection to a query, in the collection's order."""

    def __call__(self, query: str) -> NDArray[np.float64]: ...


class Bm25:
    """Word overlap by BM25 (Robertson's, the library's defaults)."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._words = [search_words(text) or ("",) for text in texts]
        self._known = {word for words in self._words for word in words}
        self._index = bm25s.BM25(backend="numpy")
        self._index.index(self._words, show_progress=False)

    def __call__(self, query: str) -> NDArray[np.float64]:
        words = [word for word in search_words(query) if word in self._known]
        if not words:
            return np.zeros(len(self._words))
        scores: NDArray[np.float64] = self._index.get_scores(words).astype(np.float64)
        return scores


class Dense:
    """Cosine of sentence embeddings; needs the extra `dense`. Not byte-identical between machines, unlike `Bm25`."""

    def __init__(self, texts: Sequence[str], model: str) -> None:
        self._model = sentence_model(model)
        self._texts = self._encode(list(texts))

    def _encode(self, texts: list[str]) -> NDArray[np.float64]:
        vectors: NDArray[np.float64] = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors

    def __call__(self, query: str) -> NDArray[np.float64]:
        return np.asarray(self._texts @ self._encode([query])[0], dtype=np.float64)


def sentence_model(name: str) -> Any:
    """A `SentenceTransformer`; `UserError` where the package is not there, or the model."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError("miner 'dense' needs sentence-transformers: pip install 'irpo[dense]'") from None
    try:
        return SentenceTransformer(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"miner 'dense': model {name!r} cannot be loaded: {reason}") from None


MinerName = Literal["bm25", "dense"]


@dataclass(frozen=True)
class Mine:
    """A place that holds distractors: what it is about (the text that is searched), and the distractors."""

    about: str
    texts: tuple[str, ...]


class Miner:
    """Finds distractors in the places that are most like a query: wrong answers to similar questions, say."""

    def __init__(self, mines: Iterable[Mine], name: MinerName = "bm25", model: str = "") -> None:
        # In the order of the alphabet, so that where scores tie the text decides.
        self._mines = sorted(mines, key=lambda mine: (mine.about, mine.texts))
        self._score: Likeness | None = None
        if self._mines:
            abouts = [mine.about for mine in self._mines]
            self._score = Bm25(abouts) if name == "bm25" else Dense(abouts, model)

    def similar(self, query: str, accept: Callable[[str], bool]) -> Iterator[str]:
        """Texts that `accept` accepts when their turn comes, from the most similar place on; none of likeness 0."""
        if self._score is None:
            return
        # Rounded: sums of floats may differ in the last digit between machines, the alphabet does not.
        scores = np.round(self._score(query), 4)
        for place in top_places(scores):
            yield from self._accepted(place, accept)

    def drawn(self, chance: Chance, accept: Callable[[str], bool]) -> Iterator[str]:
        """The same in random order of the places, each place once."""
        for place in chance.shuffled(range(len(self._mines))):
            yield from self._accepted(place, accept)

    def _accepted(self, place: int, accept: Callable[[str], bool]) -> Iterator[str]:
        """At most two of one place, so that no list is another question's in disguise."""
        return islice((text for text in self._mines[place].texts if accept(text)), 2)


def top_places(scores: NDArray[np.float64]) -> Iterator[int]:
    """Places of positive scores, best first, ties by place; sorts no more of them than are asked for."""
    positive = np.flatnonzero(scores > 0)
    taken, size = 0, 64
    while taken < len(positive):
        size = min(size, len(positive))
        floor = np.partition(scores[positive], len(positive) - size)[len(positive) - size]
        best = positive[scores[positive] >= floor]
        order = best[np.argsort(-scores[best], kind="stable")]
        yield from (int(place) for place in order[taken:])
        taken, size = len(order), size * 4


def weighted_draw(chance: Chance, weights: Sequence[int], skip: Callable[[int], bool]) -> Iterator[int]:
    """Places drawn by weight without replacement; `skip` leaves a place out. Whole numbers only: no rounding.

    >>> list(weighted_draw(Chance(0), [5, 0, 1, 3], skip=lambda place: place == 2))
    [0, 3]
    """
    left = np.array(weights, dtype=np.int64)
    while left.sum() > 0:
        totals = np.cumsum(left)
        misses = 0
        while misses < 20:  # then most of what is left was drawn: sum up anew without it
            place = int(np.searchsorted(totals, chance.below(int(totals[-1])), side="right"))
            if left[place] == 0:
                misses += 1
                continue
            left[place] = 0
            if not skip(place):
                yield place


def popularity(train: Sequence[RankingExample], relevant_from: float = 0.0) -> dict[str, float]:
    """In how many training lists a text is relevant, by `text_key`: what a ranker that ignores the query can know.

    Relevant is a label above 0 that reaches `relevant_from`.
    """
    labelled = ((c.relevance, text_key(c.text)) for e in train for c in e.candidates)
    return dict(Counter(key for label, key in labelled if label > 0 and label >= relevant_from))
