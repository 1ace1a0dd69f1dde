"""The rankers of a report: cells' results, put together over seeds, in the order of the frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from irpo.compare.page import RankerKind
from irpo.compare.results import EvaluationList, Frame, Result, Row, TaskFrame
from irpo.evaluation.significance import Draws
from irpo.types import UserError

Array = NDArray[np.float64]
_KINDS: dict[str, RankerKind] = {"run": "trained"}
_KINDS |= {"untrained": "untrained", "baseline": "baseline", "external": "external"}
OTHERS = "other rankers"  # the group of rows that are neither a model's of the frame nor a baseline
_BASELINES = ("random", "input order", "BM25", "popularity")  # in the order of the tables; others by name
_MODES = ("given", "score", "constrain", "generate")


@dataclass(frozen=True)
class Ranked:
    """A cell's result and the row of it that stands for a ranker."""

    result: Result
    row: Row


@dataclass(frozen=True)
class Ranker:
    """A method of a model at one strength: a row of the tables."""

    method: str
    model: str  # "" where none took part
    kind: RankerKind
    strength: str  # of the suite's
    shown: str  # as tables have it: "1", "auto", "1 = auto"
    by_task: Mapping[str, tuple[Ranked, ...]]  # in the order of the seeds

    @property
    def name(self) -> str:
        """As sentences and legends have it."""
        alone = self.kind != "trained" or self.shown == "1" or self.shown != self.strength
        return self.method if alone else f"{self.method}, strength {self.strength}"

    @property
    def group(self) -> str:
        """The rows among which it stands."""
        return self.model or ("" if self.kind == "baseline" else OTHERS)


@dataclass(frozen=True)
class Groups:
    """A task's lists by group, numbered in the order in which they come."""

    codes: NDArray[np.int64]  # (n,)
    _draws: dict[tuple[int, int], Draws] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lists: Sequence[EvaluationList]) -> Groups:
        """Those of a task's lists."""
        numbers: dict[str, int] = {}
        return cls(np.array([numbers.setdefault(x.unit, len(numbers)) for x in lists], dtype=np.int64))

    def sizes(self, n: int) -> Array:
        """How many of the first n lists each group has, without those that have none, (G,)."""
        return np.bincount(self.codes[:n]).astype(np.float64)

    def draws(self, n: int, seeds: int) -> Draws:
        """Those of the first n lists and of up to so many seeds: made once, for all that is measured on the task."""
        return self._draws.setdefault((n, seeds), Draws(seeds, self.sizes(n)))

    def sums(self, values: Array) -> Array:
        """The sum over each group's lists, those of the first n lists by seed, (S, n) -> (S, G)."""
        return np.array([np.bincount(self.codes[: len(row)], weights=row) for row in values])


@dataclass(frozen=True)
class Compared:
    """All that a report is made from, in an order that does not depend on that of the cells."""

    frame: Frame
    results: tuple[Result, ...]  # without those of other lists and doubles
    lists: Mapping[str, Sequence[EvaluationList]]  # by task
    left_out: tuple[str, ...] = ()  # what was not compared, and why

    @classmethod
    def of(cls, frame: Frame, results: Sequence[Result], lists: Mapping[str, Sequence[EvaluationList]]) -> Compared:
        """Sorted and checked; `UserError` where lists are not there that results may be of."""
        tasks = {task.name: task for task in frame.tasks}
        left_out = [f"{task.name}: no lists of it could be made here" for task in frame.tasks if not task.lists]
        frame = replace(frame, tasks=tuple(task for task in frame.tasks if task.lists))
        for task in frame.tasks:
            if task.lists not in lists:
                raise UserError(f"the evaluation lists of {task.name} ({task.lists}) are not there")
        kept: dict[tuple[str, ...], Result] = {}
        for result in sorted(results, key=lambda r: _place(frame, r)):
            if why := _unfit(result, tasks, kept):
                left_out.append(f"{title_of(result)} ({result.key}): {why}")
            else:
                kept[_who(result)] = result
        return cls(frame, tuple(kept.values()), {t.name: lists[t.lists] for t in frame.tasks}, tuple(left_out))

    @cached_property
    def groups(self) -> dict[str, Groups]:
        """By task."""
        return {task: Groups.of(lists) for task, lists in self.lists.items()}

    @cached_property
    def rankers(self) -> tuple[Ranker, ...]:
        """Baselines, then the models of the frame, then the others; methods in the frame's order."""
        found: dict[tuple[str, str, RankerKind], list[Result]] = {}
        for result in self.results:
            if result.kind in _KINDS:
                found.setdefault((result.model, result.method, _KINDS[result.kind]), []).append(result)
        return tuple(ranker for who, results in found.items() for ranker in _rankers(self.frame, who, results))

    def of_kind(self, *kinds: str) -> tuple[Result, ...]:
        """The results of these kinds that did not fail."""
        return tuple(r for r in self.results if r.kind in kinds and r.error is None)


def title_of(result: Result) -> str:
    """A cell in words."""
    trial = " ".join(f"{name}={value}" for name, value in sorted(result.setting.items())) or "trial"
    named = result.model, result.task, result.method, f"seed {result.seed}", trial if result.kind == "trial" else ""
    return ", ".join(part for part in named if part)


def _place(frame: Frame, result: Result) -> tuple[object, ...]:
    """Where a result stands among all, by what it is of."""
    kinds = {"baseline": 0, "external": 2}
    tasks, methods = tuple(task.name for task in frame.tasks), (*frame.methods, *_BASELINES)
    orders = ((frame.models, result.model), (methods, result.method), (tasks, result.task))
    places = [(order.index(name) if name in order else len(order), name) for order, name in orders]
    return kinds.get(result.kind, 1), *places, result.seed, result.kind, result.error is not None, result.key


def _who(result: Result) -> tuple[str, ...]:
    trial = result.key if result.kind == "trial" else ""  # a search has many of one method
    return result.kind, result.model, result.task, result.method, str(result.seed), trial


def _unfit(result: Result, tasks: Mapping[str, TaskFrame], kept: Mapping[tuple[str, ...], Result]) -> str:
    """Why a result cannot stand beside the others; "" where it can."""
    if result.task not in tasks:
        return "its task is none of the suite's"
    if result.rows and result.kind != "trial" and result.lists != tasks[result.task].lists:
        return "it was measured on other lists"
    if _who(result) in kept:
        return f"the cell is there twice; {kept[_who(result)].key} is told"
    return ""


def _rankers(frame: Frame, who: tuple[str, str, RankerKind], results: Sequence[Result]) -> list[Ranker]:
    """One for each of the suite's strengths, one alone where these are the same rows."""
    model, method, kind = who
    found: dict[str, dict[str, tuple[Ranked, ...]]] = {}
    for strength in frame.strengths:
        by_task: dict[str, list[Ranked]] = {}
        for result in results:
            if (row := main_row(result, frame, strength)) is not None:
                by_task.setdefault(result.task, []).append(Ranked(result, row))
        if by_task and not any(_same(by_task, other) for other in found.values()):
            found[strength] = {task: tuple(ranked) for task, ranked in by_task.items()}
    alike = kind == "trained" and len(found) == 1 and len(frame.strengths) > 1
    rows = [x.row for by_task in found.values() for ranked in by_task.values() for x in ranked]
    whole = " = ".join(s for s in frame.strengths if all(s in row.shown for row in rows))
    return [Ranker(method, model, kind, s, whole if alike and whole else s, by_task) for s, by_task in found.items()]


def _same(one: Mapping[str, Sequence[Ranked]], other: Mapping[str, Sequence[Ranked]]) -> bool:
    rows = [[[id(x.row) for x in by_task[task]] for task in sorted(by_task)] for by_task in (one, other)]
    return rows[0] == rows[1]


def main_row(result: Result, frame: Frame, strength: str) -> Row | None:
    """The row that tables have of a result: the frame's mode, or the one mode that a ranker of others has."""
    strengths = (strength,) if result.kind == "run" else (strength, *frame.strengths, "1")
    modes = (frame.mode,) if result.kind in ("run", "untrained") else (frame.mode, *_MODES)
    for mode in modes:
        for name in strengths:
            for part in (None, "strict"):
                if (row := result.row(mode, name, part)) is not None:
                    return row
    return None
