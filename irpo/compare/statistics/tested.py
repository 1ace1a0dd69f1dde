"""The numbers of the tables: means with intervals, and tests by group of the trained methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from irpo.compare.page import Cell, Test
from irpo.compare.results import TaskFrame
from irpo.compare.statistics.rankers import Array, Compared, Groups, Ranker
from irpo.evaluation.significance import (
    Draws,
    benjamini_hochberg,
    detectable_difference,
    deviation_by_group,
    effect_sizes,
    intervals,
    swapped_p_values,
)

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class Measured:
    """A ranker's values of a measure on a task's first n lists, by seed."""

    ranker: Ranker
    measure: str
    values: Array  # (S, n)
    keys: tuple[str, ...]
    seeds: tuple[int, ...]  # (S,)

    @property
    def n(self) -> int:
        """How many lists."""
        return int(self.values.shape[1])


@dataclass(frozen=True)
class Tested:
    """A test, of whom, on what, and what it could have found."""

    task: str
    measure: str
    ranker: Ranker
    other: Ranker
    values: tuple[float, float]  # means of both on the lists that both have
    test: Test
    groups: int
    seeds: int
    detectable: float  # with 80 % at level .05, uncorrected


Pair = tuple[Measured, Measured]
Key = tuple[int, str]  # a ranker's `id` and a measure


def measured(compared: Compared, task: TaskFrame, rankers: Sequence[Ranker]) -> list[Measured]:
    """All that was measured on a task: rankers in their order, measures in the task's."""
    found = []
    for ranker in rankers:
        for measure in task.measures:
            ranked = [x for x in ranker.by_task.get(task.name, ()) if measure in x.row.measures]
            if ranked:
                values = [x.row.of(measure) for x in ranked]
                n = min(len(v) for v in values)
                keys = tuple(x.result.key for x in ranked)
                seeds = tuple(x.result.seed for x in ranked)
                found.append(Measured(ranker, measure, np.array([v[:n] for v in values]), keys, seeds))
    return found


def pairs(found: Sequence[Measured], against: Sequence[str]) -> list[Pair]:
    """Every trained method with the untrained model and with each method of `against`, at one strength and model.

    Of two methods of `against` the later is tested against the earlier, once.
    """
    others: dict[tuple[str, str, str, str], Measured] = {}
    for x in found:
        for strength in (x.ranker.strength, ""):  # "": the one to take where it has no row of its own at a strength
            others.setdefault((x.ranker.model, x.ranker.method, strength, x.measure), x)
    names = list(dict.fromkeys([*(x.ranker.method for x in found if x.ranker.kind == "untrained"), *against]))
    made = []
    for x in found:
        own = x.ranker
        earlier = names[: names.index(own.method)] if own.method in names else names
        for name in earlier if own.kind == "trained" else ():
            # A baseline has no model.
            keys = [(model, name, strength, x.measure) for model in (own.model, "") for strength in (own.strength, "")]
            made += [(x, others[key]) for key in keys if key in others][:1]
    return made


def cells_of(found: Sequence[Measured], groups: Groups) -> dict[Key, Cell]:
    """The tables' figures, without tests."""
    most, cells = _most(found), {}
    for (n, _), same in _alike(found, lambda x: (x.n, len(x.values))).items():
        bounds = intervals(np.stack([groups.sums(x.values) for x in same]), groups.draws(n, most))
        for x, (low, high) in zip(same, bounds, strict=True):
            means = x.values.mean(1)
            deviation = float(means.std(ddof=1)) if len(means) > 1 else None
            ends = max(0.0, float(low)), min(1.0, float(high))  # between which every measure lies
            cell = Cell(float(means.mean()), *ends, deviation, len(means), keys=x.keys)
            cells[id(x.ranker), x.measure] = cell
    return cells


def outcomes_of(task: str, found: Sequence[Pair], groups: Groups) -> list[Tested]:
    """A task's tests; their q are still p."""
    most, tests = _most([x for pair in found for x in pair]), []
    for n, same in _alike(found, lambda pair: min(pair[0].n, pair[1].n)).items():
        sizes = groups.sizes(n)
        sums = [(groups.sums(one.values[:, :n]), groups.sums(other.values[:, :n])) for one, other in same]
        differences = np.stack([one.mean(0) - other.mean(0) for one, other in sums])
        bounds = _intervals(sums, [one.seeds == other.seeds for one, other in same], groups.draws(n, most))
        columns = zip(
            same,
            swapped_p_values(differences).tolist(),
            effect_sizes(differences).tolist(),
            deviation_by_group(differences, sizes).tolist(),
            bounds.tolist(),
            strict=True,
        )
        for (one, other), p, effect, deviation, (low, high) in columns:
            values = float(one.values[:, :n].mean()), float(other.values[:, :n].mean())
            test = Test(other.ranker.method, values[0] - values[1], low, high, p, p, effect)
            least = detectable_difference(deviation, len(sizes))
            seeds = max(len(one.values), len(other.values))
            tests.append(Tested(task, one.measure, one.ranker, other.ranker, values, test, len(sizes), seeds, least))
    return tests


def corrected(tests: Sequence[Tested]) -> list[Tested]:
    """With q for all of them together."""
    q_values = benjamini_hochberg([x.test.p for x in tests])
    return [replace(x, test=replace(x.test, q=q)) for x, q in zip(tests, q_values, strict=True)]


def _intervals(sums: Sequence[tuple[Array, Array]], alike: Sequence[bool], draws: Draws) -> Array:
    """Of the differences of (S, G) sums; seeds are paired where both have the same, or one has one alone."""
    found = np.empty((len(sums), 2))
    together: dict[int, list[int]] = {}
    for i, (one, other) in enumerate(sums):
        if alike[i] or 1 in (len(one), len(other)):
            together.setdefault(max(len(one), len(other)), []).append(i)
        else:
            found[i] = np.quantile(draws.means(one[None]) - draws.means(other[None]), [0.025, 0.975])
    for rows in together.values():
        found[rows] = intervals(np.stack([np.subtract(*sums[i]) for i in rows]), draws)
    return np.clip(found, -1.0, 1.0)  # between which the difference of two measures lies


def _most(found: Sequence[Measured]) -> int:
    return max((len(x.values) for x in found), default=1)


def _alike(items: Iterable[T], of: Callable[[T], K]) -> dict[K, list[T]]:
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(of(item), []).append(item)
    return found
