"""Answers in `text` style: a list of the candidates' texts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from irpo.parsing.likeness import KEYS, begins, comment_likeness, likeness, years_differ
from irpo.parsing.reading import BULLETS, Reading, best_reading, fold

_NUMBER = r"[*_]{0,3}[(\[#]?\d{1,4}[.):\]]+[*_]{0,3}"  # 1. 1) (1) [1] 1: **1.**
_MARKER = re.compile(rf"(?:{_NUMBER}|[{BULLETS}](?=\s))\s*")
_INLINE = re.compile(rf"(?:^|(?<=\s)){_NUMBER}\s")
_SEPARATORS = (" > ", ">", ";", ",")


@dataclass(frozen=True)
class Line:
    """A line of an answer, without its list marker and whole; `item` says whether it had a marker."""

    content: str
    whole: str
    item: bool

    @property
    def readings(self) -> tuple[str, ...]:
        """The content first: "1. 10. Downing Street" is item 1, but "2001: A Space Odyssey" may be a bare title."""
        return (self.content, self.whole) if self.item else (self.whole,)


def split_line(text: str) -> Line:
    """A line with blanks folded and its marker told apart."""
    whole = fold(text)
    marker = _MARKER.match(whole)
    return Line(whole[marker.end() :] if marker else whole, whole, marker is not None)


class Names:
    """The candidates' names under every exact key; a key of two different names is nobody's."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [fold(name) for name in names]
        self._tables = [self._table(key) for key in KEYS]

    def _table(self, key: Callable[[str], str]) -> dict[str, list[int]]:
        table: dict[str, list[int]] = {}
        for j, name in enumerate(self.names):
            table.setdefault(key(name), []).append(j)
        return {text: js for text, js in table.items() if text and len({self.names[j] for j in js}) == 1}

    def same(self, index: int) -> list[int]:
        """All candidates that bear this candidate's name."""
        return [j for j, name in enumerate(self.names) if name == self.names[index]]

    def exact(self, line: Line) -> list[int]:
        """The candidates of the one name that the line is, by the strictest key that knows it; none where none does."""
        for key, table in zip(KEYS, self._tables, strict=True):
            for reading in line.readings:
                found = table.get(key(reading), [])
                if found and not years_differ(reading, self.names[found[0]]):
                    return found
        return []

    def like(self, line: Line) -> list[float]:
        """The line's likeness to every candidate; all 0 where two different names are the likest."""
        row = [max(self._likenesses(line, name)) for name in self.names]
        likest = {name for name, value in zip(self.names, row, strict=True) if value == max(row)}
        return row if len(likest) == 1 else [0.0] * len(row)

    def _likenesses(self, line: Line, name: str) -> Iterator[float]:
        yield from (likeness(reading, name) for reading in line.readings)
        if line.item and name:
            yield comment_likeness(line.content, name)


def read_lines(text: str, names: Sequence[str]) -> Reading:
    """One candidate a line; where that names at most one, several in one line."""
    known = Names(names)
    lines = [split_line(part) for part in text.split("\n") if part.strip()]
    reading = _read_items(lines, known, open_end=not text.endswith("\n"))
    if len(reading.order) > 1 or len(lines) != 1:
        return reading
    others = ([split_line(part) for part in parts if part.strip()] for parts in _splits(text))
    return best_reading([reading, *(_read_items(items, known, open_end=True) for items in others)])


def _splits(text: str) -> Iterator[list[str]]:
    """A line cut before each number, then at each kind of separator."""
    starts = [match.start() for match in _INLINE.finditer(text)]
    yield [text[a:b] for a, b in itertools.pairwise([*starts, len(text)])]
    yield from (text.split(separator) for separator in _SEPARATORS)


def _read_items(lines: Sequence[Line], known: Names, *, open_end: bool) -> Reading:
    """Exact likeness for all lines first, then the rest of the lines against the rest of the candidates."""
    exact = [known.exact(line) for line in lines]
    rest = [i for i, found in enumerate(exact) if not found]
    like = {i: known.like(lines[i]) for i in rest}
    loose = _assign(like, taken={j for found in exact for j in found})
    reading = Reading()
    for i, line in enumerate(lines):
        found = exact[i] or loose.get(i, [])
        if found:
            reading.place(found)
        elif i in like and max(like[i], default=0) > 0:
            reading.place(known.same(int(np.argmax(like[i]))))
        elif line.item and line.content and not (open_end and i == len(lines) - 1 and _is_cut(line, known)):
            reading.unknown(line.content)
    return reading


def _assign(like: dict[int, list[float]], taken: set[int]) -> dict[int, list[int]]:
    """One free candidate for each line that is like one, so that the sum of likenesses is largest."""
    lines = [i for i, row in like.items() if any(row)]
    if not lines:
        return {}
    table = np.array([like[i] for i in lines])
    table[:, sorted(taken)] = 0
    pairs = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return {lines[a]: [int(j)] for a, j in pairs if table[a, j] > 0}


def _is_cut(line: Line, known: Names) -> bool:
    """Whether generation stopped in the middle of a candidate: too little to name it, but nothing unknown either."""
    return any(begins(line.content, name) for name in known.names)
