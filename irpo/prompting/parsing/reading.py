"""What has been read of an answer so far, and the characters that readers skip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from irpo.types import Problem, Repeated, Unknown

QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"
DASHES = "-\u2013\u2014"  # hyphen, en dash, em dash
BULLETS = DASHES + "*+\u2022"
MARKUP = " \t*_" + QUOTES  # what may stand around a name without being part of it


def fold(text: str) -> str:
    """Blanks and line breaks folded: a name is one line."""
    return " ".join(text.split())


@dataclass
class Reading:
    """Candidates placed, best first, and problems, both in reading order."""

    order: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _used: dict[int, int] = field(default_factory=dict)  # by a name's first candidate: those of them placed

    def place(self, matches: Sequence[int]) -> None:
        """Place the first unplaced of these candidates (all of one name), or note that the name comes again."""
        at = self._used.get(matches[0], 0)
        if at == len(matches):
            self.problems.append(Repeated(matches[0]))
        else:
            self._used[matches[0]] = at + 1
            self.order.append(matches[at])

    def unknown(self, text: str) -> None:
        """Note a name that no candidate has."""
        self.problems.append(Unknown(text))


def best_reading(readings: Sequence[Reading]) -> Reading:
    """The one that places most candidates, of those the first."""
    return max(readings, key=lambda reading: len(reading.order))
