"""When two written forms mean the same candidate: keys that must be equal, and a likeness in [0, 1] where none is.

Many lines are compared with many names at once: what can be known of one text alone is computed once (`Form`), and of
equal names one stands for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from irpo.prompting.parsing.reading import DASHES, MARKUP, QUOTES
from irpo.sameness import NO_WIDTH, words_of

THRESHOLD = 0.9  # one edit in ten letters: "Alien" and "Aliens" (0.83) stay two films
_CUT_LENGTH = 24  # letters from which the beginning of a name stands for it: a passage cut off, never a short title
_CELLS = 1_000_000  # of a table of likenesses
_YEAR = re.compile(r"\s*[(\[]\s*(\d{4})\s*[)\]]\s*$")
_ARTICLE = re.compile(r"^(?:the|an|a) | (?:the|an|a)$")  # "The Matrix", "Matrix, The"
_ROMAN = re.compile(r"x{0,3}(?:ix|iv|v?i{0,3})")  # to 39; also matches ""
_APOSTROPHES = re.compile("['`\u2018\u2019]")
_NO_WORD = re.compile(r"[^0-9a-z]+")
_COMMENT = re.compile(
    rf"[*_{QUOTES}]*\s*(?:[(\[]|(?:[{DASHES}:;,]|\bbecause\b|\bsince\b)\s*[a-z]|[{DASHES}.]\s+(?:\S+\s+){{2}}\S)"
)


def light(text: str) -> str:
    """Without quotes, emphasis, closing punctuation, case and what has no width."""
    return text.translate(NO_WIDTH).strip(MARKUP).rstrip(".,;:" + MARKUP).casefold()


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


def numbers(key: str) -> list[str]:
    """The numbers of a key, Roman ones included: "rocky ii" and "rocky iii" are two films.

    >>> numbers("2 fast ii")
    ['2', 'ii']
    """
    return [word for word in key.split() if _ROMAN.fullmatch(word) or any(c.isdigit() for c in word)]


def begins(text: str, keys: Sequence[str]) -> bool:
    """Whether a text is the beginning of a longer name; the names are given as `heavy` writes them."""
    one = heavy(text)
    return bool(one) and any(len(one) < len(key) and key.startswith(one) for key in keys)


@dataclass(frozen=True)
class Form:
    """A text, and what is compared of it."""

    text: str

    @cached_property
    def light(self) -> str:
        """See `light`."""
        return light(self.text)

    @cached_property
    def heavy(self) -> str:
        """See `heavy`."""
        return heavy(self.text)

    @cached_property
    def core(self) -> str:
        """See `core`."""
        return core(self.text)

    @cached_property
    def numbers(self) -> list[str]:
        """The numbers of the core."""
        return numbers(self.core)

    @cached_property
    def year(self) -> str | None:
        """The year that a title ends in."""
        found = _YEAR.search(self.text.strip(MARKUP))
        return found[1] if found else None

    def other_year(self, other: Form) -> bool:
        """Whether both bear a year, and not the same."""
        return None not in (self.year, other.year) and self.year != other.year


KEYS: tuple[Callable[[Form], str], ...] = (  # strictest first
    lambda form: form.text,
    lambda form: form.light,
    lambda form: form.heavy,
    lambda form: form.core,
)


def likenesses(texts: Sequence[Form], names: Sequence[Form]) -> list[dict[int, float]]:
    """How surely each text means each name, above 0, by the name's index.

    A likeness is at least the threshold; there is none where the numbers or the years differ.
    """
    found: list[dict[int, float]] = [{} for _ in texts]
    for i, j, same in _alike([text.core for text in texts], [name.core for name in names]):
        if texts[i].numbers == names[j].numbers and not texts[i].other_year(names[j]):
            found[i][j] = same
    for i, j, same in _alike_beginnings(texts, names):
        if j not in found[i] and not texts[i].other_year(names[j]):
            found[i][j] = same
    return found


def _alike(texts: Sequence[str], names: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Pairs whose likeness reaches the threshold, and how alike they are."""
    rows = [i for i, text in enumerate(texts) if text]
    columns = [j for j, name in enumerate(names) if name]
    step = max(1, _CELLS // max(1, len(columns)))
    for start in range(0, len(rows) if columns else 0, step):
        chosen = rows[start : start + step]
        table = cdist(
            [texts[i] for i in chosen],
            [names[j] for j in columns],
            scorer=Levenshtein.normalized_similarity,
            score_cutoff=THRESHOLD,
            dtype=np.float64,
        )
        for a, b in np.argwhere(table):
            yield chosen[a], columns[b], float(table[a, b])


def _alike_beginnings(texts: Sequence[Form], names: Sequence[Form]) -> Iterator[tuple[int, int, float]]:
    """Long texts and the beginnings of longer names; a little less alike than a whole name."""
    by_length: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
        if len(text.core) >= _CUT_LENGTH:
            by_length.setdefault(len(text.core), []).append(i)
    for length, rows in by_length.items():
        columns = [j for j, name in enumerate(names) if len(name.core) > length]
        starts = [names[j].core[:length] for j in columns]
        for a, b, same in _alike([texts[i].core for i in rows], starts):
            if _whole_words(texts[rows[a]].core) == _whole_words(starts[b]):
                yield rows[a], columns[b], 0.99 * same


def _whole_words(key: str) -> list[str]:
    """The numbers of a key without its last word, which may be cut."""
    return numbers(" ".join(key.split()[:-1]))


class Comments:
    """Finds "Alien - a classic", "**Alien** (my favourite)" among names, each with its length's table."""

    def __init__(self, names: Sequence[Form]) -> None:
        self._tables: dict[int, dict[str, list[int]]] = {}
        for j, name in enumerate(names):
            if name.text:
                table = self._tables.setdefault(len(name.text), {})
                table.setdefault(name.text.lower(), []).append(j)

    def likenesses(self, text: str) -> dict[int, float]:
        """Likeness of a text to the names that it begins with and then comments on; the longer the name, the higher.

        A capital after a colon is a subtitle, not a comment: "Alien: Covenant" is another film than "Alien".
        """
        bare = text.lstrip(MARKUP)
        return {
            j: THRESHOLD + 0.05 * length / len(text)
            for length, table in self._tables.items()
            for j in (table.get(bare[:length].lower(), ()) if length < len(bare) else ())
            if _COMMENT.match(bare[length:])
        }
