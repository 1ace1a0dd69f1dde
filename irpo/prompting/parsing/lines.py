"""Answers in `text` style: a list of the candidates' texts."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from irpo.prompting.parsing.likeness import KEYS, Comments, Form, begins, likenesses
from irpo.prompting.parsing.reading import BULLETS, Reading, best_reading, fold

_NUMBER = r"[*_]{0,3}[(\[#]?\d{1,4}[.):\]]+[*_]{0,3}"  # 1. 1) (1) [1] 1: **1.**
_MARKER = re.compile(rf"(?:{_NUMBER}|[{BULLETS}](?=\s))\s*")
_INLINE = re.compile(rf"(?:^|(?<=\s)){_NUMBER}\s")
_SEPARATORS = (" > ", ">", ";", ",")
_PROSE = 1000  # letters that a line may have beyond twice the longest name; what follows is not read
_PAIRS = 2_000_000  # of a line and a name, compared letter by letter; lines beyond are read where they are exact


@dataclass(frozen=True)
class Line:
    """A line of an answer, without its list marker and whole; `item` says whether it had a marker.

    As a candidate's name it is read by its content first: "1. 10. Downing Street" is item 1, but "2001: A Space
    Odyssey" may be a bare title.
    """

    content: str
    readings: tuple[Form, ...]
    item: bool


def split_line(text: str, limit: int) -> Line:
    """A line with blanks folded and its marker told apart, `limit` letters of it."""
    whole = fold(text)[:limit]
    marker = _MARKER.match(whole)
    if marker is None:
        return Line(whole, (Form(whole),), item=False)
    content = whole[marker.end() :]
    return Line(content, (Form(content), Form(whole)), item=True)


class Names:
    """The candidates' names, each different one once, under every exact key; a key of two names is nobody's."""

    def __init__(self, names: Sequence[str]) -> None:
        self.bearers: dict[str, list[int]] = {}  # candidates by name
        for j, name in enumerate(names):
            self.bearers.setdefault(fold(name), []).append(j)
        self.forms = [Form(name) for name in self.bearers]
        self.longest = max(map(len, self.bearers), default=0)
        self._tables = [self._table(key) for key in KEYS]
        self._comments = Comments(self.forms)

    def _table(self, key: Callable[[Form], str]) -> dict[str, Form | None]:
        table: dict[str, Form | None] = {}
        for form in self.forms:
            table[key(form)] = None if key(form) in table else form
        return {text: form for text, form in table.items() if text}

    def split(self, parts: Sequence[str]) -> list[Line]:
        """The lines among some parts of an answer; equal ones are one object."""
        limit = 2 * self.longest + _PROSE
        made = {part: split_line(part, limit) for part in dict.fromkeys(parts) if part.strip()}
        return [made[part] for part in parts if part in made]

    def exact(self, line: Line) -> list[int]:
        """The candidates of the one name that a line is, by the strictest key that knows it; none where none does."""
        for key, table in zip(KEYS, self._tables, strict=True):
            for reading in line.readings:
                form = table.get(key(reading))
                if form is not None and not reading.other_year(form):
                    return self.bearers[form.text]
        return []

    def like(self, lines: Sequence[Line]) -> list[dict[str, float]]:
        """Each line's likeness to the names that it is like; none where two different names are the likest."""
        found = [self._comments.likenesses(line.content) if line.item else {} for line in lines]
        owners = [row for row, line in zip(found, lines, strict=True) for _ in line.readings]
        for row, alike in zip(
            owners, likenesses([f for line in lines for f in line.readings], self.forms), strict=True
        ):
            for j, value in alike.items():
                row[j] = max(value, row.get(j, 0.0))
        return [self._clear(row) for row in found]

    def _clear(self, row: dict[int, float]) -> dict[str, float]:
        likest = max(row.values(), default=0.0)
        if sum(value == likest for value in row.values()) != 1:
            return {}
        return {self.forms[j].text: value for j, value in row.items()}


def read_lines(text: str, names: Sequence[str]) -> Reading:
    """One candidate a line; where that names at most one, several in one line."""
    known = Names(names)
    lines = known.split(text.split("\n"))
    reading = _read_items(lines, known, open_end=not text.endswith("\n"))
    if len(reading.order) > 1 or len(lines) != 1:
        return reading
    others = (known.split(parts) for parts in _splits(text))
    return best_reading([reading, *(_read_items(items, known, open_end=True) for items in others)])


def _splits(text: str) -> Iterator[list[str]]:
    """A line cut before each number, then at each kind of separator."""
    starts = [match.start() for match in _INLINE.finditer(text)]
    yield [text[a:b] for a, b in itertools.pairwise([*starts, len(text)])]
    yield from (text.split(separator) for separator in _SEPARATORS)


def _read_items(lines: Sequence[Line], known: Names, *, open_end: bool) -> Reading:
    """Exact likeness for all lines first, then the rest of the lines against the rest of the candidates."""
    found = {id(line): known.exact(line) for line in {id(line): line for line in lines}.values()}
    exact = [found[id(line)] for line in lines]
    rest = _comparable(lines, [i for i, js in enumerate(exact) if not js], len(known.forms))
    like = {i: row for i, row in zip(rest, known.like([lines[i] for i in rest]), strict=True) if row}
    named = {i: max(row, key=row.__getitem__) for i, row in like.items()}
    named |= _assign(like, known.bearers, taken={js[0] for js in exact if js})
    reading = Reading()
    for i, line in enumerate(lines):
        if js := exact[i] or (known.bearers[named[i]] if i in named else []):
            reading.place(js)
        elif line.item and line.content and not (open_end and i == len(lines) - 1 and _is_cut(line, known)):
            reading.unknown(line.content)
    return reading


def _comparable(lines: Sequence[Line], rest: Sequence[int], names: int) -> Sequence[int]:
    """The lines that are compared letter by letter: all but in an endless answer, where items go first."""
    most = max(2 * names, _PAIRS // max(1, names))
    return rest if len(rest) <= most else sorted(sorted(rest, key=lambda i: not lines[i].item)[:most])


def _assign(like: dict[int, dict[str, float]], bearers: dict[str, list[int]], taken: set[int]) -> dict[int, str]:
    """A free candidate's name for each line that is like one, so that the sum of likenesses is largest."""
    asked = Counter(name for row in like.values() for name in row if bearers[name][0] not in taken)
    copies = sorted((j, name) for name, times in asked.items() for j in bearers[name][:times])
    columns = [name for _, name in copies]
    rows = [i for i, row in like.items() if not asked.keys().isdisjoint(row)][: 2 * _PAIRS // max(1, len(columns))]
    if not rows:
        return {}
    table = np.array([[like[i].get(name, 0.0) for name in columns] for i in rows])
    from scipy.optimize import linear_sum_assignment  # takes as long as half of torch; not every answer needs it

    pairs = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return {rows[a]: columns[b] for a, b in pairs if table[a, b] > 0}


def _is_cut(line: Line, known: Names) -> bool:
    """Whether generation stopped in the middle of a candidate: too little to name it, but nothing unknown either."""
    return begins(line.content, [form.heavy for form in known.forms])
