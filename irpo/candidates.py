"""Making candidate lists: chance that is the same everywhere, mined and drawn distractors, and when two texts are one.

Rules that hold for every list:

* an empty text is no candidate; the same text twice (blanks and case aside) is one candidate, at the first place,
  with the best label;
* candidates are shuffled by (seed, example id), so that position says nothing about the label;
* where scores tie, the text decides.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, zip_longest
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA

from irpo.types import Candidate, UserError

T = TypeVar("T")


class Chance:
    """Random whole numbers from SHA-256 of a key: the same on every machine and in every version of Python."""

    def __init__(self, *key: str | int) -> None:
        self._key = json.dumps(key).encode()
        self._words = self._draw()

    def _draw(self) -> Iterator[int]:
        block = 0
        while True:
            digest = hashlib.sha256(self._key + block.to_bytes(8, "big")).digest()
            yield from (int.from_bytes(digest[i : i + 8], "big") for i in range(0, 32, 8))
            block += 1

    def below(self, n: int) -> int:
        """A number in [0, n), each equally likely."""
        limit = 2**64 - 2**64 % n
        return next(word for word in self._words if word < limit) % n

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """The items in random order (Fisher-Yates).

        >>> Chance(0, "an id").shuffled("abcd")
        ['a', 'd', 'c', 'b']
        """
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed


def group_of(example_id: str) -> str:
    """What stands before a "#" in an id: examples of one group (one prompt, say) are never split apart.

    >>> group_of("prompt-7#row-2"), group_of("dialogue-9")
    ('prompt-7', 'dialogue-9')
    """
    return example_id.partition("#")[0] or example_id


def in_test_split(example_id: str, fraction: float) -> bool:
    """Whether an example belongs to the test part: the same answer on every machine and in every order.

    `fraction` in [0, 1] is the test part's expected share.
    """
    digest = hashlib.sha256(example_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def tidy(text: str) -> str:
    """The text with every run of blanks, line ends included, as one blank.

    >>> tidy("Patch  Adams  (1998) ")
    'Patch Adams (1998)'
    """
    return " ".join(text.split())


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


def distinct(drafts: Iterable[Draft], dropped: Counter[str]) -> list[Candidate]:
    """The drafts as candidates in the given order, without empty and repeated texts, which are counted in `dropped`."""
    kept: dict[str, Candidate] = {}
    for draft in drafts:
        text = tidy(draft.text)
        key = text.casefold()
        if not text:
            dropped["candidate with an empty text"] += 1
        elif key not in kept:
            kept[key] = Candidate(draft.id, text, draft.relevance, draft.source)
        else:
            dropped["candidate with the text of another one in its list"] += 1
            if draft.relevance > kept[key].relevance:
                kept[key] = replace(kept[key], id=draft.id, relevance=draft.relevance, source=draft.source)
    return list(kept.values())


# ---- when two texts say the same -------------------------------------------------------------------------------------

_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = "one:1 two:2 three:3 four:4 five:5 six:6 seven:7 eight:8 nine:9 ten:10 eleven:11 twelve:12"
_NUMBERS = dict(re.findall(r"(\w+):(\d+)", _DIGITS))
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
_ROMAN_AT_THE_END = {"i": "1", "v": "5", "x": "10"}
_COUNTERS = frozenset({"part", "pt", "vol", "volume", "chapter", "episode", "no"})
_YEAR = re.compile(r"\((?:[^()\d]*)(\d{4})(?:[^()\d]*)\)\s*$")


@lru_cache(maxsize=2**16)
def words_of(text: str) -> tuple[str, ...]:
    """The text's words, compared without case, accents, apostrophes and punctuation; `&` is "and".

    >>> words_of("Léon & the Ocean's-Eleven")
    ('leon', 'and', 'the', 'oceans', 'eleven')
    """
    plain = unicodedata.normalize("NFKD", text.replace("&", " and ")).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c) and c not in "'\u2019\u2018`")
    return tuple("".join(c if c.isalnum() else " " for c in plain).split())


@dataclass(frozen=True)
class Title:
    """A film's title as it is compared: its words and, where given, its year."""

    words: tuple[str, ...]
    year: int | None

    @property
    def key(self) -> str:
        """The words as one: "Spider-Man" and "Spiderman" agree."""
        return "".join(self.words)


def parse_title(text: str) -> Title:
    """The title without case, punctuation, leading article and year; numbers as digits ("Part II" is "2").

    >>> parse_title("The Godfather: Part II  (1974)")
    Title(words=('godfather', '2'), year=1974)
    >>> parse_title("Matrix, The").key == parse_title("the MATRIX").key
    True
    """
    found = _YEAR.search(text)
    if found and not text[: found.start()].strip():
        found = None
    name = text[: found.start()] if found else text
    words = words_of(re.sub(r"^(.*), (the|an?)\s*$", r"\2 \1", name.strip(), flags=re.IGNORECASE))
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    plain = [_NUMBERS.get(w, _ROMAN.get(w, w)) for w in words]
    if len(plain) > 1:
        plain[-1] = _ROMAN_AT_THE_END.get(plain[-1], plain[-1])
    numbered = [w for w, after in zip_longest(plain, plain[1:]) if not (w in _COUNTERS and after and after.isdigit())]
    return Title(tuple(numbered) or (text.strip().casefold(),), int(found[1]) if found else None)


def same_film(one: Title, other: Title) -> bool:
    """Whether two titles name one film.

    Different years are different films; a title without a year may be any of them. The words must agree but for
    blanks, or for a slip of the pen: one letter in a title of 8 letters or more, two from 16 on, never in a number, a
    short word, a word's first letter or a plural's s ("Alien", "Aliens"), and never a word more ("It", "It Follows").
    """
    if one.year is not None and other.year is not None and one.year != other.year:
        return False
    return one.key == other.key or _misspelt(one.words, other.words)


def _misspelt(one: Sequence[str], other: Sequence[str]) -> bool:
    length = min(len("".join(one)), len("".join(other)))
    if len(one) != len(other) or length < 8:
        return False
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    if any(min(len(a), len(b)) < 5 or a[0] != b[0] or any(map(str.isdigit, a + b)) for a, b in differing):
        return False
    if any(_singular(a) == _singular(b) for a, b in differing if b == other[-1]):
        return False
    return sum(OSA.distance(a, b) for a, b in differing) <= (1 if length < 16 else 2)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def same_answer(one: str, other: str) -> bool:
    """Whether a short answer is another one's re-spelling: articles, plurals, blanks, a slip of the pen.

    Wider than `same_film`: what is thrown out here is one distractor of many.

    >>> same_answer("a neutron", "Neutrons"), same_answer("10 m", "100 m")
    (True, False)
    """
    first, second = _answer_words(one), _answer_words(other)
    a, b = "".join(first), "".join(second)
    if a == b:
        return True
    if [w for w in first if not w.isalpha()] != [w for w in second if not w.isalpha()]:
        return False
    shorter = min(len(a), len(b))
    return shorter >= 5 and OSA.distance(a, b) <= (1 if shorter < 10 else 2)


@lru_cache(maxsize=2**16)
def _answer_words(text: str) -> tuple[str, ...]:
    return tuple(_singular(w) for w in words_of(text) if w not in _ARTICLES)


def match_one_to_one(left: Sequence[T], right: Sequence[T], likeness: Callable[[T, T], int]) -> dict[int, int]:
    """Pairs (index in `left` -> index in `right`) of the largest total likeness, each index once; 0 is no pair.

    >>> match_one_to_one(["ab", "a"], ["a", "c"], lambda x, y: 2 * (x == y) + (x[0] == y[0]))
    {1: 0}
    """
    from scipy.optimize import linear_sum_assignment

    if not left or not right:
        return {}
    table = np.array([[likeness(x, y) for y in right] for x in left], dtype=np.float64)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if table[i, j] > 0}


# ---- distractors -----------------------------------------------------------------------------------------------------

_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by do does for from has have how in into is it its most of on or that the their then "
        "there these they this to was were what when where which who why will with would you your",
    )
)


def search_words(text: str) -> list[str]:
    """The words that a search compares: singular, without stop words, each once."""
    return list(dict.fromkeys(_singular(w) for w in words_of(text) if w not in _STOPWORDS))


class Scorer(Protocol):
    """Likeness of every text of a collection to a query, in the collection's order."""

    def __call__(self, query: str) -> NDArray[np.float64]: ...


class Bm25:
    """Word overlap by BM25 (Robertson's, the library's defaults)."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._words = [search_words(text) or [""] for text in texts]
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
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError("miner 'dense' needs sentence-transformers: pip install 'irpo[dense]'") from None
        try:
            self._model: Any = SentenceTransformer(model)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"miner 'dense': model {model!r} cannot be loaded: {reason}") from None
        self._texts = self._encode(list(texts))

    def _encode(self, texts: list[str]) -> NDArray[np.float64]:
        vectors: NDArray[np.float64] = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors

    def __call__(self, query: str) -> NDArray[np.float64]:
        return np.asarray(self._texts @ self._encode([query])[0], dtype=np.float64)


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
        self._score: Scorer | None = None
        if self._mines:
            abouts = [mine.about for mine in self._mines]
            self._score = Bm25(abouts) if name == "bm25" else Dense(abouts, model)

    def similar(self, query: str, accept: Callable[[str], bool]) -> Iterator[str]:
        """Texts that `accept` accepts when their turn comes, from the most similar place on; none of likeness 0."""
        if self._score is None:
            return
        # Rounded: sums of floats may differ in the last digit between machines, the alphabet does not.
        scores = np.round(self._score(query), 4)
        for place in _by_score(scores):
            yield from self._accepted(place, accept)

    def drawn(self, chance: Chance, accept: Callable[[str], bool]) -> Iterator[str]:
        """The same in random order of the places, each place once."""
        for place in chance.shuffled(range(len(self._mines))):
            yield from self._accepted(place, accept)

    def _accepted(self, place: int, accept: Callable[[str], bool]) -> Iterator[str]:
        """At most two of one place, so that no list is another question's in disguise."""
        return islice((text for text in self._mines[place].texts if accept(text)), 2)


def _by_score(scores: NDArray[np.float64]) -> Iterator[int]:
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
