"""What is counted of each list of a split, one after another."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from irpo.chance import Chance
from irpo.sameness import text_key
from irpo.tasks._statistics import Statistics, numbers_of
from irpo.types import RankingExample

LOOKED_AT = 1000  # lists of a split that are drawn for what takes long: their tokens
_PLACES = 200  # counted one by one
_CUT_ENDS = ("...", "\u2026", "[...]", "[\u2026]")


class Place(NamedTuple):
    """How often a best candidate stands at a place, and how often it would if candidates were mixed; in lists."""

    found: float
    expected: float
    variance: float

    @property
    def surprise(self) -> float:
        """Standard deviations above what mixing would give."""
        return (self.found - self.expected) / math.sqrt(self.variance) if self.variance > 0 else 0.0


@dataclass
class Counts:
    """Running counts of a split."""

    relevant_from: float
    statistics: Statistics = field(default_factory=Statistics)
    without_relevant: int = 0  # lists
    all_relevant: int = 0  # lists
    relevant: int = 0  # candidates
    fractional: int = 0  # candidates
    repeated: int = 0  # lists that hold a text twice
    contradicted: int = 0  # lists that hold a text twice, with two labels
    cut: int = 0  # candidates that end in an ellipsis
    wordless: int = 0  # candidates without a letter or a digit
    places: dict[int, Place] = field(default_factory=dict)
    decided: int = 0  # lists that have a best candidate
    first: dict[str, list[str]] = field(default_factory=dict)  # names of the first lists of each kind

    def add(self, example: RankingExample, name: str) -> None:
        """Count one list."""
        self.statistics.add(numbers_of(example))
        labels = example.relevance
        relevant = sum(label >= self.relevant_from for label in labels)
        self.relevant += relevant
        self.fractional += sum(not label.is_integer() for label in map(float, labels))
        self._note("without_relevant", name, not relevant)
        self._note("all_relevant", name, relevant == len(labels))
        self._add_texts(example, name)
        if min(labels) < max(labels):
            self._add_places(labels)

    def _add_texts(self, example: RankingExample, name: str) -> None:
        given: dict[str, set[float]] = {}
        for candidate in example.candidates:
            given.setdefault(text_key(candidate.text), set()).add(candidate.relevance)
            self.cut += candidate.text.rstrip().endswith(_CUT_ENDS)
            self.wordless += not any(map(str.isalnum, candidate.text))
        self._note("repeated", name, len(given) < len(example.candidates))
        self._note("contradicted", name, any(len(labels) > 1 for labels in given.values()))

    def _add_places(self, labels: tuple[float, ...]) -> None:
        self.decided += 1
        size, top = len(labels), max(labels)
        best = labels.count(top)
        for place, label in enumerate(labels[:_PLACES]):
            found, expected, variance = self.places.get(place, Place(0, 0, 0))
            chance = 1 / size
            self.places[place] = Place(
                found + (label == top) / best, expected + chance, variance + chance * (1 / best - chance)
            )

    def _note(self, kind: str, name: str, holds: bool) -> None:
        if not holds:
            return
        setattr(self, kind, getattr(self, kind) + 1)
        first = self.first.setdefault(kind, [])
        if len(first) < 3:
            first.append(name)

    @property
    def piled(self) -> tuple[int, int]:
        """The greatest length of a candidate in characters, and how many have it where that is a pile; else (0, 0).

        What is cut at a length leaves a pile there: at least 20 candidates, and a hundredth of all.
        """
        lengths: Counter[int] = self.statistics.counts["candidate_characters"]
        longest = max(lengths, default=0)
        count = lengths[longest]
        piled = longest >= 80 and count >= max(20, self.statistics.candidates // 100)
        return (longest, count) if piled else (0, 0)


class Sample:
    """Up to `LOOKED_AT` lists of a stream, each as likely as any other (reservoir sampling)."""

    def __init__(self, split: str) -> None:
        self.examples: list[RankingExample] = []
        self._seen = 0
        self._chance = Chance("check", split)

    def add(self, example: RankingExample) -> None:
        """Take a list, perhaps in another one's place."""
        self._seen += 1
        if len(self.examples) < LOOKED_AT:
            self.examples.append(example)
        elif (place := self._chance.below(self._seen)) < LOOKED_AT:
            self.examples[place] = example
