"""When two written forms mean the same candidate: keys that must be equal, and a likeness in [0, 1] where none is."""

from __future__ import annotations

import re
from collections.abc import Callable

from rapidfuzz.distance import Levenshtein

from irpo.parsing.reading import DASHES, MARKUP, QUOTES
from irpo.sameness import words_of

THRESHOLD = 0.9  # one edit in ten letters: "Alien" and "Aliens" (0.83) stay two films
_CUT_LENGTH = 24  # letters from which the beginning of a name stands for it: a passage cut off, never a short title
_YEAR = re.compile(r"\s*[(\[]\s*(\d{4})\s*[)\]]\s*$")
_ARTICLE = re.compile(r"^(?:the|an|a) | (?:the|an|a)$")  # "The Matrix", "Matrix, The"
_ROMAN = re.compile(r"x{0,3}(?:ix|iv|v?i{0,3})")  # to 39; also matches ""
_COMMENT = re.compile(
    rf"[*_{QUOTES}]*\s*(?:[(\[]|(?:[{DASHES}:;,]|\bbecause\b|\bsince\b)\s*[a-z]|[{DASHES}.]\s+(?:\S+\s+){{2}}\S)"
)


def light(text: str) -> str:
    """Without quotes, emphasis, closing punctuation and case."""
    return text.strip(MARKUP).rstrip(".,;:" + MARKUP).casefold()


def heavy(text: str) -> str:
    """Letters and digits only, no accents, no case.

    >>> heavy("**Amélie & Co.**")
    'amelie and co'
    """
    return " ".join(words_of(text))


def core(text: str) -> str:
    """A title without its year and its article."""
    key = heavy(_YEAR.sub("", text.strip(MARKUP)))
    return _ARTICLE.sub("", key) or key


KEYS: tuple[Callable[[str], str], ...] = (str, light, heavy, core)  # strictest first


def years_differ(one: str, other: str) -> bool:
    """Whether both bear a year, and not the same."""
    first, second = (_YEAR.search(text.strip(MARKUP)) for text in (one, other))
    return first is not None and second is not None and first[1] != second[1]


def likeness(text: str, name: str) -> float:
    """How surely a text means a name, in [0, 1]; 0 below the threshold, and where their numbers differ."""
    one, other = core(text), core(name)
    if not one or not other or years_differ(text, name):
        return 0.0
    same = Levenshtein.normalized_similarity(one, other, score_cutoff=THRESHOLD)
    if same and numbers(one) == numbers(other):
        return same
    return _cut_likeness(one, other)


def _cut_likeness(text: str, name: str) -> float:
    """The likeness of a long text to the beginning of a longer name; a little less than that of a whole name."""
    if not _CUT_LENGTH <= len(text) < len(name):
        return 0.0
    start = name[: len(text)]
    same = Levenshtein.normalized_similarity(text, start, score_cutoff=THRESHOLD)
    whole_words = slice(None, -1)  # the last one may be cut, a number too
    alike = numbers(" ".join(text.split()[whole_words])) == numbers(" ".join(start.split()[whole_words]))
    return 0.99 * same if alike else 0.0


def comment_likeness(text: str, name: str) -> float:
    """The likeness of "Alien - a classic", "**Alien** (my favourite)" to "Alien"; the longer the name, the higher.

    A capital after a colon is a subtitle, not a comment: "Alien: Covenant" is another film than "Alien".
    """
    start = re.match(re.escape(name), text.lstrip(MARKUP), re.IGNORECASE)
    if start is None or not _COMMENT.match(text.lstrip(MARKUP)[start.end() :]):
        return 0.0
    return THRESHOLD + 0.05 * len(name) / len(text)


def numbers(key: str) -> list[str]:
    """The numbers of a key, Roman ones included: "rocky ii" and "rocky iii" are two films.

    >>> numbers("2 fast ii")
    ['2', 'ii']
    """
    return [word for word in key.split() if _ROMAN.fullmatch(word) or any(c.isdigit() for c in word)]


def begins(text: str, name: str) -> bool:
    """Whether a text is the beginning of a longer name."""
    one, other = heavy(text), heavy(name)
    return bool(one) and len(one) < len(other) and other.startswith(one)
