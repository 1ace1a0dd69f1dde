"""What an evaluation found: rankings, raw answers, and the measures of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from irpo.measures import PerQuery, main_measure, mean, measure_names, per_query
from irpo.significance import mean_interval
from irpo.types import Missing, Problem, Ranking, RankingExample, Repeated, Unknown, Unparseable

KINDS: dict[str, type] = {"missing": Missing, "repeated": Repeated, "unknown": Unknown, "unparseable": Unparseable}


@dataclass(frozen=True)
class Answer:
    """What the model wrote for one list, and what is wrong with it."""

    id: str
    text: str
    ranking: Ranking  # strict: what was named, once
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Row:
    """One way of ranking all the lists. `seconds` is the model's time, None for a baseline."""

    name: str  # "score", "generate strict", "BM25", ...
    rankings: Mapping[str, Ranking]  # by example id
    answers: tuple[Answer, ...] = ()  # what the rankings were read from, in free generation
    tied_lists: int = 0  # lists in which two candidates have the same score
    seconds: float | None = None
    baseline: bool = False


@dataclass(frozen=True)
class Evaluation:
    """All rows over the same examples. `setting` says how they came about: style, scorer, seed, cuts."""

    examples: tuple[RankingExample, ...]
    rows: tuple[Row, ...]
    ks: tuple[int, ...]
    seed: int = 0
    setting: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, PerQuery]:
        """Every measure of every query, by the row's name."""
        relevance = {example.id: example.relevance for example in self.examples}
        return {row.name: per_query(row.rankings, relevance, self.ks) for row in self.rows}

    def summary(self, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What `results.json` holds and the reports are made from; `about` says what was evaluated (model, task)."""
        return {
            "about": dict(about or {}),
            "lists": len(self.examples),
            "candidates": sum(len(example.candidates) for example in self.examples),
            "setting": dict(self.setting),
            "measures": list(measure_names(self.ks)),
            "main_measure": main_measure(self.ks),
            "rows": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        values = self.values[row.name]
        low, high = mean_interval(values[main_measure(self.ks)], seed=self.seed)
        return {
            "name": row.name,
            "baseline": row.baseline,
            "measures": {name: mean(of) for name, of in values.items()},
            "interval": [low, high],  # 95 %, of the main measure's mean
            **self._answers(row),
            "tied_lists": row.tied_lists,
            "seconds": row.seconds,
            "lists_per_second": len(self.examples) / row.seconds if row.seconds else None,
        }

    def _answers(self, row: Row) -> dict[str, Any]:
        """Coverage (mean share of a list's candidates that are named), and what was wrong with the answers."""
        if not row.answers:
            return {"coverage": 1.0, "exact_permutations": 1.0, "problems": None}
        sizes = {example.id: len(example.candidates) for example in self.examples}
        return {
            "coverage": _mean([len(a.ranking.order) / sizes[a.id] for a in row.answers]),
            "exact_permutations": _mean([float(not a.problems) for a in row.answers]),
            "problems": {
                kind: sum(isinstance(p, cls) for a in row.answers for p in a.problems) for kind, cls in KINDS.items()
            },
        }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
