"""When two texts say the same: the one plain form that is compared, films' titles, short answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import TypeVar

import numpy as np
from rapidfuzz.distance import OSA

T = TypeVar("T")


def tidy(text: str) -> str:
    """The text with every run of blanks, line ends included, as one blank.

    >>> tidy("Patch  Adams  (1998) ")
    'Patch Adams (1998)'
    """
    return " ".join(text.split())


def text_key(text: str) -> str:
    """What two texts have in common where only blanks and case tell them apart."""
    return tidy(text).casefold()


_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = "one:1 two:2 three:3 four:4 five:5 six:6 seven:7 eight:8 nine:9 ten:10 eleven:11 twelve:12"
_NUMBERS = dict(re.findall(r"(\w+):(\d+)", _DIGITS))
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
_ROMAN_AT_THE_END = {"i": "1", "v": "5", "x": "10"}
_COUNTERS = frozenset({"part", "pt", "vol", "volume", "chapter", "episode", "no"})
_ASCII_WORDS, _ASCII_QUOTES = re.compile("[0-9a-z]+"), re.compile("['`]")
NO_WIDTH = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))  # for `str.translate`
_YEAR = re.compile(r"\((?:[^()\d]*)(\d{4})(?:[^()\d]*)\)\s*$")


def words_of(text: str) -> tuple[str, ...]:
    """The text's words, without case, accents, apostrophes, punctuation and what has no width; `&` is "and".

    >>> words_of("Léon & the Ocean's-Eleven")
    ('leon', 'and', 'the', 'oceans', 'eleven')
    """
    if text.isascii():  # nothing to take apart, letter by letter
        return tuple(_ASCII_WORDS.findall(_ASCII_QUOTES.sub("", text.lower().replace("&", " and "))))
    plain = unicodedata.normalize("NFKD", text.translate(NO_WIDTH)).casefold().replace("&", " and ")
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
    if any(singular(a) == singular(b) for a, b in differing if b == other[-1]):
        return False
    return sum(OSA.distance(a, b) for a, b in differing) <= (1 if length < 16 else 2)


def singular(word: str) -> str:
    """The word without its plural's s.

    >>> singular("films"), singular("glass"), singular("gas")
    ('film', 'glass', 'gas')
    """
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
    return tuple(singular(w) for w in words_of(text) if w not in _ARTICLES)


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
