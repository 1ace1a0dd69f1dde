"""What a card says of a split's lists, counted one list after another: nothing here grows with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from irpo.types import RankingExample

_COUNTED = (
    "candidates_per_list",
    "relevant_per_list",
    "labels",
    "sources",
    "query_characters",
    "query_words",
    "candidate_characters",
    "candidate_words",
)


class Numbers(NamedTuple):
    """What is counted of one list."""

    labels: tuple[float, ...]
    sources: tuple[str, ...]
    query: tuple[int, int]  # characters, words
    characters: tuple[int, ...]  # of each candidate
    words: tuple[int, ...]


def numbers_of(example: RankingExample) -> Numbers:
    """What is counted of a list."""
    texts = example.texts
    return Numbers(
        example.relevance,
        tuple(c.source for c in example.candidates),
        (len(example.query), len(example.query.split())),
        tuple(map(len, texts)),
        tuple(len(text.split()) for text in texts),
    )


@dataclass
class Statistics:
    """Running counts of a split's lists."""

    lists: int = 0
    candidates: int = 0
    only_relevant: int = 0
    best_first: int = 0  # lists whose best candidate stands first, and not all are as good
    counts: dict[str, Counter[Any]] = field(default_factory=lambda: {name: Counter() for name in _COUNTED})

    def add(self, numbers: Numbers) -> None:
        """Count one list."""
        size, relevant = len(numbers.labels), sum(label > 0 for label in numbers.labels)
        self.lists += 1
        self.candidates += size
        self.only_relevant += relevant == size
        self.best_first += numbers.labels[0] == max(numbers.labels) > min(numbers.labels)
        counts = self.counts
        counts["candidates_per_list"][size] += 1
        counts["relevant_per_list"][relevant] += 1
        counts["labels"].update(numbers.labels)
        counts["sources"].update(numbers.sources)
        counts["query_characters"][numbers.query[0]] += 1
        counts["query_words"][numbers.query[1]] += 1
        counts["candidate_characters"].update(numbers.characters)
        counts["candidate_words"].update(numbers.words)

    def card(self, groups: int, sha256: str) -> dict[str, Any]:
        """A split's part of the card."""
        counts = self.counts
        return {
            "lists": self.lists,
            "groups": groups,
            "sha256": sha256,  # of the split's file
            "candidates": self.candidates,
            "candidates_per_list": _counts(counts["candidates_per_list"]),
            "relevant_per_list": _counts(counts["relevant_per_list"]),
            "lists_with_only_relevant_candidates": self.only_relevant,
            "labels": _counts(counts["labels"]),
            "sources": _counts(counts["sources"]),
            **{name: spread(counts[name]) for name in _COUNTED[4:]},
        }

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON has them: pairs, since its keys are texts."""
        counts = {name: list(found.items()) for name, found in self.counts.items()}
        return {**vars(self), "counts": counts}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Statistics:
        """The counts again, from `as_json`."""
        counts = {name: Counter(dict(pairs)) for name, pairs in told["counts"].items()}
        return cls(**{**told, "counts": counts})


def _counts(found: Counter[Any]) -> dict[str, int]:
    """How often each value occurs, in the values' order; numbers that agree in six digits are told as one."""
    told = Counter[str]()
    for value in sorted(found):
        told[f"{value:g}" if isinstance(value, float) else str(value)] += found[value]
    return dict(told)


def spread(found: Counter[int]) -> dict[str, float]:
    """Least, median, 95th percentile, greatest (values that occur: nearest rank), and the mean to two digits."""
    if not found:
        return {}
    count, ordered = found.total(), sorted(found)

    def rank(percent: int) -> int:
        wanted, passed = max(1, -(-percent * count // 100)), 0
        for value in ordered:
            passed += found[value]
            if passed >= wanted:
                return value
        raise AssertionError("the counts are their own sum")

    total = sum(value * times for value, times in found.items())
    return {
        "min": ordered[0],
        "median": rank(50),
        "p95": rank(95),
        "max": ordered[-1],
        "mean": (200 * total + count) // (2 * count) / 100,
    }
